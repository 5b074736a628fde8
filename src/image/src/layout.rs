//! The directory: an OCI image layout, its index and its content, read with suspicion and written so that a crash
//! leaves either the old or the new.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::{Digest, ImageError, media::is_manifest};

pub(crate) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Annotation of an index entry: the list of several platforms that the image was chosen from.
const CHOSEN_FROM: &str = "dev.vaquita.index.digest";
/// Annotation of an index entry: the image's name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const LAYOUT_VERSION: &str = "1.0.0";

/// Manifests and configurations are a few hundred bytes; registries accept 4 MiB.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// An index entry has about 300 bytes.
const MAX_INDEX: u64 = 64 << 20;

/// What is said about content elsewhere. Fields that are not known here are kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Descriptor {
    pub(crate) fn of(media_type: &str, content: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(content),
            size: content.len() as u64,
            annotations: BTreeMap::new(),
            rest: Map::new(),
        }
    }

    /// What is said about content that is elsewhere.
    pub(crate) fn known(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            annotations: BTreeMap::new(),
            rest: Map::new(),
        }
    }

    pub(crate) fn named(mut self, name: &str) -> Self {
        self.annotations
            .insert(REF_NAME.to_owned(), name.to_owned());
        self
    }

    /// Notes the list of several platforms that it was chosen from.
    pub(crate) fn chosen_from(&mut self, index: Option<Digest>) {
        let noted = index.map(|index| (CHOSEN_FROM.to_owned(), index.to_string()));
        self.annotations.extend(noted);
    }

    /// The list of several platforms that it was chosen from, if it was.
    pub(crate) fn index(&self) -> Option<Digest> {
        self.annotations.get(CHOSEN_FROM)?.parse().ok()
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.annotations.get(REF_NAME).map(String::as_str)
    }
}

/// An image's manifest, as far as it matters here.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// A manifest of these parts.
    pub(crate) fn of(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MANIFEST_TYPE.to_owned()),
            config,
            layers,
            annotations: BTreeMap::new(),
        }
    }

    /// All that the image is made of: its configuration and its layers, each once.
    pub(crate) fn parts(&self) -> Vec<&Descriptor> {
        let mut parts: Vec<&Descriptor> = vec![&self.config];
        for layer in &self.layers {
            if parts.iter().all(|part| part.digest != layer.digest) {
                parts.push(layer);
            }
        }
        parts
    }
}

/// `index.json`: which images there are.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    schema_version: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    // Entries of other tools may be anything (digests of other algorithms, indexes in the index): they are kept.
    manifests: Vec<Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            schema_version: 2,
            media_type: Some(INDEX_TYPE.to_owned()),
            manifests: Vec::new(),
            rest: Map::new(),
        }
    }
}

impl Index {
    /// The images that have a name and a manifest: what this store can use.
    pub(crate) fn images(&self) -> impl Iterator<Item = Descriptor> {
        self.manifests
            .iter()
            .filter_map(|entry| Descriptor::deserialize(entry).ok())
            .filter(|entry| is_manifest(&entry.media_type) && entry.name().is_some())
    }

    /// Whether any entry, one of other tools' included, is this content.
    pub(crate) fn mentions(&self, digest: &Digest) -> bool {
        self.manifests
            .iter()
            .any(|entry| entry.get("digest").and_then(Value::as_str) == Some(digest))
    }

    /// Whether there are entries that this store does not understand, whose content it must not touch.
    pub(crate) fn has_others(&self) -> bool {
        self.manifests.iter().any(|entry| {
            Descriptor::deserialize(entry).map_or(true, |entry| !is_manifest(&entry.media_type))
        })
    }

    /// Removes the entry of that name, and says which it was.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Descriptor> {
        let is_it = |entry: &Value| {
            entry
                .pointer("/annotations")
                .and_then(|all| all.get(REF_NAME))
                .is_some_and(|is| is == name)
        };
        let removed = self
            .manifests
            .iter()
            .position(is_it)
            .map(|index| self.manifests.remove(index))?;
        Descriptor::deserialize(removed).ok()
    }

    /// Whether it has this very entry.
    pub(crate) fn has(&self, entry: &Descriptor) -> bool {
        serde_json::to_value(entry).is_ok_and(|entry| self.manifests.contains(&entry))
    }

    /// Adds an entry behind the others.
    pub(crate) fn add(&mut self, entry: &Descriptor) -> Result<(), ImageError> {
        let value = serde_json::to_value(entry).map_err(document(Path::new("index.json")))?;
        self.manifests.push(value);
        Ok(())
    }

    /// Adds an image, instead of another one of the same name.
    pub(crate) fn put(
        &mut self,
        entry: &Descriptor,
        path: &Path,
    ) -> Result<Option<Descriptor>, ImageError> {
        let value = serde_json::to_value(entry).map_err(document(path))?;
        let replaced = entry.name().and_then(|name| self.remove(name));
        self.manifests.push(value);
        Ok(replaced)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

/// The files of a store.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    dir: PathBuf,
}

