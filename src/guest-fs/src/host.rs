//! Volumes in directories of the host.
//!
//! Everything goes by a directory that is held open and a single name in it, and no link is followed by the kernel: there is no way
//! from here to anything outside, whoever renames or links what meanwhile.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::{self, Errno};

use crate::node::{Entry, Found, Kind, Open, Result, SetTime, SetTimes, Stat};
use crate::quota::{ENTRY, Quota};

/// The most entries of a directory that are listed.
const LONGEST_LIST: usize = 1 << 20;

/// How deep directories may lie in each other for what is in them to be counted.
const DEEPEST: usize = 256;

#[cfg(target_os = "linux")]
const HOLD: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const HOLD: OFlags = OFlags::RDONLY;

const DIRECTORY: OFlags = HOLD
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A volume, if it has a limit: what it holds, and which of its files are open.
#[derive(Debug)]
pub(crate) struct Limited {
    pub(crate) quota: Quota,
    /// By inode. Locked while anything changes that counts, so that it is counted once.
    open: Mutex<HashMap<u64, Charged>>,
}

/// An open file of a volume with a limit.
#[derive(Debug)]
struct Charged {
    handles: usize,
    /// The bytes that it counts.
    size: u64,
    /// It has no name any more: what it counts is given back when it is closed.
    removed: bool,
}

impl Limited {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Charged>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name of what `stat` says is gone.
    fn removed(&self, open: &mut HashMap<u64, Charged>, stat: &Stat) {
        self.quota.give_back(ENTRY);
        if stat.kind != Kind::File || stat.links > 1 {
            return;
        }
        match open.get_mut(&stat.inode) {
            Some(charged) => charged.removed = true,
            None => self.quota.give_back(stat.size),
        }
    }
}

/// A directory of the host.
#[derive(Debug)]
pub(crate) struct HostDir {
    fd: OwnedFd,
    limited: Option<Arc<Limited>>,
}

