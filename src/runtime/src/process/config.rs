//! What to run in a pod, and with what.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use tokio::io::AsyncRead;

use crate::capabilities::Capabilities;
use crate::config::HttpConfig;
use crate::log::{LogSink, OutputSink};
use crate::module::Module;
use crate::pod::PodConfig;
use crate::settings::Settings;
use vaquita_guest_fs::{Files, Mount, MountError, Volume};

/// What to run in a pod, and with what.
#[non_exhaustive]
pub struct ProcessConfig {
    /// For people: in logs and errors, and `argv[0]` if `args` is empty.
    pub name: String,
    /// Which container of the pod it belongs to: processes of others are hidden from it unless the pod
    /// [shares](PodConfig::share_processes) them. Default: `None`, one of its own by its name.
    pub container: Option<String>,
    /// What to run.
    pub module: Module,
    /// The whole argument vector, the program's name first. Default: the name alone.
    pub args: Vec<String>,
    /// The environment. Default: empty.
    pub env: Vec<(String, String)>,
    /// Bytes of linear memory and tables that all instances of this process may have together.
    /// Default: `None`, only the engine's own limit for each memory.
    pub memory_limit: Option<u64>,
    /// CPU time that all instances of this process may use together, in thousandths of a core: within each 100 ms, a
    /// tenth of a millisecond for each. When it is used up, they are parked until the next 100 ms begin.
    /// Default: `None`, no limit, and so is 0.
    pub cpu_limit: Option<u32>,
    /// This process's share of the CPU time when guests want more than there is, relative to others' requests, in
    /// thousandths of a core. It does not matter as long as there is enough.
    /// Default: `None`, which counts as 2.
    pub cpu_request: Option<u32>,
    /// Ports that an HTTP handler is served at, on all addresses of the pod. Default: 8080.
    ///
    /// A core module finds them as listening sockets: file descriptors 3, 4, ... in this order. Each takes its port
    /// when it is first used.
    /// Other programs bind their ports themselves, so it means nothing to them.
    pub listen: Vec<u16>,
    /// How an HTTP handler is served.
    pub http: HttpConfig,
    /// What it may import, call and look up. Default: everything that the runtime and the pod's network provide.
    pub capabilities: Capabilities,
    /// What `wasi:config` and `wasi:keyvalue` give it. Default: nothing.
    pub settings: Settings,
    /// Where standard output and error go, cut into lines. Default: nowhere.
    pub log: Arc<dyn LogSink>,
    /// Where standard output and error go beside the log, as they are written: for those who are attached. Default: nowhere
    /// else.
    pub output: Option<Arc<dyn OutputSink>>,
    /// Standard input of a program. An HTTP handler has none: whose instance should read it? Default: `None`, at its
    /// end from the start.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Whether standard input, output and error are told to be a terminal. Default: `false`.
    pub tty: bool,
    /// What the root directory holds: an image's files, usually a [copy](Volume::copy_of) that is thrown away with the
    /// process. Default: `None`, nothing but what is mounted.
    pub root: Option<Volume>,
    /// Volumes and where the process finds them; the order does not matter. Default: none.
    pub mounts: Vec<Mount>,
    /// What relative paths start from, absolute itself: `initial-cwd` of WASI 0.2, and the variable `PWD` where the
    /// environment does not set it. Default: `None`, which is `/`.
    pub working_dir: Option<String>,
    /// The most files and directories that all instances of the process may have open together. Default: 1024.
    pub max_open_files: u32,
    /// The most threads that a core module may have at once (wasi-threads), the first one included. Each counts as an instance of the
    /// [runtime's](crate::Config::max_instances). Default: 128.
    pub max_threads: u32,
}

impl ProcessConfig {
    /// A process of that name and module, all else as the fields' defaults say.
    pub fn new(name: impl Into<String>, module: Module) -> Self {
        Self {
            name: name.into(),
            container: None,
            module,
            args: Vec::new(),
            env: Vec::new(),
            memory_limit: None,
            cpu_limit: None,
            cpu_request: None,
            listen: vec![8080],
            http: HttpConfig::default(),
            capabilities: Capabilities::default(),
            settings: Settings::default(),
            log: Arc::new(crate::log::Discard),
            output: None,
            stdin: None,
            tty: false,
            root: None,
            mounts: Vec::new(),
            working_dir: None,
            max_open_files: 1024,
            max_threads: 128,
        }
    }
}

impl ProcessConfig {
    /// The process's files, if it is given any. Volumes are looked into, so it may take its time.
    pub(crate) fn files(&self, pod: &PodConfig) -> Result<Option<Files>, StartError> {
        let own = pod.files();
        if self.root.is_none() && self.mounts.is_empty() && own.is_empty() {
            return Ok(None);
        }
        let own: Vec<_> = own.iter().map(|(path, text)| (*path, &**text)).collect();
        Files::mount(self.root.as_ref(), &self.mounts, &own, self.max_open_files)
            .map(Some)
            .map_err(|(guest, source)| StartError::Mount { guest, source })
    }
}

impl fmt::Debug for ProcessConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessConfig")
            .field("name", &self.name)
            .field("module", &self.module)
            .field("memory_limit", &self.memory_limit)
            .field("cpu_limit", &self.cpu_limit)
            .field("cpu_request", &self.cpu_request)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

fn by(granted_by: &str) -> String {
    if granted_by.is_empty() {
        String::new()
    } else {
        format!(" by {granted_by}")
    }
}

/// Why a process did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// A port of `listen` can't be bound in the pod.
    #[error("listening on port {port}")]
    Listen {
        /// Which one.
        port: u16,
        /// Why.
        #[source]
        source: vaquita_net::NetError,
    },
    /// The module imports what it is not granted.
    #[error("import {import} is not granted{}", by(granted_by))]
    NotGranted {
        /// The import, as the module names it.
        import: String,
        /// Who decides what is: [`Capabilities::granted_by`].
        granted_by: String,
    },
    /// A volume can't be mounted where it is wanted.
    #[error("mounting {guest}")]
    Mount {
        /// Where it should be, for the guest.
        guest: String,
        /// Why not.
        #[source]
        source: MountError,
    },
    /// The volumes could not be looked into: the machine has no thread for it.
    #[error("looking into the volumes")]
    Volumes,
    /// The pod was shut down.
    #[error("the pod is shut down")]
    ShutDown,
}
