//! `wasi:filesystem@0.2` over a process's [`Files`].
//!
//! As with sockets, the interfaces' types are those of `wasmtime-wasi`, and what is behind a handle is ours.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::clocks::wall_clock::Datetime;
use wasmtime_wasi::p2::bindings::filesystem::{preopens, types};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use types::{
    Advice, Descriptor as Handle, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry,
    DirectoryEntryStream, ErrorCode, Filesize, MetadataHashValue, NewTimestamp, OpenFlags,
    PathFlags,
};

use vaquita_guest_fs::{
    Entry, Files, Kind, LARGEST_PIECE, OpenDir, OpenFile, Opened, SetTime, SetTimes, Stat,
};
use vaquita_guest_sockets::handle::{guest, host};

use super::stream::{FileInput, FileOutput};
use super::{Opening, identity, open};
use crate::budget::{Charge, Purse};
use crate::state::State;

/// What the interfaces' functions work on.
pub(crate) struct View<'a> {
    pub(super) table: &'a mut ResourceTable,
    pub(super) files: Option<&'a Arc<Files>>,
    /// Who pays for what is read of directories.
    pub(super) purse: &'a Arc<Purse>,
}

pub(super) struct Filesystem;

impl HasData for Filesystem {
    type Data<'a> = View<'a>;
}

pub(super) fn view(state: &mut State) -> View<'_> {
    View {
        table: &mut state.table,
        files: state.files.as_ref(),
        purse: &state.purse,
    }
}

/// Puts the process's files in the place of the host's.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    preopens::add_to_linker::<State, Filesystem>(linker, view)?;
    types::add_to_linker::<State, Filesystem>(linker, view)
}

/// Behind `descriptor`.
#[derive(Debug)]
pub(super) struct Descriptor(pub(super) Opened);

/// Behind `directory-entry-stream`.
struct Entries {
    entries: std::vec::IntoIter<Entry>,
    _charge: Charge,
}

/// What an error is to a component. There is no code for too many open files.
fn code_of(error: Errno) -> FsError {
    match error {
        Errno::MFILE | Errno::NOMEM => ErrorCode::InsufficientMemory.into(),
        Errno::STALE => ErrorCode::NoEntry.into(),
        Errno::OPNOTSUPP => ErrorCode::Unsupported.into(),
        Errno::ROFS => ErrorCode::ReadOnly.into(),
        Errno::XDEV => ErrorCode::CrossDevice.into(),
        error => io::Error::from(error).into(),
    }
}

async fn stat_of(opened: Opened) -> FsResult<Stat> {
    match opened {
        Opened::File(file) => file.stat().await,
        Opened::Dir(dir) => dir.own_stat().await,
    }
    .map_err(code_of)
}

impl View<'_> {
    fn get(&self, handle: &Resource<Handle>) -> FsResult<&Opened> {
        let descriptor: &Descriptor = self.table.get(&host(handle))?;
        Ok(&descriptor.0)
    }

    fn file(&self, handle: &Resource<Handle>) -> FsResult<OpenFile> {
        match self.get(handle)? {
            Opened::File(file) => Ok(file.clone()),
            Opened::Dir(_) => Err(ErrorCode::IsDirectory.into()),
        }
    }

    fn dir(&self, handle: &Resource<Handle>) -> FsResult<OpenDir> {
        match self.get(handle)? {
            Opened::Dir(dir) => Ok(dir.clone()),
            Opened::File(_) => Err(ErrorCode::NotDirectory.into()),
        }
    }

    fn push(&mut self, opened: Opened) -> FsResult<Resource<Handle>> {
        Ok(guest(&self.table.push(Descriptor(opened))?))
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

impl types::Host for View<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        let error = self.table.get(&error)?.downcast_ref::<io::Error>();
        Ok(error.map(ErrorCode::from))
    }
}

