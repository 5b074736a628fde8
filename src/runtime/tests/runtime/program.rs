//! Programs: their output, their exits, and what they can't do to others.

use std::time::Duration;

use vaquita_runtime::{Exit, LogSink, LogStream, ProcessConfig, StartError};

use crate::support::{Host, start};

/// Text of a program whose entry point has that body. It can write `length` bytes of its memory at `from` to standard output:
/// `(call $print (i32.const FROM) (i32.const LENGTH))`.
fn program(body: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 1024) "hello, world\n")
            (func $print (param $from i32) (param $length i32)
                (i32.store (i32.const 0) (local.get $from))
                (i32.store (i32.const 4) (local.get $length))
                (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
            (func $inner (param i32) (result i32) (i32.div_s (i32.const 1) (local.get 0)))
            (func $outer (drop (call $inner (i32.const 0))))
            (func $deeper (call $deeper))
            (func (export "_start") {body}))"#
    )
}

const ENDLESS: &str = "(loop $ever (br $ever))";

#[tokio::test]
async fn output_reaches_the_log_and_the_exit_code_its_waiters() {
    let host = Host::new();
    let text = program("(call $print (i32.const 1024) (i32.const 13)) (call $exit (i32.const 3))");
    let (_pod, process, log) = host.run(&text).await;
    assert_eq!(process.wait().await, Exit::Exited(3));
    assert_eq!(
        process.wait().await,
        Exit::Exited(3),
        "for whoever asks later, too"
    );
    assert_eq!(process.exit(), Some(Exit::Exited(3)));
    assert_eq!(log.text(), "stdout: hello, world\n");
}

#[tokio::test]
async fn an_unfinished_line_is_not_lost() {
    let host = Host::new();
    let (_pod, process, log) = host
        .run(&program("(call $print (i32.const 1024) (i32.const 5))"))
        .await;
    assert_eq!(process.wait().await, Exit::Exited(0));
    assert_eq!(log.text(), "stdout: hello");
}

#[tokio::test]
async fn a_program_sees_its_arguments_and_environment_and_nothing_else() {
    let host = Host::new();
    let text = program(
        "(drop (call $args (i32.const 2000) (i32.const 3000)))
         (drop (call $environ (i32.const 2100) (i32.const 3100)))
         (call $print (i32.const 3000) (i32.const 10))
         (call $print (i32.const 3100) (i32.const 25))",
    );
    let (_pod, process, log) = host
        .run_with(&text, |config| {
            config.args = vec!["prog".into(), "arg1".into()];
            config.env = vec![("COLOUR".into(), "grey".into())];
        })
        .await;
    assert_eq!(process.wait().await, Exit::Exited(0));
    assert_eq!(
        log.text(),
        "stdout: prog\0arg1\0COLOUR=grey\0HOSTNAME=pod\0"
    );
}

#[tokio::test]
async fn a_trap_is_told_with_the_names_of_the_functions() {
    let host = Host::new();
    let (_pod, process, log) = host.run(&program("(call $outer)")).await;
    let Exit::Trapped { message } = process.wait().await else {
        panic!("{:?}", process.exit());
    };
    assert!(
        message.starts_with("wasm trap: integer divide by zero\n"),
        "{message}"
    );
    let position = |name: &str| {
        message
            .find(name)
            .unwrap_or_else(|| panic!("{name} in {message}"))
    };
    assert!(
        position("!inner") < position("!outer"),
        "innermost first: {message}"
    );
    assert!(
        log.text()
            .contains("stderr: wasm trap: integer divide by zero\n"),
        "{}",
        log.text()
    );
}

#[tokio::test]
async fn endless_recursion_is_a_trap() {
    let host = Host::new();
    let (_pod, process, _log) = host.run(&program("(call $deeper)")).await;
    let exit = process.wait().await;
    assert!(
        matches!(&exit, Exit::Trapped { message } if message.contains("call stack exhausted")),
        "{exit}"
    );
}

