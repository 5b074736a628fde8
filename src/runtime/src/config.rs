//! What an embedder can set. Every field has a default that suits one machine's worth of pods.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How a [`Runtime`](crate::Runtime) is sized and where it keeps compiled code.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Directory for compiled code, created if missing. It may be shared by several processes of the
    /// same user, but must not be writable for anybody else: what it holds is executed.
    ///
    /// Default: `None`, compiled code lives as long as its [`Module`](crate::Module) does.
    pub cache_dir: Option<PathBuf>,

    /// Bytes that compiled code may take in `cache_dir`, for each version and setting of the engine. What was not
    /// used for the longest time goes first.
    ///
    /// Default: 4 GiB.
    pub cache_limit: u64,

    /// Threads that run guests. More than there are cores only adds switching.
    ///
    /// Default: the machine's parallelism.
    pub threads: usize,

    /// How many linear memories may exist at once, over all pods: one for each running program, and
    /// one for each request in flight of an HTTP handler. Address space is reserved for all of them
    /// at the start, no memory is. When the reservation fails, it is halved until it succeeds.
    ///
    /// Default: 4096. A thousand costs about 3 ms at the start. Linux gives a process 65530 mappings by default
    /// (`vm.max_map_count`), of which each takes two from the start and about four more while it is used; raise
    /// that setting along with this one.
    pub max_instances: u32,

    /// Address space reserved for each linear memory, in bytes. It bounds a guest's memory. Below 4 GiB
    /// the compiled code checks bounds explicitly, which costs memory-heavy code a quarter to a third
    /// of its speed but allows for many more instances in a process.
    ///
    /// Default: 4 GiB.
    pub memory_reservation: u64,

    /// How guests' requests to `https` addresses are secured.
    ///
    /// Default: `None`, TLS 1.2 and 1.3, by the certificates that this machine trusts.
    pub tls: Option<Arc<rustls::ClientConfig>>,

    /// The largest module that is loaded, in bytes.
    ///
    /// Default: 256 MiB.
    pub max_module_size: usize,

    /// The longest a guest computes before it must let another one have its thread.
    ///
    /// Default: 1 ms.
    pub time_slice: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache_dir: None,
            cache_limit: 4 << 30,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            max_instances: 4096,
            memory_reservation: 4 << 30,
            tls: None,
            max_module_size: 256 << 20,
            time_slice: Duration::from_millis(1),
        }
    }
}

/// How an HTTP handler is served.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HttpConfig {
    /// Requests served at once, each by an instance of its own; more wait for their turn.
    ///
    /// Default: 256.
    pub max_concurrent_requests: usize,

    /// Connections that are open at once, idle ones included; more wait to be accepted. As many requests
    /// may wait for their turn; more are answered with status 503.
    ///
    /// Default: 4096.
    pub max_connections: usize,

    /// The longest a request may take from its head's arrival to the end of the response; after that, the
    /// instance is ended. The client sees status 504, or a cut body if the head was already sent.
    ///
    /// Default: `None`, no limit.
    pub request_timeout: Option<Duration>,

    /// Requests that an instance answers, one after another, before it is dropped. With more than one, what a request
    /// leaves in the guest's memory is there for the next, whoever that is from; an instance that failed is
    /// dropped in any case, and so is one that had nothing to do for 10 seconds.
    ///
    /// Default: 1, an instance for each request.
    pub requests_per_instance: u32,

    /// Requests that an instance of a handler of WASI 0.3 answers at once, as far as `requests_per_instance` lets it have so
    /// many. They share its memory, and its end if it fails. Handlers of 0.2 can't do that: to them it means nothing.
    ///
    /// Default: 1.
    pub concurrent_requests_per_instance: u32,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            max_concurrent_requests: 256,
            max_connections: 4096,
            request_timeout: None,
            requests_per_instance: 1,
            concurrent_requests_per_instance: 1,
        }
    }
}
