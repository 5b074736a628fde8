//! What runs pods, as seen from their workers.
//!
//! A [`Backend`] makes sandboxes: what the containers of a pod share, above all one network address. In a
//! [`Sandbox`], containers are started from images; each is an [`Instance`] until it ends.

mod docker;
mod files;
mod grants;
mod host_ports;
mod image;
mod wasm;

use std::{
    collections::{BTreeMap, HashSet},
    fmt, io,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use vaquita_docker::{Bind, Device, HostPort, Logged, MemoryVolume, Processes, Security};
use vaquita_net::Lookups;
use vaquita_runtime::{LogSink, Mount, OutputSink};

pub use docker::DockerBackend;
pub use grants::Grants;
pub use image::{Runnable, image_id};
pub use wasm::WasmBackend;

/// Makes sandboxes.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Makes what the containers of a pod share.
    async fn sandbox(&self, config: SandboxConfig) -> Result<Arc<dyn Sandbox>, SandboxError>;

    /// Whether it runs programs of the machine's own kind, beside modules.
    fn runs_native(&self) -> bool {
        false
    }

    /// The image of that name which it has itself, if it keeps some.
    async fn image(&self, _name: &str) -> Result<Option<Runnable>, String> {
        Ok(None)
    }

    /// Removes what it keeps of images that the node's store has no more.
    async fn tidy_images(&self) {}

    /// What of a pod still runs, or has run, since before the node was started, as names and attempts.
    fn survivors(&self, _uid: &str) -> Vec<Survivor> {
        Vec::new()
    }

    /// Removes what is left of pods that are not among these.
    async fn keep_only(&self, _uids: &HashSet<String>) {}

    /// Removes what is left of a pod that will have no sandbox.
    async fn remove(&self, _uid: &str) {}

    /// Ends everything that would otherwise outlive the node.
    async fn close(&self) {}
}

/// A container that was there before the node was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// The name that the manifest has for it.
    pub name: String,
    /// How many containers of the name the pod had before.
    pub attempt: u32,
}

/// Whom a sandbox is for.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own in a pod's specification"
)]
pub struct SandboxConfig {
    /// The pod object's UID.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// What the pod calls itself.
    pub hostname: String,
    /// What its hostname is below, in the cluster.
    pub subdomain: Option<String>,
    /// The domain that its subdomain is in the cluster, if it has one.
    pub domain: Option<String>,
    /// Who is asked for names.
    pub lookups: Lookups,
    /// Suffixes to try when a name is looked up, in place of those that go with `lookups`.
    pub searches: Option<Vec<String>>,
    /// How many dots make a name be tried as it is first; none: what goes with `lookups`.
    pub ndots: Option<usize>,
    /// Further entries of the hosts file.
    pub hosts: Vec<(String, IpAddr)>,
    /// The host's address, for a pod that has the host's own network.
    pub host_network: Option<IpAddr>,
    /// The address that the pod had before, which it gets again if it is free.
    pub wanted_ip: Option<IpAddr>,
    /// The content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Whether containers see each other's processes.
    pub share_processes: bool,
    /// Whether some of its containers is no module.
    pub is_native: bool,
    /// Where files of its own can be put.
    pub dir: PathBuf,
    /// Whether containers see the machine's processes.
    pub host_processes: bool,
    /// Whether they have the machine's IPC objects.
    pub host_ipc: bool,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Ports of the machine that lead to it.
    pub host_ports: Vec<HostPort>,
    /// Volumes in memory of containers on the machine's kernel.
    pub memory_volumes: Vec<MemoryVolume>,
}