/// The right to read a layout, or to change it; until it is dropped, other processes wait.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Layout {
    /// Makes the directory into a layout if it is none.
    pub(crate) fn open(dir: &Path) -> Result<Self, ImageError> {
        let layout = Self {
            dir: dir.to_owned(),
        };
        let blobs = layout.blobs();
        fs::create_dir_all(&blobs).map_err(ImageError::io("create", &blobs))?;
        let _lock = layout.lock()?;
        let path = dir.join("oci-layout");
        match read_document::<LayoutFile>(&path, MAX_DOCUMENT)? {
            Some(found) if found.image_layout_version == LAYOUT_VERSION => {}
            Some(found) => {
                return Err(ImageError::Version {
                    path,
                    version: found.image_layout_version,
                });
            }
            None => {
                let file = LayoutFile {
                    image_layout_version: LAYOUT_VERSION.to_owned(),
                };
                write_document(&path, &file)?;
            }
        }
        if !layout.index_path().exists() {
            layout.write_index(&Index::default())?;
        }
        Ok(layout)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn index_path(&self) -> PathBuf {
        self.dir.join("index.json")
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs").join("sha256")
    }

    /// Waits until nobody else reads or changes the store.
    pub(crate) fn lock(&self) -> Result<Lock, ImageError> {
        self.locked(File::lock)
    }

    /// Waits until nobody changes the store.
    pub(crate) fn lock_shared(&self) -> Result<Lock, ImageError> {
        self.locked(File::lock_shared)
    }

    // Locks belong to open files, not to processes: this works between threads too.
    fn locked(&self, lock: fn(&File) -> io::Result<()>) -> Result<Lock, ImageError> {
        let path = self.dir.join(".lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = file.map_err(ImageError::io("open", &path))?;
        lock(&file).map_err(ImageError::io("lock", &path))?;
        Ok(Lock { _file: file })
    }

    pub(crate) fn read_index(&self) -> Result<Index, ImageError> {
        Ok(read_document(&self.index_path(), MAX_INDEX)?.unwrap_or_default())
    }

    pub(crate) fn write_index(&self, index: &Index) -> Result<(), ImageError> {
        write_document(&self.index_path(), index)
    }

    /// Reads a small JSON document out of the content, checked against its digest.
    pub(crate) fn read_json<T: DeserializeOwned>(
        &self,
        descriptor: &Descriptor,
    ) -> Result<T, ImageError> {
        let bytes = self.read_blob(descriptor, MAX_DOCUMENT)?;
        serde_json::from_slice(&bytes).map_err(document(&self.blob_path(&descriptor.digest)))
    }

    /// Reads content of at most `limit` bytes, checked against its digest.
    pub(crate) fn read_blob(
        &self,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, ImageError> {
        let digest = &descriptor.digest;
        let path = self.blob_path(digest);
        if descriptor.size > limit {
            return Err(ImageError::TooLarge {
                path,
                size: descriptor.size,
                limit,
            });
        }
        match read_bounded(&path, descriptor.size)? {
            Some(bytes)
                if bytes.len() as u64 == descriptor.size && Digest::of(&bytes) == *digest =>
            {
                Ok(bytes)
            }
            _ => Err(ImageError::Damaged {
                digest: digest.clone(),
            }),
        }
    }

    /// Reads all of some content, however large, and compares it with its digest.
    pub(crate) fn verify(&self, descriptor: &Descriptor) -> Result<(), ImageError> {
        let path = self.blob_path(&descriptor.digest);
        let damaged = || ImageError::Damaged {
            digest: descriptor.digest.clone(),
        };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged()),
            Err(error) => return Err(ImageError::io("read", &path)(error)),
        };
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file
                .read(&mut buffer)
                .map_err(ImageError::io("read", &path))?
            {
                0 => break,
                read => hash.update(&buffer[..read]),
            }
        }
        if Digest::from_hash(hash) == descriptor.digest {
            Ok(())
        } else {
            Err(damaged())
        }
    }

    /// The first bytes of content, unchecked. Empty if there is no such content.
    pub(crate) fn peek(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let path = self.blob_path(digest);
        let mut start = Vec::with_capacity(8);
        match File::open(&path).and_then(|file| file.take(8).read_to_end(&mut start)) {
            Ok(_) => Ok(start),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(ImageError::io("read", &path)(error)),
        }
    }

    /// Whether there is content of that name and size. What is in it is checked when it is read.
    pub(crate) fn has_blob(&self, descriptor: &Descriptor) -> bool {
        fs::metadata(self.blob_path(&descriptor.digest))
            .is_ok_and(|file| file.len() == descriptor.size)
    }

    /// Stores content, unless it is there and sound.
    pub(crate) fn write_blob(
        &self,
        descriptor: &Descriptor,
        content: &[u8],
    ) -> Result<(), ImageError> {
        if self.read_blob(descriptor, content.len() as u64).is_ok() {
            return Ok(());
        }
        write_atomically(&self.blob_path(&descriptor.digest), content)
    }

    pub(crate) fn remove_blob(&self, digest: &Digest) -> Result<(), ImageError> {
        let path = self.blob_path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ImageError::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

fn document(path: &Path) -> impl FnOnce(serde_json::Error) -> ImageError {
    move |source| ImageError::Document {
        path: path.to_owned(),
        source,
    }
}

/// `None` if there is no such file. Never more than one byte beyond `limit`.
fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, ImageError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImageError::io("read", path)(error)),
    }
}

fn read_document<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<Option<T>, ImageError> {
    let Some(bytes) = read_bounded(path, limit)? else {
        return Ok(None);
    };
    if bytes.len() as u64 > limit {
        return Err(ImageError::TooLarge {
            path: path.to_owned(),
            size: bytes.len() as u64,
            limit,
        });
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(document(path))
}

fn write_document<T: Serialize>(path: &Path, value: &T) -> Result<(), ImageError> {
    let bytes = serde_json::to_vec(value).map_err(document(path))?;
    write_atomically(path, &bytes)
}

/// A reader, or whoever comes after a crash, finds the old file or the new one, never a part.
fn write_atomically(path: &Path, content: &[u8]) -> Result<(), ImageError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let write = || {
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        // The name is durable only when the directory is.
        File::open(dir)?.sync_all()
    };
    write().map_err(ImageError::io("write", path))
}