impl HostDir {
    pub(crate) fn volume(path: &Path, limit: Option<u64>) -> Result<Self> {
        let flags = HOLD | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty())?;
        let mut dir = Self { fd, limited: None };
        if let Some(limit) = limit {
            let used = dir.count(DEEPEST)?;
            dir.limited = Some(Arc::new(Limited {
                quota: Quota::new(limit, used),
                open: Mutex::default(),
            }));
        }
        Ok(dir)
    }

    pub(crate) fn limited(&self) -> Option<&Limited> {
        self.limited.as_deref()
    }

    /// What all that is in it counts. A file with several names counts with each: rather too much than too little.
    fn count(&self, depth: usize) -> Result<u64> {
        let mut sum = 0_u64;
        for entry in self.list()? {
            sum = sum.saturating_add(ENTRY);
            match self.find(&entry.name) {
                Ok(Found::Dir(crate::node::Dir::Host(dir))) => {
                    let depth = depth.checked_sub(1).ok_or(Errno::LOOP)?;
                    sum = sum.saturating_add(dir.count(depth)?);
                }
                Ok(Found::Other(stat)) => sum = sum.saturating_add(stat.size),
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }

    pub(crate) fn own_stat(&self) -> Result<Stat> {
        fs::fstat(&self.fd).map(|stat| stat_of(&stat))
    }

    pub(crate) fn set_own_times(&self, times: SetTimes) -> Result<()> {
        fs::utimensat(&self.fd, ".", &timestamps(times), AtFlags::empty())
    }

    fn stat(&self, name: &str) -> Result<Stat> {
        let stat = fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(stat_of(&stat))
    }

    pub(crate) fn find(&self, name: &str) -> Result<Found> {
        let stat = self.stat(name)?;
        Ok(match stat.kind {
            Kind::Directory => {
                let fd = fs::openat(&self.fd, name, DIRECTORY, Mode::empty())?;
                let dir = Self {
                    fd,
                    limited: self.limited.clone(),
                };
                Found::Dir(crate::node::Dir::Host(Arc::new(dir)))
            }
            Kind::Link => {
                let target = fs::readlinkat(&self.fd, name, Vec::new())?;
                let target = target.into_string().map_err(|_| Errno::ILSEQ)?;
                Found::Link(target, stat)
            }
            Kind::File | Kind::Other => Found::Other(stat),
        })
    }

    pub(crate) fn set_times(&self, name: &str, times: SetTimes) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        fs::utimensat(&self.fd, name, &timestamps(times), flags)
    }

    pub(crate) fn open(&self, name: &str, how: Open) -> Result<HostFile> {
        let Some(limited) = &self.limited else {
            let fd = self.open_regular(name, how)?;
            return Ok(HostFile { fd, charged: None });
        };
        let mut open = limited.open();
        let fd = self.open_limited(limited, name, how)?;
        let stat = stat_of(&fs::fstat(&fd)?);
        let charged = open.entry(stat.inode).or_insert(Charged {
            handles: 0,
            size: stat.size,
            removed: false,
        });
        charged.handles += 1;
        drop(open);
        let file = HostFile {
            fd,
            charged: Some((Arc::clone(limited), stat.inode)),
        };
        if how.truncate {
            file.set_size(0)?;
        }
        Ok(file)
    }

    /// Opens or makes a file, and has what is made counted. It is not truncated yet.
    fn open_limited(&self, limited: &Limited, name: &str, how: Open) -> Result<OwnedFd> {
        let truncate = false;
        if how.create {
            limited.quota.take(ENTRY)?;
            let made = self.open_regular(
                name,
                Open {
                    exclusive: true,
                    truncate,
                    ..how
                },
            );
            if made.is_err() {
                limited.quota.give_back(ENTRY);
            }
            match made {
                Err(Errno::EXIST) if !how.exclusive => {}
                made => return made,
            }
        }
        self.open_regular(
            name,
            Open {
                create: false,
                truncate,
                ..how
            },
        )
    }

    fn open_regular(&self, name: &str, how: Open) -> Result<OwnedFd> {
        // Opening a device can have effects of its own, so it is looked at before.
        match self.stat(name) {
            Ok(stat) => check_regular(&stat)?,
            Err(Errno::NOENT) if how.create => {}
            Err(error) => return Err(error),
        }
        let mut flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        flags |= if how.write || how.truncate {
            OFlags::RDWR
        } else {
            OFlags::RDONLY
        };
        flags.set(OFlags::CREATE, how.create);
        flags.set(OFlags::EXCL, how.create && how.exclusive);
        flags.set(OFlags::TRUNC, how.truncate);
        let fd = fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o666))?;
        check_regular(&stat_of(&fs::fstat(&fd)?))?;
        Ok(fd)
    }

    pub(crate) fn list(&self) -> Result<Vec<Entry>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::openat(&self.fd, ".", flags, Mode::empty())?;
        let mut entries = Vec::new();
        for entry in fs::Dir::new(fd)? {
            let entry = entry?;
            // A name that guests can't spell is none to them.
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if name == "." || name == ".." {
                continue;
            }
            if entries.len() >= LONGEST_LIST {
                return Err(Errno::OVERFLOW);
            }
            let kind = match entry.file_type() {
                FileType::Unknown => self.stat(name).map_or(Kind::Other, |stat| stat.kind),
                known => kind_of(known),
            };
            entries.push(Entry {
                name: name.to_owned(),
                kind,
                inode: entry.ino(),
            });
        }
        Ok(entries)
    }

    pub(crate) fn make_dir(&self, name: &str) -> Result<()> {
        self.make(|| fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o777)))
    }

    pub(crate) fn make_link(&self, target: &str, name: &str) -> Result<()> {
        self.make(|| fs::symlinkat(target, &self.fd, name))
    }

    pub(crate) fn link(&self, name: &str, to: &Self, to_name: &str) -> Result<()> {
        to.make(|| fs::linkat(&self.fd, name, &to.fd, to_name, AtFlags::empty()))
    }

    /// Makes an entry and has it counted.
    fn make(&self, make: impl FnOnce() -> Result<()>) -> Result<()> {
        let Some(limited) = &self.limited else {
            return make();
        };
        limited.quota.take(ENTRY)?;
        make().inspect_err(|_| limited.quota.give_back(ENTRY))
    }

    pub(crate) fn remove_dir(&self, name: &str) -> Result<()> {
        self.remove(name, AtFlags::REMOVEDIR)
    }

    pub(crate) fn remove_file(&self, name: &str) -> Result<()> {
        self.remove(name, AtFlags::empty())
    }

    fn remove(&self, name: &str, flags: AtFlags) -> Result<()> {
        let Some(limited) = &self.limited else {
            return fs::unlinkat(&self.fd, name, flags);
        };
        let mut open = limited.open();
        let stat = self.stat(name)?;
        fs::unlinkat(&self.fd, name, flags)?;
        limited.removed(&mut open, &stat);
        Ok(())
    }

    pub(crate) fn rename(&self, name: &str, to: &Self, to_name: &str) -> Result<()> {
        let rename = || fs::renameat(&self.fd, name, &to.fd, to_name);
        let limited = match (&self.limited, &to.limited) {
            (None, None) => return rename(),
            (Some(from), Some(to)) if Arc::ptr_eq(from, to) => from,
            // What counts here would not count there.
            _ => return Err(Errno::XDEV),
        };
        let mut open = limited.open();
        let replaced = to.stat(to_name).ok();
        let moved = self.stat(name)?;
        rename()?;
        // Two names of one file: the kernel leaves both.
        if let Some(replaced) = replaced.filter(|replaced| replaced.inode != moved.inode) {
            limited.removed(&mut open, &replaced);
        }
        Ok(())
    }
}