impl types::HostDescriptor for View<'_> {
    fn read_via_stream(
        &mut self,
        file: Resource<Handle>,
        at: Filesize,
    ) -> FsResult<Resource<DynInputStream>> {
        let file = self.file(&file)?;
        if !file.readable {
            return Err(ErrorCode::BadDescriptor.into());
        }
        let stream: DynInputStream = Box::new(FileInput::new(file, at));
        Ok(self.table.push(stream)?)
    }

    fn write_via_stream(
        &mut self,
        file: Resource<Handle>,
        at: Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        self.output(&file, Some(at))
    }

    fn append_via_stream(&mut self, file: Resource<Handle>) -> FsResult<Resource<DynOutputStream>> {
        self.output(&file, None)
    }

    async fn advise(
        &mut self,
        file: Resource<Handle>,
        _at: Filesize,
        _length: Filesize,
        _advice: Advice,
    ) -> FsResult<()> {
        self.file(&file).map(drop)
    }

    async fn sync_data(&mut self, file: Resource<Handle>) -> FsResult<()> {
        match self.get(&file)? {
            Opened::File(file) => file.sync(true).await.map_err(code_of),
            Opened::Dir(_) => Ok(()),
        }
    }

    async fn sync(&mut self, file: Resource<Handle>) -> FsResult<()> {
        match self.get(&file)? {
            Opened::File(file) => file.sync(false).await.map_err(code_of),
            Opened::Dir(_) => Ok(()),
        }
    }

    async fn get_flags(&mut self, handle: Resource<Handle>) -> FsResult<DescriptorFlags> {
        let flags = match self.get(&handle)? {
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

    async fn get_type(&mut self, handle: Resource<Handle>) -> FsResult<DescriptorType> {
        Ok(match self.get(&handle)? {
            Opened::File(_) => DescriptorType::RegularFile,
            Opened::Dir(_) => DescriptorType::Directory,
        })
    }

    async fn set_size(&mut self, file: Resource<Handle>, size: Filesize) -> FsResult<()> {
        self.file(&file)?.set_size(size).await.map_err(code_of)
    }

    async fn set_times(
        &mut self,
        handle: Resource<Handle>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        let times = times_of(accessed, modified);
        match self.get(&handle)? {
            Opened::File(file) if file.writable => file.set_times(times).await,
            Opened::File(_) => Err(Errno::BADF),
            Opened::Dir(dir) => dir.set_own_times(times).await,
        }
        .map_err(code_of)
    }

    async fn read(
        &mut self,
        file: Resource<Handle>,
        length: Filesize,
        at: Filesize,
    ) -> FsResult<(Vec<u8>, bool)> {
        let length = usize::try_from(length).unwrap_or(LARGEST_PIECE);
        let read = self.file(&file)?.read(at, length).await;
        let bytes = read.map_err(code_of)?;
        Ok((bytes.to_vec(), bytes.is_empty() && length > 0))
    }

    async fn write(
        &mut self,
        file: Resource<Handle>,
        bytes: Vec<u8>,
        at: Filesize,
    ) -> FsResult<Filesize> {
        let file = self.file(&file)?;
        if bytes.is_empty() {
            return Ok(0);
        }
        let written = file.write(at, bytes.into()).await.map_err(code_of)?;
        Ok(written as Filesize)
    }

    async fn read_directory(
        &mut self,
        dir: Resource<Handle>,
    ) -> FsResult<Resource<DirectoryEntryStream>> {
        let entries = self.dir(&dir)?.list().await.map_err(code_of)?;
        let entries = Entries {
            _charge: super::charge(&entries, self.purse).map_err(code_of)?,
            entries: entries.into_iter(),
        };
        Ok(guest(&self.table.push(entries)?))
    }

    async fn create_directory_at(&mut self, dir: Resource<Handle>, path: String) -> FsResult<()> {
        self.dir(&dir)?.make_dir(path).await.map_err(code_of)
    }

    async fn stat(&mut self, handle: Resource<Handle>) -> FsResult<DescriptorStat> {
        let opened = self.get(&handle)?.clone();
        stat_of(opened).await.map(|stat| told(&stat))
    }

    async fn stat_at(
        &mut self,
        dir: Resource<Handle>,
        flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        let stat = self.dir(&dir)?.stat(path, follow(flags)).await;
        stat.map(|stat| told(&stat)).map_err(code_of)
    }

    async fn set_times_at(
        &mut self,
        dir: Resource<Handle>,
        flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        let times = times_of(accessed, modified);
        let set = self.dir(&dir)?.set_times(path, follow(flags), times).await;
        set.map_err(code_of)
    }

    async fn link_at(
        &mut self,
        dir: Resource<Handle>,
        flags: PathFlags,
        path: String,
        to: Resource<Handle>,
        to_path: String,
    ) -> FsResult<()> {
        if follow(flags) {
            return Err(ErrorCode::Invalid.into());
        }
        let to = self.dir(&to)?;
        let linked = self.dir(&dir)?.link(path, &to, to_path).await;
        linked.map_err(code_of)
    }

    async fn open_at(
        &mut self,
        dir: Resource<Handle>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Handle>> {
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
        let opened = open(&self.dir(&dir)?, path, how).await;
        self.push(opened.map_err(code_of)?)
    }

    async fn readlink_at(&mut self, dir: Resource<Handle>, path: String) -> FsResult<String> {
        self.dir(&dir)?.read_link(path).await.map_err(code_of)
    }

    async fn remove_directory_at(&mut self, dir: Resource<Handle>, path: String) -> FsResult<()> {
        self.dir(&dir)?.remove_dir(path).await.map_err(code_of)
    }

    async fn rename_at(
        &mut self,
        dir: Resource<Handle>,
        path: String,
        to: Resource<Handle>,
        to_path: String,
    ) -> FsResult<()> {
        let to = self.dir(&to)?;
        let renamed = self.dir(&dir)?.rename(path, &to, to_path).await;
        renamed.map_err(code_of)
    }

    async fn symlink_at(
        &mut self,
        dir: Resource<Handle>,
        target: String,
        path: String,
    ) -> FsResult<()> {
        let made = self.dir(&dir)?.make_link(target, path).await;
        made.map_err(code_of)
    }

    async fn unlink_file_at(&mut self, dir: Resource<Handle>, path: String) -> FsResult<()> {
        self.dir(&dir)?.remove_file(path).await.map_err(code_of)
    }

    async fn is_same_object(
        &mut self,
        one: Resource<Handle>,
        other: Resource<Handle>,
    ) -> wasmtime::Result<bool> {
        let one: &Descriptor = self.table.get(&host(&one))?;
        let other: &Descriptor = self.table.get(&host(&other))?;
        let (one, other) = (one.0.clone(), other.0.clone());
        Ok(match (stat_of(one).await, stat_of(other).await) {
            (Ok(one), Ok(other)) => (one.device, one.inode) == (other.device, other.inode),
            _ => false,
        })
    }

    async fn metadata_hash(&mut self, handle: Resource<Handle>) -> FsResult<MetadataHashValue> {
        let opened = self.get(&handle)?.clone();
        stat_of(opened).await.map(|stat| hash_of(&stat))
    }

    async fn metadata_hash_at(
        &mut self,
        dir: Resource<Handle>,
        flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        let stat = self.dir(&dir)?.stat(path, follow(flags)).await;
        stat.map(|stat| hash_of(&stat)).map_err(code_of)
    }

    fn drop(&mut self, handle: Resource<Handle>) -> wasmtime::Result<()> {
        self.table.delete(host::<Descriptor, _>(&handle))?;
        Ok(())
    }
}

impl View<'_> {
    fn output(
        &mut self,
        file: &Resource<Handle>,
        at: Option<Filesize>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let file = self.file(file)?;
        if !file.writable {
            return Err(ErrorCode::BadDescriptor.into());
        }
        let stream: DynOutputStream = Box::new(FileOutput::new(file, at));
        Ok(self.table.push(stream)?)
    }
}

impl types::HostDirectoryEntryStream for View<'_> {
    async fn read_directory_entry(
        &mut self,
        entries: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        let entries: &mut Entries = self.table.get_mut(&host(&entries))?;
        Ok(entries.entries.next().map(|entry| DirectoryEntry {
            type_: type_of(entry.kind),
            name: entry.name,
        }))
    }

    fn drop(&mut self, entries: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.table.delete(host::<Entries, _>(&entries))?;
        Ok(())
    }
}

fn follow(flags: PathFlags) -> bool {
    flags.contains(PathFlags::SYMLINK_FOLLOW)
}

fn type_of(kind: Kind) -> DescriptorType {
    match kind {
        Kind::Directory => DescriptorType::Directory,
        Kind::File => DescriptorType::RegularFile,
        Kind::Link => DescriptorType::SymbolicLink,
        Kind::Other => DescriptorType::Unknown,
    }
}

fn told(stat: &Stat) -> DescriptorStat {
    let time = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).ok()?;
        Some(Datetime {
            seconds: since.as_secs(),
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
        NewTimestamp::Timestamp(Datetime {
            seconds,
            nanoseconds,
        }) => {
            let since = Duration::from_secs(seconds)
                .saturating_add(Duration::from_nanos(nanoseconds.into()));
            UNIX_EPOCH
                .checked_add(since)
                .map_or(SetTime::Keep, SetTime::To)
        }
    };
    SetTimes {
        accessed: time(accessed),
        modified: time(modified),
    }
}
