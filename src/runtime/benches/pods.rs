//! What modules of a pod pay to talk to each other, and what threads cost: a round trip over a message queue, between processes that
//! wait for each other in a shared memory, and the start of a thread.
#![allow(missing_docs, reason = "made by the macros of the bench harness")]

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use vaquita_net::{Fabric, FabricConfig};
use vaquita_runtime::{Config, Exit, PodConfig, ProcessConfig, Runtime};

/// Goes to and fro as often as `ROUNDS` says. The one sends by `$ab` and receives by `$ba`, the other the other way round.
const QUEUES: &str = r#"(module
    (import "vaquita:ipc" "queue_open" (func $queue (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "vaquita:ipc" "queue_send" (func $send (param i32 i32 i32 i32 i64) (result i32)))
    (import "vaquita:ipc" "queue_receive" (func $receive (param i32 i32 i32 i64 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 100) "abba")
    (func (export "_start") (local $left i32)
        (drop (call $queue (i32.const OUT) (i32.const 2) (i32.const 1) (i32.const 1) (i32.const 8) (i32.const 0)))
        (drop (call $queue (i32.const IN) (i32.const 2) (i32.const 1) (i32.const 1) (i32.const 8) (i32.const 4)))
        (local.set $left (i32.const ROUNDS))
        (loop $more
            FIRST
            (if (call $receive (i32.load (i32.const 4)) (i32.const 16) (i32.const 8) (i64.const -1) (i32.const 32) (i32.const 36))
                (then unreachable))
            SECOND
            (local.set $left (i32.sub (local.get $left) (i32.const 1)))
            (br_if $more (local.get $left)))))"#;

const SEND: &str = "(if (call $send (i32.load (i32.const 0)) (i32.const 16) (i32.const 8) (i32.const 0) (i64.const -1)) (then unreachable))";

/// The same over a number in a shared memory: each waits until it is its own.
const MEMORY: &str = r#"(module
    (import "vaquita:ipc" "memory:turn" (memory 1 1 shared))
    (func (export "_start") (local $left i32) (local $now i32)
        (local.set $left (i32.const ROUNDS))
        (loop $more
            (block $mine
                (loop $wait
                    (local.set $now (i32.atomic.load (i32.const 0)))
                    (br_if $mine (i32.eq (local.get $now) (i32.const MINE)))
                    (drop (memory.atomic.wait32 (i32.const 0) (local.get $now) (i64.const -1)))
                    (br $wait)))
            (i32.atomic.store (i32.const 0) (i32.const THEIRS))
            (drop (memory.atomic.notify (i32.const 0) (i32.const 1)))
            (local.set $left (i32.sub (local.get $left) (i32.const 1)))
            (br_if $more (local.get $left)))))"#;

/// Starts threads, one after another: each is awaited before the next.
const THREADS: &str = r#"(module
    (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
    (import "env" "memory" (memory 1 1 shared))
    (func (export "wasi_thread_start") (param i32 i32)
        (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1)))
        (drop (memory.atomic.notify (i32.const 0) (i32.const 1))))
    (func (export "_start") (local $done i32)
        (loop $more
            (local.set $done (i32.atomic.load (i32.const 0)))
            (drop (call $spawn (i32.const 0)))
            (drop (memory.atomic.wait32 (i32.const 0) (local.get $done) (i64.const -1)))
            (br_if $more (i32.lt_u (i32.atomic.load (i32.const 0)) (i32.const ROUNDS))))))"#;

/// Runs these programs together in a pod, to their end.
fn run(texts: &[String]) -> Duration {
    let tokio = tokio::runtime::Runtime::new().expect("threads");
    tokio.block_on(async {
        let mut config = Config::default();
        config.max_instances = 256;
        let runtime = Runtime::new(config).expect("a runtime");
        let fabric = Fabric::new(FabricConfig::default()).expect("a fabric");
        let network = fabric.attach(None).expect("an address");
        let pod = runtime.pod(PodConfig::new("bench", network));
        let mut modules = Vec::new();
        for text in texts {
            let wasm = wat::parse_str(text).expect("correct text");
            modules.push(runtime.load(wasm.into()).await.expect("a module"));
        }
        let began = Instant::now();
        let mut running = Vec::new();
        for module in modules {
            running.push(
                pod.start(ProcessConfig::new("guest", module))
                    .await
                    .expect("a process"),
            );
        }
        for process in running {
            assert_eq!(process.wait().await, Exit::Exited(0));
        }
        began.elapsed()
    })
}

fn fill(text: &str, rounds: u64, words: &[(&str, &str)]) -> String {
    let text = text.replace("ROUNDS", &rounds.max(1).to_string());
    words
        .iter()
        .fold(text, |text, (word, value)| text.replace(word, value))
}

fn pods(bench: &mut Criterion) {
    bench.bench_function("a round trip over message queues", |bench| {
        bench.iter_custom(|rounds| {
            let one = [
                ("OUT", "100"),
                ("IN", "102"),
                ("FIRST", SEND),
                ("SECOND", ""),
            ];
            let other = [
                ("OUT", "102"),
                ("IN", "100"),
                ("FIRST", ""),
                ("SECOND", SEND),
            ];
            run(&[fill(QUEUES, rounds, &one), fill(QUEUES, rounds, &other)])
        });
    });
    bench.bench_function("a round trip in a shared memory", |bench| {
        bench.iter_custom(|rounds| {
            let one = [("MINE", "0"), ("THEIRS", "1")];
            let other = [("MINE", "1"), ("THEIRS", "0")];
            run(&[fill(MEMORY, rounds, &one), fill(MEMORY, rounds, &other)])
        });
    });
    bench.bench_function("a thread, from its start to its end", |bench| {
        bench.iter_custom(|rounds| run(&[fill(THREADS, rounds, &[])]));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = pods
}
criterion_main!(benches);
