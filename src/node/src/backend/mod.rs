//! What runs pods, as seen from their workers.
//!
//! A [`Backend`] makes sandboxes: what the containers of a pod share, above all one network address. In a
//! [`Sandbox`], containers are started from images; each is an [`Instance`] until it ends.

mod host_ports;
mod wasm;

use std::{fmt, io, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use vaquita_image::Image;
use vaquita_net::Lookups;
use vaquita_runtime::{LogSink, Mount, OutputSink};

pub(crate) use wasm::WasmBackend;

use crate::pod::{Grants, HttpSettings};

/// Makes sandboxes.
#[async_trait]
pub(crate) trait Backend: Send + Sync + 'static {
    async fn sandbox(&self, config: SandboxConfig) -> Result<Arc<dyn Sandbox>, SandboxError>;
}

/// Whom a sandbox is for.
#[derive(Debug, Clone, Default)]
pub(crate) struct SandboxConfig {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) hostname: String,
    pub(crate) subdomain: Option<String>,
    /// The domain that its subdomain is in the cluster, if it has one.
    pub(crate) domain: Option<String>,
    /// Who is asked for names.
    pub(crate) lookups: Lookups,
    /// Suffixes to try when a name is looked up, in place of those that go with `lookups`.
    pub(crate) searches: Option<Vec<String>>,
    /// How many dots make a name be tried as it is first; none: what goes with `lookups`.
    pub(crate) ndots: Option<usize>,
    /// Further entries of the hosts file.
    pub(crate) hosts: Vec<(String, IpAddr)>,
    /// The host's address, for a pod that has the host's own network.
    pub(crate) host_network: Option<IpAddr>,
    /// The address that the pod had before, which it gets again if it is free.
    pub(crate) wanted_ip: Option<IpAddr>,
    /// The content of `/etc/resolv.conf`.
    pub(crate) resolv_conf: String,
    /// Whether containers see each other's processes.
    pub(crate) share_processes: bool,
    /// Ports of the machine that lead to it.
    pub(crate) host_ports: Vec<HostPort>,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error("failed to set up the pod's network: {0}")]
    Network(#[from] vaquita_net::AttachError),
    #[error("failed to set up the pod's network: {0}")]
    HostPort(#[from] host_ports::HostPortError),
}

/// A port of the machine, and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// The pod's port.
    pub(crate) port: u16,
    pub(crate) host_port: u16,
    /// The machine's address; `None`: all.
    pub(crate) host_ip: Option<IpAddr>,
}

/// What the containers of a pod share.
#[async_trait]
pub(crate) trait Sandbox: Send + Sync {
    fn ip(&self) -> IpAddr;

    /// Starts a container. When this returns, it runs.
    async fn start(&self, container: ContainerConfig) -> Result<Box<dyn Instance>, StartError>;

    /// Connects to a port of the pod's address, from the node.
    async fn dial(&self, port: u16) -> io::Result<Box<dyn Connection>>;

    /// Connects from the node to another host, by its name or address, for a probe that asks that one about the pod.
    async fn dial_host(&self, host: &str, port: u16) -> io::Result<Box<dyn Connection>> {
        Ok(Box::new(
            tokio::net::TcpStream::connect((host, port)).await?,
        ))
    }

    /// Ends whatever still runs and gives up the address.
    async fn shutdown(&self);
}

/// A byte stream to a pod.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A file for a program's termination message.
#[derive(Debug, Clone)]
pub(crate) struct LastWords {
    /// Where the program finds it.
    pub(crate) guest: String,
    /// Where it is on this machine; made if absent.
    pub(crate) file: PathBuf,
}

/// What is run.
#[derive(Debug, Clone)]
pub(crate) enum Program {
    /// An image's module.
    Image(Box<Image>),
    /// A module as it is.
    Wasm(Bytes),
}

/// What to start.
pub(crate) struct ContainerConfig {
    pub(crate) name: String,
    pub(crate) program: Program,
    /// What the module may import.
    pub(crate) grants: Grants,
    /// The whole argument vector, the program's name first.
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    /// Bytes.
    pub(crate) memory_limit: Option<u64>,
    /// In thousandths of a core.
    pub(crate) cpu_limit: Option<u32>,
    pub(crate) cpu_request: Option<u32>,
    /// TCP ports that the manifest declares; `None` for a command that serves nothing.
    pub(crate) ports: Option<Vec<u16>>,
    /// How it serves HTTP, if it does.
    pub(crate) http: HttpSettings,
    pub(crate) mounts: Vec<Mount>,
    /// Where relative paths begin, if not at the root.
    pub(crate) working_dir: Option<String>,
    pub(crate) tty: bool,
    pub(crate) stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// What takes the output beside the log.
    pub(crate) output: Option<Arc<dyn OutputSink>>,
    pub(crate) log: Arc<dyn LogSink>,
    /// Where a program may leave its last words.
    pub(crate) last_words: Option<LastWords>,
}

impl fmt::Debug for ContainerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerConfig")
            .field("name", &self.name)
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}

/// Why a container did not start. The variants are the reasons that it then waits with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// It could not even be made: the image is not runnable, or asks for what there is not.
    #[error("{0}")]
    Create(String),
    /// It was made but could not begin.
    #[error("{0}")]
    Run(String),
}

impl StartError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Create(_) => "CreateContainerError",
            Self::Run(_) => "RunContainerError",
        }
    }
}

/// A container that runs, or has run.
#[async_trait]
pub(crate) trait Instance: Send + Sync {
    /// Waits until it has ended. May be called any number of times.
    async fn wait(&self) -> Exit;

    /// Asks it to end within `grace`; afterwards it is ended. Returns at once. The shortest grace counts.
    fn terminate(&self, grace: Duration);

    /// Ends it. Returns at once.
    fn kill(&self);

    /// Gives it other resources while it runs; or says why that cannot be done now.
    async fn resize(&self, _resources: Resources) -> Result<(), String> {
        Err("the containers of this node cannot be resized while they run".to_owned())
    }

    /// What it uses. After its end, that is what it has used.
    fn usage(&self) -> Usage;
}

/// What a container may use; `None` for as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    /// Bytes.
    pub(crate) memory_limit: Option<u64>,
    /// In thousandths of a core.
    pub(crate) cpu_limit: Option<u32>,
    /// In thousandths of a core.
    pub(crate) cpu_request: Option<u32>,
}

/// What a container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU time since its start.
    pub(crate) cpu: Duration,
    /// Bytes.
    pub(crate) memory: u64,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) reason: ExitReason,
    pub(crate) message: Option<String>,
}

/// Why a container ended, in the words that a container's status has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitReason {
    Completed,
    Error,
    OomKilled,
    StartError,
}

impl ExitReason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
        }
    }
}

impl Exit {
    /// An exit by the program itself.
    pub(crate) fn with_code(code: i32) -> Self {
        let reason = if code == 0 {
            ExitReason::Completed
        } else {
            ExitReason::Error
        };
        Self {
            code,
            reason,
            message: None,
        }
    }
}
