//! Whose a token is, and whether it still is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    Bound, Claims, Reference, SigningKey,
    claims::{Legacy, Private},
};
use crate::{User, service_account_name, user::split_service_account};

/// Who issues the tokens that are kept in secrets.
pub(super) const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// How far clocks may be apart.
const LEEWAY: i64 = 60;
/// How long a token is good after its object has begun to go: a pod that shuts down still has to say things.
const AFTER_DELETION: i64 = 60;
/// How many tokens are remembered whose signature was right.
const REMEMBERED: usize = 1024;
/// The longest token that is looked at; ours have under two thousand characters.
const MAX_TOKEN: usize = 16 << 10;

/// An object that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// Its uid.
    pub uid: String,
    /// Since when it is being deleted, in seconds since 1970.
    pub deleted: Option<i64>,
}

/// Looks up what tokens are bound to.
pub trait Lookup {
    /// The object as it is now. `namespace` is empty for nodes.
    fn find(&self, kind: Bound, namespace: &str, name: &str) -> Option<Live>;
    /// The token in the secret, if it is one of type `kubernetes.io/service-account-token`.
    fn secret_token(&self, namespace: &str, name: &str) -> Option<Vec<u8>>;
}

/// Why a token proves nothing. The texts are those that token reviews show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not signed by us.
    #[error("invalid signature")]
    Signature,
    /// Its claims cannot be read, or do not say what they must.
    #[error("claims of the token could not be understood")]
    Claims,
    /// It is not for any of those who may take it.
    #[error("token audiences {token} is invalid for the target audiences {wanted}")]
    Audience {
        /// For whom it is.
        token: String,
        /// Who may take it.
        wanted: String,
    },
    /// Its time has not come.
    #[error("service account token is not valid yet")]
    NotYet,
    /// Its time is over.
    #[error("service account token has expired")]
    Expired,
    /// What it is bound to is gone, or is another by now.
    #[error("service account token has been invalidated")]
    Invalidated,
}

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The service account's user.
    pub user: User,
    /// Of the wanted audiences, those that it is for. Empty for a token in a secret, which is for everybody.
    pub audiences: Vec<String>,
    /// From when on its use is worth a warning, in seconds since 1970.
    pub warn_after: Option<i64>,
}

/// Says whose tokens are.
#[derive(Debug)]
pub struct Verifier {
    key: SigningKey,
    issuer: String,
    /// What tokens say whose signature was right, by their digest. A signature stays right; everything else about a token
    /// is looked at each time.
    signed: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl Verifier {
    /// Verifies what `key` has signed in the name of `issuer`.
    pub fn new(key: SigningKey, issuer: String) -> Self {
        Self {
            key,
            issuer,
            signed: Mutex::default(),
        }
    }

    /// Whose `token` is. `None` if it does not even claim to come from us, so that others may know it. `wanted` are the
    /// audiences of which it must be for one; `now` is in seconds since 1970.
    pub fn verify(
        &self,
        token: &str,
        wanted: &[String],
        now: i64,
        objects: &dyn Lookup,
    ) -> Option<Result<Verified, TokenError>> {
        let issuer = claimed_issuer(token)?;
        if issuer == self.issuer {
            Some(self.verify_bound(token, wanted, now, objects))
        } else if issuer == LEGACY_ISSUER {
            Some(self.verify_legacy(token, now, objects))
        } else {
            None
        }
    }

    /// The claims of a token that we have signed.
    fn claims(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known = || self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claims) = known().get(&digest) {
            return Ok(claims.clone());
        }
        let claims = Arc::new(self.decode(token)?);
        let mut known = known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(digest, claims.clone());
        Ok(claims)
    }

