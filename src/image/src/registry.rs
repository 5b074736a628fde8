//! Images from registries and to them (the OCI distribution specification).
//!
//! Enter at [`Registries::pull`] and [`Registries::push`]. What a registry says is not believed: the manifest's digest
//! is checked, and so are each blob's size and digest while it comes in. A download that breaks off goes on where it
//! was, at once or the next time. Each pull uses a connection and credentials of its own, so that nobody profits from
//! what somebody else may read.

mod challenge;
mod download;
mod endpoint;
mod http;
mod push;
mod signatures;

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use oci_distribution::{self as oci, errors::OciDistributionError};
use serde::Deserialize;

use crate::{
    Credential, Digest, Image, ImageError, ImageStore, Reference, ReferenceError,
    layout::{Descriptor, MAX_DOCUMENT, Manifest},
    media, platform,
};

use endpoint::Endpoint;
use http::{ReadError, Repository};

/// How many layers come in at a time.
const AT_A_TIME: usize = 3;

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct RegistriesConfig {
    /// Registries, as `HOST[:PORT]`, whose certificate is not verified, and which may speak plain HTTP. Those on this
    /// machine's loopback may always speak plain HTTP.
    pub insecure: Vec<String>,
    /// Registries to ask first, in this order, for images of another one: (of which, `HOST[:PORT]`).
    pub mirrors: Vec<(String, String)>,
    /// Certificates (PEM) of authorities to trust besides the system's.
    pub authorities: Vec<Vec<u8>>,
    /// The largest image that is pulled, all layers together, in bytes. Default 16 GiB.
    pub max_image_bytes: u64,
    /// How long a registry may be silent. Default 30 s.
    pub patience: Duration,
    /// Whether Linux images are pulled. Otherwise they are refused before their layers come in. Default: `true`.
    pub linux: bool,
}

impl Default for RegistriesConfig {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            mirrors: Vec::new(),
            authorities: Vec::new(),
            max_image_bytes: 16 << 30,
            patience: Duration::from_secs(30),
            linux: true,
        }
    }
}

/// The way to registries. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    config: RegistriesConfig,
}

/// Hears how far a transfer is.
pub trait Progress: Send + Sync {
    /// So many bytes are to be moved; what is there already is not counted.
    fn begin(&self, bytes: u64);
    /// So many more have been.
    fn advance(&self, bytes: u64);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
}

/// Why an image could not be pulled or pushed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The name is no image reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The registry has no such image, or hides it.
    #[error("{reference}: not found")]
    NotFound {
        /// The image.
        reference: String,
    },
    /// The registry wants other credentials.
    #[error("{reference}: the registry refused access: {reason}")]
    Unauthorized {
        /// The image.
        reference: String,
        /// What it said.
        reason: String,
    },
    /// The registry could not be asked, or answered with nonsense.
    #[error("{reference}: {reason}")]
    Registry {
        /// The image.
        reference: String,
        /// What went wrong, with its causes.
        reason: String,
    },
    /// None of the image's platforms is one that runs here.
    #[error("{reference}: no image for this platform: there is {found}")]
    Platform {
        /// The image.
        reference: String,
        /// Which platforms there are.
        found: String,
    },
    /// A document or the whole is larger than is taken.
    #[error("{reference}: {size} bytes are more than the {limit} that are taken")]
    TooLarge {
        /// The image.
        reference: String,
        /// How large it says it is.
        size: u64,
        /// How large it may be.
        limit: u64,
    },
    /// A blob came in and is not what it should be.
    #[error("{reference}: the registry sent something else for {digest}")]
    Content {
        /// The image.
        reference: String,
        /// Which blob.
        digest: Digest,
    },
    /// The store failed, or the image is none that it takes.
    #[error(transparent)]
    Store(#[from] ImageError),
    /// There is no such image to push.
    #[error("there is no image {0}")]
    Absent(String),
}

impl TransferError {
    /// Whether other credentials might help. Registries say "not found" for what somebody may not see.
    fn is_about_access(&self) -> bool {
        matches!(self, Self::Unauthorized { .. } | Self::NotFound { .. })
    }

