//! Tokens of service accounts: JSON Web Tokens (RFC 7519), signed by ES256.
//!
//! A [`SigningKey`] makes them, a [`Verifier`] says whose they are. A token is good only as long as what it is bound to
//! lives: the service account, and the pod, node or secret that it was asked for.

mod claims;
mod issue;
mod key;
mod verify;

pub use claims::{Bound, BoundObject, Claims, Reference};
pub use issue::{MAX_SECONDS, MIN_SECONDS, Request};
pub use key::{KeyError, SignError, SigningKey};
pub use verify::{Live, Lookup, TokenError, Verified, Verifier};

/// Who issues tokens, unless a cluster is set up otherwise; also the audience of a token that asks for none.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

#[cfg(test)]
mod tests;
