//! Functions of WASI 0.1 on open files and directories.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use rustix::io::Errno as HostErrno;
use wasmtime_wasi::p1::types::Errno;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use tokio::sync::Mutex;
use vaquita_guest_fs::{Entry, Kind, OpenDir, OpenFile, Opened, SetTime, SetTimes, Stat};

use super::descriptors::{Descriptors, Entry as Descriptor};
use super::io;
use super::memory::{Memory, Pointer};
use crate::budget::Charge;
use crate::fs;

/// `fdflags.append`
pub(super) const APPEND: u16 = 1;

/// `rights` on files: all there are but those on paths and sockets.
const FILE_RIGHTS: u64 = 0x08e0_01ff;
/// `rights` on directories, and what is opened in them.
const ALL_RIGHTS: u64 = 0x1fff_ffff;

/// The size of an entry before its name, as `fd_readdir` tells it.
const DIRENT: usize = 24;

/// An open file. Clones are the same, but for whether they append.
#[derive(Clone)]
pub(super) struct OpenedFile {
    pub(super) file: OpenFile,
    /// Where it is read and written next; locked while it is, if it is there.
    at: Arc<Mutex<u64>>,
    pub(super) append: bool,
}

impl OpenedFile {
    pub(super) fn new(file: OpenFile, append: bool) -> Self {
        Self {
            file,
            at: Arc::default(),
            append,
        }
    }
}

/// An open directory.
#[derive(Clone)]
pub(super) struct OpenedDir {
    pub(super) dir: OpenDir,
    /// By which name the program was given it.
    pub(super) preopened: Option<&'static str>,
    /// What is being read of it.
    listing: Arc<Listing>,
}

/// A directory's entries, as they were when reading began.
#[derive(Default)]
struct Listing {
    entries: Vec<Entry>,
    _charge: Option<Charge>,
}

impl OpenedDir {
    pub(super) fn new(dir: OpenDir, preopened: Option<&'static str>) -> Self {
        Self {
            dir,
            preopened,
            listing: Arc::default(),
        }
    }
}

pub(super) fn errno_of(error: HostErrno) -> Errno {
    match error {
        HostErrno::MFILE => Errno::Mfile,
        HostErrno::STALE => Errno::Stale,
        HostErrno::OPNOTSUPP => Errno::Notsup,
        HostErrno::ROFS => Errno::Rofs,
        HostErrno::XDEV => Errno::Xdev,
        HostErrno::BADF => Errno::Badf,
        HostErrno::NOMEM => Errno::Nomem,
        error => ErrorCode::from(std::io::Error::from(error)).into(),
    }
}

/// Why there is no file of that number.
fn no_file(entry: Option<&Descriptor>, fd: i32) -> Errno {
    match entry {
        Some(Descriptor::Socket(_)) => Errno::Spipe,
        None if (0..=2).contains(&fd) => Errno::Spipe,
        // Of directories, WASI says this where a kernel would tell what they are, or do something.
        Some(Descriptor::File(_) | Descriptor::Dir(_)) | None => Errno::Badf,
    }
}

fn file(descriptors: &Descriptors, fd: i32) -> Result<OpenedFile, Errno> {
    match descriptors.lock().entry(fd) {
        Some(Descriptor::File(file)) => Ok(file.clone()),
        other => Err(no_file(other, fd)),
    }
}

pub(super) fn dir(descriptors: &Descriptors, fd: i32) -> Result<OpenedDir, Errno> {
    match descriptors.lock().entry(fd) {
        Some(Descriptor::Dir(dir)) => Ok(dir.clone()),
        Some(_) => Err(Errno::Notdir),
        None if (0..=2).contains(&fd) => Err(Errno::Notdir),
        None => Err(Errno::Badf),
    }
}

/// A list of buffers in the guest's memory.
#[derive(Clone, Copy)]
pub(super) struct Buffers {
    pub(super) list: i32,
    pub(super) count: i32,
}

/// Reads from where the file is, or from elsewhere without moving it.
pub(super) async fn read(
    descriptors: &Descriptors,
    memory: &mut Memory<'_>,
    fd: i32,
    into: Buffers,
    elsewhere: Option<u64>,
) -> Result<u32, Errno> {
    let opened = file(descriptors, fd)?;
    let buffers = io::buffers(memory, Pointer::from(into.list), into.count)?;
    let most: u32 = buffers.iter().map(|(_, length)| length).sum();
    let mut here = match elsewhere {
        Some(_) => None,
        None => Some(opened.at.lock().await),
    };
    let at = here.as_deref().copied().or(elsewhere).unwrap_or_default();
    let read = opened.file.read(at, most as usize).await;
    let mut data = read.map_err(errno_of)?;
    let length = u32::try_from(data.len()).map_err(|_| Errno::Overflow)?;
    for (address, room) in buffers {
        let piece = data.split_to(data.len().min(room as usize));
        memory.write(address, &piece)?;
    }
    if let Some(here) = &mut here {
        **here = at.saturating_add(length.into());
    }
    Ok(length)
}