impl SandboxConfig {
    /// Whose processes containers of the machine's own kind see.
    pub fn processes(&self) -> Processes {
        match (self.host_processes, self.share_processes) {
            (true, _) => Processes::Host,
            (false, true) => Processes::Pod,
            (false, false) => Processes::Own,
        }
    }
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// There is no address for it.
    #[error("failed to set up the pod's network: {0}")]
    Network(#[from] vaquita_net::AttachError),
    /// The files that its containers see cannot be written.
    #[error("failed to write the pod's files: {0}")]
    Files(#[from] io::Error),
    /// The kernel's filter of packets has not heard of it.
    #[error("failed to guard the pod's network in time")]
    Unguarded,
    /// The Docker engine does not make it.
    #[error("{0}")]
    Engine(#[from] vaquita_docker::EngineError),
    /// A port of the machine's cannot be had.
    #[error("failed to set up the pod's network: {0}")]
    HostPort(#[from] host_ports::HostPortError),
}

/// What the containers of a pod share.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// The pod's address.
    fn ip(&self) -> IpAddr;

    /// Starts a container. When this returns, it runs.
    async fn start(&self, container: ContainerConfig) -> Result<Box<dyn Instance>, StartError>;

    /// Takes over a container that was there before the node was started; `None` if there is none of that name. Its output
    /// goes where it is told.
    async fn adopt(&self, _container: AdoptConfig) -> Option<Box<dyn Instance>> {
        None
    }

    /// Connects to a port of the pod's address, from the node.
    async fn dial(&self, port: u16) -> io::Result<Box<dyn Connection>>;

    /// Connects from the node to another host, by its name or address, for a probe that asks that one about the pod.
    async fn dial_host(&self, host: &str, port: u16) -> io::Result<Box<dyn Connection>> {
        Ok(Box::new(
            tokio::net::TcpStream::connect((host, port)).await?,
        ))
    }

    /// Refuses new connections of others, as far as that is in its hands: the pod's containers have been told to end.
    fn withdraw(&self) {}

    /// What went over its network, if that is known and its own.
    fn traffic(&self) -> Option<Traffic> {
        None
    }

    /// Where on this machine its volume in memory of that name is, if it has made one.
    async fn memory_volume(&self, _name: &str) -> Option<PathBuf> {
        None
    }

    /// Ends whatever still runs and gives up the address.
    async fn shutdown(&self);
}

/// A sandbox in which nothing can be: of a pod that has none yet.
pub struct Nowhere;

#[async_trait]
impl Sandbox for Nowhere {
    fn ip(&self) -> IpAddr {
        IpAddr::from([0, 0, 0, 0])
    }

    async fn start(&self, _container: ContainerConfig) -> Result<Box<dyn Instance>, StartError> {
        Err(StartError::Create("the pod has no sandbox".to_owned()))
    }

    async fn dial(&self, _port: u16) -> io::Result<Box<dyn Connection>> {
        Err(io::ErrorKind::NotConnected.into())
    }

    async fn shutdown(&self) {}
}

/// What becomes of a container that is taken over.
pub struct AdoptConfig {
    /// The name that the manifest has for it.
    pub name: String,
    /// How many containers of the name the pod had before.
    pub attempt: u32,
    /// The last lines of the node's log of it.
    pub logged: Vec<Logged>,
    /// Its standard input, if that is still open.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// What takes the output beside the log.
    pub output: Arc<dyn OutputSink>,
    /// What takes the output, line by line.
    pub log: Arc<dyn LogSink>,
}

/// A byte stream to a pod.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A file for a program's termination message.
#[derive(Debug, Clone)]
pub struct LastWords {
    /// Where the program finds it.
    pub guest: String,
    /// Where it is on this machine; made if absent.
    pub file: PathBuf,
}

/// What is run.
#[derive(Debug, Clone)]
pub enum Program {
    /// What an image holds.
    Image(Runnable),
    /// A module as it is.
    Wasm(Bytes),
}

/// What a manifest says about serving HTTP; what it does not say is the runtime's to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpSettings {
    /// Where to listen, whatever ports the manifest declares.
    pub port: Option<u16>,
    /// Requests that an instance answers before it is dropped.
    pub requests_per_instance: Option<u32>,
    /// Requests that an instance answers at once.
    pub concurrent_requests_per_instance: Option<u32>,
    /// Requests that are answered at a time.
    pub max_concurrent_requests: Option<u32>,
    /// The longest that a request may take.
    pub request_timeout: Option<Duration>,
}

/// What to start.
pub struct ContainerConfig {
    /// The name that the manifest has for it.
    pub name: String,
    /// What runs.
    pub program: Program,
    /// What the module may import.
    pub grants: Grants,
    /// The whole argument vector, the program's name first.
    pub args: Vec<String>,
    /// Variables and their values.
    pub env: Vec<(String, String)>,
    /// Bytes.
    pub memory_limit: Option<u64>,
    /// In thousandths of a core.
    pub cpu_limit: Option<u32>,
    /// In thousandths of a core.
    pub cpu_request: Option<u32>,
    /// TCP ports that the manifest declares; `None` for a command that serves nothing.
    pub ports: Option<Vec<u16>>,
    /// How it serves HTTP, if it does.
    pub http: HttpSettings,
    /// Its volumes.
    pub mounts: Vec<Mount>,
    /// Where relative paths begin, if not at the root.
    pub working_dir: Option<String>,
    /// Whether a terminal is behind its streams.
    pub tty: bool,
    /// Its standard input, if it has one.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// What takes the output beside the log.
    pub output: Option<Arc<dyn OutputSink>>,
    /// What takes the output, line by line.
    pub log: Arc<dyn LogSink>,
    /// Where a program may leave its last words.
    pub last_words: Option<LastWords>,
    /// What only programs of the machine's own kind need.
    pub native: Native,
}

/// What a container has that is no module: it runs on the machine's kernel, and can be given what that has.
#[derive(Debug, Clone, Default)]
pub struct Native {
    /// How many containers of the name the pod had before.
    pub attempt: u32,
    /// Its volumes, as far as they are files of this machine.
    pub binds: Vec<Bind>,
    /// How many processes it may have.
    pub pids: Option<u32>,
    /// How gladly the kernel kills it when memory is short.
    pub oom_score: i32,
    /// What the kernel lets it do.
    pub security: Security,
    /// Devices of the machine that it sees.
    pub devices: Vec<Device>,
    /// The signal that asks it to end; `None`: the usual one.
    pub stop_signal: Option<String>,
    /// Whether its standard input ends when the first who has attached to it leaves.
    pub stdin_once: bool,
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
pub enum StartError {
    /// It could not even be made: the image is not runnable, or asks for what there is not.
    #[error("{0}")]
    Create(String),
    /// It was made but could not begin.
    #[error("{0}")]
    Run(String),
}

impl StartError {
    /// What a container waits with, in the words that its status has for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Create(_) => "CreateContainerError",
            Self::Run(_) => "RunContainerError",
        }
    }
}

/// A container that runs, or has run.
#[async_trait]
pub trait Instance: Send + Sync {
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

