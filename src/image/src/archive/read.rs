//! Archives coming in.
//!
//! Everything in an archive is first put beside the store, into files that go away by themselves. Only what belongs to an image
//! is then given the name of its digest, so that an archive that is refused leaves nothing behind.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read, Write as _},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use tar::EntryType;
use tempfile::TempPath;

use super::{ArchiveError, DOCKER_FILE, DockerImage, FULL_NAME, INDEX_FILE, SHORT_NAME};
use crate::{
    Digest, Image, ImageError, ImageStore, LoadError, Reference,
    layout::{Descriptor, MANIFEST_TYPE, MAX_DOCUMENT, Manifest},
    media::{self, Packing},
    platform, store,
    tarball::{self, Bounds, Item, WalkError},
};

const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// How many links lead from one to the next.
const LINKS: usize = 8;
/// How many images one archive may hold, and indexes inside of indexes.
const MAX_IMAGES: usize = 256;
const MAX_DEPTH: usize = 4;
/// How deep its directories may be: those of a layout, and whatever is before them.
const MAX_DIRECTORIES: usize = 32;

/// How much an archive may hold.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveLimits {
    /// Bytes of all files together, after unpacking the archive itself. Default 16 GiB.
    pub max_bytes: u64,
    /// Files, directories and links. Default 10,000.
    pub max_entries: u64,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        Self {
            max_bytes: 16 << 30,
            max_entries: 10_000,
        }
    }
}

/// An image of an archive.
struct Found {
    name: Option<String>,
    entry: Descriptor,
    bytes: Vec<u8>,
}

impl ImageStore {
    /// Takes the images of an archive in, under the names that it has for them, or the only one under `name`. Images of these
    /// names are replaced.
    pub fn load_archive(
        &self,
        from: impl Read,
        name: Option<&str>,
        limits: ArchiveLimits,
    ) -> Result<Vec<Image>, ArchiveError> {
        let name = name.map(taggable).transpose()?;
        let spool = Spool::fill(self, from, limits)?;
        let found = spool.images()?;
        if name.is_some() && found.len() > 1 {
            return Err(ArchiveError::Several(found.len()));
        }
        let mut named = Vec::new();
        for image in found {
            let own = image.name.as_deref().map(taggable);
            let Some(name) = name.clone().map(Ok).or(own).transpose()? else {
                return Err(ArchiveError::Unnamed);
            };
            named.push((name, image));
        }
        let mut spool = spool;
        let mut loaded = Vec::new();
        for (name, image) in named {
            let manifest: Manifest = document(&image.entry.digest, &image.bytes)?;
            let parts = manifest.parts();
            // All of it, before anything is kept.
            for part in &parts {
                spool.check(self, part)?;
            }
            for part in parts {
                spool.keep(self, part)?;
            }
            loaded.push(self.put(&name, &image.entry, &image.bytes)?);
        }
        Ok(loaded)
    }
}

/// A name that an image may be given.
fn taggable(name: &str) -> Result<Reference, LoadError> {
    let reference: Reference = name.parse()?;
    if reference.digest().is_some() {
        return Err(LoadError::NamedByDigest(reference.to_string()));
    }
    Ok(reference)
}

fn document<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|source| ArchiveError::Document {
        file: file.to_owned(),
        source,
    })
}

/// A file of the archive.
struct Spooled {
    /// Where it is, until it is kept.
    path: TempPath,
    size: u64,
    packing: Packing,
}

/// All that an archive holds.
struct Spool {
    contents: HashMap<Digest, Spooled>,
    /// Which file is what.
    files: HashMap<PathBuf, Digest>,
    links: HashMap<PathBuf, PathBuf>,
}