/// Writes to where the file is, or to elsewhere without moving it.
pub(super) async fn write(
    descriptors: &Descriptors,
    memory: &Memory<'_>,
    fd: i32,
    from: Buffers,
    elsewhere: Option<u64>,
) -> Result<u32, Errno> {
    let opened = file(descriptors, fd)?;
    let buffers = io::buffers(memory, Pointer::from(from.list), from.count)?;
    let mut data = BytesMut::new();
    for (address, length) in buffers {
        data.extend_from_slice(&memory.slice(address, length)?);
    }
    let data: Bytes = data.freeze();
    if data.is_empty() {
        return Ok(0);
    }
    let written = if let Some(at) = elsewhere {
        opened.file.write(at, data).await.map_err(errno_of)?
    } else {
        let mut at = opened.at.lock().await;
        if opened.append {
            let written = opened.file.append(data).await.map_err(errno_of)?;
            *at = opened.file.stat().await.map_err(errno_of)?.size;
            written
        } else {
            let written = opened.file.write(*at, data).await.map_err(errno_of)?;
            *at = at.saturating_add(written as u64);
            written
        }
    };
    u32::try_from(written).map_err(|_| Errno::Overflow)
}

pub(super) async fn seek(
    descriptors: &Descriptors,
    fd: i32,
    offset: i64,
    whence: i32,
) -> Result<u64, Errno> {
    let opened = file(descriptors, fd)?;
    let mut at = opened.at.lock().await;
    let base = match whence {
        0 => 0,
        1 => *at,
        2 => opened.file.stat().await.map_err(errno_of)?.size,
        _ => return Err(Errno::Inval),
    };
    *at = base.checked_add_signed(offset).ok_or(Errno::Inval)?;
    Ok(*at)
}

pub(super) async fn set_size(descriptors: &Descriptors, fd: i32, size: i64) -> Result<(), Errno> {
    let size = u64::try_from(size).map_err(|_| Errno::Inval)?;
    let opened = file(descriptors, fd)?;
    opened.file.set_size(size).await.map_err(errno_of)
}

pub(super) async fn sync(descriptors: &Descriptors, fd: i32, data_only: bool) -> Result<(), Errno> {
    let opened = file(descriptors, fd)?;
    opened.file.sync(data_only).await.map_err(errno_of)
}

/// What is known of an open file or directory; `None` if the number is of neither.
pub(super) async fn stat(descriptors: &Descriptors, fd: i32) -> Option<Result<[u8; 64], Errno>> {
    let stat = match opened(descriptors, fd)? {
        Opened::File(file) => file.stat().await,
        Opened::Dir(dir) => dir.own_stat().await,
    };
    Some(stat.map(|stat| filestat(&stat)).map_err(errno_of))
}

pub(super) async fn set_times(
    descriptors: &Descriptors,
    fd: i32,
    times: SetTimes,
) -> Result<(), Errno> {
    match opened(descriptors, fd) {
        Some(Opened::File(file)) if file.writable => file.set_times(times).await,
        Some(Opened::Dir(dir)) => dir.set_own_times(times).await,
        _ => return Err(Errno::Badf),
    }
    .map_err(errno_of)
}

/// The file or directory of that number.
fn opened(descriptors: &Descriptors, fd: i32) -> Option<Opened> {
    match descriptors.lock().entry(fd)? {
        Descriptor::File(opened) => Some(Opened::File(opened.file.clone())),
        Descriptor::Dir(opened) => Some(Opened::Dir(opened.dir.clone())),
        Descriptor::Socket(_) => None,
    }
}

/// `filestat`
pub(super) fn filestat(stat: &Stat) -> [u8; 64] {
    let mut told = [0; 64];
    let mut put = |at: usize, value: u64| told[at..at + 8].copy_from_slice(&value.to_le_bytes());
    let time = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    };
    put(0, stat.device);
    put(8, stat.inode);
    put(24, stat.links);
    put(32, stat.size);
    put(40, time(stat.accessed));
    put(48, time(stat.modified));
    put(56, time(stat.changed));
    told[16] = filetype(stat.kind);
    told
}

