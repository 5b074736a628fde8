//! `wasi:filesystem@0.3` over a process's [`Files`](vaquita_guest_fs::Files): as [`component`](super::component) for 0.2, but that
//! these functions themselves wait, and the streams that they give.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use tokio::sync::oneshot;
use vaquita_guest_fs::{Kind, OpenDir, OpenFile, Opened, SetTime, SetTimes, Stat};
use vaquita_guest_sockets::handle::{guest, host};
use wasmtime::component::{Access, Accessor, FutureReader, Linker, Resource, StreamReader};
use wasmtime_wasi::p3::bindings::clocks::system_clock::Instant;
use wasmtime_wasi::p3::bindings::filesystem::preopens;
use wasmtime_wasi::p3::bindings::filesystem::types::{
    self, Advice, Descriptor as Handle, DescriptorFlags, DescriptorStat, DescriptorType,
    DirectoryEntry, ErrorCode, Filesize, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p3::filesystem::{FilesystemError, FilesystemResult};

use super::component::{Descriptor, Filesystem, View, view};
use super::{Opening, identity, open};
use crate::state::State;

mod streams;

use streams::{Listing, Reading, Writing};

type Told = oneshot::Sender<Result<(), ErrorCode>>;
type End = FutureReader<Result<(), ErrorCode>>;

/// Puts the process's files in the place of the host's.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    preopens::add_to_linker::<State, Filesystem>(linker, view)?;
    types::add_to_linker::<State, Filesystem>(linker, view)
}

/// What an error is to a component. There is no code for too many open files.
fn code_of(error: Errno) -> ErrorCode {
    match error {
        Errno::MFILE => ErrorCode::InsufficientMemory,
        Errno::STALE => ErrorCode::NoEntry,
        Errno::OPNOTSUPP => ErrorCode::Unsupported,
        Errno::ROFS => ErrorCode::ReadOnly,
        Errno::XDEV => ErrorCode::CrossDevice,
        error => io::Error::from(error).into(),
    }
}

fn error(error: Errno) -> FilesystemError {
    code_of(error).into()
}

async fn stat_of(opened: Opened) -> FilesystemResult<Stat> {
    match opened {
        Opened::File(file) => file.stat().await,
        Opened::Dir(dir) => dir.own_stat().await,
    }
    .map_err(error)
}

impl View<'_> {
    fn opened(&self, handle: &Resource<Handle>) -> wasmtime::Result<Opened> {
        let descriptor: &Descriptor = self.table.get(&host(handle))?;
        Ok(descriptor.0.clone())
    }
}

fn opened<T>(
    store: &Accessor<T, Filesystem>,
    handle: &Resource<Handle>,
) -> FilesystemResult<Opened> {
    store
        .with(|mut store| store.get().opened(handle))
        .map_err(FilesystemError::trap)
}

fn file<T>(
    store: &Accessor<T, Filesystem>,
    handle: &Resource<Handle>,
) -> FilesystemResult<OpenFile> {
    match opened(store, handle)? {
        Opened::File(file) => Ok(file),
        Opened::Dir(_) => Err(ErrorCode::IsDirectory.into()),
    }
}

fn dir<T>(store: &Accessor<T, Filesystem>, handle: &Resource<Handle>) -> FilesystemResult<OpenDir> {
    match opened(store, handle)? {
        Opened::Dir(dir) => Ok(dir),
        Opened::File(_) => Err(ErrorCode::NotDirectory.into()),
    }
}

impl types::Host for View<'_> {
    fn convert_error_code(&mut self, error: FilesystemError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }
}

impl preopens::Host for View<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Handle>, String)>> {
        let Some(files) = self.files else {
            return Ok(Vec::new());
        };
        let root = Descriptor(Opened::Dir(files.root()));
        Ok(vec![(guest(&self.table.push(root)?), "/".to_owned())])
    }
}

