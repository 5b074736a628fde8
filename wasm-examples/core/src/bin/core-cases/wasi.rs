//! WASI 0.1 as it is, since the standard library hides what is tried here.

#![allow(
    unsafe_code,
    reason = "the functions take addresses, of what lives as long as the call"
)]

/// A file descriptor.
pub(crate) type Fd = u32;
/// What a call gives, or its error number.
pub(crate) type Answer<T> = Result<T, u16>;

pub(crate) const BADF: u16 = 8;
pub(crate) const EXIST: u16 = 20;
pub(crate) const INVAL: u16 = 28;
pub(crate) const ISDIR: u16 = 31;
pub(crate) const LOOP: u16 = 32;
pub(crate) const NAMETOOLONG: u16 = 37;
pub(crate) const NOENT: u16 = 44;
pub(crate) const NOTDIR: u16 = 54;
pub(crate) const NOTEMPTY: u16 = 55;
pub(crate) const NOTSUP: u16 = 58;
pub(crate) const PERM: u16 = 63;
pub(crate) const SPIPE: u16 = 70;

/// `oflags`
pub(crate) const CREATE: u16 = 1;
pub(crate) const DIRECTORY: u16 = 2;
pub(crate) const EXCLUSIVE: u16 = 4;
pub(crate) const TRUNCATE: u16 = 8;

/// `fdflags`
pub(crate) const APPEND: u16 = 1;
pub(crate) const DSYNC: u16 = 2;
pub(crate) const SYNC: u16 = 16;
pub(crate) const NONBLOCK: u16 = 4;

/// `rights`
pub(crate) const READ: u64 = 1 << 1;
pub(crate) const WRITE: u64 = 1 << 6;

/// `lookupflags`
pub(crate) const FOLLOW: u32 = 1;

/// `filetype`
pub(crate) const A_DIRECTORY: u8 = 3;
pub(crate) const A_FILE: u8 = 4;
pub(crate) const A_LINK: u8 = 7;

#[repr(C)]
struct Buffer {
    at: *const u8,
    length: usize,
}

/// `fdstat`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FdStat {
    pub(crate) kind: u8,
    pub(crate) flags: u16,
    pub(crate) rights: u64,
    pub(crate) inheriting: u64,
}

/// `filestat`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) kind: u8,
    pub(crate) links: u64,
    pub(crate) size: u64,
    pub(crate) accessed: u64,
    pub(crate) modified: u64,
    pub(crate) changed: u64,
}

/// `subscription`: of a clock, or of a descriptor, whose number is where the clock's would be.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Subscription {
    pub(crate) data: u64,
    pub(crate) kind: u8,
    pub(crate) of: u64,
    pub(crate) timeout: u64,
    pub(crate) precision: u64,
    pub(crate) flags: u16,
}

/// `event`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Event {
    pub(crate) data: u64,
    pub(crate) error: u16,
    pub(crate) kind: u8,
    pub(crate) bytes: u64,
    pub(crate) flags: u16,
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(id: u32, precision: u64, out: *mut u64) -> u16;
    fn fd_advise(fd: Fd, at: u64, length: u64, advice: u8) -> u16;
    fn fd_allocate(fd: Fd, at: u64, length: u64) -> u16;
    fn fd_close(fd: Fd) -> u16;
    fn fd_datasync(fd: Fd) -> u16;
    fn fd_fdstat_get(fd: Fd, out: *mut FdStat) -> u16;
    fn fd_fdstat_set_flags(fd: Fd, flags: u16) -> u16;
    fn fd_filestat_get(fd: Fd, out: *mut Stat) -> u16;
    fn fd_filestat_set_size(fd: Fd, size: u64) -> u16;
    fn fd_filestat_set_times(fd: Fd, accessed: u64, modified: u64, flags: u16) -> u16;
    fn fd_pread(fd: Fd, list: *const Buffer, count: usize, at: u64, out: *mut usize) -> u16;
    fn fd_prestat_dir_name(fd: Fd, into: *mut u8, room: usize) -> u16;
    fn fd_prestat_get(fd: Fd, out: *mut [u32; 2]) -> u16;
    fn fd_pwrite(fd: Fd, list: *const Buffer, count: usize, at: u64, out: *mut usize) -> u16;
    fn fd_read(fd: Fd, list: *const Buffer, count: usize, out: *mut usize) -> u16;
    fn fd_readdir(fd: Fd, into: *mut u8, room: usize, from: u64, out: *mut usize) -> u16;
    fn fd_renumber(fd: Fd, to: Fd) -> u16;
    fn fd_seek(fd: Fd, offset: i64, whence: u8, out: *mut u64) -> u16;
    fn fd_sync(fd: Fd) -> u16;
    fn fd_tell(fd: Fd, out: *mut u64) -> u16;
    fn fd_write(fd: Fd, list: *const Buffer, count: usize, out: *mut usize) -> u16;
    fn path_create_directory(fd: Fd, at: *const u8, length: usize) -> u16;
    fn path_filestat_get(fd: Fd, flags: u32, at: *const u8, length: usize, out: *mut Stat) -> u16;
    fn path_filestat_set_times(
        fd: Fd,
        flags: u32,
        at: *const u8,
        length: usize,
        accessed: u64,
        modified: u64,
        which: u16,
    ) -> u16;
    fn path_link(
        fd: Fd,
        flags: u32,
        at: *const u8,
        length: usize,
        to: Fd,
        to_at: *const u8,
        to_length: usize,
    ) -> u16;
    fn path_open(
        fd: Fd,
        flags: u32,
        at: *const u8,
        length: usize,
        oflags: u16,
        rights: u64,
        inheriting: u64,
        fdflags: u16,
        out: *mut Fd,
    ) -> u16;
    fn path_readlink(
        fd: Fd,
        at: *const u8,
        length: usize,
        into: *mut u8,
        room: usize,
        out: *mut usize,
    ) -> u16;
    fn path_remove_directory(fd: Fd, at: *const u8, length: usize) -> u16;
    fn path_rename(
        fd: Fd,
        at: *const u8,
        length: usize,
        to: Fd,
        to_at: *const u8,
        to_length: usize,
    ) -> u16;
    fn path_symlink(
        target: *const u8,
        target_length: usize,
        fd: Fd,
        at: *const u8,
        length: usize,
    ) -> u16;
    fn path_unlink_file(fd: Fd, at: *const u8, length: usize) -> u16;
    fn poll_oneoff(on: *const Subscription, out: *mut Event, count: usize, told: *mut usize)
    -> u16;
    fn random_get(into: *mut u8, length: usize) -> u16;
    fn sched_yield() -> u16;
}

