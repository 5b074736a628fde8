//! Names of content.

use std::{fmt, ops::Deref, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const PREFIX: &str = "sha256:";

/// The name of content by what it is: `sha256:` and 64 lower-case hexadecimal digits, as OCI writes it. Reads as a
/// string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Sha256::new_with_prefix(bytes))
    }

    /// The digest of all that went into a hash.
    pub(crate) fn from_hash(hash: Sha256) -> Self {
        use fmt::Write as _;
        let mut text = String::with_capacity(PREFIX.len() + 64);
        text.push_str(PREFIX);
        for byte in hash.finalize() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// The 64 hexadecimal digits: the name of the file that holds the content.
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }
}

/// A string that is no SHA-256 digest. Other algorithms are not supported.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0:?} is no SHA-256 digest")]
pub struct NotADigest(String);

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        text.to_owned().try_into()
    }
}

/// The one way in from outside: a digest becomes a file's name, so nothing but hexadecimal digits may pass.
impl TryFrom<String> for Digest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, NotADigest> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match text.strip_prefix(PREFIX) {
            Some(hex) if hex.len() == 64 && hex.bytes().all(is_digit) => Ok(Self(text)),
            _ => Err(NotADigest(text.chars().take(128).collect())),
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl Deref for Digest {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_named_as_everywhere_else() {
        let digest = Digest::of(b"");
        assert_eq!(
            digest.to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(digest.parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn what_is_no_digest_never_becomes_a_path() {
        let hex = "e".repeat(64);
        for text in [
            "",
            "sha256:",
            "sha256:../../../etc/passwd",
            &hex,
            &format!("sha512:{hex}"),
            &format!("sha256:{}", hex.to_uppercase()),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
