//! What an ordinary image says about itself: the platform that it is for, and how it wants to be started.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a container of an image starts with, where a pod says nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct StartConfig {
    /// The program and its first arguments.
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Arguments behind the entry point; the whole of the program, if there is none.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Variables, each as `NAME=value`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// The directory to start in; empty: the root.
    pub working_dir: String,
    /// Who runs it: a name or number, and a group behind a colon. Empty: the superuser.
    pub user: String,
    /// Whatever its author wanted to say.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
}

/// Nothing and `null` mean the same in these documents.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// The configuration of an image, as far as it matters here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ImageConfig {
    pub(crate) architecture: String,
    pub(crate) os: String,
    pub(crate) config: Option<StartConfig>,
}

impl ImageConfig {
    /// The platform, as `os/architecture`.
    pub(crate) fn platform(&self) -> String {
        format!("{}/{}", self.os, self.architecture)
    }

    /// Whether it is for WebAssembly, by what it calls its platform.
    pub(crate) fn is_wasm(&self) -> bool {
        is_wasm(&self.os, &self.architecture)
    }
}

/// Whether a platform is WebAssembly: `wasi/wasm`, `wasi/wasm32`, or `wasm` as an architecture of whatever system.
pub(crate) fn is_wasm(os: &str, architecture: &str) -> bool {
    matches!(architecture, "wasm" | "wasm32") || matches!(os, "wasi" | "wasip1" | "wasip2")
}

impl StartConfig {
    /// The file that is started, if the image says which.
    pub fn program(&self) -> Option<&str> {
        let first = self.entrypoint.first().or(self.cmd.first());
        first.map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_null_are_the_same() {
        let read: ImageConfig = serde_json::from_str(
            r#"{"os": "wasi", "config": {"Cmd": null, "Entrypoint": ["/app.wasm"]}}"#,
        )
        .unwrap();
        let start = read.config.clone().unwrap();
        assert_eq!(start.program(), Some("/app.wasm"));
        assert!(start.cmd.is_empty() && read.is_wasm());
        assert!(!is_wasm("linux", "amd64"));
    }
}
