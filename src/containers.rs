//! The Docker engine of a cluster, if it has one: found, and made ready for pods, before the node starts.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use ipnet::Ipv4Net;
use vaquita_docker::{ConnectError, Engine, OpenError, Settings, Shim, Subnet};
use vaquita_net::{DnsSockets, DnsTask, Fabric};
use vaquita_node::Containers;

/// The port of name servers.
const DNS_PORT: u16 = 53;
/// The network's name, if nobody says otherwise.
const NETWORK: &str = "vaquita";
/// The file in the data directory with the name by which what is ours is known on the engine.
const OWNER: &str = "engine-owner";

/// Whether Linux images run, and by what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainersConfig {
    /// Which engine.
    pub engine: EngineChoice,
    /// The network that pods are on, which is made on the engine. Two clusters with one engine need two. Default `vaquita`.
    pub network: Option<String>,
    /// The addresses of that network. Default: the upper half of the pods' range, whose lower half modules keep.
    pub subnet: Option<Subnet>,
    /// The image of the program that holds a pod's namespaces. Default: one that is made on the spot.
    pub pause_image: Option<String>,
}

/// Which Docker engine a cluster uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// None: only Wasm images run.
    #[default]
    None,
    /// The one at the usual place, if it answers.
    Usual,
    /// The one at this address, `unix:///PATH` or `tcp://HOST:PORT`. Without it, the cluster does not start.
    At(String),
}

/// Why the engine that was asked for cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContainersError {
    /// It cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It cannot be made ready.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The name of what is ours could not be read or written.
    #[error("cannot use {}", path.display())]
    Owner {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Connects to the engine and makes pods possible on it. `pods` is the range of all pods of the node.
pub(crate) async fn open(
    config: &ContainersConfig,
    data_dir: &Path,
    pods: Ipv4Net,
) -> Result<Option<Containers>, ContainersError> {
    let is_usual = config.engine == EngineChoice::Usual;
    let engine = match &config.engine {
        EngineChoice::None => return Ok(None),
        EngineChoice::Usual => Engine::local().await,
        EngineChoice::At(address) => Some(Engine::connect(address).await?),
    };
    let Some(engine) = engine else {
        return Ok(None);
    };
    match shim(config, engine, data_dir, pods).await {
        Ok(shim) => Ok(Some(Containers { shim, dns: None })),
        Err(error) if is_usual => {
            tracing::warn!(%error, "Linux images cannot be run");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn shim(
    config: &ContainersConfig,
    engine: Engine,
    data_dir: &Path,
    pods: Ipv4Net,
) -> Result<Shim, ContainersError> {
    let network = config.network.as_deref().unwrap_or(NETWORK);
    let subnet = config.subnet.or_else(|| upper_half(pods));
    let subnet = subnet.ok_or_else(|| OpenError::Subnet(pods.to_string()))?;
    let mut settings = Settings::new(owner(data_dir)?, network, subnet);
    if let Some(image) = &config.pause_image {
        settings.pause_image.clone_from(image);
    }
    Ok(Shim::open(engine, settings).await?)
}

/// Answers containers for names, at the machine's address on their network. `None`: that cannot be listened at, and they
/// have the machine's own resolver.
pub(crate) async fn serve_names(containers: &mut Containers, fabric: &Fabric) -> Option<DnsTask> {
    let gateway = IpAddr::V4(containers.shim.settings().subnet.gateway());
    match DnsSockets::bind(SocketAddr::new(gateway, DNS_PORT)).await {
        Ok(sockets) => {
            containers.dns = Some(gateway);
            Some(fabric.serve_dns_on(sockets))
        }
        Err(error) => {
            tracing::warn!(%gateway, %error, "Linux containers do not know the cluster's names");
            None
        }
    }
}

/// What pods of modules may have of the range, if others are on an engine.
pub(crate) fn lower_half(pods: Ipv4Net) -> Ipv4Net {
    Ipv4Net::new(pods.network(), pods.prefix_len() + 1).unwrap_or(pods)
}

fn upper_half(pods: Ipv4Net) -> Option<Subnet> {
    Subnet::new(pods.broadcast(), pods.prefix_len() + 1).ok()
}

/// The name by which what is ours is known on the engine: made once for a data directory.
fn owner(data_dir: &Path) -> Result<String, ContainersError> {
    let path = data_dir.join(OWNER);
    let problem = |source| ContainersError::Owner {
        path: path.clone(),
        source,
    };
    match fs::read_to_string(&path) {
        Ok(owner) if !owner.trim().is_empty() => Ok(owner.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(problem(error)),
        _ => {
            let owner = uuid::Uuid::new_v4().to_string();
            fs::write(&path, &owner).map_err(problem)?;
            Ok(owner)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_shared_in_halves() {
        let pods: Ipv4Net = "10.244.0.0/16".parse().unwrap();
        assert_eq!(lower_half(pods).to_string(), "10.244.0.0/17");
        assert_eq!(upper_half(pods).unwrap().to_string(), "10.244.128.0/17");
        // Too narrow for a network.
        assert_eq!(upper_half("10.244.0.0/30".parse().unwrap()), None);
    }

    #[test]
    fn an_owner_stays_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let first = owner(dir.path()).unwrap();
        assert_eq!(owner(dir.path()).unwrap(), first);
        assert!(!first.is_empty());
    }
}