/// `filetype`
fn filetype(kind: Kind) -> u8 {
    match kind {
        Kind::Other => 0,
        Kind::Directory => 3,
        Kind::File => 4,
        Kind::Link => 7,
    }
}

impl Descriptor {
    /// `fdstat`
    pub(super) fn fdstat(&mut self) -> [u8; 24] {
        let (kind, flags, rights, inherited) = match self {
            Self::Socket(socket) => return socket.fdstat(),
            Self::File(opened) => {
                let mut rights = FILE_RIGHTS;
                if !opened.file.readable {
                    rights &= !(1 << 1);
                }
                if !opened.file.writable {
                    rights &= !(1 << 6);
                }
                let flags = if opened.append { APPEND } else { 0 };
                (Kind::File, flags, rights, 0)
            }
            Self::Dir(_) => (Kind::Directory, 0, ALL_RIGHTS, ALL_RIGHTS),
        };
        let mut stat = [0; 24];
        stat[0] = filetype(kind);
        stat[2..4].copy_from_slice(&flags.to_le_bytes());
        stat[8..16].copy_from_slice(&rights.to_le_bytes());
        stat[16..24].copy_from_slice(&inherited.to_le_bytes());
        stat
    }

    pub(super) fn set_flags(&mut self, flags: i32) -> Result<(), Errno> {
        match self {
            Self::Socket(socket) => socket.set_flags(flags),
            Self::File(opened) => opened.append = flags & i32::from(APPEND) != 0,
            Self::Dir(_) => return Err(Errno::Badf),
        }
        Ok(())
    }
}

/// Times as `fstflags` say.
pub(super) fn times(accessed: i64, modified: i64, flags: i32) -> Result<SetTimes, Errno> {
    let time = |time: i64, to: i32, now: i32| match (flags & to != 0, flags & now != 0) {
        (true, true) => Err(Errno::Inval),
        (false, true) => Ok(SetTime::Now),
        (false, false) => Ok(SetTime::Keep),
        (true, false) => {
            let since = Duration::from_nanos(time.cast_unsigned());
            Ok(SetTime::To(UNIX_EPOCH + since))
        }
    };
    Ok(SetTimes {
        accessed: time(accessed, 1, 2)?,
        modified: time(modified, 4, 8)?,
    })
}

/// Writes a directory's entries from a position on, and says how many bytes that took: as many as there are if the
/// last one is cut off.
pub(super) async fn read_dir(
    descriptors: &Descriptors,
    memory: &mut Memory<'_>,
    fd: i32,
    (into, room): (i32, i32),
    from: i64,
) -> Result<u32, Errno> {
    let mut opened = dir(descriptors, fd)?;
    if from == 0 {
        let entries = listing(&opened.dir).await.map_err(errno_of)?;
        let charge = fs::charge(&entries, &descriptors.purse()).map_err(errno_of)?;
        opened.listing = Arc::new(Listing {
            entries,
            _charge: Some(charge),
        });
        if let Some(Descriptor::Dir(dir)) = descriptors.lock().entry_mut(fd) {
            dir.listing = Arc::clone(&opened.listing);
        }
    }
    let room = room.cast_unsigned() as usize;
    let mut told = Vec::new();
    let from = usize::try_from(from).map_err(|_| Errno::Inval)?;
    for (position, entry) in (1_u64..).zip(opened.listing.entries.iter()).skip(from) {
        if told.len() >= room {
            break;
        }
        let mut head = [0; DIRENT];
        let length = u32::try_from(entry.name.len()).map_err(|_| Errno::Overflow)?;
        head[0..8].copy_from_slice(&position.to_le_bytes());
        head[8..16].copy_from_slice(&entry.inode.to_le_bytes());
        head[16..20].copy_from_slice(&length.to_le_bytes());
        head[20] = filetype(entry.kind);
        told.extend_from_slice(&head);
        told.extend_from_slice(entry.name.as_bytes());
    }
    told.truncate(room);
    memory.write(Pointer::from(into), &told)?;
    u32::try_from(told.len()).map_err(|_| Errno::Overflow)
}

async fn listing(dir: &OpenDir) -> Result<Vec<Entry>, HostErrno> {
    let inode = dir.own_stat().await?.inode;
    let special = [".", ".."].map(|name| Entry {
        name: name.to_owned(),
        kind: Kind::Directory,
        inode,
    });
    let mut entries = Vec::from(special);
    entries.append(&mut dir.list().await?);
    Ok(entries)
}
