//! The key that signs tokens, and its public half for those who verify them elsewhere.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    Claims,
    claims::{Legacy, Private},
};
use crate::service_account_name;

/// Why a text is no signing key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is no private key in PEM (PKCS #8).
    #[error("it is no private key: {0}")]
    Pem(#[from] rcgen::Error),
    /// It is a key, but not of ECDSA on P-256.
    #[error("it is not an ECDSA key on P-256")]
    Algorithm,
    /// The library that signs tokens refused it.
    #[error("it cannot sign tokens: {0}")]
    Unusable(#[from] jsonwebtoken::errors::Error),
}

/// A token could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign a token: {0}")]
pub struct SignError(#[from] jsonwebtoken::errors::Error);

/// A key of ECDSA on P-256, by which tokens are signed and verified.
#[derive(Clone)]
pub struct SigningKey {
    signing: EncodingKey,
    pub(super) verifying: DecodingKey,
    /// The name of the key in a token's header.
    pub(super) id: String,
    x: String,
    y: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The public key as a point that is not compressed: 4, then both coordinates.
const POINT: usize = 65;

impl SigningKey {
    /// A new key, and its PEM.
    pub fn generate() -> Result<(Self, String), KeyError> {
        let pem = KeyPair::generate()?.serialize_pem();
        Ok((Self::from_pem(&pem)?, pem))
    }

    /// The key in a PEM of one `PRIVATE KEY` block (PKCS #8).
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let pair = KeyPair::from_pem(pem)?;
        let (x, y) = match pair.public_key_raw() {
            [4, point @ ..] if point.len() + 1 == POINT => point.split_at(POINT / 2),
            _ => return Err(KeyError::Algorithm),
        };
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        Ok(Self {
            signing: EncodingKey::from_ec_pem(pem.as_bytes())?,
            verifying: DecodingKey::from_ec_components(&x, &y)?,
            id: URL_SAFE_NO_PAD.encode(Sha256::digest(pair.subject_public_key_info())),
            x,
            y,
        })
    }

    /// The token that says `claims`.
    pub fn sign(&self, claims: &Claims) -> Result<String, SignError> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.id.clone());
        Ok(jsonwebtoken::encode(&header, claims, &self.signing)?)
    }

    /// A token without an end for the account `name` with this uid, which is good as long as it is kept in `secret`.
    pub fn sign_for_secret(
        &self,
        namespace: &str,
        secret: &str,
        name: &str,
        uid: &str,
    ) -> Result<String, SignError> {
        let said = |text: &str| Some(text.to_owned());
        self.sign(&Claims {
            aud: Vec::new(),
            exp: None,
            iat: None,
            iss: super::verify::LEGACY_ISSUER.to_owned(),
            jti: String::new(),
            kubernetes: Private::default(),
            nbf: None,
            sub: service_account_name(namespace, name),
            legacy: Legacy {
                namespace: said(namespace),
                secret: said(secret),
                account: said(name),
                uid: said(uid),
            },
        })
    }

    /// The public half as a JSON Web Key Set (RFC 7517).
    pub fn jwks(&self) -> Value {
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256", "x": self.x, "y": self.y,
        }]})
    }
}