    /// What another system calls it, with that system's name before it: `docker://...`.
    fn id(&self) -> Option<String> {
        None
    }

    /// Whether a kernel's own terminal is behind its streams, if it has one.
    fn has_own_terminal(&self) -> bool {
        false
    }

    /// Gives its terminal another size, in characters.
    async fn set_terminal_size(&self, _width: u16, _height: u16) {}

    /// Runs a command of its own file system. `None`: it has none.
    async fn exec(&self, _command: ExecConfig) -> Option<Result<Box<dyn Instance>, StartError>> {
        None
    }
}

/// A command to run beside a container's program.
pub struct ExecConfig {
    /// The whole argument vector, the program first.
    pub args: Vec<String>,
    /// Whether a terminal is behind its streams.
    pub tty: bool,
    /// Its standard input, if it has one.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// What takes the output.
    pub output: Arc<dyn OutputSink>,
}

/// What a container may use; `None` for as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes.
    pub memory_limit: Option<u64>,
    /// In thousandths of a core.
    pub cpu_limit: Option<u32>,
    /// In thousandths of a core.
    pub cpu_request: Option<u32>,
}

/// What a container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since its start.
    pub cpu: Duration,
    /// Bytes.
    pub memory: u64,
}

/// What went over a pod's network since it was made, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// What came.
    pub received: u64,
    /// What went.
    pub sent: u64,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// As a shell has it: beyond 128, a signal's number.
    pub code: i32,
    /// Why it ended.
    pub reason: ExitReason,
    /// What there is to say about it.
    pub message: Option<String>,
}

/// Why a container ended, in the words that a container's status has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// By itself, with success.
    Completed,
    /// By itself without success, or it was ended.
    Error,
    /// It wanted more memory than it may have.
    OomKilled,
    /// It could not begin.
    StartError,
}

impl ExitReason {
    /// As a container's status spells it.
    pub fn as_str(self) -> &'static str {
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
    pub fn with_code(code: i32) -> Self {
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

/// An error and what caused it, in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some errors already say their cause.
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}
