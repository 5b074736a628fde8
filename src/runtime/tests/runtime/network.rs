//! Sockets of a pod's network, as guests use them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vaquita_runtime::Exit;

use crate::support::{Host, start};

/// A program of WASI 0.2 that does this.
fn peer(body: &str) -> String {
    include_str!("peer.wat").replace("BODY", body)
}

/// Listens on port 7000, and sends one client back what it says.
fn echo() -> String {
    peer(
        "(call $next (call $listen (i32.const 7000)))
         (call $copy (global.get $in) (global.get $out))
         (call $end_sending)",
    )
}

/// Says `ping` to port 7000 of its own pod, and prints what comes back.
fn ping() -> String {
    peer(
        "(call $dial (i32.const 7000))
         (call $say (i32.const 1039) (i32.const 5) (global.get $out))
         (call $end_sending)
         (call $copy (global.get $in) (global.get $stdout))",
    )
}

#[tokio::test]
async fn processes_of_a_pod_meet_on_its_loopback() {
    let host = Host::new();
    let pod = host.pod("pod");
    let (server, said) = start(&pod, host.load(&echo()).await, |_| {}).await;
    said.contains("listening").await;
    let (client, heard) = start(&pod, host.load(&ping()).await, |_| {}).await;
    assert_eq!(client.wait().await, Exit::Exited(0), "{}", heard.text());
    assert_eq!(heard.text(), "stdout: ping\n");
    assert_eq!(server.wait().await, Exit::Exited(0), "{}", said.text());
}

#[tokio::test]
async fn pods_have_ports_and_a_loopback_of_their_own() {
    let host = Host::new();
    let (module, client) = (host.load(&echo()).await, host.load(&ping()).await);
    let (one, other) = (host.pod("one"), host.pod("other"));
    let (_first, said) = start(&one, module.clone(), |_| {}).await;
    said.contains("listening").await;

    // Nobody listens in this pod yet: connection-refused is code 14.
    let (refused, heard) = start(&other, client.clone(), |_| {}).await;
    assert!(matches!(refused.wait().await, Exit::Trapped { .. }));
    assert!(heard.text().starts_with("stdout: O\n"), "{}", heard.text());

    let (_second, said) = start(&other, module.clone(), |_| {}).await;
    said.contains("listening").await;
    let (client, heard) = start(&other, client, |_| {}).await;
    assert_eq!(client.wait().await, Exit::Exited(0), "{}", heard.text());

    // address-in-use is code 12.
    let (third, said) = start(&one, module, |_| {}).await;
    assert!(matches!(third.wait().await, Exit::Trapped { .. }));
    assert!(said.text().starts_with("stdout: M\n"), "{}", said.text());
}

#[tokio::test]
async fn a_program_is_reached_from_outside_of_its_pod() {
    let host = Host::new();
    let (pod, server, said) = host.run(&echo()).await;
    said.contains("listening").await;
    let mut stream = host
        .fabric
        .dial((pod.ip(), 7000).into())
        .await
        .expect("a listener");
    // More than any buffer on the way holds at once.
    let data = vec![b'x'; 1 << 20];
    let (mut reading, mut writing) = tokio::io::split(&mut stream);
    let receive = async {
        let mut received = Vec::new();
        reading.read_to_end(&mut received).await.map(|_| received)
    };
    let send = async {
        writing.write_all(&data).await?;
        writing.shutdown().await
    };
    let (received, done) = tokio::join!(receive, send);
    done.expect("all was taken");
    assert_eq!(received.expect("all came back").len(), data.len());
    assert_eq!(server.wait().await, Exit::Exited(0));
}

#[tokio::test]
async fn the_end_of_a_process_ends_its_connections() {
    let host = Host::new();
    let (pod, server, said) = host.run(&echo()).await;
    said.contains("listening").await;
    let mut stream = host
        .fabric
        .dial((pod.ip(), 7000).into())
        .await
        .expect("a listener");
    stream.write_all(b"hello").await.expect("room");
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.expect("an echo");
    server.kill();
    assert_eq!(server.wait().await, Exit::Killed);
    let rest = stream.read(&mut back).await;
    assert!(matches!(rest, Ok(0) | Err(_)), "{rest:?}");
    assert!(
        host.fabric.dial((pod.ip(), 7000).into()).await.is_err(),
        "nobody listens any more"
    );
}

