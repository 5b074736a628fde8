//! What a pod costs: a request with an instance of its own, a program from its start to its end, and loading.
#![allow(missing_docs, reason = "made by the macros of the bench harness")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use vaquita_net::{Fabric, FabricConfig};
use vaquita_runtime::{Config, Exit, Module, Pod, PodConfig, ProcessConfig, Runtime};

const HANDLER: &str = include_str!("../tests/runtime/handler.wat");
const PROGRAM: &str = r#"(module (memory (export "memory") 16) (func (export "_start")))"#;

struct Host {
    runtime: Runtime,
    fabric: Fabric,
    /// The client's side.
    tokio: tokio::runtime::Runtime,
}

impl Host {
    fn new() -> Self {
        Self {
            runtime: Runtime::new(Config::default()).expect("a runtime"),
            fabric: Fabric::new(FabricConfig::default()).expect("a fabric"),
            tokio: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("threads"),
        }
    }

    fn load(&self, text: &str) -> Module {
        let wasm = wat::parse_str(text).expect("correct text");
        self.tokio
            .block_on(self.runtime.load(wasm.into()))
            .expect("a module")
    }

    fn pod(&self) -> Pod {
        let network = self.fabric.attach(None).expect("an address");
        self.runtime.pod(PodConfig::new("bench", network))
    }

    async fn connect(&self, pod: &Pod) -> SendRequest<Empty<Bytes>> {
        let stream = self
            .fabric
            .dial((pod.ip(), 8080).into())
            .await
            .expect("a listener");
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .expect("a handshake");
        tokio::spawn(connection);
        sender
    }
}

async fn request(sender: &mut SendRequest<Empty<Bytes>>) {
    sender.ready().await.expect("an open connection");
    let request = http::Request::get("/")
        .header("host", "bench")
        .body(Empty::new());
    let answer = sender
        .send_request(request.expect("a request"))
        .await
        .expect("an answer");
    assert!(answer.status().is_success());
    black_box(answer.into_body().collect().await.expect("a body"));
}

fn requests(bench: &mut Criterion) {
    let host = Host::new();
    let pod = host.pod();
    let config = ProcessConfig::new("handler", host.load(HANDLER));
    host.tokio.block_on(pod.start(config)).expect("a process");
    let mut sender = host.tokio.block_on(host.connect(&pod));
    bench.bench_function("request, one at a time", |bench| {
        bench.iter(|| host.tokio.block_on(request(&mut sender)));
    });
    bench.bench_function("requests, 16 connections, each 100", |bench| {
        bench.iter(|| {
            host.tokio.block_on(async {
                let clients = (0..16).map(|_| async {
                    let mut sender = host.connect(&pod).await;
                    for _ in 0..100 {
                        request(&mut sender).await;
                    }
                });
                futures::future::join_all(clients).await;
            });
        });
    });
}

/// As from handler to handler in one process: no connection, an instance for each request or for several.
fn direct(bench: &mut Criterion) {
    let host = Host::new();
    // The guest's allocator never frees, so that its one page is enough for a few.
    for (name, reuse) in [("fresh", 1), ("each answers 8", 8)] {
        let pod = host.pod();
        let mut config = ProcessConfig::new("handler", host.load(HANDLER));
        config.http.requests_per_instance = reuse;
        let process = host.tokio.block_on(pod.start(config)).expect("a process");
        bench.bench_function(
            &format!("request, no connection, instances {name}"),
            |bench| {
                bench.iter(|| {
                    host.tokio.block_on(async {
                        let request = http::Request::get("/").header("host", "bench");
                        let request = request.body(Empty::<Bytes>::new()).expect("a request");
                        let answer = process.request(request).await.expect("a handler");
                        assert!(answer.status().is_success());
                        black_box(answer.into_body().collect().await.expect("a body"));
                    });
                });
            },
        );
    }
}

/// What HTTP alone costs, over the same network: a native server in the guest's place.
fn native(bench: &mut Criterion) {
    let host = Host::new();
    let network = host.fabric.attach(None).expect("an address");
    let address = (network.ip(), 8080).into();
    let listener = network.listen(address).expect("a free port");
    host.tokio.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(async |_| {
                let body = Full::new(Bytes::from_static(b"/"));
                Ok::<_, std::convert::Infallible>(http::Response::new(body))
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    let mut sender = host.tokio.block_on(async {
        let stream = host.fabric.dial(address).await.expect("a listener");
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .expect("a handshake");
        tokio::spawn(connection);
        sender
    });
    bench.bench_function("request to native hyper, one at a time", |bench| {
        bench.iter(|| host.tokio.block_on(request(&mut sender)));
    });
    drop(network);
}

fn programs(bench: &mut Criterion) {
    let host = Host::new();
    let pod = host.pod();
    let module = host.load(PROGRAM);
    bench.bench_function("program, start to end", |bench| {
        bench.iter(|| {
            host.tokio.block_on(async {
                let config = ProcessConfig::new("program", module.clone());
                let process = pod.start(config).await.expect("a process");
                assert_eq!(process.wait().await, Exit::Exited(0));
            });
        });
    });
}

fn loading(bench: &mut Criterion) {
    let host = Host::new();
    let wasm = Bytes::from(wat::parse_str(HANDLER).expect("correct text"));
    let load = || {
        host.tokio
            .block_on(host.runtime.load(wasm.clone()))
            .expect("a module")
    };
    bench.bench_function("load, compiled", |bench| bench.iter(load));
    let _kept = load();
    bench.bench_function("load, already in memory", |bench| bench.iter(load));
}

criterion_group!(benches, requests, direct, native, programs, loading);
criterion_main!(benches);
