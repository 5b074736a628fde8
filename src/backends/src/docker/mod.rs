//! Runs Linux containers by a Docker engine, through `vaquita-docker`; modules by the other backend.
//!
//! Which of the two a pod needs is known before it gets its sandbox: the worker looks at its images. A pod with Linux
//! containers may have modules as well ([`modules`]).

mod modules;
mod output;
mod sandbox;

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use vaquita_docker::{EngineError, Network, PodSpec, Shim};

use super::{Backend, Runnable, Sandbox, SandboxConfig, SandboxError, Survivor, wasm::WasmBackend};
use crate::files::{host_hosts_file, hosts_file, native_resolv_conf};
use modules::Modules;
use sandbox::DockerSandbox;

/// The files that every container of a pod sees.
const HOSTS: &str = "etc-hosts";
const RESOLV_CONF: &str = "resolv.conf";

/// Pods of both kinds.
pub struct DockerBackend {
    shim: Shim,
    modules: WasmBackend,
    /// Where the cluster answers for names.
    dns: Option<IpAddr>,
}

impl DockerBackend {
    /// Containers by the engine of `shim`, modules by `modules`. `dns` answers containers for names of the cluster.
    pub fn new(shim: Shim, modules: WasmBackend, dns: Option<IpAddr>) -> Self {
        Self { shim, modules, dns }
    }

    /// Removes copies of images that the node has no more.
    async fn remove_copies(&self) -> Result<(), EngineError> {
        // In this order: an image that comes meanwhile is in the store before it is copied.
        let copies = self.shim.copies().await?;
        if copies.is_empty() {
            return Ok(());
        }
        let images = self.modules.images().clone();
        // A store that cannot be read says nothing about its images.
        let Ok(Ok(there)) = tokio::task::spawn_blocking(move || images.list()).await else {
            return Ok(());
        };
        let there: HashSet<String> = there.iter().map(sandbox::key).collect();
        for copy in copies.iter().filter(|copy| !there.contains(*copy)) {
            self.shim.remove_copy(copy).await?;
        }
        Ok(())
    }

    async fn native(&self, config: SandboxConfig) -> Result<Arc<dyn Sandbox>, SandboxError> {
        let wanted = match config.wanted_ip {
            Some(IpAddr::V4(ip)) => Some(ip),
            _ => None,
        };
        let network = match config.host_network {
            Some(_) => Network::Host,
            None => Network::Bridge { wanted },
        };
        let spec = PodSpec {
            uid: config.uid.clone(),
            namespace: config.namespace.clone(),
            name: config.name.clone(),
            hostname: config.hostname.clone(),
            network,
            ports: config.host_ports.clone(),
            processes: config.processes(),
            host_ipc: config.host_ipc,
            sysctls: config.sysctls.clone(),
            memory_volumes: config.memory_volumes.clone(),
        };
        let pod = self.shim.pod(spec).await?;
        let ip = config.host_network.or(pod.ip());
        let ip = ip.unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let neighbour = match config.host_network {
            Some(_) => None,
            None => self.modules.settle(&config, ip).await?,
        };
        let hosts = match config.host_network {
            Some(_) => host_hosts_file(&config),
            None => hosts_file(&config, ip),
        };
        let resolv_conf = native_resolv_conf(&config, self.dns);
        let dir = config.dir.clone();
        let files = [(HOSTS, hosts), (RESOLV_CONF, resolv_conf)];
        // Without an answer, the process is ending.
        let written = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&dir)?;
            let mut paths = Vec::new();
            for (name, text) in files {
                let path = dir.join(name);
                std::fs::write(&path, text)?;
                paths.push((format!("/etc/{}", name.trim_start_matches("etc-")), path));
            }
            Ok::<_, std::io::Error>(paths)
        });
        let files = written.await.map_err(std::io::Error::other)??;
        let modules = Modules::new(self.modules.clone(), config, ip);
        Ok(Arc::new(DockerSandbox {
            shim: self.shim.clone(),
            images: self.modules.images().clone(),
            pod,
            ip,
            files,
            modules,
            _neighbour: neighbour,
        }))
    }
}

#[async_trait]
impl Backend for DockerBackend {
    async fn sandbox(&self, config: SandboxConfig) -> Result<Arc<dyn Sandbox>, SandboxError> {
        if config.is_native {
            self.native(config).await
        } else {
            self.modules.sandbox(config).await
        }
    }

    fn runs_native(&self) -> bool {
        true
    }

    async fn image(&self, name: &str) -> Result<Option<Runnable>, String> {
        let found = self.shim.engine().image(name).await;
        let found = found.map_err(|error| error.to_string())?;
        Ok(found.map(Runnable::from))
    }

    async fn tidy_images(&self) {
        if let Err(error) = self.remove_copies().await {
            tracing::warn!(%error, "copies of images are left on the Docker engine");
        }
    }

    fn survivors(&self, uid: &str) -> Vec<Survivor> {
        let left = self.shim.survivors(uid).into_iter();
        left.map(|left| Survivor {
            name: left.name,
            attempt: left.attempt,
        })
        .collect()
    }

    async fn keep_only(&self, uids: &HashSet<String>) {
        self.shim.keep_only(uids).await;
    }

    async fn remove(&self, uid: &str) {
        self.shim.remove(uid).await;
    }

    async fn close(&self) {
        if let Err(error) = self.shim.close().await {
            tracing::warn!(%error, "containers are left on the Docker engine");
        }
    }
}
