//! What processes of a pod do with each other.

use std::sync::Arc;
use std::time::Duration;

use vaquita_runtime::{Exit, Pod, PodConfig, Process, ProcessConfig};

use crate::support::{Host, Log, start};

async fn example(
    host: &Host,
    pod: &Pod,
    guest: &str,
    args: &[&str],
    change: impl FnOnce(&mut ProcessConfig),
) -> (Process, Arc<Log>) {
    let module = host.example("wasm32-wasip2", guest).await;
    start(pod, module, |config| {
        config.name = guest.into();
        let args = args.iter().map(|&arg| arg.to_owned());
        config.args = [guest.to_owned()].into_iter().chain(args).collect();
        change(config);
    })
    .await
}

#[tokio::test]
async fn a_consumer_does_what_a_producer_sends() {
    let host = Host::new();
    let pod = host.pod("pod");
    let (consumer, done) = example(&host, &pod, "consumer", &[], |_| {}).await;
    let (producer, sent) = example(&host, &pod, "producer", &["50"], |_| {}).await;
    assert_eq!(producer.wait().await, Exit::Exited(0), "{}", sent.text());
    assert_eq!(consumer.wait().await, Exit::Exited(0), "{}", done.text());
    assert_eq!(sent.text(), "stdout: sent 50 jobs\n");
    assert!(
        done.text().ends_with("stdout: did 50 jobs\n"),
        "{}",
        done.text()
    );
}

#[tokio::test]
async fn counters_share_a_memory_and_wait_for_each_other() {
    let host = Host::new();
    let pod = host.pod("pod");
    let mut counters = Vec::new();
    for _ in 0..4 {
        counters.push(example(&host, &pod, "counter", &["1000", "4"], |_| {}).await);
    }
    for (process, log) in counters {
        assert_eq!(process.wait().await, Exit::Exited(0), "{}", log.text());
        assert_eq!(log.text(), "stdout: counted to 4000\n");
    }
    let other = host.pod("other");
    let (process, log) = example(&host, &other, "counter", &["5"], |_| {}).await;
    process.wait().await;
    assert_eq!(
        log.text(),
        "stdout: counted to 5\n",
        "another pod has another memory"
    );
}

#[tokio::test]
async fn a_program_that_listens_is_told_to_end() {
    let host = Host::new();
    let pod = host.pod("pod");
    let (consumer, log) = example(&host, &pod, "consumer", &[], |_| {}).await;
    let (producer, _) = example(&host, &pod, "producer", &["1"], |_| {}).await;
    producer.wait().await;
    assert_eq!(consumer.wait().await, Exit::Exited(0));
    let (consumer, second) = example(&host, &pod, "consumer", &[], |_| {}).await;
    // It listens once it has computed at all.
    while consumer.usage().cpu.is_zero() || consumer.usage().memory == 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    consumer.terminate(Duration::from_mins(1));
    assert_eq!(consumer.wait().await, Exit::Exited(0), "{}", second.text());
    assert!(
        second
            .text()
            .contains("told to end after 0 jobs, within Some("),
        "{}",
        second.text()
    );
    assert!(log.text().contains("job 1"));
}

#[tokio::test]
async fn processes_see_their_own_container_or_the_whole_pod() {
    let host = Host::new();
    for share in [false, true] {
        let mut config = PodConfig::new("pod", host.fabric.attach(None).expect("an address"));
        config.share_processes = share;
        let pod = host.runtime.pod(config);
        let (consumer, _) = example(&host, &pod, "consumer", &[], |_| {}).await;
        let (lister, log) = example(&host, &pod, "processes", &["consumer"], |config| {
            config.container = Some("lister".into());
        })
        .await;
        assert_eq!(lister.wait().await, Exit::Exited(0), "{}", log.text());
        assert!(
            log.text().contains("on pod, as process 2\n"),
            "{}",
            log.text()
        );
        assert!(
            log.text().contains(r#"2 lister ["processes", "consumer"]"#),
            "{}",
            log.text()
        );
        assert_eq!(log.text().contains("1 consumer"), share, "{}", log.text());
        if share {
            assert!(
                log.text().contains("signalled: Ok(()), exit code: Ok(137)"),
                "{}",
                log.text()
            );
            assert_eq!(consumer.wait().await, Exit::Killed);
        } else {
            assert_eq!(consumer.exit(), None);
        }
    }
}

/// A core module that shares 64 KiB by the name `shared`, and writes there or waits until something is there.
fn sharing(body: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "vaquita:ipc" "memory:shared" (memory $shared 1 1 shared))
            (import "vaquita:ipc" "memory_open" (func $open (param i32 i32 i32 i64 i32) (result i32)))
            (import "vaquita:ipc" "memory_wait" (func $wait (param i32 i64 i32 i64 i64) (result i32)))
            (import "vaquita:ipc" "memory_notify" (func $notify (param i32 i64 i32 i32) (result i32)))
            (import "vaquita:ipc" "queue_open" (func $queue (param i32 i32 i32 i32 i32 i32) (result i32)))
            (import "vaquita:ipc" "queue_send" (func $send (param i32 i32 i32 i32 i64) (result i32)))
            (import "vaquita:ipc" "queue_receive" (func $receive (param i32 i32 i32 i64 i32 i32) (result i32)))
            (memory $own (export "memory") 1)
            (data (memory $own) (i32.const 100) "shared")
            (func (export "_start") (local $got i32)
                (if (call $open (i32.const 100) (i32.const 6) (i32.const 0) (i64.const 0) (i32.const 0))
                    (then unreachable))
                {body}))"#
    )
}