fn answer<T>(errno: u16, value: T) -> Answer<T> {
    if errno == 0 { Ok(value) } else { Err(errno) }
}

/// Calls a function whose last parameter is where its answer goes.
macro_rules! out {
    ($function:ident($($argument:expr),*)) => {{
        let mut out = Default::default();
        // SAFETY: what the addresses are of lives until the call is over.
        let errno = unsafe { $function($($argument,)* &raw mut out) };
        answer(errno, out)
    }};
}

/// Calls a function that answers nothing.
macro_rules! call {
    ($function:ident($($argument:expr),*)) => {
        // SAFETY: as above.
        answer(unsafe { $function($($argument),*) }, ())
    };
}

pub(crate) fn time(clock: u32) -> Answer<u64> {
    out!(clock_time_get(clock, 1))
}

pub(crate) fn advise(fd: Fd, advice: u8) -> Answer<()> {
    call!(fd_advise(fd, 0, 0, advice))
}

pub(crate) fn allocate(fd: Fd, length: u64) -> Answer<()> {
    call!(fd_allocate(fd, 0, length))
}

pub(crate) fn close(fd: Fd) -> Answer<()> {
    call!(fd_close(fd))
}

pub(crate) fn sync(fd: Fd) -> Answer<()> {
    call!(fd_sync(fd))
}

pub(crate) fn datasync(fd: Fd) -> Answer<()> {
    call!(fd_datasync(fd))
}

pub(crate) fn fdstat(fd: Fd) -> Answer<FdStat> {
    out!(fd_fdstat_get(fd))
}

pub(crate) fn set_flags(fd: Fd, flags: u16) -> Answer<()> {
    call!(fd_fdstat_set_flags(fd, flags))
}

pub(crate) fn stat(fd: Fd) -> Answer<Stat> {
    out!(fd_filestat_get(fd))
}

pub(crate) fn set_size(fd: Fd, size: u64) -> Answer<()> {
    call!(fd_filestat_set_size(fd, size))
}

pub(crate) fn set_times(fd: Fd, accessed: u64, modified: u64, which: u16) -> Answer<()> {
    call!(fd_filestat_set_times(fd, accessed, modified, which))
}

/// The length of a preopened directory's name.
pub(crate) fn prestat(fd: Fd) -> Answer<usize> {
    out!(fd_prestat_get(fd)).map(|[_, length]: [u32; 2]| length as usize)
}

pub(crate) fn prestat_name(fd: Fd, room: usize) -> Answer<Vec<u8>> {
    let mut name = vec![0; room];
    call!(fd_prestat_dir_name(fd, name.as_mut_ptr(), room)).map(|()| name)
}

fn buffers(pieces: &[&[u8]]) -> Vec<Buffer> {
    let buffer = |piece: &&[u8]| Buffer {
        at: piece.as_ptr(),
        length: piece.len(),
    };
    pieces.iter().map(buffer).collect()
}

