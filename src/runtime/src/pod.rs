//! Pods: namespaces that processes share.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use vaquita_net::PodNetwork;

use crate::ipc::IpcLimits;
use crate::namespaces::Namespaces;
use crate::process::{Process, ProcessConfig, StartError};
use crate::runtime::Shared;
use vaquita_guest_fs::Files;

/// What a pod is made of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PodConfig {
    /// For people: in logs and errors.
    pub name: String,
    /// The name by which the pod knows itself; its processes find it in `HOSTNAME`, unless they are given another.
    pub hostname: String,
    /// Its address, loopback and ports. The pod closes it when it ends.
    pub network: PodNetwork,
    /// The domain of its hostname, if it has one: `subdomain.namespace.svc.cluster.local`. Default: none.
    pub domain: Option<String>,
    /// What all its processes find in `/etc/hosts`; then they find its hostname in `/etc/hostname`, too. Default: `None`, no
    /// such files but the image's.
    pub hosts: Option<String>,
    /// What all its processes find in `/etc/resolv.conf`. Default: `None`, no such file but the image's.
    pub resolv_conf: Option<String>,
    /// Whether a process sees those of the pod's other containers and may signal them. Default: `false`.
    pub share_processes: bool,
    /// Bounds of what its processes make for talking to each other.
    pub ipc: IpcLimits,
}

impl PodConfig {
    /// What its processes find of it in `/etc`, unless something else is mounted there.
    pub(crate) fn files(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        let mut files = Vec::new();
        if let Some(hosts) = &self.hosts {
            files.push(("/etc/hosts", Cow::from(hosts)));
            files.push(("/etc/hostname", Cow::from(format!("{}\n", self.hostname))));
        }
        if let Some(resolv_conf) = &self.resolv_conf {
            files.push(("/etc/resolv.conf", Cow::from(resolv_conf)));
        }
        files
    }

    /// A pod of that name, which is its hostname as well, all else as the fields' defaults say.
    pub fn new(name: impl Into<String>, network: PodNetwork) -> Self {
        let name = name.into();
        Self {
            hostname: name.clone(),
            name,
            network,
            domain: None,
            hosts: None,
            resolv_conf: None,
            share_processes: false,
            ipc: IpcLimits::default(),
        }
    }
}

/// A set of namespaces and the processes in them. Cheap to clone; when the last clone is dropped, its processes are
/// killed and its network is closed.
#[derive(Clone)]
pub struct Pod {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Arc<Shared>,
    config: PodConfig,
    ended: CancellationToken,
    namespaces: Arc<Namespaces>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // First, so that no process sees its network go.
        self.ended.cancel();
        self.config.network.close();
        self.namespaces.end();
    }
}

impl Pod {
    pub(crate) fn new(runtime: Arc<Shared>, config: PodConfig) -> Self {
        let ended = runtime.ended.child_token();
        let namespaces = Namespaces::new(&config, runtime.engine.wasmtime.clone());
        let inner = Inner {
            runtime,
            config,
            ended,
            namespaces,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.inner.config.name
    }

    /// The address that all its processes share.
    pub fn ip(&self) -> IpAddr {
        self.inner.config.network.ip()
    }

    /// Starts a process. When this returns, an HTTP handler's ports accept connections; a program may not have
    /// got to its first instruction yet.
    pub async fn start(&self, config: ProcessConfig) -> Result<Process, StartError> {
        if self.inner.ended.is_cancelled() {
            return Err(StartError::ShutDown);
        }
        let pod = &self.inner;
        let (config, files) = self.mount(config).await?;
        let pod = (&pod.config, &pod.namespaces, &pod.ended);
        Process::start(&self.inner.runtime, pod, config, files)
    }

    /// Makes a process's files. It may read directories, which is not for a thread that others wait for.
    async fn mount(
        &self,
        config: ProcessConfig,
    ) -> Result<(ProcessConfig, Option<Arc<Files>>), StartError> {
        let pod = &self.inner.config;
        if config.mounts.is_empty() && config.root.is_none() {
            let files = config.files(pod)?.map(Arc::new);
            return Ok((config, files));
        }
        let pod = pod.clone();
        let mounting = self.inner.runtime.threads.spawn_blocking(move || {
            let files = config.files(&pod)?.map(Arc::new);
            Ok((config, files))
        });
        mounting.await.unwrap_or(Err(StartError::Volumes))
    }

    /// The processes that have not ended, oldest first.
    pub fn processes(&self) -> Vec<Process> {
        let running = self.inner.namespaces.running().into_iter();
        running.map(|listed| listed.process).collect()
    }

    /// Refuses new connections of others from now on, whoever listens. What was connected before stays, the pod reaches
    /// itself, and the node's probes are answered. For a pod whose processes are being [terminated](Process::terminate):
    /// a program cannot be made to close its listeners.
    pub fn withdraw(&self) {
        self.inner.config.network.withdraw();
    }

    /// Kills all processes, waits until they are gone, and gives up the pod's address. Nothing can be started
    /// in it from then on. To let processes finish, [`terminate`](Process::terminate) them before.
    pub async fn shutdown(&self) {
        self.inner.ended.cancel();
        for process in self.processes() {
            process.wait().await;
        }
        self.inner.config.network.close();
    }
}

impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pod")
            .field("name", &self.inner.config.name)
            .field("ip", &self.ip())
            .finish_non_exhaustive()
    }
}
