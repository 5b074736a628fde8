//! Images in, images out.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::SystemTime,
};

use serde::Serialize;

use crate::{
    Digest, ImageError, ImageKind, LoadError, Reference,
    config::StartConfig,
    contents::Contents,
    files::{FilesLimits, UNFINISHED, Unpacking},
    ingest::Ingest,
    layers,
    layout::{Descriptor, Index, Layout, MANIFEST_TYPE, MAX_DOCUMENT, Manifest},
    media,
};

/// The largest module that becomes an image, in bytes: 256 MiB.
pub const MAX_MODULE_BYTES: u64 = 256 << 20;

const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
const LAYER_TYPE: &str = "application/wasm";
/// Annotations of an index entry: which content is the module, where that is none of the image's layers but a file in them.
const MODULE_DIGEST: &str = "dev.vaquita.module.digest";
const MODULE_SIZE: &str = "dev.vaquita.module.size";

/// A directory of images. Cheap to clone; clones, threads and processes share the directory.
#[derive(Debug, Clone)]
pub struct ImageStore {
    pub(crate) layout: Layout,
    pub(crate) unpacking: Unpacking,
}

/// An image that the store holds.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its full name, `registry/repository:tag`.
    pub reference: String,
    /// Names the image whatever it is called: the digest of its manifest.
    pub digest: Digest,
    /// What runs it.
    pub kind: ImageKind,
    /// Size of its module or component, in bytes; of a Linux image, that of all its layers as they are packed.
    pub size: u64,
    /// The file with its module or component; a Linux image's manifest. Prefer [`ImageStore::read`], which verifies it.
    pub path: PathBuf,
    /// How it wants to be started, if it says so: artifacts of Wasm alone do not.
    pub start: Option<StartConfig>,
    /// The digest of its configuration: what Docker calls the image's ID.
    pub config: Digest,
    /// The list of several platforms that it was chosen from when it was pulled, if it was.
    pub index: Option<Digest>,
    /// Its module or component, if it is one.
    module: Option<Descriptor>,
    /// Its configuration.
    described: Descriptor,
    /// All of its layers.
    pub(crate) parts: Vec<Descriptor>,
    /// Its layers of files, the lowest first.
    pub(crate) layers: Vec<Descriptor>,
}

impl Image {
    /// The layer of that digest.
    pub(crate) fn part(&self, digest: &str) -> Result<&Descriptor, ImageError> {
        let found = self.parts.iter().find(|part| *part.digest == *digest);
        found.ok_or_else(|| self.no_part(digest))
    }

    pub(crate) fn no_part(&self, digest: &str) -> ImageError {
        ImageError::NoPart {
            reference: self.reference.clone(),
            digest: shortened(digest),
        }
    }

    /// Whether it has files of its own, besides the module that it may be.
    pub fn has_files(&self) -> bool {
        !self.layers.is_empty()
    }
}

/// The configuration that the artifact layout asks for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WasmConfig {
    created: &'static str,
    architecture: &'static str,
    os: &'static str,
    layer_digests: Vec<Digest>,
}

