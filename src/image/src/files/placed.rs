//! Files that an image names one by one, each with its path: the static files of Spin applications.
//!
//! Their content is a layer, or in an archive of several files that is a layer, or stands in the image's description.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::{FilesLimits, ImageFiles, Unpacker};
use crate::{
    Digest, Image, ImageError, ImageStore,
    layers::{self, Layer, LayerError},
    layout::Descriptor,
    media::{self, Packing},
    tarball::{self, Bounds, Item},
};

/// A file, and where it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedFile {
    /// What it holds.
    pub source: FileSource,
    /// Where it is, from the root on. What would be outside of the root is left out.
    pub path: String,
}

/// Where a file's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileSource {
    /// A layer of the image, or a file in an archive that is one, by digest.
    Digest(String),
    /// The content itself.
    Bytes(Vec<u8>),
}

impl ImageStore {
    /// Files of an image at their paths in a directory, made if it was not yet.
    pub fn placed_files(
        &self,
        image: &Image,
        files: &[PlacedFile],
    ) -> Result<ImageFiles, ImageError> {
        let (name, limits) = (name_of(image, files), self.unpacking.limits);
        self.shared_files(&name, |root| self.place(image, files, root, limits))
    }

    fn place(
        &self,
        image: &Image,
        files: &[PlacedFile],
        root: &Path,
        limits: FilesLimits,
    ) -> Result<(), ImageError> {
        let mut target = Target {
            store: self,
            unpacker: Unpacker::new(root),
            left: limits.whole(),
            limits,
        };
        // Those whose content is no layer of its own, by digest.
        let mut packed: HashMap<&str, Vec<&str>> = HashMap::new();
        for PlacedFile { source, path } in files {
            match source {
                FileSource::Bytes(bytes) => {
                    target.put(path, bytes.len() as u64, &mut bytes.as_slice())?;
                }
                FileSource::Digest(digest) => match image.part(digest) {
                    Ok(part) => target.layer(part, path)?,
                    Err(_) => packed.entry(digest).or_default().push(path),
                },
            }
        }
        for part in &image.parts {
            if packed.is_empty() {
                break;
            }
            if part.media_type == media::SPIN_FILES {
                target.archive(part, &mut packed)?;
            }
        }
        match packed.keys().next() {
            None => Ok(()),
            Some(absent) => Err(image.no_part(absent)),
        }
    }
}

/// Tells these files from any others.
fn name_of(image: &Image, files: &[PlacedFile]) -> Digest {
    let mut hash = Sha256::new_with_prefix(image.digest.as_bytes());
    for PlacedFile { source, path } in files {
        let content = match source {
            FileSource::Digest(digest) => digest.clone(),
            FileSource::Bytes(bytes) => Digest::of(bytes).to_string(),
        };
        for text in [path, &content] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
    }
    Digest::from_hash(hash)
}

/// The directory that files are put into.
struct Target<'t> {
    store: &'t ImageStore,
    unpacker: Unpacker<'t>,
    limits: FilesLimits,
    left: Bounds,
}

impl Target<'_> {
    /// A layer that is a file.
    fn layer(&mut self, part: &Descriptor, path: &str) -> Result<(), ImageError> {
        self.store.layout.verify(part)?;
        let blob = self.store.blob_path(&part.digest);
        let mut file = File::open(&blob).map_err(ImageError::io("read", &blob))?;
        self.put(path, part.size, &mut file)
    }

    /// Those files of an archive that are wanted.
    fn archive(
        &mut self,
        part: &Descriptor,
        wanted: &mut HashMap<&str, Vec<&str>>,
    ) -> Result<(), ImageError> {
        self.store.layout.verify(part)?;
        let layer: Layer = (self.store.blob_path(&part.digest), Packing::Gzip);
        // What is looked at counts as what is put somewhere: an archive may not be endless either.
        let bounds = self.limits.whole();
        layers::walk_layer(&layer, bounds, |item, reader| {
            if !matches!(item.kind, EntryType::Regular | EntryType::Continuous) {
                return Ok(());
            }
            let failed = |source| LayerError::Read {
                path: layer.0.clone(),
                source,
            };
            let (digest, mut file) = hashed(reader).map_err(failed)?;
            for path in wanted.remove(&*digest).unwrap_or_default() {
                file.rewind().map_err(failed)?;
                self.put(path, item.size, &mut file)?;
            }
            Ok(())
        })
    }

    fn put(&mut self, path: &str, size: u64, from: &mut dyn Read) -> Result<(), ImageError> {
        let root = self.unpacker.root;
        let too_much = |limit, what| LayerError::TooMuch {
            path: root.to_owned(),
            limit,
            what,
        };
        let Some(path) = tarball::below_root(Path::new(path)) else {
            return Ok(());
        };
        if self.left.entries == 0 {
            return Err(too_much(self.limits.max_entries, "files").into());
        }
        if self.left.bytes < size {
            return Err(too_much(self.limits.max_bytes, "bytes").into());
        }
        if path.components().count() > self.left.depth {
            let deepest = self.limits.max_depth as u64;
            return Err(too_much(deepest, "directories in each other").into());
        }
        self.left.entries -= 1;
        self.left.bytes -= size;
        let put = self.unpacker.put(file_at(path, size), from);
        put.map_err(ImageError::io("unpack", root))
    }
}

fn file_at(path: PathBuf, size: u64) -> Item {
    Item {
        path,
        kind: EntryType::Regular,
        link: None,
        modified: 0,
        size,
    }
}

/// Content in a file that has no name, and its digest.
fn hashed(reader: &mut dyn Read) -> io::Result<(Digest, File)> {
    let mut file = tempfile::tempfile()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok((Digest::from_hash(hash), file)),
            Ok(read) => {
                hash.update(&buffer[..read]);
                file.write_all(&buffer[..read])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
