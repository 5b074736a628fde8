//! The connection to an engine.

use std::path::{Path, PathBuf};

use bollard::{Docker, errors::Error};

/// Where an engine listens if nobody says otherwise.
const USUAL_SOCKET: &str = "/var/run/docker.sock";

/// A Docker engine that answers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) docker: Docker,
    pub(crate) address: Address,
    version: String,
    architecture: String,
}

/// How an engine is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Socket(PathBuf),
    /// Host and port.
    Tcp(String),
}

/// Why there is no connection to an engine.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is none.
    #[error("{0:?} is no address of a Docker engine: unix:///PATH or tcp://HOST:PORT is")]
    Address(String),
    /// Nothing answers there, or no engine.
    #[error("no Docker engine answers at {address}: {}", cause(source))]
    Silent {
        /// The address.
        address: String,
        /// What the client said.
        source: Error,
    },
}

/// A request that an engine did not fulfil.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {}", cause(source))]
pub struct EngineError {
    what: &'static str,
    #[source]
    source: Error,
}

impl EngineError {
    /// For `map_err`.
    pub(crate) fn of(what: &'static str) -> impl FnOnce(Error) -> Self {
        move |source| Self { what, source }
    }

    /// Whether the engine says that there is no such thing.
    pub fn is_absent(&self) -> bool {
        self.status() == Some(404)
    }

    /// Whether it says that it is so already, or that something else is in the way.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self.status(), Some(304 | 409))
    }

    /// Whether the engine has answered at all.
    pub fn is_answer(&self) -> bool {
        self.status().is_some()
    }

    fn status(&self) -> Option<u16> {
        match &self.source {
            Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
            _ => None,
        }
    }
}

/// What an engine says, without the client's words around it.
pub(crate) fn cause(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        Error::DockerStreamError { error } => error.clone(),
        other => {
            let mut text = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(error) = source {
                text = format!("{text}: {error}");
                source = error.source();
            }
            text
        }
    }
}

impl Engine {
    /// Connects to the engine at `unix:///PATH` or `tcp://HOST:PORT`, and agrees with it on a version of the API.
    pub async fn connect(address: &str) -> Result<Self, ConnectError> {
        let bad = || ConnectError::Address(address.to_owned());
        let place = if let Some(path) = address.strip_prefix("unix://") {
            Address::Socket(path.into())
        } else if let Some(host) = address.strip_prefix("tcp://") {
            Address::Tcp(host.trim_end_matches('/').to_owned())
        } else {
            return Err(bad());
        };
        let silent = |source| ConnectError::Silent {
            address: address.to_owned(),
            source,
        };
        let docker = Docker::connect_with_host(address).map_err(silent)?;
        let docker = docker.negotiate_version().await.map_err(silent)?;
        let version = docker.version().await.map_err(silent)?;
        Ok(Self {
            docker,
            address: place,
            version: version.version.unwrap_or_default(),
            architecture: version.arch.unwrap_or_default(),
        })
    }

    /// The engine at the usual place, if there is one.
    pub async fn local() -> Option<Self> {
        if !Path::new(USUAL_SOCKET).exists() {
            return None;
        }
        match Self::connect(&format!("unix://{USUAL_SOCKET}")).await {
            Ok(engine) => Some(engine),
            Err(error) => {
                tracing::warn!(%error, "Linux images cannot be run");
                None
            }
        }
    }

    /// Its version, such as `20.10.24`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The architecture of its machine in Go's words: `amd64`, `arm64`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Whether it answers now.
    pub async fn answers(&self) -> Result<(), EngineError> {
        let ping = self.docker.ping().await;
        ping.map(drop).map_err(EngineError::of("asking the engine"))
    }

    /// The path prefix of the API's version.
    pub(crate) fn prefix(&self) -> String {
        let version = self.docker.client_version();
        format!("/v{}.{}", version.major_version, version.minor_version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_address_is_said() {
        for address in ["", "docker", "ssh://host", "/var/run/docker.sock"] {
            let error = Engine::connect(address).await.unwrap_err();
            assert!(matches!(error, ConnectError::Address(_)), "{error}");
        }
        let error = Engine::connect("unix:///nowhere/docker.sock").await;
        assert!(matches!(error.unwrap_err(), ConnectError::Silent { .. }));
    }
}