    /// Whether it is certain that the registry has no such image.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    fn of(reference: &Reference, error: ReadError) -> Self {
        let reference = reference.to_string();
        match error {
            ReadError::NotFound => Self::NotFound { reference },
            ReadError::Refused(reason) => Self::Unauthorized { reference, reason },
            ReadError::TooLarge { size, limit } => Self::TooLarge {
                reference,
                size,
                limit,
            },
            ReadError::Answer(reason) => Self::Registry { reference, reason },
            ReadError::Connection(error) => {
                let reason = with_causes(&error);
                Self::Registry { reference, reason }
            }
        }
    }

    /// Of what is written to a registry.
    fn of_push(reference: &Reference, error: &OciDistributionError) -> Self {
        use oci::errors::OciErrorCode as Code;
        let reference = reference.to_string();
        let status = match error {
            OciDistributionError::RequestError(error) => error.status(),
            _ => None,
        };
        match status.map(|status| status.as_u16()) {
            Some(404) => return Self::NotFound { reference },
            Some(401 | 403) => {
                let reason = error.to_string();
                return Self::Unauthorized { reference, reason };
            }
            _ => {}
        }
        match error {
            OciDistributionError::ImageManifestNotFoundError(_)
            | OciDistributionError::ServerError { code: 404, .. } => Self::NotFound { reference },
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::ServerError {
                code: 401 | 403, ..
            } => Self::Unauthorized {
                reference,
                reason: error.to_string(),
            },
            OciDistributionError::RegistryError { envelope, .. } => {
                let has = |codes: &[Code]| {
                    envelope
                        .errors
                        .iter()
                        .any(|error| codes.contains(&error.code))
                };
                if has(&[Code::ManifestUnknown, Code::NameUnknown, Code::NotFound]) {
                    Self::NotFound { reference }
                } else if has(&[Code::Unauthorized, Code::Denied]) {
                    let reason = error.to_string();
                    Self::Unauthorized { reference, reason }
                } else {
                    let reason = error.to_string();
                    Self::Registry { reference, reason }
                }
            }
            _ => Self::Registry {
                reference,
                reason: with_causes(error),
            },
        }
    }
}

/// An error and all that caused it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

/// An image as its registry describes it.
struct Described {
    entry: Descriptor,
    bytes: Vec<u8>,
    manifest: Manifest,
}

impl Registries {
    /// Registries reached in this way.
    pub fn new(config: RegistriesConfig) -> Self {
        Self { config }
    }

    /// The same registries, for whom [Linux images](RegistriesConfig::linux) are of use or not.
    #[must_use]
    pub fn with_linux(mut self, linux: bool) -> Self {
        self.config.linux = linux;
        self
    }

    /// Whether Linux images are pulled.
    pub fn takes_linux(&self) -> bool {
        self.config.linux
    }

    /// Brings an image into the store. Each of `credentials` is tried in turn, and at last nobody's.
    ///
    /// An image that the registry has unchanged costs one request.
    pub async fn pull(
        &self,
        store: &ImageStore,
        reference: &str,
        credentials: &[Credential],
        progress: &dyn Progress,
    ) -> Result<Image, TransferError> {
        let reference: Reference = reference.parse()?;
        let nobody = [Credential::anonymous()];
        let mut refused = None;
        for endpoint in Endpoint::of(&self.config, &reference) {
            for credential in credentials.iter().chain(&nobody) {
                let pulled = self.pull_from(&endpoint, credential, store, &reference, progress);
                match pulled.await {
                    Ok(image) => return Ok(image),
                    Err(error) => {
                        let access = error.is_about_access();
                        // What the registry itself says last is what counts, unless it is that nobody may.
                        refused = Some(keep(refused, error));
                        if !access {
                            break;
                        }
                    }
                }
            }
        }
        Err(refused.unwrap_or(TransferError::Absent(reference.to_string())))
    }