/// An open file of the host.
#[derive(Debug)]
pub(crate) struct HostFile {
    fd: OwnedFd,
    /// Where it is counted, and its inode there.
    charged: Option<(Arc<Limited>, u64)>,
}

impl Drop for HostFile {
    fn drop(&mut self) {
        let Some((limited, inode)) = &self.charged else {
            return;
        };
        let mut open = limited.open();
        let Some(charged) = open.get_mut(inode) else {
            return;
        };
        charged.handles -= 1;
        if charged.handles == 0 {
            if charged.removed {
                limited.quota.give_back(charged.size);
            }
            open.remove(inode);
        }
    }
}

impl HostFile {
    pub(crate) fn stat(&self) -> Result<Stat> {
        fs::fstat(&self.fd).map(|stat| stat_of(&stat))
    }

    pub(crate) fn set_times(&self, times: SetTimes) -> Result<()> {
        fs::futimens(&self.fd, &timestamps(times))
    }

    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> Result<usize> {
        io::retry_on_intr(|| io::pread(&self.fd, &mut *into, at))
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<usize> {
        let Some((limited, inode)) = &self.charged else {
            return self.write_there(at, bytes);
        };
        let mut open = limited.open();
        let charged = open.get_mut(inode).ok_or(Errno::BADF)?;
        self.write_charged(limited, charged, at, bytes)
    }

    pub(crate) fn append(&self, bytes: &[u8]) -> Result<usize> {
        let Some((limited, inode)) = &self.charged else {
            return self.append_there(bytes);
        };
        let mut open = limited.open();
        let charged = open.get_mut(inode).ok_or(Errno::BADF)?;
        let end = self.stat()?.size;
        self.write_charged(limited, charged, end, bytes)
    }

    #[cfg(target_os = "linux")]
    fn append_there(&self, bytes: &[u8]) -> Result<usize> {
        let bytes = [std::io::IoSlice::new(bytes)];
        let flags = io::ReadWriteFlags::APPEND;
        io::retry_on_intr(|| io::pwritev2(&self.fd, &bytes, 0, flags))
    }

    #[cfg(not(target_os = "linux"))]
    fn append_there(&self, bytes: &[u8]) -> Result<usize> {
        self.write_there(self.stat()?.size, bytes)
    }

    fn write_there(&self, at: u64, bytes: &[u8]) -> Result<usize> {
        io::retry_on_intr(|| io::pwrite(&self.fd, bytes, at))
    }

    /// Writes as much as there is room for.
    fn write_charged(
        &self,
        limited: &Limited,
        charged: &mut Charged,
        at: u64,
        bytes: &[u8],
    ) -> Result<usize> {
        let end = at.checked_add(bytes.len() as u64).ok_or(Errno::FBIG)?;
        let wanted = end.saturating_sub(charged.size);
        let taken = limited.quota.take_some(wanted);
        let room = (charged.size + taken).saturating_sub(at);
        let bytes = &bytes[..bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        if bytes.is_empty() && wanted > 0 {
            limited.quota.give_back(taken);
            return Err(Errno::NOSPC);
        }
        let written = self.write_there(at, bytes);
        let end = at + *written.as_ref().unwrap_or(&0) as u64;
        let grown = end.saturating_sub(charged.size).min(taken);
        limited.quota.give_back(taken - grown);
        charged.size += grown;
        written
    }

    pub(crate) fn set_size(&self, size: u64) -> Result<()> {
        let set = || io::retry_on_intr(|| fs::ftruncate(&self.fd, size));
        let Some((limited, inode)) = &self.charged else {
            return set();
        };
        let mut open = limited.open();
        let charged = open.get_mut(inode).ok_or(Errno::BADF)?;
        let more = size.saturating_sub(charged.size);
        limited.quota.take(more)?;
        set().inspect_err(|_| limited.quota.give_back(more))?;
        limited.quota.give_back(charged.size.saturating_sub(size));
        charged.size = size;
        Ok(())
    }

    pub(crate) fn sync(&self, data_only: bool) -> Result<()> {
        #[cfg(target_os = "linux")]
        if data_only {
            return fs::fdatasync(&self.fd);
        }
        let _ = data_only;
        fs::fsync(&self.fd)
    }
}

fn check_regular(stat: &Stat) -> Result<()> {
    match stat.kind {
        Kind::File => Ok(()),
        Kind::Directory => Err(Errno::ISDIR),
        Kind::Link => Err(Errno::LOOP),
        Kind::Other => Err(Errno::OPNOTSUPP),
    }
}

fn kind_of(kind: FileType) -> Kind {
    match kind {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    }
}

#[allow(
    clippy::unnecessary_cast,
    clippy::cast_lossless,
    clippy::cast_sign_loss,
    clippy::useless_conversion,
    reason = "the fields' types differ between systems"
)]
fn stat_of(stat: &fs::Stat) -> Stat {
    let time = |seconds: i64, nanoseconds: i64| {
        let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let nanoseconds = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0));
        UNIX_EPOCH + seconds + nanoseconds
    };
    Stat {
        kind: kind_of(FileType::from_raw_mode(stat.st_mode)),
        device: stat.st_dev as u64,
        inode: stat.st_ino as u64,
        links: stat.st_nlink as u64,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        accessed: time(
            stat.st_atime as i64,
            i64::try_from(stat.st_atime_nsec).unwrap_or(0),
        ),
        modified: time(
            stat.st_mtime as i64,
            i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ),
        changed: time(
            stat.st_ctime as i64,
            i64::try_from(stat.st_ctime_nsec).unwrap_or(0),
        ),
    }
}

fn timestamps(times: SetTimes) -> Timestamps {
    let one = |time: SetTime| match time {
        SetTime::Keep => Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_OMIT,
        },
        SetTime::Now => Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_NOW,
        },
        SetTime::To(time) => timespec(time),
    };
    Timestamps {
        last_access: one(times.accessed),
        last_modification: one(times.modified),
    }
}

fn timespec(time: SystemTime) -> Timespec {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timespec {
        tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: since.subsec_nanos().into(),
    }
}
