//! Images in, images out.

use std::{
    collections::HashSet,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    Digest, ImageError, ImageKind, LoadError, Reference,
    layout::{Descriptor, Index, Layout, MANIFEST_TYPE, Manifest},
};

/// The largest module that becomes an image, in bytes: 256 MiB.
pub const MAX_MODULE_BYTES: u64 = 256 << 20;

const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
const LAYER_TYPE: &str = "application/wasm";
/// Layer types from before there was a convention, which images in the wild still have.
const OLDER_LAYER_TYPES: &[&str] = &[
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];

/// A directory of images. Cheap to clone; clones, threads and processes share the directory.
#[derive(Debug, Clone)]
pub struct ImageStore {
    layout: Layout,
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
    /// Size of its module or component, in bytes.
    pub size: u64,
    /// The file with its module or component. Prefer [`ImageStore::read`], which verifies it.
    pub path: PathBuf,
    layer: Descriptor,
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
        })
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
        let index = self.layout.read_index()?;
        let found = if let Some(digest) = reference.digest() {
            let repository = reference.name();
            index.images().find(|entry| {
                let name = entry.name().and_then(|name| name.parse::<Reference>().ok());
                &*entry.digest == digest && name.is_some_and(|name| name.name() == repository)
            })
        } else {
            let name = reference.to_string();
            index.images().find(|entry| entry.name() == Some(&name))
        };
        found.map(|entry| self.describe(&entry)).transpose()
    }

    /// The bytes of an image's module or component, verified. Fails if the image was removed meanwhile.
    pub fn read(&self, image: &Image) -> Result<Vec<u8>, ImageError> {
        self.layout.read_blob(&image.layer, MAX_MODULE_BYTES)
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

    /// Removes the content of an entry that has left the index, as far as nothing there needs it.
    fn collect(&self, index: &Index, removed: &Descriptor) -> Result<(), ImageError> {
        if index.has_others() || index.mentions(&removed.digest) {
            return Ok(());
        }
        let Ok(manifest) = self.layout.read_json::<Manifest>(removed) else {
            // A damaged manifest says nothing about what else to remove.
            return self.layout.remove_blob(&removed.digest);
        };
        let mut needed = HashSet::new();
        for entry in index.images() {
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
        for content in manifest.layers.iter().chain([&manifest.config]) {
            if !needed.contains(&content.digest) {
                self.layout.remove_blob(&content.digest)?;
            }
        }
        Ok(())
    }

    fn describe(&self, entry: &Descriptor) -> Result<Image, ImageError> {
        let reference = entry.name().unwrap_or_default().to_owned();
        let not_wasm = |found: String| ImageError::NotWasm {
            reference: reference.clone(),
            found,
        };
        let manifest: Manifest = self.layout.read_json(entry)?;
        let is_wasm = |layer: &&Descriptor| {
            layer.media_type == LAYER_TYPE || OLDER_LAYER_TYPES.contains(&layer.media_type.as_str())
        };
        let Some(layer) = manifest.layers.iter().find(is_wasm) else {
            let found = manifest
                .layers
                .first()
                .map_or("no layer", |layer| &layer.media_type);
            return Err(not_wasm(format!(
                "its content is {}",
                found.chars().take(128).collect::<String>()
            )));
        };
        let start = self.layout.peek(&layer.digest)?;
        if start.is_empty() {
            return Err(ImageError::Damaged {
                digest: layer.digest.clone(),
            });
        }
        let kind = ImageKind::of_header(&start)
            .ok_or_else(|| not_wasm("its layer does not begin as WebAssembly does".to_owned()))?;
        Ok(Image {
            reference,
            digest: entry.digest.clone(),
            kind,
            size: layer.size,
            path: self.layout.blob_path(&layer.digest),
            layer: layer.clone(),
        })
    }
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
            },
            layer_digests: vec![layer.digest.clone()],
        };
        let config_bytes = encode(&config)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MANIFEST_TYPE.to_owned()),
            config: Descriptor::of(CONFIG_TYPE, &config_bytes),
            layers: vec![layer],
        };
        let manifest_bytes = encode(&manifest)?;
        Ok(Self {
            config_bytes,
            manifest,
            manifest_bytes,
        })
    }
}

fn encode<T: Serialize>(document: &T) -> Result<Vec<u8>, ImageError> {
    let path = PathBuf::from("a new image's description");
    serde_json::to_vec(document).map_err(|source| ImageError::Document { path, source })
}

#[cfg(test)]
mod tests;