impl Spool {
    fn fill(
        store: &ImageStore,
        from: impl Read,
        limits: ArchiveLimits,
    ) -> Result<Self, ArchiveError> {
        let dir = store.dir().join("ingest");
        fs::create_dir_all(&dir).map_err(ImageError::io("create", &dir))?;
        let mut from = BufReader::with_capacity(1 << 16, from);
        let packing = tarball::packing_of(from.fill_buf().map_err(ArchiveError::Read)?);
        let from = tarball::unpacked(from, packing).map_err(ArchiveError::Read)?;
        let bounds = Bounds {
            entries: limits.max_entries,
            bytes: limits.max_bytes,
            depth: MAX_DIRECTORIES,
        };
        let failed = |error| match error {
            WalkError::Read(source) => ArchiveError::Read(source),
            WalkError::TooMuch { limit, what } => ArchiveError::TooMuch { limit, what },
        };
        let mut spool = Self {
            contents: HashMap::new(),
            files: HashMap::new(),
            links: HashMap::new(),
        };
        tarball::walk(from, bounds, failed, |item, reader| {
            spool.take(&dir, item, reader)
        })?;
        Ok(spool)
    }

    fn take(&mut self, dir: &Path, item: Item, reader: &mut dyn Read) -> Result<(), ArchiveError> {
        match (item.kind, &item.link) {
            (EntryType::Regular | EntryType::Continuous, _) => {
                let (digest, spooled) = spooled(dir, reader)?;
                self.files.insert(item.path, digest.clone());
                self.contents.entry(digest).or_insert(spooled);
            }
            (EntryType::Symlink, Some(target)) => {
                if let Some(target) = tarball::resolved(item.path.parent(), target) {
                    self.links.insert(item.path, target);
                }
            }
            (EntryType::Link, Some(target)) => {
                if let Some(target) = tarball::below_root(target) {
                    self.links.insert(item.path, target);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What the file at a path holds.
    fn file(&self, path: &str) -> Option<(&Digest, &Spooled)> {
        let mut path = tarball::below_root(Path::new(path))?;
        for _ in 0..LINKS {
            if let Some(digest) = self.files.get(&path) {
                return Some((digest, self.contents.get(digest)?));
            }
            path = self.links.get(&path)?.clone();
        }
        None
    }

    /// A document's bytes.
    fn read(&self, digest: &Digest) -> Result<Vec<u8>, ArchiveError> {
        let Some(spooled) = self.contents.get(digest) else {
            return Err(ArchiveError::Missing(digest.to_string()));
        };
        if spooled.size > MAX_DOCUMENT {
            return Err(ArchiveError::TooMuch {
                limit: MAX_DOCUMENT,
                what: "bytes of a document",
            });
        }
        fs::read(&spooled.path).map_err(ArchiveError::Read)
    }

    fn images(&self) -> Result<Vec<Found>, ArchiveError> {
        let mut found = Vec::new();
        if let Some(index) = self.files.get(Path::new(INDEX_FILE)) {
            let index: platform::Index = document(INDEX_FILE, &self.read(index)?)?;
            for entry in &index.manifests {
                let name = name_of(&entry.descriptor);
                found.push(self.resolve(name, &entry.descriptor, MAX_DEPTH)?);
                at_most(found.len())?;
            }
            return Ok(found);
        }
        let Some(list) = self.files.get(Path::new(DOCKER_FILE)) else {
            return Err(ArchiveError::NoImages);
        };
        let list: Vec<DockerImage> = document(DOCKER_FILE, &self.read(list)?)?;
        for image in list {
            let (entry, bytes) = self.manifest_of(&image)?;
            let names = image.repo_tags.unwrap_or_default();
            let names: Vec<Option<String>> = match names.as_slice() {
                [] => vec![None],
                _ => names.into_iter().map(Some).collect(),
            };
            at_most(found.len() + names.len())?;
            found.extend(names.into_iter().map(|name| Found {
                name,
                entry: entry.clone(),
                bytes: bytes.clone(),
            }));
        }
        Ok(found)
    }

    /// The manifest behind an entry of an index: of several, the one for this machine that the archive holds.
    fn resolve(
        &self,
        name: Option<String>,
        entry: &Descriptor,
        depth: usize,
    ) -> Result<Found, ArchiveError> {
        let bytes = self.read(&entry.digest)?;
        if !media::is_index(&entry.media_type) {
            return Ok(Found {
                name,
                entry: Descriptor::of(&entry.media_type, &bytes),
                bytes,
            });
        }
        let index: platform::Index = document(&entry.digest, &bytes)?;
        let there = |entry: &Descriptor| self.contents.contains_key(&entry.digest);
        match index.choose(there) {
            Some(chosen) if depth > 0 => self.resolve(name, &chosen, depth - 1),
            _ => Err(ArchiveError::Platform {
                name: name.unwrap_or_else(|| entry.digest.to_string()),
                found: index.platforms(),
            }),
        }
    }

    /// A manifest for what Docker describes in its own way.
    fn manifest_of(&self, image: &DockerImage) -> Result<(Descriptor, Vec<u8>), ArchiveError> {
        let part = |path: &String, media_type: fn(Packing) -> &'static str| {
            let (digest, spooled) = self
                .file(path)
                .ok_or_else(|| ArchiveError::Missing(store::shortened(path)))?;
            Ok::<_, ArchiveError>(Descriptor::known(
                media_type(spooled.packing),
                digest.clone(),
                spooled.size,
            ))
        };
        let config = part(&image.config, |_| CONFIG_TYPE)?;
        let layers = image
            .layers
            .iter()
            .map(|path| part(path, media::layer_type));
        let manifest = Manifest::of(config, layers.collect::<Result<_, _>>()?);
        let bytes = store::encode(&manifest)?;
        Ok((Descriptor::of(MANIFEST_TYPE, &bytes), bytes))
    }

    /// Makes sure that content can be kept.
    fn check(&self, store: &ImageStore, part: &Descriptor) -> Result<(), ArchiveError> {
        match self.contents.get(&part.digest) {
            Some(spooled) if spooled.size != part.size => {
                Err(ArchiveError::Content(part.digest.clone()))
            }
            None if !store.has_blob(part) => Err(ArchiveError::Missing(part.digest.to_string())),
            _ => Ok(()),
        }
    }

    /// Brings content into the store, unless it is there.
    fn keep(&mut self, store: &ImageStore, part: &Descriptor) -> Result<(), ArchiveError> {
        if store.has_blob(part) {
            return Ok(());
        }
        let Some(spooled) = self.contents.remove(&part.digest) else {
            return Err(ArchiveError::Missing(part.digest.to_string()));
        };
        let target = store.blob_path(&part.digest);
        let synced = File::open(&spooled.path).and_then(|file| file.sync_all());
        synced.map_err(ImageError::io("write", &spooled.path))?;
        let kept = spooled.path.persist(&target);
        kept.map_err(|error| ImageError::io("write", &target)(error.error))?;
        Ok(())
    }
}

fn at_most(images: usize) -> Result<(), ArchiveError> {
    if images <= MAX_IMAGES {
        return Ok(());
    }
    Err(ArchiveError::TooMuch {
        limit: MAX_IMAGES as u64,
        what: "images",
    })
}

/// The name that an index has for an image. A tag alone is none.
fn name_of(entry: &Descriptor) -> Option<String> {
    let said = |key| entry.annotations.get(key).filter(|name| !name.is_empty());
    let whole = |name: &&String| name.contains(['/', ':']);
    said(FULL_NAME)
        .or_else(|| said(SHORT_NAME).filter(whole))
        .cloned()
}

/// Writes content to a file of its own.
fn spooled(dir: &Path, reader: &mut dyn Read) -> Result<(Digest, Spooled), ArchiveError> {
    let failed = |error| ImageError::io("write", dir)(error);
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(dir)
        .map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut size = 0;
    let mut start = Vec::new();
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ArchiveError::Read(error)),
        };
        let bytes = &buffer[..read];
        if start.len() < 4 {
            start.extend(bytes.iter().take(4 - start.len()));
        }
        hash.update(bytes);
        size += read as u64;
        file.write_all(bytes).map_err(failed)?;
    }
    let spooled = Spooled {
        path: file.into_temp_path(),
        size,
        packing: tarball::packing_of(&start),
    };
    Ok((Digest::from_hash(hash), spooled))
}
