//! Who has signed an image: signatures as `cosign` makes them, checked against given keys and identities, without asking anybody
//! else than the image's own registry.
//!
//! Enter at [`Registries::verify`](crate::Registries::verify). What is checked:
//!
//! - that a signature speaks of this image: of its manifest's digest, or of that of the index that it was chosen from;
//! - that it was made by one of the [`Signer`]s: with a [key](PublicKey), or by an [identity](Identity) that a certificate
//!   stands for.
//!
//! Signatures are found where cosign puts them: under the tag `sha256-<digest>.sig` ("simple signing"), and as bundles that
//! refer to the image.

mod identity;
mod key;
mod statement;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use crate::{Digest, TransferError};

pub use identity::{Identity, IdentityConfig};
pub use key::PublicKey;
pub(crate) use statement::{BUNDLE_TYPES, Evidence, PAYLOAD_TYPE, bundle, simple_signing};

/// Somebody whose signature counts.
#[derive(Debug, Clone)]
pub enum Signer {
    /// Whoever has the private half of a key.
    Key(PublicKey),
    /// Whom certificates name.
    Identity(Box<Identity>),
}

/// What is no key or identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignerError {
    /// It is not in the form that it should be.
    #[error("no {what} in PEM")]
    Pem {
        /// What was expected.
        what: &'static str,
    },
    /// A key of another algorithm.
    #[error("a key of an algorithm that is not supported: ECDSA on P-256 and Ed25519 are")]
    Algorithm,
    /// A certificate that makes no sense.
    #[error("a certificate that makes no sense")]
    Certificate,
    /// An identity that anybody has.
    #[error("an identity without a subject and the issuer that vouches for it")]
    Nobody,
}

/// Why an image's signature does not count.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// There is none.
    #[error("{reference}: the image is not signed")]
    Unsigned {
        /// The image.
        reference: String,
    },
    /// None is by somebody who counts.
    #[error("{reference}: no valid signature: {reason}")]
    Refused {
        /// The image.
        reference: String,
        /// What is wrong with those that there are.
        reason: String,
    },
    /// It could not be found out.
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

/// Whether one of the signers has signed one of these digests, by this evidence. Otherwise, why not.
pub(crate) fn check(
    evidence: &Evidence,
    digests: &[&Digest],
    signers: &[Signer],
    now: SystemTime,
) -> Result<(), String> {
    if !digests.iter().any(|digest| evidence.is_about(digest)) {
        return Err("it speaks of another image".to_owned());
    }
    let mut reason = "nobody may sign".to_owned();
    for signer in signers {
        let checked = match signer {
            Signer::Key(key) => key
                .verify(&evidence.message, &evidence.signature)
                .then_some(())
                .ok_or_else(|| "it was not made with the key".to_owned()),
            Signer::Identity(identity) => identity.verify(evidence, now),
        };
        match checked {
            Ok(()) => return Ok(()),
            Err(why) => reason = why,
        }
    }
    Err(reason)
}
