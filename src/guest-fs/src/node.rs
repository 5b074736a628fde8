//! What volumes are made of, wherever their bytes are: directories, files, and what can be said of them.
//!
//! Names here are single: which path leads where is [`tree`](crate::tree)'s affair. Nothing here follows a link.

use std::sync::Arc;
use std::time::SystemTime;

use rustix::io::Errno;

use crate::host::{HostDir, HostFile};
use crate::memory;

/// What an operation answers: the kernel's error numbers, whoever gives them.
pub type Result<T> = std::result::Result<T, Errno>;

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file of bytes.
    File,
    /// A symbolic link.
    Link,
    /// Devices, pipes, sockets: nothing that could be opened.
    Other,
}

/// What is known of something without opening it.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Which volume it is in: no two that are in use have the same number.
    pub device: u64,
    /// Which one it is in its volume.
    pub inode: u64,
    /// Names that it has.
    pub links: u64,
    /// Bytes, with holes; of a link, its target's.
    pub size: u64,
    /// When it was last read, about.
    pub accessed: SystemTime,
    /// When its bytes, or its entries, last changed.
    pub modified: SystemTime,
    /// When anything about it last changed.
    pub changed: SystemTime,
}

/// What is to become of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// As it is.
    Keep,
    /// The present.
    Now,
    /// That one.
    To(SystemTime),
}

/// What is to become of both times that can be set.
#[derive(Clone, Copy, Debug)]
pub struct SetTimes {
    /// Of the last access.
    pub accessed: SetTime,
    /// Of the last change of its bytes.
    pub modified: SetTime,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent, as in open(2)"
)]
pub struct Open {
    /// To be written to.
    pub write: bool,
    /// Made if it is not there.
    pub create: bool,
    /// With `create`: refused if it is there.
    pub exclusive: bool,
    /// Emptied.
    pub truncate: bool,
}

impl Open {
    /// Whether anything can change by it.
    pub fn changes(self) -> bool {
        self.write || self.create || self.truncate
    }
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the directory.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Which one it is in its volume.
    pub inode: u64,
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Dir(Dir),
    /// With its target.
    Link(String, Stat),
    Other(Stat),
}

/// A directory that is held on to.
#[derive(Clone, Debug)]
pub(crate) enum Dir {
    Host(Arc<HostDir>),
    Memory(memory::Handle),
}

/// An open file.
#[derive(Debug)]
pub(crate) enum File {
    Host(HostFile),
    Memory(memory::Handle),
}

macro_rules! each {
    ($self:ident, $it:ident => $what:expr) => {
        match $self {
            Self::Host($it) => $what,
            Self::Memory($it) => $what,
        }
    };
}

impl Dir {
    /// Whether its operations may wait for a disk.
    pub(crate) fn blocks(&self) -> bool {
        match self {
            Self::Host(_) => true,
            Self::Memory(dir) => dir.blocks(),
        }
    }

    pub(crate) fn own_stat(&self) -> Result<Stat> {
        each!(self, dir => dir.own_stat())
    }

    pub(crate) fn set_own_times(&self, times: SetTimes) -> Result<()> {
        each!(self, dir => dir.set_own_times(times))
    }

    pub(crate) fn find(&self, name: &str) -> Result<Found> {
        match self {
            Self::Host(dir) => dir.find(name),
            Self::Memory(dir) => dir.find(name),
        }
    }

    pub(crate) fn set_times(&self, name: &str, times: SetTimes) -> Result<()> {
        each!(self, dir => dir.set_times(name, times))
    }

    pub(crate) fn open(&self, name: &str, how: Open) -> Result<File> {
        match self {
            Self::Host(dir) => dir.open(name, how).map(File::Host),
            Self::Memory(dir) => dir.open(name, how).map(File::Memory),
        }
    }

    pub(crate) fn list(&self) -> Result<Vec<Entry>> {
        each!(self, dir => dir.list())
    }

    pub(crate) fn make_dir(&self, name: &str) -> Result<()> {
        each!(self, dir => dir.make_dir(name))
    }

    pub(crate) fn make_link(&self, target: &str, name: &str) -> Result<()> {
        each!(self, dir => dir.make_link(target, name))
    }

    pub(crate) fn remove_dir(&self, name: &str) -> Result<()> {
        each!(self, dir => dir.remove_dir(name))
    }

    pub(crate) fn remove_file(&self, name: &str) -> Result<()> {
        each!(self, dir => dir.remove_file(name))
    }

    pub(crate) fn rename(&self, name: &str, to: &Self, to_name: &str) -> Result<()> {
        match (self, to) {
            (Self::Host(from), Self::Host(to)) => from.rename(name, to, to_name),
            (Self::Memory(from), Self::Memory(to)) => from.rename(name, to, to_name),
            _ => Err(Errno::XDEV),
        }
    }

    pub(crate) fn link(&self, name: &str, to: &Self, to_name: &str) -> Result<()> {
        match (self, to) {
            (Self::Host(from), Self::Host(to)) => from.link(name, to, to_name),
            (Self::Memory(from), Self::Memory(to)) => from.link(name, to, to_name),
            _ => Err(Errno::XDEV),
        }
    }
}

impl File {
    pub(crate) fn blocks(&self) -> bool {
        match self {
            Self::Host(_) => true,
            Self::Memory(file) => file.blocks(),
        }
    }

    pub(crate) fn stat(&self) -> Result<Stat> {
        match self {
            Self::Host(file) => file.stat(),
            Self::Memory(file) => file.own_stat(),
        }
    }

    pub(crate) fn set_times(&self, times: SetTimes) -> Result<()> {
        match self {
            Self::Host(file) => file.set_times(times),
            Self::Memory(file) => file.set_own_times(times),
        }
    }

    /// Fills a part of `into`, and says how much; 0 at the end.
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> Result<usize> {
        each!(self, file => file.read(at, into))
    }

    /// Writes a part of `bytes`, at least one, and says how much.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<usize> {
        each!(self, file => file.write(at, bytes))
    }

    /// As [`write`](Self::write), at the end, wherever that is.
    pub(crate) fn append(&self, bytes: &[u8]) -> Result<usize> {
        each!(self, file => file.append(bytes))
    }

    pub(crate) fn set_size(&self, size: u64) -> Result<()> {
        each!(self, file => file.set_size(size))
    }

    /// Has it written to the disk, if there is one; with or without what is known about it.
    pub(crate) fn sync(&self, data_only: bool) -> Result<()> {
        match self {
            Self::Host(file) => file.sync(data_only),
            Self::Memory(_) => Ok(()),
        }
    }
}
