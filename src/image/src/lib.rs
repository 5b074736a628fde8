//! OCI images: the local content store, and what kind of artifact an image is.
//!
//! Enter at [`ImageStore`]: a directory in the [OCI image layout], which other tools can read and write too. Any number
//! of processes may use one store at once; what one of them loads, the others see.
//!
//! A file of WebAssembly becomes an image by the [CNCF's artifact layout for Wasm][wasm]: a manifest with one layer,
//! which is the file itself. What runs an image follows from the first bytes of that layer ([`ImageKind`]).
//!
//! [`Registries`] brings images in and out. The store itself is synchronous and does file I/O under a lock: in asynchronous
//! code, call it by `spawn_blocking`.
//!
//! [OCI image layout]: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
//! [wasm]: https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/

mod archive;
mod config;
mod contents;
mod credentials;
mod digest;
mod error;
mod files;
mod ingest;
mod kind;
mod layers;
mod layout;
mod media;
mod platform;
mod reference;
mod registry;
mod signature;
mod store;
mod tarball;

pub use archive::{ArchiveError, ArchiveLimits, SaveError};
pub use config::StartConfig;
pub use credentials::{Credential, Credentials, CredentialsError};
pub use digest::Digest;
pub use error::{ImageError, LoadError};
pub use files::{FileSource, FilesLimits, ImageFiles, PlacedFile};
pub use kind::{ImageKind, NotWasm};
pub use layers::LayerError;
pub use reference::{Reference, ReferenceError};
pub use registry::{Progress, Registries, RegistriesConfig, Silent, TransferError};
pub use signature::{Identity, IdentityConfig, PublicKey, SignatureError, Signer, SignerError};
pub use store::{Image, ImageStore, MAX_MODULE_BYTES};
