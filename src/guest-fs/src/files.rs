//! A process's files as its instances use them: what is open, how much may be, and which operations must not run on a thread that
//! guests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Bytes, BytesMut};
use rustix::io::Errno;

use crate::node::{Entry, File, Open, Result, SetTimes, Stat};
use crate::tree::{self, Place, Tree};

/// The most that is read or written at once.
pub const LARGEST_PIECE: usize = 64 << 10;

/// What all instances of a process see of files, and how many of them they have open.
///
/// Paths are relative to a directory that is open, beginning with the [root](Self::root); none leads out of it. What may wait
/// for a disk is done on threads of tokio's for that, so a runtime of it must be there.
#[derive(Debug)]
pub struct Files {
    tree: Tree,
    blocks: bool,
    open: AtomicU32,
    most: u32,
}

/// A place among those that may be open.
#[derive(Debug)]
struct Permit(Arc<Files>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A directory that a guest has open. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OpenDir {
    place: Place,
    permit: Arc<Permit>,
}

/// A file that a guest has open. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OpenFile {
    file: Arc<File>,
    /// Whether the guest may read of it.
    pub readable: bool,
    /// Whether the guest may write to it.
    pub writable: bool,
    _permit: Arc<Permit>,
}

/// What was opened.
#[derive(Clone, Debug)]
pub enum Opened {
    /// A directory.
    Dir(OpenDir),
    /// A file.
    File(OpenFile),
}

/// Does what may wait for a disk where only such wait.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Errno::IO))
}

impl Files {
    pub(crate) fn new(tree: Tree, most: u32) -> Self {
        Self {
            blocks: tree.blocks(),
            tree,
            open: AtomicU32::new(0),
            most,
        }
    }

    /// The directory that a guest starts from. It is open as often as there are instances, which have other bounds.
    pub fn root(self: &Arc<Self>) -> OpenDir {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenDir {
            place: self.tree.root(),
            permit: Arc::new(Permit(Arc::clone(self))),
        }
    }

    fn permit(self: &Arc<Self>) -> Result<Permit> {
        let more = |open: u32| open.checked_add(1).filter(|open| *open <= self.most);
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map(|_| Permit(Arc::clone(self)))
            .map_err(|_| Errno::MFILE)
    }
}

impl OpenDir {
    fn files(&self) -> &Arc<Files> {
        &self.permit.0
    }

    /// Whether what is in it may be changed. What is mounted further in may be otherwise.
    pub fn is_writable(&self) -> bool {
        !self.place.read_only
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tree, &Place) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if !self.files().blocks {
            return work(&self.files().tree, &self.place);
        }
        let this = self.clone();
        aside(move || work(&this.files().tree, &this.place)).await
    }

    /// As [`run`](Self::run), with a second directory.
    async fn run_with<T: Send + 'static>(
        &self,
        other: &Self,
        work: impl FnOnce(&Tree, &Place, &Place) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let other = other.place.clone();
        self.run(move |tree, place| work(tree, place, &other)).await
    }

    /// Opens what a path leads to. `readable` is whether the guest may read of it, if it is a file; whether it may write is
    /// in `how`.
    pub async fn open(
        &self,
        path: String,
        follow: bool,
        how: Open,
        readable: bool,
    ) -> Result<Opened> {
        let permit = Arc::new(self.files().permit()?);
        let opened = self
            .run(move |tree, place| tree.open(place, &path, follow, how))
            .await?;
        Ok(match opened {
            tree::Opened::Dir(place) => Opened::Dir(Self { place, permit }),
            tree::Opened::File(file) => Opened::File(OpenFile {
                file: Arc::new(file),
                readable,
                writable: how.write,
                _permit: permit,
            }),
        })
    }

    /// What is known of the directory itself.
    pub async fn own_stat(&self) -> Result<Stat> {
        self.run(|_, place| place.dir.own_stat()).await
    }

    /// What is known of what a path leads to; of a link itself, unless it is followed.
    pub async fn stat(&self, path: String, follow: bool) -> Result<Stat> {
        self.run(move |tree, place| tree.stat(place, &path, follow))
            .await
    }

    /// Sets the directory's own times.
    pub async fn set_own_times(&self, times: SetTimes) -> Result<()> {
        if !self.is_writable() {
            return Err(Errno::ROFS);
        }
        self.run(move |_, place| place.dir.set_own_times(times))
            .await
    }

    /// Sets the times of what a path leads to; of a link itself, unless it is followed.
    pub async fn set_times(&self, path: String, follow: bool, times: SetTimes) -> Result<()> {
        self.run(move |tree, place| tree.set_times(place, &path, follow, times))
            .await
    }

    /// All that is in it, but for `.` and `..`.
    pub async fn list(&self) -> Result<Vec<Entry>> {
        self.run(Tree::list).await
    }

    /// A link's target, as it was written.
    pub async fn read_link(&self, path: String) -> Result<String> {
        self.run(move |tree, place| tree.read_link(place, &path))
            .await
    }

    /// Makes an empty directory.
    pub async fn make_dir(&self, path: String) -> Result<()> {
        self.run(move |tree, place| tree.make_dir(place, &path))
            .await
    }

    /// Makes a symbolic link. Its target need not exist, and must not be absolute.
    pub async fn make_link(&self, target: String, path: String) -> Result<()> {
        self.run(move |tree, place| tree.make_link(&target, place, &path))
            .await
    }

    /// Removes an empty directory.
    pub async fn remove_dir(&self, path: String) -> Result<()> {
        self.run(move |tree, place| tree.remove_dir(place, &path))
            .await
    }

    /// Removes a file or a link.
    pub async fn remove_file(&self, path: String) -> Result<()> {
        self.run(move |tree, place| tree.remove_file(place, &path))
            .await
    }

    /// Has what a path leads to be found at another one, in the same volume. What was there is replaced.
    pub async fn rename(&self, path: String, to: &Self, to_path: String) -> Result<()> {
        self.run_with(to, move |tree, place, to| {
            tree.rename(place, &path, to, &to_path)
        })
        .await
    }

    /// Has a file be found at another path as well, in the same volume.
    pub async fn link(&self, path: String, to: &Self, to_path: String) -> Result<()> {
        self.run_with(to, move |tree, place, to| {
            tree.link(place, &path, to, &to_path)
        })
        .await
    }
}

