//! The files of an image as one directory: its layers, one put over the other.
//!
//! Enter at [`ImageStore::files`]. A directory is made once for each image, complete before it gets its name, and shared by all
//! who run the image; nobody may change it. As long as somebody has it, it is not removed.
//!
//! Layers are not trusted. Paths and links never lead out of the directory, what is no file, directory or link is left out, and
//! everything has a bound.

mod placed;

use std::{
    collections::{HashSet, VecDeque},
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::unix::ffi::OsStrExt as _,
    os::unix::fs::{OpenOptionsExt as _, symlink},
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tar::EntryType;

use crate::{
    Digest, Image, ImageError, ImageStore,
    ingest::is_same,
    layers::{self, LayerError, WHITEOUT},
    media,
    tarball::{self, Bounds, Item},
};

/// In a directory, this file hides all that layers below have there.
const OPAQUE: &str = ".wh..wh..opq";
/// What the names of directories begin with that are being made or removed. They go by themselves, unless the process is killed.
pub(crate) const UNFINISHED: &str = ".new-";
/// How many links lead from one to the next, as for Linux itself.
const LINKS: usize = 40;

pub use placed::{FileSource, PlacedFile};

/// How much is unpacked of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesLimits {
    /// Bytes of all files together. Default 16 GiB.
    pub max_bytes: u64,
    /// Files, directories and links, in all layers. Default 1,048,576.
    pub max_entries: u64,
    /// How deep a directory may be. Default 128.
    pub max_depth: usize,
}

impl Default for FilesLimits {
    fn default() -> Self {
        Self {
            max_bytes: 16 << 30,
            max_entries: 1 << 20,
            max_depth: 128,
        }
    }
}

/// How a store unpacks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unpacking {
    pub(crate) limits: FilesLimits,
    /// How often there was more than that.
    pub(crate) refused: Arc<AtomicU64>,
}

impl FilesLimits {
    /// What may still come of an image of which nothing has come yet.
    fn whole(self) -> Bounds {
        Bounds {
            entries: self.max_entries,
            bytes: self.max_bytes,
            depth: self.max_depth,
        }
    }
}

/// An image's files, which stay as long as this value does.
#[derive(Debug)]
pub struct ImageFiles {
    path: PathBuf,
    _used: File,
}

impl ImageFiles {
    /// The directory. It must not be changed.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl ImageStore {
    /// The files of an image, unpacked if they were not yet. `None`: it has none.
    pub fn files(&self, image: &Image) -> Result<Option<ImageFiles>, ImageError> {
        if !image.has_files() {
            return Ok(None);
        }
        let unpack = |root: &Path| self.unpack(image, root, self.unpacking.limits);
        self.shared_files(&image.digest, unpack).map(Some)
    }

    /// A directory that is made once under a name, and then shared. Whoever makes it is given an empty directory.
    fn shared_files(
        &self,
        name: &Digest,
        make: impl Fn(&Path) -> Result<(), ImageError>,
    ) -> Result<ImageFiles, ImageError> {
        let dir = self.files_dir();
        fs::create_dir_all(&dir).map_err(ImageError::io("create", &dir))?;
        let path = dir.join(name.hex());
        loop {
            if let Some(used) = self.files_lock(name, File::lock_shared)?
                && path.is_dir()
            {
                return Ok(ImageFiles { path, _used: used });
            }
            let Some(_lock) = self.files_lock(name, File::lock)? else {
                continue;
            };
            if !path.is_dir() {
                let done = whole(&dir, &path, &make);
                if let Err(ImageError::Layers(LayerError::TooMuch { .. })) = done {
                    self.unpacking.refused.fetch_add(1, Ordering::Relaxed);
                }
                done?;
            }
        }
    }

    /// Removes the files of an image, unless somebody uses them.
    pub(crate) fn remove_files(&self, image: &Digest) -> Result<(), ImageError> {
        let path = self.files_dir().join(image.hex());
        if !path.exists() {
            return Ok(());
        }
        let try_lock = |file: &File| file.try_lock().map_err(io::Error::from);
        let Ok(Some(_lock)) = self.files_lock(image, try_lock) else {
            return Ok(());
        };
        // Nobody ever finds half of it.
        let old = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(self.files_dir())
            .map_err(ImageError::io("create", &path))?;
        fs::rename(&path, old.path().join("files")).map_err(ImageError::io("remove", &path))?;
        let lock = path.with_extension("lock");
        fs::remove_file(&lock).map_err(ImageError::io("remove", &lock))?;
        old.close().map_err(ImageError::io("remove", &path))
    }

    pub(crate) fn files_dir(&self) -> PathBuf {
        self.dir().join("files")
    }

