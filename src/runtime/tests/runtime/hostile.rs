//! Guests that try to hurt their neighbours: `wasm-examples/hostile`. Beside each of them, a handler must go on answering,
//! and the process must not grow.
//!
//! Nothing here depends on how fast the machine is: what is bounded is the work that the hostile guests get done while the
//! neighbour answers, in CPU time, and memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use vaquita_runtime::{Exit, LogSink, LogStream, Pod, Process, Volume};

use crate::support::{Host, config, start};

const HANDLER: &str = include_str!("handler.wat");

macro_rules! guest {
    ($name:literal) => {
        include_str!(concat!("../../../../wasm-examples/hostile/", $name, ".wat"))
    };
}

/// A host with room for a thousand, and a neighbour that answers and has asked for CPU time to do so.
async fn neighbourhood() -> (Host, Pod, Process) {
    let mut config = config();
    config.max_instances = 1200;
    config.memory_reservation = 64 << 20;
    let host = Host::with(config);
    let pod = host.pod("neighbour");
    let module = host.load(HANDLER).await;
    let (process, _log) = start(&pod, module, |config| config.cpu_request = Some(1000)).await;
    (host, pod, process)
}

async fn ask(host: &Host, pod: &Pod, times: u32) {
    for _ in 0..times {
        let answer = host.get(pod, 8080, "/still/there").await;
        assert!(answer.contains("/still/there"), "{answer}");
    }
}

fn used(processes: &[Process]) -> Duration {
    processes.iter().map(|process| process.usage().cpu).sum()
}

/// Bytes that this process has in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("pages");
    pages * 4096
}

