//! The `continue` token of a list: where the next page begins, and of which revision.
//!
//! Opaque to clients, and sealed: a token that this server's process did not make, or that somebody has changed, is
//! refused. So a token never decides what the server reads beyond what its own list would have.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use vaquita_store::Revision;

/// Bytes of the seal.
const SEAL: usize = 16;
/// The longest token that is looked at.
const MAX_LENGTH: usize = 4096;

/// Sealing needs no key that outlives the process: after a restart, a client simply lists again.
static KEY: LazyLock<[u8; 32]> = LazyLock::new(rand::random);

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Continuation {
    /// The revision of the whole list.
    pub(crate) revision: Revision,
    /// The last key of the page before.
    pub(crate) after: Vec<u8>,
}

/// The token is not one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("continue key is not valid")]
pub(crate) struct BadToken;

impl Continuation {
    /// The token.
    pub(crate) fn seal(&self) -> String {
        let mut bytes = self.revision.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.after);
        let seal = seal(&bytes);
        bytes.extend_from_slice(&seal);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Opens a token.
    pub(crate) fn open(token: &str) -> Result<Self, BadToken> {
        if token.len() > MAX_LENGTH {
            return Err(BadToken);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| BadToken)?;
        let (content, given) = bytes.split_last_chunk::<SEAL>().ok_or(BadToken)?;
        let difference = seal(content)
            .iter()
            .zip(given)
            .fold(0, |sum, (a, b)| sum | (a ^ b));
        if std::hint::black_box(difference) != 0 {
            return Err(BadToken);
        }
        let (revision, after) = content.split_first_chunk::<8>().ok_or(BadToken)?;
        Ok(Self {
            revision: Revision::from_be_bytes(*revision),
            after: after.to_vec(),
        })
    }
}

/// A keyed digest. The key is hashed from both sides, so that a longer message cannot be made from a seal.
fn seal(content: &[u8]) -> [u8; SEAL] {
    let inner = Sha256::new()
        .chain_update(*KEY)
        .chain_update(content)
        .finalize();
    let outer = Sha256::new()
        .chain_update(inner)
        .chain_update(*KEY)
        .finalize();
    let mut seal = [0; SEAL];
    seal.copy_from_slice(&outer[..SEAL]);
    seal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_cannot_be_changed() {
        let continuation = Continuation {
            revision: 77,
            after: b"/registry/core/pods/a/b".to_vec(),
        };
        let token = continuation.seal();
        assert_eq!(Continuation::open(&token), Ok(continuation));
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(
                Continuation::open(std::str::from_utf8(&changed).unwrap()),
                Err(BadToken),
                "byte {at}"
            );
        }
        for bad in ["", "AAAA", "not base64!", &"A".repeat(10_000)] {
            assert_eq!(Continuation::open(bad), Err(BadToken), "{bad}");
        }
    }
}
