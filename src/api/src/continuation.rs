//! The `continue` token of a list: where the next page begins, and of which revision.
//!
//! Opaque to clients, though anybody could make one: it says no more than where in a list to go on, and the list's own
//! scope and revision checks hold for it as for any other request. So tokens are good across restarts, and at any of
//! several servers of one store.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

/// What every key begins with, and tokens leave out.
pub const ROOT: &[u8] = b"/registry/";
/// The longest token that is looked at.
const MAX_LENGTH: usize = 4096;
/// What tokens of this form are marked by.
const VERSION: &str = "meta.k8s.io/v1";

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    /// The revision of the whole list; `None` for what is there now, whatever the pages before were of.
    pub revision: Option<u64>,
    /// The last key of the page before.
    pub after: Vec<u8>,
}

/// The token as JSON.
#[derive(Serialize, Deserialize)]
struct Wire {
    v: String,
    /// The revision, or -1.
    rv: i64,
    /// The key, without what all keys begin with.
    start: String,
}

/// The token does not say where to go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid continue token: continue key is not valid: {0}")]
pub struct BadToken(String);

impl Continuation {
    /// The token.
    pub fn token(&self) -> String {
        let key = self.after.strip_prefix(ROOT).unwrap_or(&self.after);
        let wire = Wire {
            v: VERSION.to_owned(),
            rv: self
                .revision
                .map_or(-1, |revision| i64::try_from(revision).unwrap_or(i64::MAX)),
            start: String::from_utf8_lossy(key).into_owned(),
        };
        // Strings and numbers have no way to fail.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wire).unwrap_or_default())
    }

    /// Reads a token.
    pub fn read(token: &str) -> Result<Self, BadToken> {
        let bad = |why: &dyn std::fmt::Display| BadToken(why.to_string());
        if token.len() > MAX_LENGTH {
            return Err(bad(&"it is too long"));
        }
        let token = token.trim_end_matches('=');
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|error| bad(&error))?;
        let wire: Wire = serde_json::from_slice(&bytes).map_err(|error| bad(&error))?;
        if wire.v != VERSION {
            let version = &wire.v;
            return Err(bad(&format_args!(
                "server does not recognize this encoded version {version:?}"
            )));
        }
        let revision = match wire.rv {
            -1 => None,
            1.. => Some(wire.rv.unsigned_abs()),
            _ => {
                return Err(bad(&format_args!(
                    "incorrect encoded start resourceVersion (version {VERSION})"
                )));
            }
        };
        if wire.start.is_empty() {
            return Err(bad(&format_args!(
                "encoded start key empty (version {VERSION})"
            )));
        }
        let after = [ROOT, wire.start.as_bytes()].concat();
        Ok(Self { revision, after })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_token_is_refused() {
        let token = |json: &str| URL_SAFE_NO_PAD.encode(json);
        for (bad, why) in [
            (token("{}"), "missing field"),
            (token(r#"{"v":"v9","rv":1,"start":"a"}"#), "recognize"),
            (
                token(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#),
                "incorrect encoded start resourceVersion",
            ),
            (
                token(r#"{"v":"meta.k8s.io/v1","rv":-2,"start":"a"}"#),
                "incorrect encoded start resourceVersion",
            ),
            (
                token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#),
                "encoded start key empty",
            ),
            ("not base64!".to_owned(), "symbol"),
            ("A".repeat(10_000), "too long"),
        ] {
            let error = Continuation::read(&bad).unwrap_err().to_string();
            let start = "invalid continue token: continue key is not valid: ";
            assert!(error.starts_with(start) && error.contains(why), "{error}");
        }
    }

    proptest! {
        #[test]
        fn tokens_come_back(revision in proptest::option::of(1..=i64::MAX), key in "[a-z0-9./-]{1,60}") {
            let continuation = Continuation {
                revision: revision.map(i64::unsigned_abs),
                after: [ROOT, key.as_bytes()].concat(),
            };
            prop_assert_eq!(Continuation::read(&continuation.token()), Ok(continuation));
        }

        #[test]
        fn no_token_panics(token in "\\PC{0,80}") {
            let _ = Continuation::read(&token);
            let _ = Continuation::read(&URL_SAFE_NO_PAD.encode(token));
        }
    }
}
