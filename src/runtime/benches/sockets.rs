//! What modules pay to talk: over TCP, a round trip of a small message, and much data one way, within a pod and between two; and a
//! request to an HTTP handler, with an instance of its own. The guest is `talk` of `wasm-examples`: `cargo task guests` builds it.
#![allow(missing_docs, reason = "made by the macros of the bench harness")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::sync::Notify;
use vaquita_net::{Fabric, FabricConfig};
use vaquita_runtime::{
    Config, Exit, LogSink, LogStream, Pod, PodConfig, Process, ProcessConfig, Runtime,
};

const PORT: u16 = 7000;

/// Answers requests at port 8080.
const HANDLER: &str = include_str!("../tests/runtime/handler.wat");

/// Tells when the guest has written something.
#[derive(Default)]
struct Told(Notify);

impl LogSink for Told {
    fn write(&self, _stream: LogStream, _line: &[u8]) {
        self.0.notify_one();
    }
}

fn wasm() -> Bytes {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../wasm-examples/target/wasm32-wasip2/release/talk.wasm"
    );
    let wasm = std::fs::read(path);
    wasm.unwrap_or_else(|error| panic!("{path}: {error}; `cargo task guests` builds it"))
        .into()
}

/// Where a client runs, and where its server does.
struct Pods {
    runtime: Runtime,
    module: vaquita_runtime::Module,
    client: Pod,
    server: Pod,
}

impl Pods {
    async fn new(are_two: bool) -> Self {
        let mut config = Config::default();
        config.max_instances = 64;
        let runtime = Runtime::new(config).expect("a runtime");
        let fabric = Fabric::new(FabricConfig::default()).expect("a fabric");
        let module = runtime.load(wasm()).await.expect("a module");
        let pod = |name: &str| {
            let network = fabric.attach(None).expect("an address");
            runtime.pod(PodConfig::new(name, network))
        };
        let client = pod("client");
        let server = if are_two {
            pod("server")
        } else {
            client.clone()
        };
        Self {
            runtime,
            module,
            client,
            server,
        }
    }

    async fn start(&self, pod: &Pod, args: &[&str], log: &Arc<Told>) -> Process {
        let mut config = ProcessConfig::new("talk", self.module.clone());
        config.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        config.log = Arc::<Told>::clone(log);
        pod.start(config).await.expect("a process")
    }

    /// How long a client takes that is to do that, so many times.
    async fn time(&self, what: &str, count: u64) -> Duration {
        let log = Arc::new(Told::default());
        let server = ["talk", "serve", &PORT.to_string()];
        let server = self.start(&self.server, &server, &log).await;
        log.0.notified().await;
        let took = self.client(what, PORT, count, &log).await;
        assert_eq!(server.wait().await, Exit::Exited(0));
        took
    }

    async fn client(&self, what: &str, port: u16, count: u64, log: &Arc<Told>) -> Duration {
        let address = format!("{}:{port}", self.server.ip());
        let client = ["talk", what, &address, &count.to_string()];
        let began = Instant::now();
        let client = self.start(&self.client, &client, log).await;
        assert_eq!(client.wait().await, Exit::Exited(0));
        began.elapsed()
    }

    /// Starts an HTTP handler at the server's.
    async fn handler(&self) {
        let wasm = wat::parse_str(HANDLER).expect("correct text");
        let module = self.runtime.load(wasm.into()).await.expect("a module");
        let handler = self.server.start(ProcessConfig::new("handler", module));
        handler.await.expect("a process");
    }
}

fn talk(bench: &mut Criterion) {
    let tokio = tokio::runtime::Runtime::new().expect("threads");
    for (where_to, are_two) in [("within a pod", false), ("to another pod", true)] {
        let pods = tokio.block_on(Pods::new(are_two));
        bench.bench_function(&format!("a round trip over TCP {where_to}"), |bench| {
            bench.iter_custom(|rounds| tokio.block_on(pods.time("ping", rounds)));
        });
        let mut group = bench.benchmark_group("bulk");
        group.throughput(Throughput::Bytes(1 << 20));
        group.bench_function(format!("a mebibyte over TCP {where_to}"), |bench| {
            bench.iter_custom(|mebibytes| tokio.block_on(pods.time("bulk", mebibytes)));
        });
        group.finish();
    }
    let pods = tokio.block_on(Pods::new(true));
    tokio.block_on(pods.handler());
    let log = Arc::new(Told::default());
    bench.bench_function("a request to another pod's handler", |bench| {
        bench.iter_custom(|count| tokio.block_on(pods.client("call", 8080, count, &log)));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = talk
}
criterion_main!(benches);