#[tokio::test]
async fn endless_loops_leave_room_for_others_and_can_be_killed() {
    let host = Host::new();
    // More of them than there are threads.
    let mut spinning = Vec::new();
    for _ in 0..4 {
        spinning.push(host.run(&program(ENDLESS)).await);
    }
    let (_pod, process, log) = host
        .run(&program("(call $print (i32.const 1024) (i32.const 13))"))
        .await;
    assert_eq!(process.wait().await, Exit::Exited(0));
    assert_eq!(log.text(), "stdout: hello, world\n");
    for (_pod, process, _log) in &spinning {
        assert_eq!(process.exit(), None);
        process.kill();
        assert_eq!(process.wait().await, Exit::Killed);
        assert!(process.usage().cpu > Duration::ZERO);
        assert_eq!((process.usage().memory, process.usage().instances), (0, 0));
    }
}

#[tokio::test]
async fn an_endless_loop_at_instantiation_can_be_killed_too() {
    let host = Host::new();
    let text = "(module (func $f (loop $ever (br $ever))) (start $f) (func (export \"_start\")))";
    let (_pod, process, _log) = host.run(text).await;
    process.kill();
    assert_eq!(process.wait().await, Exit::Killed);
}

#[tokio::test]
async fn a_program_that_is_asked_to_end_does() {
    let host = Host::new();
    let (_pod, process, _log) = host.run(&program(ENDLESS)).await;
    process.terminate(Duration::from_hours(1));
    assert_eq!(process.wait().await, Exit::Terminated);
    assert_eq!(process.wait().await.code(), 143);
}

#[tokio::test]
async fn memory_beyond_the_limit_is_refused_and_explains_the_end() {
    let host = Host::new();
    // Grows by a page at a time; -1 makes it exit with a code of its own, or trap.
    let grow = |end: &str| {
        program(&format!(
            "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) {end}"
        ))
    };
    for (end, expected) in [
        ("unreachable", Exit::OutOfMemory),
        ("(call $exit (i32.const 1))", Exit::OutOfMemory),
        ("(call $exit (i32.const 0))", Exit::Exited(0)),
    ] {
        let limited = host
            .run_with(&grow(end), |config| config.memory_limit = Some(1 << 20))
            .await;
        let (_pod, process, _log) = limited;
        assert_eq!(process.wait().await, expected);
        assert_eq!(process.usage().peak_memory, 1 << 20);
    }
}

#[tokio::test]
async fn memory_and_tables_count_from_the_start() {
    let host = Host::new();
    for text in [
        "(module (memory 17) (func (export \"_start\")))",
        "(module (table 100000 funcref) (memory 8) (func (export \"_start\")))",
    ] {
        let limited = host
            .run_with(text, |config| config.memory_limit = Some(1 << 20))
            .await;
        let (_pod, process, log) = limited;
        assert_eq!(process.wait().await, Exit::OutOfMemory);
        assert_eq!(log.text(), "stderr: out of memory\n");
    }
}

#[tokio::test]
async fn dropping_the_pod_or_the_runtime_ends_what_runs() {
    let host = Host::new();
    let (pod, process, _log) = host.run(&program(ENDLESS)).await;
    drop(pod);
    assert_eq!(process.wait().await, Exit::Killed);

    let (pod, process, _log) = host.run(&program(ENDLESS)).await;
    drop(host.runtime);
    assert_eq!(process.wait().await, Exit::Killed);
    let module = Host::new().load(&program("")).await;
    let refused = pod.start(ProcessConfig::new("late", module)).await;
    assert!(matches!(refused, Err(StartError::ShutDown)));
}