impl ImageStore {
    /// Opens the store in `dir`, which is made if absent.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        Ok(Self {
            layout: Layout::open(dir)?,
            unpacking: Unpacking::default(),
        })
    }

    /// The same store, which unpacks no more than this of an image.
    #[must_use]
    pub fn with_files_limits(mut self, limits: FilesLimits) -> Self {
        self.unpacking.limits = limits;
        self
    }

    /// How often an image was not unpacked because it has more files, or larger ones, than it may, since this value or the one
    /// that it was cloned from was opened.
    pub fn refused_for_size(&self) -> u64 {
        self.unpacking.refused.load(Ordering::Relaxed)
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        self.layout.dir()
    }

    /// Makes an image of a file of WebAssembly. An image of the same name is replaced.
    pub fn load_file(&self, reference: &str, file: &Path) -> Result<Image, LoadError> {
        // A mistyped name is found before a large file is read.
        reference.parse::<Reference>()?;
        let read = |source| LoadError::Read {
            path: file.to_owned(),
            source,
        };
        let mut wasm = Vec::new();
        let opened = File::open(file).map_err(read)?;
        opened
            .take(MAX_MODULE_BYTES + 1)
            .read_to_end(&mut wasm)
            .map_err(read)?;
        self.load(reference, &wasm)
    }

    /// Makes an image of WebAssembly. An image of the same name is replaced. The same bytes always give the same
    /// digest.
    pub fn load(&self, reference: &str, wasm: &[u8]) -> Result<Image, LoadError> {
        let reference: Reference = reference.parse()?;
        if reference.digest().is_some() {
            return Err(LoadError::NamedByDigest(reference.to_string()));
        }
        if wasm.len() as u64 > MAX_MODULE_BYTES {
            return Err(LoadError::TooLarge {
                size: wasm.len() as u64,
                limit: MAX_MODULE_BYTES,
            });
        }
        let artifact = Artifact::new(wasm)?;
        let entry =
            Descriptor::of(MANIFEST_TYPE, &artifact.manifest_bytes).named(&reference.to_string());

        // Held to the end: between content and index, nobody may take the content for garbage.
        let _lock = self.layout.lock()?;
        self.layout.write_blob(&artifact.manifest.layers[0], wasm)?;
        self.layout
            .write_blob(&artifact.manifest.config, &artifact.config_bytes)?;
        self.layout.write_blob(&entry, &artifact.manifest_bytes)?;
        let mut index = self.layout.read_index()?;
        let replaced = index.put(&entry, &self.layout.index_path())?;
        self.layout.write_index(&index)?;
        if let Some(replaced) = replaced {
            self.collect(&index, &replaced)?;
        }
        Ok(self.describe(&entry)?)
    }

    /// The image of that name, or none. A name with a digest finds any image of that repository that has it.
    pub fn get(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let reference: Reference = reference.parse()?;
        let _lock = self.layout.lock_shared()?;
        let found = find(&self.layout.read_index()?, &reference);
        found.map(|entry| self.describe(&entry)).transpose()
    }

    /// The bytes of an image's module or component, verified. Fails if the image was removed meanwhile, or is none of Wasm.
    pub fn read(&self, image: &Image) -> Result<Vec<u8>, ImageError> {
        let Some(module) = &image.module else {
            return Err(ImageError::Linux {
                reference: image.reference.clone(),
            });
        };
        self.layout.read_blob(module, MAX_MODULE_BYTES)
    }

    /// An image's configuration: the document that says what it is. Of a Spin application, that is its locked description.
    pub fn description(&self, image: &Image) -> Result<Vec<u8>, ImageError> {
        self.layout.read_blob(&image.described, MAX_DOCUMENT)
    }

    /// One of an image's layers, by digest, verified: a module of a Spin application.
    pub fn part(&self, image: &Image, digest: &str) -> Result<Vec<u8>, ImageError> {
        self.layout.read_blob(image.part(digest)?, MAX_MODULE_BYTES)
    }

    /// All images that can be run, by name. What other tools put there and cannot be run is left out.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let _lock = self.layout.lock_shared()?;
        let describe = |entry: Descriptor| match self.describe(&entry) {
            Ok(image) => Some(image),
            Err(error) => {
                tracing::warn!(image = entry.name(), %error, "left out of the list");
                None
            }
        };
        let mut images: Vec<_> = self
            .layout
            .read_index()?
            .images()
            .filter_map(describe)
            .collect();
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(images)
    }

    /// Gives an image another name besides its own. An image of that name is replaced. `None`: there is no such image.
    pub fn tag(&self, reference: &str, name: &str) -> Result<Option<Image>, LoadError> {
        let (reference, name): (Reference, Reference) = (reference.parse()?, name.parse()?);
        if name.digest().is_some() {
            return Err(LoadError::NamedByDigest(name.to_string()));
        }
        let _lock = self.layout.lock()?;
        let mut index = self.layout.read_index()?;
        let Some(entry) = find(&index, &reference) else {
            return Ok(None);
        };
        let entry = entry.named(&name.to_string());
        let replaced = index.put(&entry, &self.layout.index_path())?;
        self.layout.write_index(&index)?;
        if let Some(replaced) = replaced {
            self.collect(&index, &replaced)?;
        }
        Ok(Some(self.describe(&entry)?))
    }

    /// An image's entry and manifest.
    pub(crate) fn manifest(
        &self,
        reference: &str,
    ) -> Result<Option<(Descriptor, Manifest)>, ImageError> {
        let reference: Reference = reference.parse()?;
        let _lock = self.layout.lock_shared()?;
        let Some(entry) = find(&self.layout.read_index()?, &reference) else {
            return Ok(None);
        };
        let manifest = self.layout.read_json(&entry)?;
        Ok(Some((entry, manifest)))
    }

    /// Whether content of that name and size is there.
    pub(crate) fn has_blob(&self, descriptor: &Descriptor) -> bool {
        self.layout.has_blob(descriptor)
    }

    /// Where content of that name is, if it is there.
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.layout.blob_path(digest)
    }

    /// Content of at most `limit` bytes, verified.
    pub(crate) fn blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, ImageError> {
        self.layout.read_blob(descriptor, limit)
    }

    /// Begins to take in content, or goes on; `None` if it is there.
    pub(crate) fn ingest(&self, wanted: &Descriptor) -> Result<Option<Ingest>, ImageError> {
        Ingest::begin(&self.layout, wanted)
    }

    /// How much of content that is not there an earlier attempt has left.
    pub(crate) fn begun(&self, wanted: &Descriptor) -> u64 {
        let file = self.dir().join("ingest").join(wanted.digest.hex());
        let length = fs::metadata(file).map_or(0, |file| file.len());
        // What is longer is thrown away.
        if length > wanted.size { 0 } else { length }
    }

    /// Says before its layers come in what an image is; its configuration must be there.
    pub(crate) fn contents(
        &self,
        reference: &str,
        manifest: &Manifest,
    ) -> Result<Contents, ImageError> {
        Contents::of(&self.layout, reference, manifest)
    }

    /// Names an image whose content is there. An image of the same name is replaced.
    pub(crate) fn put(
        &self,
        reference: &Reference,
        entry: &Descriptor,
        manifest_bytes: &[u8],
    ) -> Result<Image, ImageError> {
        let mut entry = entry.clone().named(&reference.to_string());
        let _lock = self.layout.lock()?;
        self.layout.write_blob(&entry, manifest_bytes)?;
        let manifest: Manifest = self.layout.read_json(&entry)?;
        if let Some(missing) = manifest
            .parts()
            .into_iter()
            .find(|part| !self.layout.has_blob(part))
        {
            // Removed meanwhile, with an image that shared it.
            return Err(ImageError::Damaged {
                digest: missing.digest.clone(),
            });
        }
        let contents = self.contents(&reference.to_string(), &manifest)?;
        if let Contents::File { path, .. } = &contents {
            let module = self.extract(reference, &manifest, path)?;
            let annotations = &mut entry.annotations;
            annotations.insert(MODULE_DIGEST.to_owned(), module.digest.to_string());
            annotations.insert(MODULE_SIZE.to_owned(), module.size.to_string());
        }
        let mut index = self.layout.read_index()?;
        let image = self.describe(&entry)?;
        // Whoever watches the index is not to take it for a change.
        if index.has(&entry) {
            return Ok(image);
        }
        let replaced = index.put(&entry, &self.layout.index_path())?;
        self.layout.write_index(&index)?;
        if let Some(replaced) = replaced {
            self.collect(&index, &replaced)?;
        }
        Ok(image)
    }

    /// Takes the module at a path out of an image's layers.
    fn extract(
        &self,
        reference: &Reference,
        manifest: &Manifest,
        path: &str,
    ) -> Result<Descriptor, ImageError> {
        let files = manifest.layers.iter().filter_map(|layer| {
            let packing = media::packing(&layer.media_type)?;
            Some((self.layout.blob_path(&layer.digest), packing))
        });
        let files: Vec<layers::Layer> = files.collect();
        let not_wasm = |found: String| ImageError::NotWasm {
            reference: reference.to_string(),
            found,
        };
        let Some(wasm) = layers::find(&files, path, MAX_MODULE_BYTES)? else {
            return Err(not_wasm(format!("it has no file {}", shortened(path))));
        };
        ImageKind::detect(&wasm)
            .map_err(|error| not_wasm(format!("{}: {error}", shortened(path))))?;
        let module = Descriptor::of(LAYER_TYPE, &wasm);
        self.layout.write_blob(&module, &wasm)?;
        Ok(module)
    }

    /// Forgets a name, and the content that no other image uses. Returns whether there was such an image.
    pub fn remove(&self, reference: &str) -> Result<bool, ImageError> {
        let reference: Reference = reference.parse()?;
        let _lock = self.layout.lock()?;
        let mut index = self.layout.read_index()?;
        let Some(removed) = index.remove(&reference.to_string()) else {
            return Ok(false);
        };
        self.layout.write_index(&index)?;
        self.collect(&index, &removed)?;
        Ok(true)
    }

    /// Removes what no image needs and was last changed before `older_than`: content, files and what did not come in whole. What
    /// is coming in just now is younger than that, if it is chosen well.
    pub fn sweep(&self, older_than: SystemTime) -> Result<(), ImageError> {
        let _lock = self.layout.lock()?;
        let index = self.layout.read_index()?;
        let mut needed = HashSet::new();
        for entry in index.images() {
            // What cannot be read may need anything.
            let Ok(manifest) = self.layout.read_json::<Manifest>(&entry) else {
                return Ok(());
            };
            needed.extend(manifest.parts().into_iter().map(|part| part.digest.clone()));
            needed.extend(extracted(&entry).map(|module| module.digest));
            needed.insert(entry.digest);
        }
        let is_old = |path: &Path| {
            let modified = fs::metadata(path).and_then(|file| file.modified());
            modified.is_ok_and(|modified| modified < older_than)
        };
        for path in files_in(&self.dir().join("ingest"))? {
            if is_old(&path) {
                fs::remove_file(&path).map_err(ImageError::io("remove", &path))?;
            }
        }
        for path in files_in(&self.files_dir())? {
            let name = path.file_name().unwrap_or_default();
            if name.as_bytes().starts_with(UNFINISHED.as_bytes()) && is_old(&path) {
                fs::remove_dir_all(&path).map_err(ImageError::io("remove", &path))?;
            }
            if let Some(image) = digest_of(&path)
                && !needed.contains(&image)
                && is_old(&path)
            {
                self.remove_files(&image)?;
            }
        }
        if index.has_others() {
            return Ok(());
        }
        for path in files_in(&self.dir().join("blobs").join("sha256"))? {
            if digest_of(&path).is_none_or(|digest| !needed.contains(&digest)) && is_old(&path) {
                fs::remove_file(&path).map_err(ImageError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Removes the content of an entry that has left the index, as far as nothing there needs it.
    fn collect(&self, index: &Index, removed: &Descriptor) -> Result<(), ImageError> {
        if index.mentions(&removed.digest) {
            return Ok(());
        }
        self.remove_files(&removed.digest)?;
        if index.has_others() {
            return Ok(());
        }
        let Ok(manifest) = self.layout.read_json::<Manifest>(removed) else {
            // A damaged manifest says nothing about what else to remove.
            return self.layout.remove_blob(&removed.digest);
        };
        let mut needed = HashSet::new();
        for entry in index.images() {
            needed.extend(extracted(&entry).map(|module| module.digest));
            // What cannot be read may need anything.
            let Ok(other) = self.layout.read_json::<Manifest>(&entry) else {
                return Ok(());
            };
            needed.extend(
                other
                    .layers
                    .into_iter()
                    .chain([other.config])
                    .map(|content| content.digest),
            );
        }
        self.layout.remove_blob(&removed.digest)?;
        let module = extracted(removed);
        for content in manifest.parts().into_iter().chain(&module) {
            if !needed.contains(&content.digest) {
                self.layout.remove_blob(&content.digest)?;
            }
        }
        Ok(())
    }

    fn describe(&self, entry: &Descriptor) -> Result<Image, ImageError> {
        let reference = entry.name().unwrap_or_default().to_owned();
        let manifest: Manifest = self.layout.read_json(entry)?;
        let contents = self.contents(&reference, &manifest)?;
        let (module, start) = match contents {
            Contents::Module { layer, start } => (Some(layer), start),
            Contents::File { start, .. } => {
                let Some(module) = extracted(entry) else {
                    let found = "its module was never taken out of its layers".to_owned();
                    return Err(ImageError::NotWasm { reference, found });
                };
                (Some(module), start)
            }
            Contents::Linux { start } => (None, start),
            Contents::Spin => (None, None),
        };
        let is_spin = manifest.config.media_type == media::SPIN;
        let (kind, size, path) = match &module {
            Some(module) => (
                self.kind_of(&reference, module)?,
                module.size,
                self.layout.blob_path(&module.digest),
            ),
            None => (
                if is_spin {
                    ImageKind::SpinApplication
                } else {
                    ImageKind::Linux
                },
                manifest
                    .layers
                    .iter()
                    .fold(0_u64, |sum, layer| sum.saturating_add(layer.size)),
                self.layout.blob_path(&entry.digest),
            ),
        };
        let parts = manifest.layers.clone();
        let files = manifest.layers.into_iter();
        Ok(Image {
            reference,
            digest: entry.digest.clone(),
            kind,
            size,
            path,
            start,
            config: manifest.config.digest.clone(),
            described: manifest.config,
            parts,
            index: entry.index(),
            module,
            layers: files
                .filter(|layer| media::packing(&layer.media_type).is_some())
                .collect(),
        })
    }

    /// What a module is, by its first bytes.
    fn kind_of(&self, reference: &str, module: &Descriptor) -> Result<ImageKind, ImageError> {
        let header = self.layout.peek(&module.digest)?;
        if header.is_empty() {
            return Err(ImageError::Damaged {
                digest: module.digest.clone(),
            });
        }
        ImageKind::of_header(&header).ok_or_else(|| ImageError::NotWasm {
            reference: reference.to_owned(),
            found: format!(
                "its content, {}, does not begin as WebAssembly does",
                shortened(&module.media_type)
            ),
        })
    }
}

/// The entry of that name. A name with a digest finds any image of that repository that has it.
pub(crate) fn find(index: &Index, reference: &Reference) -> Option<Descriptor> {
    let Some(digest) = reference.digest() else {
        let name = reference.to_string();
        return index.images().find(|entry| entry.name() == Some(&name));
    };
    let repository = reference.name();
    index.images().find(|entry| {
        let name = entry.name().and_then(|name| name.parse::<Reference>().ok());
        &*entry.digest == digest && name.is_some_and(|name| name.name() == repository)
    })
}

/// The module that was taken out of an image's layers, if it was.
fn extracted(entry: &Descriptor) -> Option<Descriptor> {
    let digest = entry.annotations.get(MODULE_DIGEST)?.parse().ok()?;
    let size = entry.annotations.get(MODULE_SIZE)?.parse().ok()?;
    Some(Descriptor::known(LAYER_TYPE, digest, size))
}

/// What is in a directory; nothing if it is none.
fn files_in(dir: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(ImageError::io("read", dir))?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    paths
        .collect::<Result<_, _>>()
        .map_err(ImageError::io("read", dir))
}

/// The content that a file's name stands for.
fn digest_of(path: &Path) -> Option<Digest> {
    let name = path.file_name()?.to_str()?;
    format!("sha256:{name}").parse().ok()
}

/// As much of a foreign text as a message repeats.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(128).collect()
}

/// The documents around a module.
struct Artifact {
    config_bytes: Vec<u8>,
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
}

impl Artifact {
    fn new(wasm: &[u8]) -> Result<Self, LoadError> {
        let kind = ImageKind::detect(wasm)?;
        let layer = Descriptor::of(LAYER_TYPE, wasm);
        let config = WasmConfig {
            // A real time would give the same module another digest each time that it is loaded.
            created: "1970-01-01T00:00:00Z",
            architecture: "wasm",
            os: match kind {
                ImageKind::WasmModule => "wasip1",
                ImageKind::WasmComponent => "wasip2",
                // Nothing that begins as WebAssembly does is that.
                ImageKind::Linux | ImageKind::SpinApplication => "unknown",
            },
            layer_digests: vec![layer.digest.clone()],
        };
        let config_bytes = encode(&config)?;
        let manifest = Manifest::of(Descriptor::of(CONFIG_TYPE, &config_bytes), vec![layer]);
        let manifest_bytes = encode(&manifest)?;
        Ok(Self {
            config_bytes,
            manifest,
            manifest_bytes,
        })
    }
}

pub(crate) fn encode<T: Serialize>(document: &T) -> Result<Vec<u8>, ImageError> {
    let path = PathBuf::from("a new image's description");
    serde_json::to_vec(document).map_err(|source| ImageError::Document { path, source })
}

#[cfg(test)]
mod tests;