impl types::HostDescriptor for View<'_> {
    fn drop(&mut self, handle: Resource<Handle>) -> wasmtime::Result<()> {
        self.table.delete(host::<Descriptor, _>(&handle))?;
        Ok(())
    }
}

impl<T: Send + 'static> types::HostDescriptorWithStore<T> for Filesystem {
    fn read_via_stream(
        mut store: Access<'_, T, Self>,
        handle: Resource<Handle>,
        at: Filesize,
    ) -> wasmtime::Result<(StreamReader<u8>, End)> {
        let (tell, told) = oneshot::channel();
        let stream = match store.get().opened(&handle)? {
            Opened::File(file) if file.readable => {
                StreamReader::new(&mut store, Reading::new(file, at, tell))?
            }
            opened => {
                let _ = tell.send(Err(wrong(&opened)));
                StreamReader::new(&mut store, std::iter::empty())?
            }
        };
        Ok((stream, FutureReader::new(&mut store, told)?))
    }

    fn write_via_stream(
        store: Access<'_, T, Self>,
        handle: Resource<Handle>,
        data: StreamReader<u8>,
        at: Filesize,
    ) -> wasmtime::Result<End> {
        take(store, &handle, data, Some(at))
    }

    fn append_via_stream(
        store: Access<'_, T, Self>,
        handle: Resource<Handle>,
        data: StreamReader<u8>,
    ) -> wasmtime::Result<End> {
        take(store, &handle, data, None)
    }

    fn read_directory(
        mut store: Access<'_, T, Self>,
        handle: Resource<Handle>,
    ) -> wasmtime::Result<(StreamReader<DirectoryEntry>, End)> {
        let (tell, told) = oneshot::channel();
        let stream = match store.get().opened(&handle)? {
            Opened::Dir(dir) => {
                let purse = Arc::clone(store.get().purse);
                StreamReader::new(&mut store, Listing::new(dir, purse, tell))?
            }
            Opened::File(_) => {
                let _ = tell.send(Err(ErrorCode::NotDirectory));
                StreamReader::new(&mut store, std::iter::empty())?
            }
        };
        Ok((stream, FutureReader::new(&mut store, told)?))
    }

    async fn advise(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
        _at: Filesize,
        _length: Filesize,
        _advice: Advice,
    ) -> FilesystemResult<()> {
        file(store, &handle).map(drop)
    }

    async fn sync_data(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
    ) -> FilesystemResult<()> {
        match opened(store, &handle)? {
            Opened::File(file) => file.sync(true).await.map_err(error),
            Opened::Dir(_) => Ok(()),
        }
    }

    async fn sync(store: &Accessor<T, Self>, handle: Resource<Handle>) -> FilesystemResult<()> {
        match opened(store, &handle)? {
            Opened::File(file) => file.sync(false).await.map_err(error),
            Opened::Dir(_) => Ok(()),
        }
    }

    async fn get_flags(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
    ) -> FilesystemResult<DescriptorFlags> {
        let flags = match opened(store, &handle)? {
            Opened::File(file) => [
                (DescriptorFlags::READ, file.readable),
                (DescriptorFlags::WRITE, file.writable),
            ],
            Opened::Dir(dir) => [
                (DescriptorFlags::READ, true),
                (DescriptorFlags::MUTATE_DIRECTORY, dir.is_writable()),
            ],
        };
        let set = flags.into_iter().filter(|(_, set)| *set);
        Ok(set.fold(DescriptorFlags::empty(), |all, (flag, _)| all | flag))
    }

    async fn get_type(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
    ) -> FilesystemResult<DescriptorType> {
        Ok(match opened(store, &handle)? {
            Opened::File(_) => DescriptorType::RegularFile,
            Opened::Dir(_) => DescriptorType::Directory,
        })
    }

    async fn set_size(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
        size: Filesize,
    ) -> FilesystemResult<()> {
        file(store, &handle)?.set_size(size).await.map_err(error)
    }

    async fn set_times(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FilesystemResult<()> {
        let times = times_of(accessed, modified);
        match opened(store, &handle)? {
            Opened::File(file) if file.writable => file.set_times(times).await,
            Opened::File(_) => Err(Errno::BADF),
            Opened::Dir(dir) => dir.set_own_times(times).await,
        }
        .map_err(error)
    }

    async fn create_directory_at(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
        path: String,
    ) -> FilesystemResult<()> {
        dir(store, &handle)?.make_dir(path).await.map_err(error)
    }

    async fn stat(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
    ) -> FilesystemResult<DescriptorStat> {
        let stat = stat_of(opened(store, &handle)?).await;
        stat.map(|stat| described(&stat))
    }

    async fn stat_at(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
        flags: PathFlags,
        path: String,
    ) -> FilesystemResult<DescriptorStat> {
        let stat = dir(store, &handle)?.stat(path, follow(flags)).await;
        stat.map(|stat| described(&stat)).map_err(error)
    }

    async fn set_times_at(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
        flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FilesystemResult<()> {
        let (dir, times) = (dir(store, &handle)?, times_of(accessed, modified));
        let set = dir.set_times(path, follow(flags), times).await;
        set.map_err(error)
    }

    async fn link_at(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
        flags: PathFlags,
        path: String,
        to: Resource<Handle>,
        to_path: String,
    ) -> FilesystemResult<()> {
        if follow(flags) {
            return Err(ErrorCode::Invalid.into());
        }
        let to = dir(store, &to)?;
        let linked = dir(store, &handle)?.link(path, &to, to_path).await;
        linked.map_err(error)
    }

    async fn open_at(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FilesystemResult<Resource<Handle>> {
        let synchronous = DescriptorFlags::FILE_INTEGRITY_SYNC
            | DescriptorFlags::DATA_INTEGRITY_SYNC
            | DescriptorFlags::REQUESTED_WRITE_SYNC;
        let how = Opening {
            follow: follow(path_flags),
            directory: open_flags.contains(OpenFlags::DIRECTORY),
            create: open_flags.contains(OpenFlags::CREATE),
            exclusive: open_flags.contains(OpenFlags::EXCLUSIVE),
            truncate: open_flags.contains(OpenFlags::TRUNCATE),
            read: flags.contains(DescriptorFlags::READ),
            write: flags.contains(DescriptorFlags::WRITE),
            mutate_directory: flags.contains(DescriptorFlags::MUTATE_DIRECTORY),
            synchronous: flags.intersects(synchronous),
        };
        let opened = open(&dir(store, &handle)?, path, how).await;
        let descriptor = Descriptor(opened.map_err(error)?);
        let kept = store.with(|mut store| store.get().table.push(descriptor));
        match kept {
            Ok(kept) => Ok(guest(&kept)),
            Err(_full) => Err(ErrorCode::InsufficientMemory.into()),
        }
    }

    async fn readlink_at(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
        path: String,
    ) -> FilesystemResult<String> {
        dir(store, &handle)?.read_link(path).await.map_err(error)
    }

    async fn remove_directory_at(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
        path: String,
    ) -> FilesystemResult<()> {
        dir(store, &handle)?.remove_dir(path).await.map_err(error)
    }

    async fn rename_at(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
        path: String,
        to: Resource<Handle>,
        to_path: String,
    ) -> FilesystemResult<()> {
        let to = dir(store, &to)?;
        let renamed = dir(store, &handle)?.rename(path, &to, to_path).await;
        renamed.map_err(error)
    }

    async fn symlink_at(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
        target: String,
        path: String,
    ) -> FilesystemResult<()> {
        let made = dir(store, &handle)?.make_link(target, path).await;
        made.map_err(error)
    }

    async fn unlink_file_at(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
        path: String,
    ) -> FilesystemResult<()> {
        dir(store, &handle)?.remove_file(path).await.map_err(error)
    }

    async fn is_same_object(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
        other: Resource<Handle>,
    ) -> wasmtime::Result<bool> {
        let one = store.with(|mut store| store.get().opened(&handle))?;
        let other = store.with(|mut store| store.get().opened(&other))?;
        Ok(match (stat_of(one).await, stat_of(other).await) {
            (Ok(one), Ok(other)) => (one.device, one.inode) == (other.device, other.inode),
            _ => false,
        })
    }

    async fn metadata_hash(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
    ) -> FilesystemResult<MetadataHashValue> {
        let stat = stat_of(opened(store, &handle)?).await;
        stat.map(|stat| hash_of(&stat))
    }

    async fn metadata_hash_at(
        store: &Accessor<T, Self>,
        handle: Resource<Handle>,
        flags: PathFlags,
        path: String,
    ) -> FilesystemResult<MetadataHashValue> {
        let stat = dir(store, &handle)?.stat(path, follow(flags)).await;
        stat.map(|stat| hash_of(&stat)).map_err(error)
    }
}

/// Why a descriptor can't be read or written as a file.
fn wrong(opened: &Opened) -> ErrorCode {
    match opened {
        Opened::Dir(_) => ErrorCode::IsDirectory,
        Opened::File(_) => ErrorCode::BadDescriptor,
    }
}

/// Takes what a guest writes to a file: to a place in it, or to its end.
fn take<T: Send + 'static>(
    mut store: Access<'_, T, Filesystem>,
    handle: &Resource<Handle>,
    mut data: StreamReader<u8>,
    at: Option<Filesize>,
) -> wasmtime::Result<End> {
    let (tell, told) = oneshot::channel();
    match store.get().opened(handle)? {
        Opened::File(file) if file.writable => {
            data.pipe(&mut store, Writing::new(file, at, tell))?;
        }
        opened => {
            data.close(&mut store)?;
            let _ = tell.send(Err(wrong(&opened)));
        }
    }
    FutureReader::new(&mut store, told)
}

fn follow(flags: PathFlags) -> bool {
    flags.contains(PathFlags::SYMLINK_FOLLOW)
}

fn type_of(kind: Kind) -> DescriptorType {
    match kind {
        Kind::Directory => DescriptorType::Directory,
        Kind::File => DescriptorType::RegularFile,
        Kind::Link => DescriptorType::SymbolicLink,
        Kind::Other => DescriptorType::Other(None),
    }
}

fn described(stat: &Stat) -> DescriptorStat {
    let time = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).ok()?;
        Some(Instant {
            seconds: i64::try_from(since.as_secs()).ok()?,
            nanoseconds: since.subsec_nanos(),
        })
    };
    DescriptorStat {
        type_: type_of(stat.kind),
        link_count: stat.links,
        size: stat.size,
        data_access_timestamp: time(stat.accessed),
        data_modification_timestamp: time(stat.modified),
        status_change_timestamp: time(stat.changed),
    }
}

fn hash_of(stat: &Stat) -> MetadataHashValue {
    let (lower, upper) = identity(stat);
    MetadataHashValue { lower, upper }
}

fn times_of(accessed: NewTimestamp, modified: NewTimestamp) -> SetTimes {
    let time = |time| match time {
        NewTimestamp::NoChange => SetTime::Keep,
        NewTimestamp::Now => SetTime::Now,
        NewTimestamp::Timestamp(Instant {
            seconds,
            nanoseconds,
        }) => {
            let whole = Duration::from_secs(seconds.unsigned_abs());
            let second = if seconds < 0 {
                UNIX_EPOCH.checked_sub(whole)
            } else {
                UNIX_EPOCH.checked_add(whole)
            };
            second
                .and_then(|second| second.checked_add(Duration::from_nanos(nanoseconds.into())))
                .map_or(SetTime::Keep, SetTime::To)
        }
    };
    SetTimes {
        accessed: time(accessed),
        modified: time(modified),
    }
}
