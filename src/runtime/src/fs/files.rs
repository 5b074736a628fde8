//! A process's files as its instances use them: what is open, how much may be, and which operations must not run on a thread that
//! guests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Bytes, BytesMut};
use rustix::io::Errno;

use super::node::{Entry, File, Open, Result, SetTimes, Stat};
use super::tree::{self, Place, Tree};

/// The most that is read or written at once.
pub(crate) const LARGEST_PIECE: usize = 64 << 10;

/// What all instances of a process see of files.
#[derive(Debug)]
pub(crate) struct Files {
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
pub(crate) struct OpenDir {
    place: Place,
    permit: Arc<Permit>,
}

/// A file that a guest has open. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct OpenFile {
    file: Arc<File>,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    _permit: Arc<Permit>,
}

/// What was opened.
#[derive(Clone, Debug)]
pub(crate) enum Opened {
    Dir(OpenDir),
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
    pub(crate) fn root(self: &Arc<Self>) -> OpenDir {
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
    pub(crate) fn is_writable(&self) -> bool {
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
    pub(crate) async fn open(
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

    pub(crate) async fn own_stat(&self) -> Result<Stat> {
        self.run(|_, place| place.dir.own_stat()).await
    }

    pub(crate) async fn stat(&self, path: String, follow: bool) -> Result<Stat> {
        self.run(move |tree, place| tree.stat(place, &path, follow))
            .await
    }

    pub(crate) async fn set_own_times(&self, times: SetTimes) -> Result<()> {
        if !self.is_writable() {
            return Err(Errno::ROFS);
        }
        self.run(move |_, place| place.dir.set_own_times(times))
            .await
    }

    pub(crate) async fn set_times(
        &self,
        path: String,
        follow: bool,
        times: SetTimes,
    ) -> Result<()> {
        self.run(move |tree, place| tree.set_times(place, &path, follow, times))
            .await
    }

    pub(crate) async fn list(&self) -> Result<Vec<Entry>> {
        self.run(Tree::list).await
    }

    pub(crate) async fn read_link(&self, path: String) -> Result<String> {
        self.run(move |tree, place| tree.read_link(place, &path))
            .await
    }

    pub(crate) async fn make_dir(&self, path: String) -> Result<()> {
        self.run(move |tree, place| tree.make_dir(place, &path))
            .await
    }

    pub(crate) async fn make_link(&self, target: String, path: String) -> Result<()> {
        self.run(move |tree, place| tree.make_link(&target, place, &path))
            .await
    }

    pub(crate) async fn remove_dir(&self, path: String) -> Result<()> {
        self.run(move |tree, place| tree.remove_dir(place, &path))
            .await
    }

    pub(crate) async fn remove_file(&self, path: String) -> Result<()> {
        self.run(move |tree, place| tree.remove_file(place, &path))
            .await
    }

    pub(crate) async fn rename(&self, path: String, to: &Self, to_path: String) -> Result<()> {
        self.run_with(to, move |tree, place, to| {
            tree.rename(place, &path, to, &to_path)
        })
        .await
    }

    pub(crate) async fn link(&self, path: String, to: &Self, to_path: String) -> Result<()> {
        self.run_with(to, move |tree, place, to| {
            tree.link(place, &path, to, &to_path)
        })
        .await
    }
}

impl OpenFile {
    /// Whether its operations may wait for a disk.
    pub(crate) fn blocks(&self) -> bool {
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
    pub(crate) async fn read(&self, at: u64, length: usize) -> Result<Bytes> {
        if !self.readable {
            return Err(Errno::BADF);
        }
        self.run(move |file| read(file, at, length)).await
    }

    /// As [`read`](Self::read), on this thread.
    pub(crate) fn read_now(&self, at: u64, length: usize) -> Result<Bytes> {
        if !self.readable {
            return Err(Errno::BADF);
        }
        read(&self.file, at, length)
    }

    /// Writes at least one of these bytes there, and says how many.
    pub(crate) async fn write(&self, at: u64, bytes: Bytes) -> Result<usize> {
        self.check_writable()?;
        self.run(move |file| file.write(at, &bytes)).await
    }

    pub(crate) async fn append(&self, bytes: Bytes) -> Result<usize> {
        self.check_writable()?;
        self.run(move |file| file.append(&bytes)).await
    }

    /// Writes all bytes there or at the end, on this thread.
    pub(crate) fn write_all_now(&self, at: Option<u64>, bytes: &[u8]) -> Result<()> {
        self.check_writable()?;
        write_all(&self.file, at, bytes)
    }

    pub(crate) async fn stat(&self) -> Result<Stat> {
        self.run(File::stat).await
    }

    pub(crate) async fn set_size(&self, size: u64) -> Result<()> {
        self.check_writable()?;
        self.run(move |file| file.set_size(size)).await
    }

    pub(crate) async fn set_times(&self, times: SetTimes) -> Result<()> {
        self.run(move |file| file.set_times(times)).await
    }

    pub(crate) async fn sync(&self, data_only: bool) -> Result<()> {
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
