//! Core modules with threads.

use vaquita_runtime::{Exit, LoadError};

use crate::support::{Host, assemble, config, start};

/// A core module that may start threads. `body` is what the first one does, `thread` what the others do; `$wait` waits
/// until the number at an address is another one, and `$wake` changes it by one.
fn threaded(body: &str, thread: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
            (import "env" "memory" (memory 1 100 shared))
            (export "memory" (memory 0))
            (data (i32.const 100) "\08\00\00\00")
            (func $wait (param $at i32) (param $value i32)
                (drop (memory.atomic.wait32 (local.get $at) (local.get $value) (i64.const -1))))
            (func $wake (param $at i32)
                (drop (i32.atomic.rmw.add (local.get $at) (i32.const 1)))
                (drop (memory.atomic.notify (local.get $at) (i32.const -1))))
            (func (export "wasi_thread_start") (param $id i32) (param $argument i32) (local $count i32)
                {thread})
            (func (export "_start") (local $count i32)
                {body}))"#
    )
}

/// Starts four threads.
const FOUR: &str = "(loop $more
    (if (i32.lt_s (call $spawn (local.get $count)) (i32.const 1)) (then unreachable))
    (local.set $count (i32.add (local.get $count) (i32.const 1)))
    (br_if $more (i32.lt_u (local.get $count) (i32.const 4))))";

/// Waits for what never comes.
const FOR_EVER: &str = "(loop $ever (call $wait (i32.const 40) (i32.const 0)) (br $ever))";

#[tokio::test]
async fn threads_count_in_one_memory_and_wait_for_each_other() {
    let host = Host::new();
    let thread = "(loop $more
            (drop (i32.atomic.rmw.add (i32.const 8) (i32.const 1)))
            (local.set $count (i32.add (local.get $count) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $count) (i32.const 1000))))
        (call $wake (i32.const 16))";
    let body = format!(
        "{FOUR}
        (block $done
            (loop $more
                (local.set $count (i32.atomic.load (i32.const 16)))
                (br_if $done (i32.eq (local.get $count) (i32.const 4)))
                (call $wait (i32.const 16) (local.get $count))
                (br $more)))
        (call $exit (i32.div_u (i32.atomic.load (i32.const 8)) (i32.const 100)))"
    );
    let (_pod, process, log) = host.run(&threaded(&body, thread)).await;
    assert_eq!(process.wait().await, Exit::Exited(40), "{}", log.text());
    assert_eq!(process.usage().memory, 0);
}

#[tokio::test]
async fn a_memory_of_the_modules_own_is_shared_as_well() {
    let host = Host::new();
    let text = threaded(
        "(drop (call $spawn (i32.const 7))) (call $wait (i32.const 8) (i32.const 0))
         (call $exit (i32.atomic.load (i32.const 8)))",
        "(i32.atomic.store (i32.const 8) (local.get $argument)) (call $wake (i32.const 8))",
    );
    let own = text.replace(
        r#"(import "env" "memory" (memory 1 100 shared))"#,
        "(memory 1 100 shared)",
    );
    let (_pod, process, log) = host.run(&own).await;
    assert_eq!(process.wait().await, Exit::Exited(8), "{}", log.text());
}

#[tokio::test]
async fn one_that_traps_ends_all() {
    let host = Host::new();
    let body = format!("{FOUR} {FOR_EVER}");
    let thread =
        format!("(if (i32.eq (local.get $argument) (i32.const 2)) (then unreachable)) {FOR_EVER}");
    let (_pod, process, log) = host.run(&threaded(&body, &thread)).await;
    let exit = process.wait().await;
    assert!(matches!(exit, Exit::Trapped { .. }), "{exit}");
    assert!(log.text().contains("unreachable"), "{}", log.text());
    assert_eq!(process.usage().memory, 0);
}

#[tokio::test]
async fn one_that_exits_ends_all() {
    let host = Host::new();
    let body = format!("{FOUR} {FOR_EVER}");
    let thread = format!(
        "(if (i32.eq (local.get $argument) (i32.const 3)) (then (call $exit (i32.const 5))))
         (loop $ever (br $ever)) {FOR_EVER}"
    );
    let (_pod, process, _log) = host.run(&threaded(&body, &thread)).await;
    assert_eq!(process.wait().await, Exit::Exited(5));
}

#[tokio::test]
async fn threads_that_wait_are_killed_with_their_process() {
    let host = Host::new();
    let body = format!(
        "{FOUR} (drop (call $write (i32.const 1) (i32.const 96) (i32.const 0) (i32.const 104))) {FOR_EVER}"
    );
    for _ in 0..20 {
        let thread = format!("(call $wake (i32.const 16)) {FOR_EVER}");
        let (pod, process, _log) = host.run(&threaded(&body, &thread)).await;
        process.kill();
        assert_eq!(process.wait().await, Exit::Killed);
        assert_eq!(process.usage().memory, 0);
        pod.shutdown().await;
    }
}