    async fn pull_from(
        &self,
        endpoint: &Endpoint,
        credential: &Credential,
        store: &ImageStore,
        reference: &Reference,
        progress: &dyn Progress,
    ) -> Result<Image, TransferError> {
        let from = endpoint.open(&self.config, reference, &credential.0);
        let from = from.await?;
        let described = describe(&from, endpoint, reference).await?;
        let parts = described.manifest.parts();
        let size = parts
            .iter()
            .fold(0_u64, |sum, part| sum.saturating_add(part.size));
        let limit = self.config.max_image_bytes;
        if size > limit {
            let reference = reference.to_string();
            return Err(TransferError::TooLarge {
                reference,
                size,
                limit,
            });
        }
        let missing: Vec<Descriptor> = parts
            .into_iter()
            .filter(|part| !store.has_blob(part))
            .cloned()
            .collect();
        let left = |part: &Descriptor| part.size.saturating_sub(store.begun(part));
        progress.begin(missing.iter().map(left).sum());
        let incoming = download::Incoming {
            from: &from,
            named: reference,
            progress,
        };
        // It says what the rest is for, and is small.
        small(reference, described.manifest.config.size)?;
        incoming
            .blob(store, described.manifest.config.clone())
            .await?;
        let contents = store.contents(&reference.to_string(), &described.manifest)?;
        if !self.config.linux && contents.is_linux() {
            return Err(TransferError::Store(ImageError::Linux {
                reference: reference.to_string(),
            }));
        }
        stream::iter(missing)
            .map(|part| incoming.blob(store, part))
            .buffer_unordered(AT_A_TIME)
            .try_collect::<()>()
            .await?;
        let (store, reference) = (store.clone(), reference.clone());
        let put = move || store.put(&reference, &described.entry, &described.bytes);
        match tokio::task::spawn_blocking(put).await {
            Ok(put) => Ok(put?),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

/// Which of two refusals tells more: "not found" by somebody is more than "who are you?" by nobody.
fn keep(before: Option<TransferError>, now: TransferError) -> TransferError {
    match (before, now) {
        (Some(before), TransferError::Unauthorized { .. }) => before,
        (_, now) => now,
    }
}

/// What only tells the documents apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
}

/// Asks for the image's manifest: the one for this machine, where there are several.
async fn describe(
    from: &Repository,
    endpoint: &Endpoint,
    reference: &Reference,
) -> Result<Described, TransferError> {
    let (tag, digest) = (endpoint.reference.tag(), endpoint.reference.digest());
    let bytes = document(from, digest.or(tag).unwrap_or("latest"), reference).await?;
    let nonsense = |error: serde_json::Error| TransferError::Registry {
        reference: reference.to_string(),
        reason: format!("the registry's manifest makes no sense: {error}"),
    };
    let kind: Document = serde_json::from_slice(&bytes).map_err(nonsense)?;
    let is_index = match &kind.media_type {
        Some(media_type) => media::is_index(media_type),
        None => kind.manifests.is_some(),
    };
    let mut index_digest = None;
    let bytes = if is_index {
        index_digest = Some(Digest::of(&bytes));
        let index: platform::Index = serde_json::from_slice(&bytes).map_err(nonsense)?;
        let chosen = index.choose(|_| true);
        let chosen = chosen.ok_or_else(|| TransferError::Platform {
            reference: reference.to_string(),
            found: index.platforms(),
        })?;
        document(from, &chosen.digest, reference).await?
    } else {
        bytes
    };
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(nonsense)?;
    let media_type = manifest.media_type.as_deref();
    let mut entry = Descriptor::of(media_type.unwrap_or(crate::layout::MANIFEST_TYPE), &bytes);
    entry.chosen_from(index_digest);
    Ok(Described {
        entry,
        bytes,
        manifest,
    })
}

/// A manifest or index by tag or digest. By digest, it is nothing else.
async fn document(
    from: &Repository,
    asked: &str,
    reference: &Reference,
) -> Result<Vec<u8>, TransferError> {
    let read = from.manifest(asked, &media::ACCEPTED, MAX_DOCUMENT).await;
    let bytes = read.map_err(|error| TransferError::of(reference, error))?;
    if !asked.contains(':') {
        return Ok(bytes);
    }
    let digest: Digest = asked.parse().map_err(|_| TransferError::Registry {
        reference: reference.to_string(),
        reason: "only digests of the kind sha256 are known".to_owned(),
    })?;
    if Digest::of(&bytes) == digest {
        return Ok(bytes);
    }
    Err(TransferError::Content {
        reference: reference.to_string(),
        digest,
    })
}

/// Refuses what is larger than documents are.
fn small(reference: &Reference, size: u64) -> Result<(), TransferError> {
    if size <= MAX_DOCUMENT {
        return Ok(());
    }
    Err(TransferError::TooLarge {
        reference: reference.to_string(),
        size,
        limit: MAX_DOCUMENT,
    })
}
