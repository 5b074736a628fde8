//! What to run in a pod, and with what.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::config::HttpConfig;
use crate::log::LogSink;
use crate::module::Module;

/// What to run in a pod, and with what.
#[non_exhaustive]
pub struct ProcessConfig {
    /// For people: in logs and errors, and `argv[0]` if `args` is empty.
    pub name: String,
    /// What to run.
    pub module: Module,
    /// The whole argument vector, the program's name first. Default: the name alone.
    pub args: Vec<String>,
    /// The environment. Default: empty.
    pub env: Vec<(String, String)>,
    /// Bytes of linear memory and tables that all instances of this process may have together.
    /// Default: `None`, only the engine's own limit for each memory.
    pub memory_limit: Option<u64>,
    /// Ports that an HTTP handler is served at, on all addresses of the pod. Default: 8080.
    ///
    /// A core module finds them as listening sockets: file descriptors 3, 4, ... in this order. Each takes its port
    /// when it is first used.
    /// Other programs bind their ports themselves, so it means nothing to them.
    pub listen: Vec<u16>,
    /// How an HTTP handler is served.
    pub http: HttpConfig,
    /// Where standard output and error go. Default: nowhere.
    pub log: Arc<dyn LogSink>,
}

impl ProcessConfig {
    /// A process of that name and module, all else as the fields' defaults say.
    pub fn new(name: impl Into<String>, module: Module) -> Self {
        Self {
            name: name.into(),
            module,
            args: Vec::new(),
            env: Vec::new(),
            memory_limit: None,
            listen: vec![8080],
            http: HttpConfig::default(),
            log: Arc::new(crate::log::Discard),
        }
    }
}

impl fmt::Debug for ProcessConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessConfig")
            .field("name", &self.name)
            .field("module", &self.module)
            .field("memory_limit", &self.memory_limit)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
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
    /// The pod was shut down.
    #[error("the pod is shut down")]
    ShutDown,
}
