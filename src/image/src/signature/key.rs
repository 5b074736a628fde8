//! Public keys.

use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use x509_parser::{
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ED25519},
    prelude::FromDer as _,
    x509::SubjectPublicKeyInfo,
};

use super::SignerError;

/// The public half of a key pair: ECDSA on P-256 with SHA-256, or Ed25519.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: Algorithm,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    P256,
    Ed25519,
}

impl PublicKey {
    /// Reads a key as `cosign public-key` and `openssl pkey -pubout` write it (`BEGIN PUBLIC KEY`).
    pub fn from_pem(pem: &[u8]) -> Result<Self, SignerError> {
        let what = "public key";
        let key =
            SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| SignerError::Pem { what })?;
        let (_, key) =
            SubjectPublicKeyInfo::from_der(&key).map_err(|_| SignerError::Pem { what })?;
        Self::of(&key)
    }

    pub(super) fn of(key: &SubjectPublicKeyInfo<'_>) -> Result<Self, SignerError> {
        let kind = &key.algorithm;
        let curve = kind.parameters.as_ref().and_then(|any| any.as_oid().ok());
        let algorithm = if kind.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
            && curve.as_ref() == Some(&OID_EC_P256)
        {
            Algorithm::P256
        } else if kind.algorithm == OID_SIG_ED25519 {
            Algorithm::Ed25519
        } else {
            return Err(SignerError::Algorithm);
        };
        Ok(Self {
            algorithm,
            bytes: key.subject_public_key.data.to_vec(),
        })
    }

    /// Whether a signature of a message was made with this key.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn VerificationAlgorithm = match self.algorithm {
            Algorithm::P256 => &ECDSA_P256_SHA256_ASN1,
            Algorithm::Ed25519 => &ED25519,
        };
        let key = UnparsedPublicKey::new(algorithm, &self.bytes);
        key.verify(message, signature).is_ok()
    }
}