/// A core module that serves one client on the descriptor it was handed: it reads once, and sends that back.
/// `FLAGS` are set on the listener before; `WAIT` stands before the accept.
const CORE: &str = r#"(module
    (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_recv" (func $recv (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_shutdown" (func $shutdown (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_fdstat_set_flags" (func $set_flags (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    ;; A buffer of 1000 bytes at 1000, described at 0.
    (data (i32.const 0) "\e8\03\00\00\e8\03\00\00")
    ;; Two subscriptions at 100: the listener, and an hour.
    (data (i32.const 100) "socket!!\01\00\00\00\00\00\00\00\03")
    (data (i32.const 148) "an hour!\00\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\00\80\ca\39\46\03")
    (func $check (param $errno i32)
        (if (local.get $errno) (then (call $exit (local.get $errno)))))
    (func $serve
        (call $check (call $accept (i32.const 3) (i32.const 0) (i32.const 16)))
        ;; A look ahead takes nothing.
        (call $check (call $recv (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 1)
            (i32.const 20) (i32.const 24)))
        (call $check (call $read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 20)))
        (i32.store (i32.const 4) (i32.load (i32.const 20)))
        (call $check (call $write (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 20)))
        (call $check (call $shutdown (i32.load (i32.const 16)) (i32.const 2)))
        (call $check (call $close (i32.load (i32.const 16)))))
    (func (export "_start") BODY))"#;

#[tokio::test]
async fn a_core_module_accepts_from_the_listener_it_is_handed() {
    let host = Host::new();
    let change = |config: &mut vaquita_runtime::ProcessConfig| config.listen = vec![7000];
    for body in [
        // Blocking.
        "(call $serve)",
        // Not blocking, and waiting for it with the other descriptors.
        "(call $check (call $set_flags (i32.const 3) (i32.const 4)))
         (if (i32.ne (call $accept (i32.const 3) (i32.const 0) (i32.const 16)) (i32.const 6))
             (then (call $exit (i32.const 100))))
         (call $check (call $poll (i32.const 100) (i32.const 200) (i32.const 2) (i32.const 300)))
         (if (i32.ne (i32.load (i32.const 300)) (i32.const 1)) (then (call $exit (i32.const 101))))
         (if (i64.ne (i64.load (i32.const 200)) (i64.load (i32.const 100))) (then (call $exit (i32.const 102))))
         (call $serve)",
        // As Go's runtime takes it over: a look at what it is (socket_stream is 6) and at its flags makes it one that does
        // not wait.
        "(call $check (call $stat (i32.const 3) (i32.const 400)))
         (if (i32.ne (i32.load8_u (i32.const 400)) (i32.const 6)) (then (call $exit (i32.const 103))))
         (if (i32.ne (i32.load8_u (i32.const 402)) (i32.const 4)) (then (call $exit (i32.const 104))))
         (if (i32.ne (call $accept (i32.const 3) (i32.const 0) (i32.const 16)) (i32.const 6))
             (then (call $exit (i32.const 105))))
         (call $check (call $poll (i32.const 100) (i32.const 200) (i32.const 1) (i32.const 300)))
         (call $serve)",
    ] {
        let (pod, process, log) = host.run_with(&CORE.replace("BODY", body), change).await;
        let mut stream = loop {
            match host.fabric.dial((pod.ip(), 7000).into()).await {
                Ok(stream) => break stream,
                // It has not come to its first use of the descriptor.
                Err(_) => assert_eq!(process.exit(), None, "{body}"),
            }
        };
        stream.write_all(b"good day").await.expect("room");
        let mut back = String::new();
        stream.read_to_string(&mut back).await.expect("an answer");
        assert_eq!(back, "good day");
        assert_eq!(process.wait().await, Exit::Exited(0), "{body}: {}", log.text());
    }
}

#[tokio::test]
async fn a_port_that_a_core_module_does_not_use_is_free() {
    let host = Host::new();
    let pod = host.pod("pod");
    let wait = "(module (func (export \"_start\") (loop $ever (br $ever))))";
    let (idle, _log) = start(&pod, host.load(wait).await, |config| {
        config.listen = vec![7000];
    })
    .await;
    let (_server, said) = start(&pod, host.load(&echo()).await, |_| {}).await;
    said.contains("listening").await;
    assert_eq!(idle.exit(), None);
}

#[tokio::test]
async fn addresses_outside_of_memory_are_errors() {
    let host = Host::new();
    // fault is 21.
    for body in [
        "(call $check (call $poll (i32.const 100) (i32.const -8) (i32.const 1) (i32.const 300)))",
        "(call $check (call $stat (i32.const 3) (i32.const 65535)))",
    ] {
        let text = CORE.replace("BODY", body);
        let (pod, process, _log) = host
            .run_with(&text, |config| config.listen = vec![7000])
            .await;
        // For the poll to have something to tell.
        while process.exit().is_none() {
            let _stream = host.fabric.dial((pod.ip(), 7000).into()).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(process.wait().await, Exit::Exited(21), "{body}");
    }
}
