//! The files that guests see: volumes, mounted into one tree for each process.
//!
//! A [`Volume`] is a directory of the host or lives in memory ([`host`], [`memory`]: what is in it, by names). A process's volumes
//! are [mounted](Files::mount) into one [`tree`], which finds the way of a path. [`Files`] is that tree with what a process has
//! open. How a guest asks for them is the runtime's affair: nothing here knows of WebAssembly.
//!
//! A guest has one directory to start from, the root. A process that is given no file has none, and costs nothing.

use std::io;
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

mod files;
mod host;
mod memory;
mod node;
mod quota;
#[cfg(test)]
mod tests;
mod tree;

pub use files::{Files, LARGEST_PIECE, OpenDir, OpenFile, Opened};
pub use node::{Entry, Kind, Open, Result, SetTime, SetTimes, Stat};

use host::HostDir;
use memory::Memory;
use node::Dir;
use quota::Quota;
use tree::{MountPoint, Target, Tree};

/// Files that processes can share by mounting them. Cheap to clone: clones are the same volume, with one limit.
#[derive(Clone, Debug)]
pub struct Volume {
    inner: Inner,
}

#[derive(Clone, Debug)]
enum Inner {
    Host(Arc<HostDir>),
    Memory(Arc<Memory>),
}

/// A volume, and where a process finds it.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Where: an absolute path. It need not exist; mounts may lie inside of others.
    pub guest: String,
    /// What.
    pub volume: Volume,
    /// Which part of it: a relative path to a directory or a file that exists. Empty for the whole.
    pub sub_path: String,
    /// Whether the process may only read.
    pub read_only: bool,
}

/// Why a volume can't be mounted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MountError {
    /// The path for the guest is not absolute, or has `..` in it.
    #[error("the path must be absolute, without ..")]
    Path,
    /// Another mount is at the same path.
    #[error("something else is mounted there")]
    Taken,
    /// What `sub_path` names can't be found in the volume.
    #[error("looking for {sub_path:?} in the volume")]
    SubPath {
        /// What was looked for.
        sub_path: String,
        /// Why it was not found.
        #[source]
        source: io::Error,
    },
    /// The path's directories can't be used.
    #[error("looking for the place")]
    Place(#[source] io::Error),
}

impl Volume {
    /// A directory of the host, opened once: what is at its path later does not matter. Nothing outside of it can be
    /// reached by way of it.
    pub fn directory(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::host(path.as_ref(), None)
    }

    /// A directory of the host that may hold so many bytes; what is there already counts. Only what processes change
    /// by way of this volume is counted from then on.
    ///
    /// Each file counts its length (with holes), and each entry of a directory 256 bytes. Looking what is there takes
    /// time: don't do it on a thread that others wait for.
    pub fn directory_with_limit(path: impl AsRef<Path>, limit: u64) -> io::Result<Self> {
        Self::host(path.as_ref(), Some(limit))
    }

    /// An empty volume in this process's memory that may hold so many bytes: pages of 4 KiB, and 256 bytes for each
    /// entry of a directory.
    pub fn memory(limit: u64) -> Self {
        Self {
            inner: Inner::Memory(Memory::empty(limit)),
        }
    }

    /// What is in a directory of the host, to be changed without changing that: a file is copied when it is first changed,
    /// into memory, where all changes may take so many bytes. The directory itself must not change meanwhile.
    pub fn copy_of(path: impl AsRef<Path>, limit: u64) -> io::Result<Self> {
        let dir = HostDir::volume(path.as_ref(), None)?;
        Ok(Self {
            inner: Inner::Memory(Memory::copy_of(dir, limit)),
        })
    }

    /// Bytes that are taken of its limit; 0 if it has none.
    pub fn used(&self) -> u64 {
        self.quota().map_or(0, Quota::used)
    }

    /// The bytes that it may hold, if there is a bound.
    pub fn limit(&self) -> Option<u64> {
        self.quota().map(Quota::limit)
    }

    fn host(path: &Path, limit: Option<u64>) -> io::Result<Self> {
        let dir = HostDir::volume(path, limit)?;
        Ok(Self {
            inner: Inner::Host(Arc::new(dir)),
        })
    }

    fn quota(&self) -> Option<&Quota> {
        match &self.inner {
            Inner::Host(dir) => dir.limited().map(|limited| &limited.quota),
            Inner::Memory(memory) => Some(memory.quota()),
        }
    }

    fn dir(&self) -> Dir {
        match &self.inner {
            Inner::Host(dir) => Dir::Host(Arc::clone(dir)),
            Inner::Memory(memory) => Dir::Memory(memory.root()),
        }
    }
}

impl Files {
    /// Mounts volumes: outer ones before what lies in them. Without a `root` there is nothing but what is mounted. `own` are
    /// files that give way to any mount, by their absolute paths; guests may write to them, and so throw them away for themselves.
    /// `most` files and directories may be open at once.
    ///
    /// It may read directories, which is not for a thread that others wait for. The error says which mount it is about.
    pub fn mount(
        root: Option<&Volume>,
        mounts: &[Mount],
        own: &[(&str, &str)],
        most: u32,
    ) -> std::result::Result<Self, (String, MountError)> {
        Ok(Self::new(mount(root, mounts, own)?, most))
    }
}

fn mount(
    root: Option<&Volume>,
    mounts: &[Mount],
    own: &[(&str, &str)],
) -> std::result::Result<Tree, (String, MountError)> {
    let mut tree = Tree::new(root.map(Volume::dir));
    let mut mounts: Vec<_> = mounts.iter().collect();
    mounts.sort_by_key(|mount| names(&mount.guest).count());
    for mount in mounts {
        mount_one(&mut tree, mount).map_err(|error| (mount.guest.clone(), error))?;
    }
    if own.is_empty() {
        return Ok(tree);
    }
    mount_own(&mut tree, own)
        .map_err(|error| ("/etc".to_owned(), MountError::Place(error.into())))?;
    Ok(tree)
}

fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !matches!(*name, "" | "."))
}

fn mount_one(tree: &mut Tree, mount: &Mount) -> std::result::Result<(), MountError> {
    if !mount.guest.starts_with('/') || names(&mount.guest).any(|name| name == "..") {
        return Err(MountError::Path);
    }
    let what = tree::target(&mount.volume.dir(), &mount.sub_path);
    let point = MountPoint {
        what: what.map_err(|error| MountError::SubPath {
            sub_path: mount.sub_path.clone(),
            source: error.into(),
        })?,
        read_only: mount.read_only,
    };
    let mounted = tree.mount(&mount.guest, point);
    mounted
        .map_err(|error| MountError::Place(error.into()))?
        .ok_or(MountError::Taken)
}

fn mount_own(tree: &mut Tree, own: &[(&str, &str)]) -> Result<()> {
    let size = |text: &str| text.len() as u64 + (8 << 10);
    let volume = Memory::empty(own.iter().map(|(_, text)| size(text)).sum());
    let root = volume.root();
    let dir = Dir::Memory(root.clone());
    for (path, text) in own {
        let name = path.replace('/', "_");
        root.give(&name, text.as_bytes())?;
        let point = MountPoint {
            what: Target::File(dir.clone(), name),
            read_only: false,
        };
        // What the user has mounted there comes first.
        tree.mount(path, point)?;
    }
    Ok(())
}