/// Reads into buffers of those lengths, and gives all that came.
pub(crate) fn read(fd: Fd, lengths: &[usize], at: Option<u64>) -> Answer<Vec<u8>> {
    let mut pieces: Vec<Vec<u8>> = lengths.iter().map(|length| vec![0; *length]).collect();
    let list: Vec<_> = pieces
        .iter_mut()
        .map(|piece| Buffer {
            at: piece.as_mut_ptr(),
            length: piece.len(),
        })
        .collect();
    let count: usize = match at {
        None => out!(fd_read(fd, list.as_ptr(), list.len()))?,
        Some(at) => out!(fd_pread(fd, list.as_ptr(), list.len(), at))?,
    };
    let mut all = pieces.concat();
    all.truncate(count);
    Ok(all)
}

pub(crate) fn write(fd: Fd, pieces: &[&[u8]], at: Option<u64>) -> Answer<usize> {
    let list = buffers(pieces);
    match at {
        None => out!(fd_write(fd, list.as_ptr(), list.len())),
        Some(at) => out!(fd_pwrite(fd, list.as_ptr(), list.len(), at)),
    }
}

pub(crate) fn read_dir(fd: Fd, room: usize, from: u64) -> Answer<Vec<u8>> {
    let mut told = vec![0; room];
    let length: usize = out!(fd_readdir(fd, told.as_mut_ptr(), room, from))?;
    told.truncate(length);
    Ok(told)
}

pub(crate) fn renumber(fd: Fd, to: Fd) -> Answer<()> {
    call!(fd_renumber(fd, to))
}

pub(crate) fn seek(fd: Fd, offset: i64, whence: u8) -> Answer<u64> {
    out!(fd_seek(fd, offset, whence))
}

pub(crate) fn tell(fd: Fd) -> Answer<u64> {
    out!(fd_tell(fd))
}

pub(crate) fn make_dir(fd: Fd, path: &str) -> Answer<()> {
    call!(path_create_directory(fd, path.as_ptr(), path.len()))
}

pub(crate) fn stat_at(fd: Fd, flags: u32, path: &str) -> Answer<Stat> {
    out!(path_filestat_get(fd, flags, path.as_ptr(), path.len()))
}

pub(crate) fn set_times_at(fd: Fd, path: &str, modified: u64, which: u16) -> Answer<()> {
    call!(path_filestat_set_times(
        fd,
        0,
        path.as_ptr(),
        path.len(),
        0,
        modified,
        which
    ))
}

pub(crate) fn link(fd: Fd, flags: u32, path: &str, to: &str) -> Answer<()> {
    call!(path_link(
        fd,
        flags,
        path.as_ptr(),
        path.len(),
        fd,
        to.as_ptr(),
        to.len()
    ))
}

/// How something is opened: `lookupflags`, `oflags`, `rights` and `fdflags`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct How {
    pub(crate) lookup: u32,
    pub(crate) create: u16,
    pub(crate) rights: u64,
    pub(crate) flags: u16,
}

pub(crate) fn open(fd: Fd, path: &str, how: How) -> Answer<Fd> {
    out!(path_open(
        fd,
        how.lookup,
        path.as_ptr(),
        path.len(),
        how.create,
        how.rights,
        how.rights,
        how.flags
    ))
}

pub(crate) fn read_link(fd: Fd, path: &str, room: usize) -> Answer<Vec<u8>> {
    let mut target = vec![0; room];
    let length: usize = out!(path_readlink(
        fd,
        path.as_ptr(),
        path.len(),
        target.as_mut_ptr(),
        room
    ))?;
    target.truncate(length);
    Ok(target)
}

pub(crate) fn remove_dir(fd: Fd, path: &str) -> Answer<()> {
    call!(path_remove_directory(fd, path.as_ptr(), path.len()))
}

pub(crate) fn rename(fd: Fd, path: &str, to: &str) -> Answer<()> {
    call!(path_rename(
        fd,
        path.as_ptr(),
        path.len(),
        fd,
        to.as_ptr(),
        to.len()
    ))
}

pub(crate) fn symlink(target: &str, fd: Fd, path: &str) -> Answer<()> {
    call!(path_symlink(
        target.as_ptr(),
        target.len(),
        fd,
        path.as_ptr(),
        path.len()
    ))
}

pub(crate) fn unlink(fd: Fd, path: &str) -> Answer<()> {
    call!(path_unlink_file(fd, path.as_ptr(), path.len()))
}

pub(crate) fn poll(on: &[Subscription]) -> Answer<Vec<Event>> {
    let mut events = vec![Event::default(); on.len()];
    let count: usize = out!(poll_oneoff(on.as_ptr(), events.as_mut_ptr(), on.len()))?;
    events.truncate(count);
    Ok(events)
}

pub(crate) fn random(length: usize) -> Answer<Vec<u8>> {
    let mut bytes = vec![0; length];
    call!(random_get(bytes.as_mut_ptr(), length)).map(|()| bytes)
}

pub(crate) fn yield_now() -> Answer<()> {
    call!(sched_yield())
}
