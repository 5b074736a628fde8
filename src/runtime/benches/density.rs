//! What pods cost in memory: programs that wait, and HTTP handlers that nobody asks. Prints bytes for each, as the kernel
//! counts this process's resident memory.
//!
//! `cargo bench -p vaquita-runtime --bench density`, or with numbers of its own: `... -- 10000 100000`.
#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "it prints figures"
)]

use std::time::{Duration, Instant};

use vaquita_net::{Fabric, FabricConfig};
use vaquita_runtime::{Config, Module, Pod, PodConfig, Process, ProcessConfig, Runtime};

const HANDLER: &str = include_str!("../tests/runtime/handler.wat");

/// Waits for an hour.
const WAITING: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const 3600000000000))
        (drop (call $poll (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 256)))))"#;

fn main() {
    let numbers: Vec<u32> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let (programs, handlers) = match numbers[..] {
        [programs, handlers, ..] => (programs, handlers),
        _ => (10_000, 100_000),
    };
    let tokio = tokio::runtime::Runtime::new().expect("threads");
    tokio.block_on(async {
        measure("programs that wait", WAITING, programs, programs).await;
        measure("HTTP handlers that nobody asks", HANDLER, handlers, 64).await;
    });
}

/// Starts so many pods of that module, with room for so many instances.
async fn measure(what: &str, text: &str, pods: u32, instances: u32) {
    let mut config = Config::default();
    config.max_instances = instances + 64;
    config.memory_reservation = 64 << 20;
    let runtime = Runtime::new(config).expect("a runtime");
    let network = FabricConfig {
        pod_cidr: "10.0.0.0/8".parse().expect("a network"),
        ..FabricConfig::default()
    };
    let fabric = Fabric::new(network).expect("a fabric");
    let wasm = wat::parse_str(text).expect("correct text");
    let module = runtime.load(wasm.into()).await.expect("a module");
    // The first one pays for what all share.
    let _first = start(&runtime, &fabric, &module).await;
    let (before, began) = (resident(), Instant::now());
    let mut running = Vec::new();
    for _ in 0..pods {
        running.push(start(&runtime, &fabric, &module).await);
    }
    let has_begun = |process: &Process| {
        process.usage().memory > 0 || !process.listening().is_empty() || process.exit().is_some()
    };
    while !running.iter().all(|(_, process)| has_begun(process)) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = began.elapsed();
    let failed = running
        .iter()
        .filter_map(|(_, process)| process.exit())
        .count();
    let each = resident().saturating_sub(before) as f64 / f64::from(pods);
    println!("{pods} {what}: {each:.0} bytes each, started in {took:?}, {failed} failed");
}

async fn start(runtime: &Runtime, fabric: &Fabric, module: &Module) -> (Pod, Process) {
    let network = fabric.attach(None).expect("an address");
    let mut pod = PodConfig::new("pod", network);
    // As a node has it for each of its pods.
    pod.hosts = Some("127.0.0.1\tlocalhost\n10.0.0.1\tpod\n".into());
    pod.resolv_conf = Some("search default.svc.cluster.local\nnameserver 10.96.0.10\n".into());
    let pod = runtime.pod(pod);
    let config = ProcessConfig::new("guest", module.clone());
    let process = pod.start(config).await.expect("a process");
    (pod, process)
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("pages") * 4096
}
