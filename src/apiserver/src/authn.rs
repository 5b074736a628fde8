//! Who makes a request.
//!
//! Tried in this order: a [`User`] that code of this process put into the request's extensions (an in-process client,
//! or the connection, whose client certificate the handshake has verified); a bearer token; nobody, which is
//! `system:anonymous`. A token that is not known is refused with 401 instead of being treated as nobody, so that
//! a mistake in a kubeconfig shows as what it is.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, Request, header::AUTHORIZATION};
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

/// Group of those who may do everything.
pub const MASTERS: &str = "system:masters";
/// Group of everybody whom the API server knows.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group and name of those whom it does not.
const UNAUTHENTICATED: &str = "system:unauthenticated";
const ANONYMOUS: &str = "system:anonymous";

/// An authenticated caller, as a request extension. Whoever builds one is trusted: no header can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user's name, such as `kubernetes-admin` or `system:node:one`.
    pub name: Arc<str>,
    /// The groups it is in, such as `system:masters`.
    pub groups: Arc<[String]>,
    /// Further attributes by key, as authenticators of tokens hand them on.
    pub extra: Arc<BTreeMap<String, Vec<String>>>,
}

impl User {
    /// A user in `groups`; `system:authenticated` is added.
    pub fn new<G: Into<String>>(name: &str, groups: impl IntoIterator<Item = G>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self {
            name: name.into(),
            groups: groups.into(),
            extra: Arc::default(),
        }
    }

    /// A part of this process, or whoever else may do everything: `name` in group `system:masters`.
    pub fn in_process(name: &str) -> Self {
        Self::new(name, [MASTERS])
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.into(),
            groups: [UNAUTHENTICATED.to_owned()].into(),
            extra: Arc::default(),
        }
    }

    /// Whether the user is in `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The user of a client certificate that TLS has verified: its CN, in groups named by each O. `None` if it has no
    /// CN (the certificate then proves nothing that we could use).
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?;
        let groups = subject
            .iter_organization()
            .filter_map(|value| value.as_str().ok());
        Some(Self::new(name, groups))
    }
}

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

    /// Who makes `request`.
    pub fn authenticate<B>(&self, request: &Request<B>) -> Result<User, Unauthorized> {
        if let Some(user) = request.extensions().get::<User>() {
            return Ok(user.clone());
        }
        match bearer_token(request.headers()) {
            Some(token) => self.by_token(token).ok_or(Unauthorized),
            None => Ok(User::anonymous()),
        }
    }

    fn by_token(&self, token: &[u8]) -> Option<User> {
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
    use crate::pki::Pki;
    use rustls::pki_types::pem::PemObject as _;

    fn request(authorization: Option<&str>) -> Request<()> {
        let mut request = Request::builder();
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request.body(()).unwrap()
    }

    fn authenticator() -> Authenticator {
        Authenticator::new().with_token("s3cret", User::in_process("admin"))
    }

    #[test]
    fn a_known_token_names_its_user() {
        let user = authenticator()
            .authenticate(&request(Some("bearer s3cret")))
            .unwrap();
        assert_eq!(&*user.name, "admin");
        assert!(user.is_in(MASTERS) && user.is_in(AUTHENTICATED));
    }

    #[test]
    fn an_unknown_token_is_refused_and_no_token_is_nobody() {
        assert!(
            authenticator()
                .authenticate(&request(Some("Bearer wrong")))
                .is_err()
        );
        assert!(
            Authenticator::new()
                .with_token("", User::in_process("admin"))
                .by_token(b"")
                .is_none()
        );
        for nothing in [None, Some("Basic YTpi"), Some("Bearer "), Some("Bearer")] {
            let user = authenticator().authenticate(&request(nothing)).unwrap();
            assert_eq!(user, User::anonymous(), "{nothing:?}");
        }
    }

    #[test]
    fn a_user_of_this_process_goes_before_any_header() {
        let mut request = request(Some("Bearer wrong"));
        request
            .extensions_mut()
            .insert(User::new("system:node:one", ["system:nodes"]));
        let user = authenticator().authenticate(&request).unwrap();
        assert_eq!(&*user.name, "system:node:one");
    }

    #[test]
    fn a_certificate_names_user_and_group() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::load_or_create(dir.path(), &[]).unwrap();
        let der = CertificateDer::from_pem_slice(pki.admin().certificate.as_bytes()).unwrap();
        let user = User::from_certificate(&der).unwrap();
        assert_eq!(user, User::new("kubernetes-admin", [MASTERS]));
        assert!(User::from_certificate(&CertificateDer::from(vec![0x30, 0x82])).is_none());
    }
}
