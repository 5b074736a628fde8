//! Names of images.

use std::{fmt, str::FromStr};

use oci_distribution as oci;

/// The longest name that is looked at, in bytes: registry, repository (255), tag (128) and digest with room to spare.
const MAX_BYTES: usize = 1024;

/// An image's full name: `registry/repository:tag`, `…@digest`, or both.
///
/// Short names mean what they mean to Docker: `hello` is `docker.io/library/hello:latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference(oci::Reference);

/// A string that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no image name: {reason}")]
pub struct ReferenceError {
    /// The string, cut after 128 characters.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Reference {
    /// The tag, `latest` if the name had neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// The digest, if the name has one.
    pub fn digest(&self) -> Option<&str> {
        self.0.digest()
    }

    pub(crate) fn as_oci(&self) -> &oci::Reference {
        &self.0
    }

    /// `registry/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.0.registry(), self.0.repository())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let refused = |reason: String| ReferenceError {
            text: text.chars().take(128).collect(),
            reason,
        };
        if text.len() > MAX_BYTES {
            return Err(refused(format!("longer than {MAX_BYTES} bytes")));
        }
        text.parse()
            .map(Self)
            .map_err(|error: oci::ParseError| refused(error.to_string()))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.whole())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed() {
        for (short, full) in [
            ("hello", "docker.io/library/hello:latest"),
            ("team/hello:v1", "docker.io/team/hello:v1"),
            ("localhost/hello:v1", "localhost/hello:v1"),
            ("localhost:5000/hello", "localhost:5000/hello:latest"),
            ("index.docker.io/hello", "docker.io/library/hello:latest"),
        ] {
            assert_eq!(short.parse::<Reference>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_text() {
        for text in [
            "",
            "Not A Name",
            "UPPER",
            "a:b:c",
            "-",
            "a@sha256:12",
            &"a/".repeat(600),
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert!(!error.reason.is_empty(), "{text}");
        }
        let error = "Not A Name".parse::<Reference>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"Not A Name\" is no image name: invalid reference format"
        );
    }
}