#[tokio::test]
async fn a_pod_that_was_shut_down_is_empty_and_starts_nothing() {
    let host = Host::new();
    let (pod, process, _log) = host.run(&program(ENDLESS)).await;
    assert_eq!(pod.processes().len(), 1);
    pod.shutdown().await;
    assert_eq!(process.exit(), Some(Exit::Killed));
    assert!(pod.processes().is_empty());
    let module = host.load(&program("")).await;
    let refused = pod.start(ProcessConfig::new("late", module)).await;
    assert!(matches!(refused, Err(StartError::ShutDown)));
}

#[tokio::test]
async fn a_log_that_is_full_holds_back_its_writer_alone() {
    use std::sync::Mutex;
    use std::task::{Context, Poll, Waker};

    #[derive(Default)]
    struct Full {
        open: Mutex<(bool, Vec<Waker>)>,
        lines: Mutex<usize>,
    }
    impl LogSink for Full {
        fn write(&self, _stream: LogStream, _line: &[u8]) {
            *self.lines.lock().expect("not poisoned") += 1;
        }
        fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
            let mut open = self.open.lock().expect("not poisoned");
            if open.0 {
                return Poll::Ready(());
            }
            open.1.push(context.waker().clone());
            Poll::Pending
        }
    }

    let host = Host::new();
    let sink = std::sync::Arc::new(Full::default());
    let writes = program("(call $print (i32.const 1024) (i32.const 13))");
    let (_pod, process, _log) = host
        .run_with(&writes, |config| config.log = sink.clone())
        .await;
    let (_other, free, log) = host.run(&writes).await;
    assert_eq!(free.wait().await, Exit::Exited(0));
    assert_eq!(log.text(), "stdout: hello, world\n");
    assert_eq!(
        (process.exit(), *sink.lines.lock().expect("not poisoned")),
        (None, 0)
    );
    let waiting = {
        let mut open = sink.open.lock().expect("not poisoned");
        open.0 = true;
        std::mem::take(&mut open.1)
    };
    waiting.into_iter().for_each(Waker::wake);
    assert_eq!(process.wait().await, Exit::Exited(0));
    assert_eq!(*sink.lines.lock().expect("not poisoned"), 1);
}

#[tokio::test]
async fn more_programs_than_the_pool_has_room_for_fail_clearly() {
    let mut config = crate::support::config();
    config.max_instances = 16;
    let host = Host::with(config);
    let pod = host.pod("full");
    let module = host.load(&program(ENDLESS)).await;
    let mut running = Vec::new();
    for _ in 0..host.runtime.max_instances() {
        running.push(start(&pod, module.clone(), |_| {}).await.0);
    }
    while running.iter().any(|process| process.usage().memory == 0) {
        tokio::task::yield_now().await;
    }
    let (one_more, _log) = start(&pod, module, |_| {}).await;
    let exit = one_more.wait().await;
    assert!(
        matches!(&exit, Exit::Failed { message } if message.contains("16")),
        "{exit}"
    );
}

#[tokio::test]
async fn an_import_that_is_not_granted_fails_the_start() {
    let host = Host::new();
    let module = host.load(&program("")).await;
    assert!(
        module
            .imports()
            .iter()
            .any(|import| import == "wasi_snapshot_preview1::fd_write")
    );
    let pod = host.pod("pod");
    let grant = async |imports: &[&str]| {
        let mut config = ProcessConfig::new("guest", module.clone());
        let imports = imports.iter().map(|import| (*import).to_owned()).collect();
        config.capabilities.imports = Some(imports);
        config.capabilities.granted_by = "WasmPolicy default/strict".into();
        pod.start(config).await
    };
    let refused = grant(&["wasi_snapshot_preview1::args_*", "wasi:cli/*"]).await;
    assert_eq!(
        refused.expect_err("a refusal").to_string(),
        "import wasi_snapshot_preview1::environ_get is not granted by WasmPolicy default/strict"
    );
    let process = grant(&["wasi_snapshot_preview1::*"])
        .await
        .expect("all of it");
    assert_eq!(process.wait().await, Exit::Exited(0));
}
