//! Functions of WASI 0.1 on paths.

use wasmtime_wasi::p1::types::Errno;

use super::descriptors::{Descriptors, Entry};
use super::files::{self, APPEND, OpenedDir, OpenedFile, errno_of};
use super::memory::{Memory, Pointer};
use vaquita_guest_fs::{Open, OpenDir, Opened, SetTimes};

/// The longest path that is even looked at.
const LONGEST: i32 = 4096;

/// `rights`: reading and writing.
const READ: i64 = 1 << 1;
const WRITE: i64 = 1 << 6;

/// Where a path is in the guest's memory, and from which directory it goes.
#[derive(Clone, Copy)]
pub(super) struct Path {
    pub(super) fd: i32,
    pub(super) at: i32,
    pub(super) length: i32,
}

impl Path {
    fn read(
        self,
        descriptors: &Descriptors,
        memory: &Memory<'_>,
    ) -> Result<(OpenDir, String), Errno> {
        let dir = files::dir(descriptors, self.fd)?.dir;
        Ok((dir, text(memory, self.at, self.length)?))
    }
}

fn text(memory: &Memory<'_>, at: i32, length: i32) -> Result<String, Errno> {
    if !(0..=LONGEST).contains(&length) {
        return Err(Errno::Nametoolong);
    }
    let bytes = memory.slice(Pointer::from(at), length.cast_unsigned())?;
    String::from_utf8(bytes.into_owned()).map_err(|_| Errno::Ilseq)
}

/// How `path_open` is to open.
pub(super) struct HowOpen {
    pub(super) lookup: i32,
    pub(super) oflags: i32,
    pub(super) rights: i64,
    pub(super) fdflags: i32,
}

fn follow(lookup: i32) -> bool {
    lookup & 1 != 0
}

pub(super) async fn open(
    descriptors: &Descriptors,
    memory: &Memory<'_>,
    path: Path,
    how: HowOpen,
) -> Result<u32, Errno> {
    let (dir, path) = path.read(descriptors, memory)?;
    let flag = |flag: i32| how.oflags & flag != 0;
    let dir_wanted = flag(2);
    let open = Open {
        write: how.rights & WRITE != 0 && !dir_wanted,
        create: flag(1),
        exclusive: flag(4),
        truncate: flag(8),
    };
    if dir_wanted && (open.create || open.truncate) {
        return Err(Errno::Inval);
    }
    // Each write would have to wait for the disk: rather refused than not done.
    if how.fdflags & (2 | 8 | 16) != 0 {
        return Err(Errno::Notsup);
    }
    let readable = how.rights & READ != 0;
    let opened = dir.open(path.clone(), follow(how.lookup), open, readable);
    let opened = match opened.await {
        // Programs ask for all rights, and get those that a directory has.
        Err(rustix::io::Errno::ISDIR) if open.write && !open.create && !open.truncate => {
            let open = Open::default();
            dir.open(path, follow(how.lookup), open, readable).await
        }
        opened => opened,
    };
    let entry = match opened.map_err(errno_of)? {
        Opened::File(_) if dir_wanted => return Err(Errno::Notdir),
        Opened::File(file) => {
            Entry::File(OpenedFile::new(file, how.fdflags & i32::from(APPEND) != 0))
        }
        Opened::Dir(dir) => Entry::Dir(OpenedDir::new(dir, None)),
    };
    descriptors.lock().add(entry)
}

pub(super) async fn stat(
    descriptors: &Descriptors,
    memory: &mut Memory<'_>,
    path: Path,
    lookup: i32,
    out: i32,
) -> Result<(), Errno> {
    let (dir, path) = path.read(descriptors, memory)?;
    let stat = dir.stat(path, follow(lookup)).await.map_err(errno_of)?;
    memory.write(Pointer::from(out), &files::filestat(&stat))
}

pub(super) async fn set_times(
    descriptors: &Descriptors,
    memory: &Memory<'_>,
    path: Path,
    lookup: i32,
    times: SetTimes,
) -> Result<(), Errno> {
    let (dir, path) = path.read(descriptors, memory)?;
    let set = dir.set_times(path, follow(lookup), times);
    set.await.map_err(errno_of)
}

pub(super) async fn read_link(
    descriptors: &Descriptors,
    memory: &mut Memory<'_>,
    path: Path,
    (into, room): (i32, i32),
) -> Result<u32, Errno> {
    let (dir, path) = path.read(descriptors, memory)?;
    let target = dir.read_link(path).await.map_err(errno_of)?;
    let length = target.len().min(room.cast_unsigned() as usize);
    memory.write(Pointer::from(into), &target.as_bytes()[..length])?;
    u32::try_from(length).map_err(|_| Errno::Overflow)
}

/// What a name is made or removed for.
#[derive(Clone, Copy)]
pub(super) enum Change {
    MakeDir,
    RemoveDir,
    RemoveFile,
}

pub(super) async fn change(
    descriptors: &Descriptors,
    memory: &Memory<'_>,
    path: Path,
    what: Change,
) -> Result<(), Errno> {
    let (dir, path) = path.read(descriptors, memory)?;
    match what {
        Change::MakeDir => dir.make_dir(path).await,
        Change::RemoveDir => dir.remove_dir(path).await,
        Change::RemoveFile => dir.remove_file(path).await,
    }
    .map_err(errno_of)
}

pub(super) async fn make_link(
    descriptors: &Descriptors,
    memory: &Memory<'_>,
    (target, length): (i32, i32),
    path: Path,
) -> Result<(), Errno> {
    let target = text(memory, target, length)?;
    let (dir, path) = path.read(descriptors, memory)?;
    dir.make_link(target, path).await.map_err(errno_of)
}

pub(super) async fn rename(
    descriptors: &Descriptors,
    memory: &Memory<'_>,
    path: Path,
    to: Path,
) -> Result<(), Errno> {
    let (dir, path) = path.read(descriptors, memory)?;
    let (to, to_path) = to.read(descriptors, memory)?;
    dir.rename(path, &to, to_path).await.map_err(errno_of)
}

pub(super) async fn link(
    descriptors: &Descriptors,
    memory: &Memory<'_>,
    lookup: i32,
    path: Path,
    to: Path,
) -> Result<(), Errno> {
    if follow(lookup) {
        return Err(Errno::Inval);
    }
    let (dir, path) = path.read(descriptors, memory)?;
    let (to, to_path) = to.read(descriptors, memory)?;
    dir.link(path, &to, to_path).await.map_err(errno_of)
}