/// So many of a guest that computes without end get at most 250 ms of CPU time for each of the neighbour's answers. If it
/// had to wait for a slice of each of a thousand at every step, that would be several seconds.
async fn computes(guest: &str, count: usize) {
    let (host, neighbour, _handler) = neighbourhood().await;
    let pod = host.pod("hostile");
    let module = host.load(guest).await;
    let mut hostile = Vec::new();
    for _ in 0..count {
        hostile.push(start(&pod, module.clone(), |_| {}).await.0);
    }
    while hostile.iter().any(|process| process.usage().cpu.is_zero()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = used(&hostile);
    ask(&host, &neighbour, 20).await;
    let meanwhile = used(&hostile).saturating_sub(before);
    assert!(meanwhile < Duration::from_secs(5), "{meanwhile:?}");
    assert!(hostile.iter().all(|process| process.exit().is_none()));
    pod.shutdown().await;
}

#[tokio::test]
async fn an_endless_loop() {
    computes(guest!("spin"), 1).await;
}

#[tokio::test]
async fn a_thousand_endless_loops() {
    computes(guest!("spin"), 1000).await;
}

#[tokio::test]
async fn many_that_are_never_at_it_for_long() {
    computes(guest!("sleep"), 100).await;
}

/// Runs a guest again and again. The process must not keep more of it than one instance may have.
async fn ends(guest: &str, times: usize, limit: u64, is_expected: impl Fn(&Exit) -> bool) {
    let (host, neighbour, _handler) = neighbourhood().await;
    let pod = host.pod("hostile");
    let module = host.load(guest).await;
    ask(&host, &neighbour, 1).await;
    let before = resident();
    for _ in 0..times {
        let (process, _log) = start(&pod, module.clone(), |config| {
            config.memory_limit = Some(limit);
        })
        .await;
        let exit = process.wait().await;
        assert!(is_expected(&exit), "{exit}");
        assert_eq!(process.usage().memory, 0);
    }
    ask(&host, &neighbour, 5).await;
    // Other tests run in this process, so that the bound is generous; what must not be there is much more.
    let grown = resident().saturating_sub(before);
    assert!(grown < 1 << 30, "{grown} bytes");
}

#[tokio::test]
async fn one_that_allocates_to_its_limit_and_releases() {
    // Four GiB in all, if nothing came back.
    ends(guest!("allocate"), 128, 32 << 20, |exit| {
        matches!(exit, Exit::Exited(0))
    })
    .await;
}

#[tokio::test]
async fn one_that_recurses_to_the_end_of_its_stack() {
    ends(guest!("recurse"), 200, 1 << 20, |exit| {
        matches!(exit, Exit::Trapped { message } if message.contains("call stack exhausted"))
    })
    .await;
}

#[tokio::test]
async fn one_that_traps_at_every_start() {
    ends(
        guest!("trap"),
        1000,
        1 << 20,
        |exit| matches!(exit, Exit::Trapped { message } if message.contains("!fall")),
    )
    .await;
}

#[tokio::test]
async fn one_that_opens_files_without_end() {
    let (host, neighbour, _handler) = neighbourhood().await;
    let pod = host.pod("hostile");
    let module = host.load(guest!("open")).await;
    let (process, _log) = start(&pod, module, |config| {
        config.listen = Vec::new();
        config.root = Some(Volume::memory(1 << 20));
        config.max_open_files = 100;
    })
    .await;
    let exit = process.wait().await;
    assert_eq!(exit, Exit::Exited(33), "EMFILE");
    ask(&host, &neighbour, 5).await;
}

#[tokio::test]
async fn one_that_makes_queues_without_end() {
    let (host, neighbour, _handler) = neighbourhood().await;
    let pod = host.pod("hostile");
    let module = host.load(guest!("queue")).await;
    let (process, _log) = start(&pod, module.clone(), |_| {}).await;
    assert_eq!(process.wait().await, Exit::Exited(41), "ENFILE");
    ask(&host, &neighbour, 5).await;
    // It is its pod's bound, not the node's.
    let pod = host.pod("other");
    let (process, _log) = start(&pod, module, |_| {}).await;
    assert_eq!(process.wait().await, Exit::Exited(41));
    // And its own memory: a page, and what some of them take.
    let pod = host.pod("small");
    let module = host.load(guest!("queue")).await;
    let (process, _log) = start(&pod, module, |config| {
        config.memory_limit = Some((64 << 10) + 2000);
    })
    .await;
    assert_eq!(process.wait().await, Exit::OutOfMemory);
}

#[tokio::test]
async fn one_that_fills_its_volume() {
    let (host, neighbour, _handler) = neighbourhood().await;
    let pod = host.pod("hostile");
    let module = host.load(guest!("fill")).await;
    let dir = tempfile::tempdir().expect("a directory");
    let on_disk = Volume::directory_with_limit(dir.path(), 8 << 20).expect("a volume");
    for volume in [Volume::memory(8 << 20), on_disk] {
        let (process, _log) = start(&pod, module.clone(), |config| {
            config.listen = Vec::new();
            config.root = Some(volume.clone());
        })
        .await;
        assert_eq!(process.wait().await, Exit::Exited(51), "ENOSPC");
        assert!(volume.used() <= 8 << 20, "{}", volume.used());
    }
    ask(&host, &neighbour, 5).await;
}

#[tokio::test]
async fn one_that_starts_threads_without_end() {
    let (host, neighbour, _handler) = neighbourhood().await;
    let pod = host.pod("hostile");
    let module = host.load(guest!("threads")).await;
    let (process, log) = start(&pod, module, |_| {}).await;
    log.contains("the process may have 128 at once").await;
    ask(&host, &neighbour, 20).await;
    assert_eq!(process.exit(), None);
    pod.shutdown().await;
    assert_eq!(process.wait().await, Exit::Killed);
}

#[tokio::test]
async fn one_that_opens_sockets_without_end() {
    let (host, neighbour, _handler) = neighbourhood().await;
    let pod = host.pod("hostile");
    let module = host.example("wasm32-wasip2", "sockets-without-end").await;
    let (process, log) = start(&pod, module, |_| {}).await;
    assert_eq!(process.wait().await, Exit::Exited(0), "{}", log.text());
    ask(&host, &neighbour, 5).await;
}

/// What a guest makes its host keep is the guest's own: over its limit it ends, and nothing is left of it.
async fn hoards(name: &str, what: &str) {
    const LIMIT: u64 = 8 << 20;
    let (host, neighbour, _handler) = neighbourhood().await;
    let pod = host.pod("hostile");
    let module = host.example("wasm32-wasip2", name).await;
    let (process, log) = start(&pod, module, |config| {
        config.args = vec![name.into(), what.into()];
        config.memory_limit = Some(LIMIT);
    })
    .await;
    let exit = process.wait().await;
    assert_eq!(exit, Exit::OutOfMemory, "{what}: {}", log.text());
    let usage = process.usage();
    assert!(usage.peak_memory <= LIMIT, "{what}: {usage:?}");
    assert_eq!(usage.memory, 0, "{what}");
    ask(&host, &neighbour, 5).await;
}

#[tokio::test]
async fn one_that_keeps_handles_without_end() {
    hoards("hoarder", "pollables").await;
    hoards("hoarder", "fields").await;
}

#[tokio::test]
async fn one_that_writes_bodies_without_end() {
    hoards("hoarder", "bodies").await;
}

#[tokio::test]
async fn one_that_sends_without_end_what_nobody_reads() {
    hoards("hoarder", "connections").await;
    hoards("hoarder", "datagrams").await;
}

#[tokio::test]
async fn one_that_makes_streams_without_end() {
    hoards("async_hoarder", "streams").await;
}

/// Takes a hundred lines and then no more.
#[derive(Default)]
struct Narrow(AtomicUsize);

impl LogSink for Narrow {
    fn write(&self, _stream: LogStream, _line: &[u8]) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn poll_ready(&self, _context: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        if self.0.load(Ordering::SeqCst) < 100 {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    }
}

#[tokio::test]
async fn one_that_prints_without_end() {
    let (host, neighbour, _handler) = neighbourhood().await;
    let pod = host.pod("hostile");
    let module = host.load(guest!("print")).await;
    let sink = Arc::new(Narrow::default());
    let (narrow, _log) = start(&pod, module.clone(), |config| config.log = sink.clone()).await;
    let discard = Arc::new(vaquita_runtime::Discard);
    let (wide, _log) = start(&pod, module, |config| config.log = discard).await;
    while wide.usage().cpu.is_zero() || sink.0.load(Ordering::SeqCst) < 100 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let before = wide.usage().cpu;
    ask(&host, &neighbour, 20).await;
    let meanwhile = wide.usage().cpu.saturating_sub(before);
    assert!(meanwhile < Duration::from_secs(5), "{meanwhile:?}");
    // What was permitted before it was full may still come: a write of 64 KiB in pieces of 16.
    assert!(sink.0.load(Ordering::SeqCst) <= 108);
    assert_eq!((narrow.exit(), wide.exit()), (None, None));
    pod.shutdown().await;
}
