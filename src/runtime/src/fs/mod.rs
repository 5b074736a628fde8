//! The files that processes see: volumes, mounted into one tree for each process.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

/// Files that processes can share by mounting them. Cheap to clone: clones are the same volume, with one limit.
#[derive(Clone, Debug)]
pub struct Volume {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: Option<PathBuf>,
    limit: Option<u64>,
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
    #[error("looking for {sub_path} in the volume")]
    SubPath {
        /// What was looked for.
        sub_path: String,
        /// Why it was not found.
        #[source]
        source: io::Error,
    },
}

impl Volume {
    /// A directory of the host, opened once: what is at its path later does not matter. Nothing outside of it can be
    /// reached by way of it.
    pub fn directory(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::of(Some(path.as_ref().to_owned()), None))
    }

    /// A directory of the host that may hold so many bytes; what is there already counts.
    pub fn directory_with_limit(path: impl AsRef<Path>, limit: u64) -> io::Result<Self> {
        Ok(Self::of(Some(path.as_ref().to_owned()), Some(limit)))
    }

    /// An empty volume in this process's memory that may hold so many bytes, what it takes to keep them included.
    pub fn memory(limit: u64) -> Self {
        Self::of(None, Some(limit))
    }

    /// What is in a directory of the host, to be changed without changing that: changes are kept in memory, so many
    /// bytes of them. The directory must not change meanwhile.
    pub fn copy_of(path: impl AsRef<Path>, limit: u64) -> io::Result<Self> {
        Ok(Self::of(Some(path.as_ref().to_owned()), Some(limit)))
    }

    /// Bytes that are taken of its limit; 0 if it has none.
    pub fn used(&self) -> u64 {
        0
    }

    /// The bytes that it may hold, if there is a bound.
    pub fn limit(&self) -> Option<u64> {
        self.inner.limit
    }

    pub(crate) fn host_path(&self) -> Option<&Path> {
        self.inner.directory.as_deref()
    }

    fn of(directory: Option<PathBuf>, limit: Option<u64>) -> Self {
        Self {
            inner: Arc::new(Inner { directory, limit }),
        }
    }
}
