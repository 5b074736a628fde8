//! One image for several platforms: which one is meant here.

use std::fmt;

use serde::Deserialize;

use crate::{config::is_wasm, layout::Descriptor, media};

/// A list of manifests, one for each platform.
#[derive(Deserialize)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<IndexEntry>,
}

#[derive(Deserialize)]
pub(crate) struct IndexEntry {
    #[serde(flatten)]
    pub(crate) descriptor: Descriptor,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Platform {
    architecture: String,
    os: String,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

impl Index {
    /// The entry to take of those that there are: one for WebAssembly if there is one, else one for this machine's own kind.
    pub(crate) fn choose(&self, there: impl Fn(&Descriptor) -> bool) -> Option<Descriptor> {
        let own = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let rank = |entry: &IndexEntry| match &entry.platform {
            Some(platform) if is_wasm(&platform.os, &platform.architecture) => Some(0),
            Some(platform) if platform.os == "linux" && platform.architecture == own => Some(1),
            // Whoever lists a single image without its platform means it for all.
            None if media::is_manifest(&entry.descriptor.media_type) => Some(2),
            _ => None,
        };
        let there = self
            .manifests
            .iter()
            .filter(|entry| there(&entry.descriptor));
        let best = there
            .filter_map(|entry| Some((rank(entry)?, entry)))
            .min_by_key(|(rank, _)| *rank);
        best.map(|(_, entry)| entry.descriptor.clone())
    }

    /// Which platforms there are, for people.
    pub(crate) fn platforms(&self) -> String {
        let platforms = self.manifests.iter();
        let platforms = platforms.filter_map(|entry| entry.platform.as_ref());
        let platforms: Vec<String> = platforms
            .take(16)
            .map(|platform| platform.to_string().chars().take(64).collect())
            .collect();
        platforms.join(", ")
    }
}