#[tokio::test]
async fn the_first_thread_takes_the_others_along() {
    let host = Host::new();
    let (_pod, process, _log) = host.run(&threaded(FOUR, "(loop $ever (br $ever))")).await;
    assert_eq!(process.wait().await, Exit::Exited(0));
    assert_eq!(process.usage().memory, 0);
}

#[tokio::test]
async fn memory_is_charged_once_and_held_to_the_limit() {
    let host = Host::new();
    // Each of four adds a page, in one memory for all.
    let thread = "(drop (memory.grow (i32.const 1))) (call $wake (i32.const 16))";
    let body = format!(
        "{FOUR}
        (block $done
            (loop $more
                (local.set $count (i32.atomic.load (i32.const 16)))
                (br_if $done (i32.eq (local.get $count) (i32.const 4)))
                (call $wait (i32.const 16) (local.get $count))
                (br $more)))
        (if (i32.ne (memory.size) (i32.const 5)) (then unreachable))
        (if (i32.ne (memory.grow (i32.const 96)) (i32.const -1)) (then unreachable))
        (call $exit (i32.add (memory.grow (i32.const 90)) (i32.const 2)))"
    );
    let text = threaded(&body, thread);
    let (_pod, process, _log) = host.run(&text).await;
    assert_eq!(process.wait().await, Exit::Exited(7));
    let peak = process.usage().peak_memory;
    assert!((95 << 16..96 << 16).contains(&peak), "{peak}");
    let (_pod, process, _log) = host
        .run_with(&text, |config| config.memory_limit = Some(10 << 16))
        .await;
    assert_eq!(process.wait().await, Exit::OutOfMemory);
    assert_eq!(process.usage().memory, 0);
}

#[tokio::test]
async fn more_threads_than_a_process_may_have_are_refused() {
    let host = Host::new();
    let body = "(loop $more
            (local.set $count (i32.add (local.get $count) (i32.const 1)))
            (br_if $more (i32.gt_s (call $spawn (i32.const 0)) (i32.const 0))))
        (call $exit (local.get $count))";
    let (_pod, process, log) = host
        .run_with(&threaded(body, FOR_EVER), |config| config.max_threads = 8)
        .await;
    // Itself, seven more, and the one that was refused.
    assert_eq!(process.wait().await, Exit::Exited(8));
    let text = log.text();
    assert!(text.contains("the process may have 8 at once"), "{text}");
}

#[tokio::test]
async fn waits_have_the_instructions_results() {
    let host = Host::new();
    let body = "(if (i32.ne (memory.atomic.wait32 (i32.const 8) (i32.const 1) (i64.const -1)) (i32.const 1))
            (then unreachable))
        (if (i32.ne (memory.atomic.wait64 offset=8 (i32.const 8) (i64.const 0) (i64.const 1000)) (i32.const 2))
            (then unreachable))
        (drop (memory.atomic.wait32 (i32.const 9) (i32.const 0) (i64.const 0)))";
    let (_pod, process, _log) = host.run(&threaded(body, "")).await;
    let exit = process.wait().await;
    assert!(
        matches!(&exit, Exit::Trapped { message } if message.contains("unaligned atomic")),
        "{exit}"
    );
    let beyond = "(drop (memory.atomic.notify offset=4294967292 (i32.const 4) (i32.const 1)))";
    let (_pod, process, _log) = host.run(&threaded(beyond, "")).await;
    let exit = process.wait().await;
    assert!(
        matches!(&exit, Exit::Trapped { message } if message.contains("out of bounds")),
        "{exit}"
    );
}

#[tokio::test]
async fn what_could_not_start_threads_is_refused() {
    let host = Host::new();
    let without = threaded("", "").replace("wasi_thread_start", "other");
    let refused = host.runtime.load(assemble(&without)).await;
    assert!(
        matches!(&refused, Err(LoadError::UnsupportedKind { message }) if message.contains("wasi_thread_start")),
        "{refused:?}"
    );
    let component = "(component (core module (memory 1 1 shared)))";
    let refused = host.runtime.load(assemble(component)).await;
    assert!(
        matches!(&refused, Err(LoadError::UnsupportedKind { message }) if message.contains("shared memories")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn threads_of_rusts_library_work() {
    let host = Host::with(config());
    let module = host.example("wasm32-wasip1-threads", "threads").await;
    let pod = host.pod("pod");
    let (process, log) = start(&pod, module, |config| {
        config.args = vec!["threads".into(), "8".into()];
    })
    .await;
    assert_eq!(process.wait().await, Exit::Exited(0), "{}", log.text());
    let text = log.text();
    assert_eq!(text.matches("stdout: thread ").count(), 8, "{text}");
    assert!(text.ends_with("stdout: counted to 8000\n"), "{text}");
}
