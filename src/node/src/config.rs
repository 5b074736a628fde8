//! What a node is made with.

use std::{collections::BTreeMap, io, net::IpAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use vaquita_docker::Shim;
use vaquita_image::{ImageStore, Registries};
use vaquita_logs::LogLimits;
use vaquita_manifest::Capacity;
use vaquita_net::Fabric;
use vaquita_runtime::Runtime;

use crate::{
    eviction::{EvictionThresholds, SoftEviction},
    host,
    images::gc::ImageGc,
};

/// What a [`Node`](crate::Node) is made with. [`NodeConfig::new`] has the defaults.
#[derive(Clone)]
#[non_exhaustive]
pub struct NodeConfig {
    /// Name of the Node object, a DNS subdomain.
    pub name: String,
    /// The machine's addresses, the preferred one first: `status.addresses` of the node, `hostIP` of its pods.
    /// Default `127.0.0.1`.
    pub addresses: Vec<IpAddr>,
    /// What pods can have. Default: what the machine has.
    pub capacity: Capacity,
    /// Labels of the Node object, besides those that every node has (hostname, operating system, architecture).
    pub labels: BTreeMap<String, String>,
    /// The network of the node's pods.
    pub fabric: Fabric,
    /// Where images are found.
    pub images: ImageStore,
    /// How registries are reached, from which images come that are not there. Default: as [`Registries`] has it.
    pub registries: Registries,
    /// When images are removed that nobody needs.
    pub image_gc: ImageGc,
    /// What runs Wasm images.
    pub runtime: Runtime,
    /// What runs Linux images. Default: nothing does.
    pub containers: Option<Containers>,
    /// The device by which the machine reaches pods by their addresses, or why there is none, to be said in a condition.
    /// Default: nobody wants one, and nothing is said.
    pub kernel_network: Option<Result<String, String>>,
    /// Directory of the containers' logs; made if absent.
    pub log_dir: PathBuf,
    /// Directory of the pods' volumes, `UID/volumes/PLUGIN/NAME` in it; made if absent. Default: `pods` beside `log_dir`.
    pub pods_dir: PathBuf,
    /// Directory of the persistent volumes that the node makes; made when the first one is. Default: `storage` beside
    /// `log_dir`.
    pub storage_dir: PathBuf,
    /// A module of small commands that can be executed in any container: `kubectl exec POD -- ls`. Default: none.
    pub toolbox: Option<Bytes>,
    /// How much of the logs is kept.
    pub log_limits: LogLimits,
    /// Below what the node ends pods, so that something of the machine is left.
    pub eviction: EvictionThresholds,
    /// The same, where it may be so for a while. Default: nothing.
    pub soft_eviction: SoftEviction,
    /// How often the lease is renewed and the node's status is looked at. Default 10 s.
    pub heartbeat: Duration,
}

/// What runs Linux images.
#[derive(Debug, Clone)]
pub struct Containers {
    /// A Docker engine, with a network for pods.
    pub shim: Shim,
    /// Where the cluster answers containers for names; `None`: nowhere, and they have the machine's resolver.
    pub dns: Option<IpAddr>,
}

/// Pods of a node by default. An idle Wasm pod costs some kilobytes.
const DEFAULT_PODS: u32 = 4096;

/// What this machine has, as far as this process may use it.
fn capacity_of_host() -> Capacity {
    Capacity {
        cpus: host::cpus(),
        memory: host::memory_total(),
        pods: DEFAULT_PODS,
    }
}

impl NodeConfig {
    /// The defaults.
    pub fn new(
        name: impl Into<String>,
        fabric: Fabric,
        images: ImageStore,
        runtime: Runtime,
        log_dir: impl Into<PathBuf>,
    ) -> Self {
        let log_dir = log_dir.into();
        Self {
            name: name.into(),
            addresses: vec![IpAddr::from([127, 0, 0, 1])],
            capacity: capacity_of_host(),
            labels: BTreeMap::new(),
            fabric,
            images,
            registries: Registries::default(),
            image_gc: ImageGc::default(),
            runtime,
            containers: None,
            kernel_network: None,
            pods_dir: log_dir.with_file_name("pods"),
            storage_dir: log_dir.with_file_name("storage"),
            log_dir,
            toolbox: None,
            log_limits: LogLimits::default(),
            eviction: EvictionThresholds::default(),
            soft_eviction: SoftEviction::default(),
            heartbeat: Duration::from_secs(10),
        }
    }

    pub(crate) fn check(&self) -> Result<(), StartError> {
        if !is_dns_subdomain(&self.name) {
            return Err(StartError::Name(self.name.clone()));
        }
        if self.addresses.is_empty() {
            return Err(StartError::NoAddress);
        }
        Ok(())
    }
}

impl std::fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeConfig")
            .field("name", &self.name)
            .field("addresses", &self.addresses)
            .field("capacity", &self.capacity)
            .field("log_dir", &self.log_dir)
            .finish_non_exhaustive()
    }
}

/// Why a node could not start. What needs the API server is retried instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The name is no DNS subdomain.
    #[error(
        "the node name {0:?} is no DNS name: lower-case letters, digits, '-' and '.' are allowed, \
         beginning and ending with a letter or digit"
    )]
    Name(String),
    /// There is no address.
    #[error("the node has no address")]
    NoAddress,
    /// The log directory cannot be used.
    #[error("cannot use the log directory {}", path.display())]
    LogDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory of the pods' volumes cannot be used.
    #[error("cannot use the directory of volumes {}", path.display())]
    PodsDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// RFC 1123, as the API server checks it.
fn is_dns_subdomain(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(is_inner)
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_dns_names() {
        for name in ["a", "node-1", "n1.example.com"] {
            assert!(is_dns_subdomain(name), "{name}");
        }
        for name in [
            "",
            "-a",
            "a-",
            "a..b",
            "UPPER",
            "a_b",
            "a/b",
            &"a".repeat(254),
        ] {
            assert!(!is_dns_subdomain(name), "{name}");
        }
    }
}