#[tokio::test]
async fn core_modules_see_the_same_bytes() {
    let host = Host::new();
    let pod = host.pod("pod");
    let waits = sharing(
        "(drop (call $wait (i32.load $own (i32.const 0)) (i64.const 8) (i32.const 4) (i64.const 0) (i64.const -1)))
         (call $exit (i32.atomic.load $shared (i32.const 8)))",
    );
    let tells = sharing(
        "(i32.atomic.store $shared (i32.const 8) (i32.const 42))
         (drop (call $notify (i32.load $own (i32.const 0)) (i64.const 8) (i32.const 9) (i32.const 4)))",
    );
    let (waiting, _) = start(&pod, host.load(&waits).await, |_| {}).await;
    let (telling, _) = start(&pod, host.load(&tells).await, |_| {}).await;
    assert_eq!(telling.wait().await, Exit::Exited(0));
    assert_eq!(waiting.wait().await, Exit::Exited(42));
}

#[tokio::test]
async fn core_modules_send_messages() {
    let host = Host::new();
    let pod = host.pod("pod");
    let open = "(if (call $queue (i32.const 100) (i32.const 6) (i32.const 1) (i32.const 2) (i32.const 16) (i32.const 0))
                    (then unreachable))";
    let receives = sharing(&format!(
        "{open}
         (if (call $receive (i32.load $own (i32.const 0)) (i32.const 200) (i32.const 16) (i64.const -1) (i32.const 300) (i32.const 304))
             (then unreachable))
         (call $exit (i32.add (i32.load8_u $own (i32.const 200)) (i32.load $own (i32.const 304))))"
    ));
    let sends = sharing(&format!(
        "{open} (call $exit (call $send (i32.load $own (i32.const 0)) (i32.const 100) (i32.const 6) (i32.const 5) (i64.const 0)))"
    ));
    let (receiving, _) = start(&pod, host.load(&receives).await, |_| {}).await;
    let (sending, _) = start(&pod, host.load(&sends).await, |_| {}).await;
    assert_eq!(sending.wait().await, Exit::Exited(0));
    assert_eq!(receiving.wait().await, Exit::Exited(i32::from(b's') + 5));
}

#[tokio::test]
async fn who_waits_by_an_instruction_is_woken_by_another_module() {
    let host = Host::new();
    let pod = host.pod("pod");
    let waits = sharing(
        "(call $exit (i32.add (i32.const 40)
            (memory.atomic.wait32 $shared (i32.const 8) (i32.const 0) (i64.const -1))))",
    );
    let wakes = sharing(
        "(loop $more
            (br_if $more (i32.eqz (memory.atomic.notify $shared (i32.const 8) (i32.const 1)))))",
    );
    // Whoever waits holds up nobody: there are far more of them than threads.
    let waits = host.load(&waits).await;
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(start(&pod, waits.clone(), |_| {}).await.0);
    }
    let wakes = host.load(&wakes).await;
    for _ in 0..8 {
        let (waking, _) = start(&pod, wakes.clone(), |_| {}).await;
        assert_eq!(waking.wait().await, Exit::Exited(0));
    }
    for process in waiting {
        assert_eq!(process.wait().await, Exit::Exited(40));
    }
}