    fn decode(&self, token: &str) -> Result<Claims, TokenError> {
        let mut validation = Validation::new(Algorithm::ES256);
        // Times and audiences are looked at below, where they have their own errors.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        jsonwebtoken::decode(token, &self.key.verifying, &validation)
            .map(|decoded| decoded.claims)
            .map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::Json(_) => TokenError::Claims,
                _ => TokenError::Signature,
            })
    }

    fn verify_bound(
        &self,
        token: &str,
        wanted: &[String],
        now: i64,
        objects: &dyn Lookup,
    ) -> Result<Verified, TokenError> {
        let claims = self.claims(token)?;
        let audiences: Vec<String> = wanted
            .iter()
            .filter(|audience| claims.aud.contains(audience))
            .cloned()
            .collect();
        if audiences.is_empty() {
            return Err(TokenError::Audience {
                token: quoted(&claims.aud),
                wanted: quoted(wanted),
            });
        }
        let exp = claims.exp.ok_or(TokenError::Claims)?;
        if now > exp.saturating_add(LEEWAY) {
            return Err(TokenError::Expired);
        }
        if claims
            .nbf
            .is_some_and(|nbf| now < nbf.saturating_sub(LEEWAY))
        {
            return Err(TokenError::NotYet);
        }
        let user = user_of(&claims, now, objects)?;
        Ok(Verified {
            user,
            audiences,
            warn_after: claims.kubernetes.warnafter,
        })
    }

    fn verify_legacy(
        &self,
        token: &str,
        now: i64,
        objects: &dyn Lookup,
    ) -> Result<Verified, TokenError> {
        let claims = self.claims(token)?;
        let Legacy {
            namespace: Some(namespace),
            secret: Some(secret),
            account: Some(account),
            uid: Some(uid),
        } = claims.legacy.clone()
        else {
            return Err(TokenError::Claims);
        };
        if claims.sub != service_account_name(&namespace, &account) {
            return Err(TokenError::Claims);
        }
        let kept = objects
            .secret_token(&namespace, &secret)
            .unwrap_or_default();
        if !bool::from(kept.ct_eq(token.as_bytes())) {
            return Err(TokenError::Invalidated);
        }
        let account = Reference { name: account, uid };
        must_live(Bound::ServiceAccount, &namespace, &account, now, objects)?;
        Ok(Verified {
            user: User::service_account(&namespace, &account.name, &account.uid),
            audiences: Vec::new(),
            warn_after: None,
        })
    }
}

/// The user that the claims name, if everything that they are bound to still lives.
fn user_of(claims: &Claims, now: i64, objects: &dyn Lookup) -> Result<User, TokenError> {
    let Private {
        namespace,
        node,
        pod,
        secret,
        serviceaccount,
        ..
    } = &claims.kubernetes;
    let account = serviceaccount.as_ref().ok_or(TokenError::Claims)?;
    if split_service_account(&claims.sub) != Some((namespace, &account.name)) {
        return Err(TokenError::Claims);
    }
    must_live(Bound::ServiceAccount, namespace, account, now, objects)?;
    let mut user = User::service_account(namespace, &account.name, &account.uid);
    if let Some(secret) = secret {
        must_live(Bound::Secret, namespace, secret, now, objects)?;
    }
    if let Some(pod) = pod {
        must_live(Bound::Pod, namespace, pod, now, objects)?;
        user = user
            .with_extra("authentication.kubernetes.io/pod-name", &pod.name)
            .with_extra("authentication.kubernetes.io/pod-uid", &pod.uid);
    }
    if let Some(node) = node {
        // The pod vouches for its node: it may outlive the node's object.
        if pod.is_none() {
            must_live(Bound::Node, "", node, now, objects)?;
        }
        user = user.with_extra("authentication.kubernetes.io/node-name", &node.name);
        if !node.uid.is_empty() {
            user = user.with_extra("authentication.kubernetes.io/node-uid", &node.uid);
        }
    }
    Ok(match claims.jti.as_str() {
        "" => user,
        id => user.with_token_id(id),
    })
}

fn must_live(
    kind: Bound,
    namespace: &str,
    wanted: &Reference,
    now: i64,
    objects: &dyn Lookup,
) -> Result<(), TokenError> {
    let live = objects
        .find(kind, namespace, &wanted.name)
        .ok_or(TokenError::Invalidated)?;
    let is_going = live
        .deleted
        .is_some_and(|deleted| now > deleted.saturating_add(AFTER_DELETION));
    if live.uid != wanted.uid || is_going {
        return Err(TokenError::Invalidated);
    }
    Ok(())
}

/// Who issued a token, as it says itself.
fn claimed_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    if token.len() > MAX_TOKEN {
        return None;
    }
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    serde_json::from_slice::<Issuer>(&claims)
        .ok()
        .map(|claims| claims.iss)
}

fn quoted(list: &[String]) -> String {
    crate::rbac::quoted(list)
}