    /// The lock of an image's files; `None` if it was removed while it was waited for.
    fn files_lock(
        &self,
        image: &Digest,
        lock: impl Fn(&File) -> io::Result<()>,
    ) -> Result<Option<File>, ImageError> {
        let path = self.files_dir().join(image.hex()).with_extension("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(ImageError::io("open", &path))?;
        lock(&file).map_err(ImageError::io("lock", &path))?;
        Ok(is_same(&file, &path).then_some(file))
    }

    fn unpack(&self, image: &Image, root: &Path, limits: FilesLimits) -> Result<(), ImageError> {
        let mut left = limits.whole();
        for layer in &image.layers {
            self.layout.verify(layer)?;
            if let Some(packing) = media::packing(&layer.media_type) {
                let layer = (self.blob_path(&layer.digest), packing);
                Unpacker::new(root).apply(&layer, &mut left)?;
            }
        }
        Ok(())
    }
}

/// Makes a directory that has its name only when all of it is there.
fn whole(
    dir: &Path,
    to: &Path,
    make: impl Fn(&Path) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let failed = |error| ImageError::io("unpack", to)(error);
    let new = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(dir)
        .map_err(failed)?;
    let root = new.path().join("files");
    fs::create_dir(&root).map_err(failed)?;
    make(&root)?;
    // All of it is on the disk before it has its name: a half would be taken for the whole.
    let synced = File::open(&root).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
    synced.map_err(failed)?;
    fs::rename(&root, to).map_err(failed)
}

/// Puts one layer over what is there.
struct Unpacker<'r> {
    root: &'r Path,
    /// What this layer has put there, with the directories that it is in.
    made: HashSet<PathBuf>,
}

impl<'r> Unpacker<'r> {
    fn new(root: &'r Path) -> Self {
        Self {
            root,
            made: HashSet::new(),
        }
    }

    fn apply(&mut self, layer: &layers::Layer, left: &mut Bounds) -> Result<(), LayerError> {
        let (mut entries, mut bytes) = (0, 0);
        layers::walk_layer(layer, *left, |item, reader| {
            entries += 1;
            bytes += item.size;
            let put = self.put(item, reader);
            put.map_err(|source| LayerError::Read {
                path: layer.0.clone(),
                source,
            })
        })?;
        left.entries = left.entries.saturating_sub(entries);
        left.bytes = left.bytes.saturating_sub(bytes);
        Ok(())
    }

    fn put(&mut self, item: Item, reader: &mut dyn Read) -> io::Result<()> {
        let Some(place) = self.place(&item.path)? else {
            return Ok(());
        };
        let name = place.file_name().unwrap_or_default();
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT.as_bytes()) {
            if name == OPAQUE {
                return self.clear(place.parent().unwrap_or(self.root));
            }
            let hidden = place.with_file_name(OsStr::from_bytes(hidden));
            return self.hide(&hidden);
        }
        match (item.kind, item.link) {
            (EntryType::Directory, _) => {
                if !is_dir(&place) {
                    remove(&place)?;
                    fs::create_dir(&place)?;
                }
            }
            (EntryType::Regular | EntryType::Continuous, _) => {
                remove(&place)?;
                write(&place, reader, item.modified)?;
            }
            (EntryType::Symlink, Some(target)) => {
                remove(&place)?;
                symlink(target, &place)?;
            }
            (EntryType::Link, Some(target)) => {
                let target = tarball::below_root(&target);
                let target = target.map(|target| self.place(&target)).transpose()?;
                if let Some(target) = target.flatten()
                    && target != place
                    && fs::symlink_metadata(&target).is_ok_and(|found| !found.is_dir())
                {
                    remove(&place)?;
                    fs::hard_link(target, &place)?;
                }
            }
            // Devices, pipes: a guest has no use for them.
            _ => return Ok(()),
        }
        self.note(place);
        Ok(())
    }

    fn note(&mut self, path: PathBuf) {
        for above in path.ancestors().skip(1) {
            if above == self.root || !self.made.insert(above.to_owned()) {
                break;
            }
        }
        self.made.insert(path);
    }

    /// Where a path is: links in it are followed, as within a root of one's own, and missing directories made. `None`: nowhere.
    fn place(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        let mut here = PathBuf::new();
        let mut ahead: VecDeque<OsString> = parent.iter().map(OsStr::to_owned).collect();
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            let at = self.root.join(&here).join(&name);
            match fs::symlink_metadata(&at) {
                Ok(found) if found.is_dir() => here.push(name),
                Ok(found) if found.is_symlink() => {
                    links += 1;
                    if links > LINKS {
                        return Ok(None);
                    }
                    let target = fs::read_link(&at)?;
                    let target = tarball::resolved(Some(&here), &target);
                    // From the root on: what is resolved by name may lead over other links.
                    here.clear();
                    let target = target.unwrap_or_default();
                    for component in target.components().rev() {
                        if let Component::Normal(name) = component {
                            ahead.push_front(name.to_owned());
                        }
                    }
                }
                Ok(_) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir(&at)?;
                    here.push(name);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(self.root.join(here).join(name)))
    }

    /// Removes what layers below have at a path.
    fn hide(&self, path: &Path) -> io::Result<()> {
        match path.file_name() {
            Some(name) if name.is_empty() || name == "." || name == ".." => Ok(()),
            Some(_) if !self.made.contains(path) => remove(path),
            Some(_) if is_dir(path) => self.clear(path),
            // What this layer made itself stays; or it is a mark of nothing.
            Some(_) | None => Ok(()),
        }
    }

    /// Removes what layers below have in a directory.
    fn clear(&self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            self.hide(&entry?.path())?;
        }
        Ok(())
    }
}

fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// Removes whatever is there; a link, not where it leads.
fn remove(path: &Path) -> io::Result<()> {
    let removed = if is_dir(path) {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn write(path: &Path, reader: &mut dyn Read, modified: u64) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    io::copy(reader, &mut file)?;
    if let Some(time) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(modified)) {
        // Some file systems know fewer times than archives do.
        let _ = file.set_modified(time);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
