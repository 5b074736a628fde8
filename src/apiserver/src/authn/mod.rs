//! Who makes a request.
//!
//! Tried in this order: a [`User`] that code of this process put into the request's extensions (an in-process client,
//! or the connection, whose client certificate the handshake has verified); a bearer token; nobody, which is
//! `system:anonymous`. A bearer token may be one that was configured (the administrator's), a service account's or a
//! bootstrap token. One that is not known is refused with 401 instead of being treated as nobody, so that a mistake in a
//! kubeconfig shows as what it is.
//!
//! Whoever is known may then act as somebody else, if they are allowed to: see [`impersonate`].

pub(crate) mod impersonate;
pub(crate) mod tokens;

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{
    HeaderMap,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
    request::Parts,
};
use sha2::{Digest as _, Sha256};
use vaquita_streams::handshake::{self, Upgrade};

pub use vaquita_auth::User;

use crate::server::Server;

/// What the protocol begins with that is a token.
const PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// A bearer token was given, but nobody has it.
#[derive(Debug, thiserror::Error)]
#[error("Unauthorized")]
pub struct Unauthorized;

/// Knows the bearer tokens.
///
/// Only digests are kept, and all of them are compared in full: neither the time of an answer nor a look into memory
/// gives a token away.
#[derive(Debug, Default)]
pub struct Authenticator {
    tokens: Vec<([u8; 32], User)>,
}

impl Authenticator {
    /// An authenticator that knows no token.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `token` stand for `user`. An empty token is ignored.
    #[must_use]
    pub fn with_token(mut self, token: &str, user: User) -> Self {
        if !token.is_empty() {
            self.tokens.push((Sha256::digest(token).into(), user));
        }
        self
    }

    pub(crate) fn by_token(&self, token: &[u8]) -> Option<User> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        for (known, user) in &self.tokens {
            let difference = known
                .iter()
                .zip(&digest)
                .fold(0, |sum, (a, b)| sum | (a ^ b));
            if std::hint::black_box(difference) == 0 {
                found = Some(user.clone());
            }
        }
        found
    }
}

impl Server {
    /// Who makes a request.
    pub(crate) fn authenticate(&self, parts: &Parts) -> Result<User, Unauthorized> {
        if let Some(user) = parts.extensions.get::<User>() {
            return Ok(user.clone());
        }
        let token = bearer_token(&parts.headers).map(Cow::Borrowed);
        match token.or_else(|| protocol_token(&parts.headers).map(Cow::Owned)) {
            Some(token) => self.by_bearer_token(&token).ok_or(Unauthorized),
            None => Ok(User::anonymous()),
        }
    }

    /// Whose a bearer token is that is used with this API.
    fn by_bearer_token(&self, token: &[u8]) -> Option<User> {
        if let Some(user) = self.authenticator.by_token(token) {
            return Some(user);
        }
        let token = std::str::from_utf8(token).ok()?;
        let audiences = self.access.audiences();
        match self.review_token(token, audiences) {
            Ok(known) => known.map(|known| known.user),
            Err(error) => {
                tracing::debug!(%error, "a service account's token is refused");
                None
            }
        }
    }
}

/// The token that a WebSocket client names as one of its protocols: a browser cannot set other headers.
fn protocol_token(headers: &HeaderMap) -> Option<Vec<u8>> {
    if handshake::upgrade(headers) != Some(Upgrade::WebSocket) {
        return None;
    }
    let protocols = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    let token = protocols
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix(PROTOCOL))?;
    // What is no base64 is no token that we know.
    Some(URL_SAFE_NO_PAD.decode(token).unwrap_or_default())
}

/// The token of an `Authorization: Bearer` header (RFC 6750); `None` for another scheme.
fn bearer_token(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes().trim_ascii();
    let (scheme, token) = value.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(authorization: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization.parse().unwrap());
        headers
    }

    #[test]
    fn a_known_token_names_its_user() {
        let admin = User::in_process("admin");
        let known = Authenticator::new().with_token("s3cret", admin.clone());
        assert_eq!(known.by_token(b"s3cret"), Some(admin.clone()));
        assert_eq!(known.by_token(b"s3cre"), None);
        let empty = Authenticator::new().with_token("", admin);
        assert_eq!(empty.by_token(b""), None);
    }

    #[test]
    fn bearer_tokens_are_found_and_other_schemes_are_not() {
        let found = |value: &str| bearer_token(&header(value)).map(<[u8]>::to_vec);
        assert_eq!(found("bearer  abc "), Some(b"abc".to_vec()));
        for nothing in ["Basic YTpi", "Bearer ", "Bearer"] {
            assert_eq!(found(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_browser_names_its_token_as_a_protocol() {
        let mut headers = HeaderMap::new();
        let protocols = format!("v4.channel.k8s.io, {PROTOCOL}YWJj");
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocols.parse().unwrap());
        assert_eq!(protocol_token(&headers), None);
        headers.insert("connection", "Upgrade".parse().unwrap());
        headers.insert("upgrade", "websocket".parse().unwrap());
        assert_eq!(protocol_token(&headers), Some(b"abc".to_vec()));
    }
}