impl OpenFile {
    /// Whether its operations may wait for a disk.
    pub fn blocks(&self) -> bool {
        self.file.blocks()
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&File) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if !self.blocks() {
            return work(&self.file);
        }
        let this = self.clone();
        aside(move || work(&this.file)).await
    }

    fn check_writable(&self) -> Result<()> {
        if self.writable {
            Ok(())
        } else {
            Err(Errno::BADF)
        }
    }

    /// At most so many bytes from there; none at the end.
    pub async fn read(&self, at: u64, length: usize) -> Result<Bytes> {
        if !self.readable {
            return Err(Errno::BADF);
        }
        self.run(move |file| read(file, at, length)).await
    }

    /// As [`read`](Self::read), on this thread.
    pub fn read_now(&self, at: u64, length: usize) -> Result<Bytes> {
        if !self.readable {
            return Err(Errno::BADF);
        }
        read(&self.file, at, length)
    }

    /// Writes at least one of these bytes there, and says how many.
    pub async fn write(&self, at: u64, bytes: Bytes) -> Result<usize> {
        self.check_writable()?;
        self.run(move |file| file.write(at, &bytes)).await
    }

    /// As [`write`](Self::write), at the end, wherever that is.
    pub async fn append(&self, bytes: Bytes) -> Result<usize> {
        self.check_writable()?;
        self.run(move |file| file.append(&bytes)).await
    }

    /// Writes all bytes there or at the end, on this thread.
    pub fn write_all_now(&self, at: Option<u64>, bytes: &[u8]) -> Result<()> {
        self.check_writable()?;
        write_all(&self.file, at, bytes)
    }

    /// What is known of the file.
    pub async fn stat(&self) -> Result<Stat> {
        self.run(File::stat).await
    }

    /// Cuts it, or fills it up with zeros.
    pub async fn set_size(&self, size: u64) -> Result<()> {
        self.check_writable()?;
        self.run(move |file| file.set_size(size)).await
    }

    /// Sets its times.
    pub async fn set_times(&self, times: SetTimes) -> Result<()> {
        self.run(move |file| file.set_times(times)).await
    }

    /// Has it written to the disk, if there is one; with or without what is known about it.
    pub async fn sync(&self, data_only: bool) -> Result<()> {
        self.run(move |file| file.sync(data_only)).await
    }
}

fn read(file: &File, at: u64, length: usize) -> Result<Bytes> {
    let mut bytes = BytesMut::zeroed(length.min(LARGEST_PIECE));
    let length = file.read(at, &mut bytes)?;
    bytes.truncate(length);
    Ok(bytes.freeze())
}

fn write_all(file: &File, mut at: Option<u64>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let written = match at {
            Some(at) => file.write(at, bytes)?,
            None => file.append(bytes)?,
        };
        bytes = bytes.get(written..).unwrap_or_default();
        at = at.map(|at| at + written as u64);
    }
    Ok(())
}
