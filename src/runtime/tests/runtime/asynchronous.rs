//! Components of WASI 0.3. Their guests are Rust, in `wasm-examples/async`: asynchronous components are too long a text.

use bytes::Bytes;
use http_body_util::BodyExt;
use vaquita_runtime::{Exit, LoadError, Module, ModuleKind, Volume};

use crate::support::{Host, start};

fn wasm(name: &str) -> Bytes {
    let path = format!(
        "{}/../../wasm-examples/target/wasm32-wasip2/release/{name}.wasm",
        env!("CARGO_MANIFEST_DIR")
    );
    let wasm = std::fs::read(&path);
    let wasm = wasm.unwrap_or_else(|error| panic!("{path}: {error}; run `cargo task guests`"));
    wasm.into()
}

async fn load(host: &Host, name: &str) -> Module {
    host.runtime.load(wasm(name)).await.expect("a module")
}

#[tokio::test]
async fn a_function_of_an_interface_is_an_entry_point_too() {
    let host = Host::new();
    let entry = "wasi:cli/run@0.3.2#run";
    let module = host.runtime.load_entry(wasm("async_greeter"), entry).await;
    let module = module.expect("a module");
    assert_eq!(module.kind(), ModuleKind::Command);
    let pod = host.pod("pod");
    let (process, log) = start(&pod, module.clone(), |config| {
        config.args = vec!["greeter".into(), "you".into()];
    })
    .await;
    assert_eq!(process.wait().await, Exit::Exited(0));
    assert_eq!(log.text(), "stdout: Hello, you!\n");
    let (process, _log) = start(&pod, module, |_| {}).await;
    assert_eq!(process.wait().await, Exit::Exited(1), "it returns an error");
    let absent = host
        .runtime
        .load_entry(wasm("async_greeter"), "wasi:cli/run@0.3.2#walk")
        .await;
    assert!(matches!(absent, Err(LoadError::NoEntry { .. })));
}

#[tokio::test]
async fn a_command_prints_and_ends_with_its_code() {
    let host = Host::new();
    let module = load(&host, "async_greeter").await;
    assert_eq!(module.kind(), ModuleKind::Command);
    let pod = host.pod("pod");
    let args = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect();
    let (process, log) = start(&pod, module.clone(), |config| {
        config.args = args(&["greeter", "you", "me"]);
    })
    .await;
    assert_eq!(process.wait().await, Exit::Exited(0));
    assert_eq!(log.text(), "stdout: Hello, you!\nstdout: Hello, me!\n");
    let (process, _log) = start(&pod, module, |config| config.args = args(&["greeter"])).await;
    assert_eq!(process.wait().await, Exit::Exited(1));
}

#[tokio::test]
async fn a_handler_streams_its_answer_and_no_instance_is_left() {
    let host = Host::new();
    let module = load(&host, "async_hello").await;
    assert_eq!(module.kind(), ModuleKind::HttpHandler);
    let pod = host.pod("pod");
    let (process, log) = start(&pod, module, |_| {}).await;
    let answer = host.get(&pod, 8080, "/some/path").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("GET /some/path\n"), "{answer}");

    let request = http::Request::post("/upload").header("host", "pod");
    let request = request.body("x".repeat(100_000)).expect("a request");
    let answer = process.request(request).await.expect("a handler");
    let body = answer.into_body().collect().await.expect("a whole body");
    assert_eq!(body.to_bytes(), "POST /upload\n100000 bytes\n");

    let answer = host.get(&pod, 8080, "/trap").await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    log.contains("as it was told").await;
    let answer = host.get(&pod, 8080, "/error").await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    log.contains("the handler gave up on a request").await;
    while process.usage().instances > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(process.usage().memory, 0);
    assert_eq!(process.exit(), None);
}

#[tokio::test]
async fn an_instance_answers_several_requests_if_it_may() {
    let host = Host::new();
    let module = load(&host, "async_hello").await;
    let pod = host.pod("pod");
    let (process, _log) = start(&pod, module, |config| {
        config.http.requests_per_instance = 10;
    })
    .await;
    for request in 0..5 {
        let answer = host.get(&pod, 8080, &format!("/{request}")).await;
        assert!(answer.contains(&format!("GET /{request}\n")), "{answer}");
    }
    assert_eq!(process.usage().requests, 5);
    assert!(process.usage().instances > 0, "one is kept");
}

#[tokio::test]
async fn an_instance_answers_several_requests_at_once_if_it_may() {
    let host = Host::new();
    let module = load(&host, "async_hello").await;
    let pod = host.pod("pod");
    let (process, log) = start(&pod, module, |config| {
        config.http.requests_per_instance = 100;
        config.http.concurrent_requests_per_instance = 3;
    })
    .await;
    // Each of them is answered only when all three are in one instance.
    let ask = || host.get(&pod, 8080, "/together");
    let answers = tokio::join!(ask(), ask(), ask());
    for answer in [answers.0, answers.1, answers.2] {
        assert!(answer.contains("GET /together\n"), "{answer}");
    }
    assert_eq!(process.usage().instances, 1);
    // It is the same one still.
    assert!(host.get(&pod, 8080, "/together").await.contains("200 OK"));
    let failed = host.get(&pod, 8080, "/trap").await;
    assert!(failed.starts_with("HTTP/1.1 500 "), "{failed}");
    log.contains("as it was told").await;
    let answer = host.get(&pod, 8080, "/again").await;
    assert!(answer.contains("GET /again\n"), "{answer}");
    process.terminate(std::time::Duration::from_mins(1));
    assert_eq!(process.wait().await, Exit::Exited(0));
    assert_eq!(process.usage().memory, 0);
}

#[tokio::test]
async fn files_are_the_processs() {
    let host = Host::new();
    let module = load(&host, "async_files").await;
    let pod = host.pod("pod");
    let dir = tempfile::tempdir().expect("a directory");
    let on_disk = Volume::directory(dir.path()).expect("a volume");
    for volume in [Volume::memory(1 << 20), on_disk] {
        let (process, log) = start(&pod, module.clone(), |config| {
            config.root = Some(volume);
        })
        .await;
        assert_eq!(process.wait().await, Exit::Exited(0), "{}", log.text());
        let lines = [
            "stdout: opened /",
            "stdout: read: hello, and more",
            "stdout: 15 bytes",
            "stdout: [\"file\"]",
            "stdout: absent: ErrorCode::NoEntry",
        ];
        assert_eq!(log.text().lines().collect::<Vec<_>>(), lines);
    }
    let (process, _log) = start(&pod, module, |_| {}).await;
    assert_eq!(process.wait().await, Exit::Exited(1), "there are none");
}

#[tokio::test]
async fn sockets_are_those_of_the_pods_network() {
    let host = Host::new();
    let module = load(&host, "async_sockets").await;
    let pod = host.pod("pod");
    let (process, log) = start(&pod, module, |_| {}).await;
    assert_eq!(process.wait().await, Exit::Exited(0), "{}", log.text());
    let lines = [
        "stdout: localhost: 127.0.0.1",
        "stdout: TCP: 65536 bytes and back",
        "stdout: nobody there: ErrorCode::ConnectionRefused",
        "stdout: UDP: hello",
    ];
    assert_eq!(log.text().lines().collect::<Vec<_>>(), lines);
}
