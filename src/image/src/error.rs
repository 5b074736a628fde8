//! What can go wrong with images.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{Digest, NotWasm, ReferenceError};

/// Why the store could not be opened, read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The name is no image reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A file or directory of the store failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// A verb: "read", "lock", ...
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory holds a layout of a version that is not known.
    #[error("{} is an image layout of version {version:?}: only 1.0.0 is known", path.display())]
    Version {
        /// The file that says so.
        path: PathBuf,
        /// The version.
        version: String,
    },
    /// A JSON document of the store does not say what it should.
    #[error("{} is damaged", path.display())]
    Document {
        /// Which file.
        path: PathBuf,
        /// What is wrong in it.
        source: serde_json::Error,
    },
    /// Content is not what its name says, or not as long as its descriptor says.
    #[error("the content {digest} is damaged: load the image again")]
    Damaged {
        /// Its name.
        digest: Digest,
    },
    /// A document is larger than such documents may be.
    #[error("{} has {size} bytes: at most {limit} are read", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// Its layers can't be read.
    #[error(transparent)]
    Layers(#[from] crate::LayerError),
    /// It speaks of content that is none of its layers.
    #[error("the image {reference} has no layer {digest}, of which it speaks")]
    NoPart {
        /// The image's name.
        reference: String,
        /// The content.
        digest: String,
    },
    /// It is for Linux containers, where those do not run.
    #[error("the image {reference} is for Linux containers, which do not run here")]
    Linux {
        /// The image's name.
        reference: String,
    },
    /// The image is not one that can be run here.
    #[error("the image {reference} is no Wasm artifact: {found}")]
    NotWasm {
        /// The image's name.
        reference: String,
        /// What it is instead.
        found: String,
    },
}

impl ImageError {
    /// Makes the error of a failed file operation.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Why an image could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// More bytes than [`MAX_MODULE_BYTES`](crate::MAX_MODULE_BYTES).
    #[error("{size} bytes are too many for a module: the limit is {limit}")]
    TooLarge {
        /// How many there are.
        size: u64,
        /// How many there may be.
        limit: u64,
    },
    /// Not a whole file of WebAssembly.
    #[error(transparent)]
    NotWasm(#[from] NotWasm),
    /// The name has a digest in it.
    #[error("{0}: an image is named by a tag; its digest follows from its content")]
    NamedByDigest(String),
    /// The store failed, or the name is none.
    #[error(transparent)]
    Store(#[from] ImageError),
}

impl From<ReferenceError> for LoadError {
    fn from(error: ReferenceError) -> Self {
        Self::Store(error.into())
    }
}
