//! What the tests share.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vaquita_net::{Fabric, FabricConfig, Stream};
use vaquita_runtime::{
    Config, LogSink, LogStream, Module, Pod, PodConfig, Process, ProcessConfig, Runtime,
};

/// A runtime and a network, small enough that many tests fit into one process.
pub(crate) struct Host {
    pub(crate) runtime: Runtime,
    pub(crate) fabric: Fabric,
}

pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.threads = 2;
    config.max_instances = 64;
    config
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: Config) -> Self {
        Self {
            runtime: Runtime::new(config).expect("a runtime"),
            fabric: Fabric::new(FabricConfig::default()).expect("a fabric"),
        }
    }

    pub(crate) async fn load(&self, text: &str) -> Module {
        let loaded = self.runtime.load(assemble(text)).await;
        loaded.unwrap_or_else(|error| panic!("{error}"))
    }

    /// A guest of `wasm-examples`, by its compile target and name.
    pub(crate) async fn example(&self, target: &str, name: &str) -> Module {
        let path = format!(
            "{}/../../wasm-examples/target/{target}/release/{name}.wasm",
            env!("CARGO_MANIFEST_DIR")
        );
        let wasm = std::fs::read(&path);
        let wasm =
            wasm.unwrap_or_else(|error| panic!("{path}: {error}; `cargo task guests` builds it"));
        let loaded = self.runtime.load(wasm.into()).await;
        loaded.unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn pod(&self, name: &str) -> Pod {
        let network = self.fabric.attach(None).expect("an address");
        self.runtime.pod(PodConfig::new(name, network))
    }

    /// A program in a pod of its own, with its log.
    pub(crate) async fn run(&self, text: &str) -> (Pod, Process, Arc<Log>) {
        self.run_with(text, |_| {}).await
    }

    pub(crate) async fn run_with(
        &self,
        text: &str,
        change: impl FnOnce(&mut ProcessConfig),
    ) -> (Pod, Process, Arc<Log>) {
        let pod = self.pod("pod");
        let (process, log) = start(&pod, self.load(text).await, change).await;
        (pod, process, log)
    }

    /// What a server at that port of the pod answers to a request for `path`, head and body.
    pub(crate) async fn get(&self, pod: &Pod, port: u16, path: &str) -> String {
        let mut stream = self.ask(pod, port, path).await;
        let mut answer = String::new();
        match stream.read_to_string(&mut answer).await {
            Ok(_) => answer,
            Err(error) => panic!("{error} after {answer:?}"),
        }
    }

    /// Sends a request, and reads nothing yet.
    pub(crate) async fn ask(&self, pod: &Pod, port: u16, path: &str) -> Stream {
        let address = SocketAddr::new(pod.ip(), port);
        let mut stream = self.fabric.dial(address).await.expect("a listener");
        let request = format!("GET {path} HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("an open connection");
        stream
    }
}

pub(crate) async fn start(
    pod: &Pod,
    module: Module,
    change: impl FnOnce(&mut ProcessConfig),
) -> (Process, Arc<Log>) {
    let log = Arc::new(Log::default());
    let mut config = ProcessConfig::new("guest", module);
    config.log = log.clone();
    change(&mut config);
    let process = pod.start(config).await.expect("a process");
    (process, log)
}

pub(crate) fn assemble(text: &str) -> Bytes {
    wat::parse_str(text).expect("correct text").into()
}

/// Keeps what a guest writes.
#[derive(Default)]
pub(crate) struct Log {
    text: Mutex<String>,
    written: tokio::sync::Notify,
}

impl LogSink for Log {
    fn write(&self, stream: LogStream, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let mut text = self.text.lock().expect("not poisoned");
        write!(text, "{stream}: {line}").expect("strings take everything");
        drop(text);
        self.written.notify_waiters();
    }
}

impl Log {
    pub(crate) fn text(&self) -> String {
        self.text.lock().expect("not poisoned").clone()
    }

    /// Waits until the guest has written this.
    pub(crate) async fn contains(&self, wanted: &str) {
        loop {
            let written = self.written.notified();
            if self.text().contains(wanted) {
                return;
            }
            written.await;
        }
    }
}
