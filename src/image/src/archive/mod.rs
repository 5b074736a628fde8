//! Images as one file: archives that `docker save` and its like write, and read.
//!
//! What is [written](crate::ImageStore::save) is an OCI image layout and, for images that Docker can load, Docker's own
//! list of contents beside it, in one archive. What is [read](crate::ImageStore::load_archive) may be either, packed by
//! gzip or zstd or not at all.

mod read;
mod write;

use std::io;

use serde::{Deserialize, Serialize};

use crate::{Digest, ImageError, LoadError};

pub use read::ArchiveLimits;

const LAYOUT_FILE: &str = "oci-layout";
const INDEX_FILE: &str = "index.json";
const DOCKER_FILE: &str = "manifest.json";
/// An image's full name, where its short one is a tag alone.
const FULL_NAME: &str = "io.containerd.image.name";
/// An image's name, or its tag.
const SHORT_NAME: &str = "org.opencontainers.image.ref.name";

/// Why an archive was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// There is no such image.
    #[error("there is no image {0}")]
    Absent(String),
    /// The store failed, or holds damaged content.
    #[error(transparent)]
    Store(#[from] ImageError),
    /// Whoever takes the archive does not.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

/// Why an archive's images were not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It is damaged, or cannot be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// It holds more than is taken.
    #[error("the archive holds more than the {limit} {what} that are taken")]
    TooMuch {
        /// How much there may be.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// It is an archive, but none of images.
    #[error("the archive holds no images: it has neither index.json nor manifest.json")]
    NoImages,
    /// It speaks of content that it does not hold.
    #[error("the archive does not hold {0}, of which it speaks")]
    Missing(String),
    /// A file is not what its name says.
    #[error("the archive holds something else under the name of {0}")]
    Content(Digest),
    /// One of its documents makes no sense.
    #[error("the archive's {file} makes no sense")]
    Document {
        /// Which one.
        file: String,
        /// Why.
        source: serde_json::Error,
    },
    /// None of an image's platforms is one that runs here.
    #[error("{name}: no image for this platform: there is {found}")]
    Platform {
        /// The image, as far as it has a name.
        name: String,
        /// Which platforms there are.
        found: String,
    },
    /// An image has no name, and was given none.
    #[error("an image of the archive has no name: give it one")]
    Unnamed,
    /// Several images cannot have one name.
    #[error("the archive holds {0} images: they keep their own names")]
    Several(usize),
    /// The name is none that an image can have, or the store failed.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl From<ImageError> for ArchiveError {
    fn from(error: ImageError) -> Self {
        Self::Load(error.into())
    }
}

/// An image, in Docker's list of contents.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[cfg(test)]
mod tests;
