//! HTTP handlers: one instance for each request, whatever becomes of it.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vaquita_runtime::{Exit, Pod, Process, StartError};

use crate::support::{Host, start};

const HANDLER: &str = include_str!("handler.wat");

#[tokio::test]
async fn a_request_is_answered_and_no_instance_is_left() {
    let host = Host::new();
    let (pod, process, _log) = host.run(HANDLER).await;
    assert_eq!(process.listening().len(), 1);
    assert_eq!(
        process.usage().instances,
        0,
        "none before the first request"
    );
    let answer = host.get(&pod, 8080, "/some/path?x=1").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.ends_with("\r\n\r\nE\r\n/some/path?x=1\r\n0\r\n\r\n"),
        "{answer}"
    );
    while process.usage().instances > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!((process.usage().requests, process.usage().memory), (1, 0));
}

#[tokio::test]
async fn each_request_has_an_instance_of_its_own() {
    let host = Host::new();
    let (pod, _process, _log) = host.run(HANDLER).await;
    // An instance's allocator never frees: one that was reused would run out of its single page.
    for _ in 0..32 {
        let path = format!("/{}", "x".repeat(3000));
        assert!(host.get(&pod, 8080, &path).await.contains(&path));
    }
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request() {
    let host = Host::new();
    let (pod, _process, _log) = host.run(HANDLER).await;
    let mut stream = host
        .fabric
        .dial((pod.ip(), 8080).into())
        .await
        .expect("a listener");
    for path in ["/one", "/two"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: pod\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("an open connection");
        let mut answer = Vec::new();
        while !answer.ends_with(b"0\r\n\r\n") {
            assert_ne!(
                stream
                    .read_buf(&mut answer)
                    .await
                    .expect("an open connection"),
                0
            );
        }
        assert!(String::from_utf8_lossy(&answer).contains(path));
    }
}

#[tokio::test]
async fn http_2_is_spoken_without_asking() {
    let host = Host::new();
    let (pod, _process, _log) = host.run(HANDLER).await;
    let stream = host
        .fabric
        .dial((pod.ip(), 8080).into())
        .await
        .expect("a listener");
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .expect("a handshake");
    tokio::spawn(connection);
    let request = http::Request::get("http://pod/two")
        .body(String::new())
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(
        (answer.status(), answer.version()),
        (http::StatusCode::OK, http::Version::HTTP_2)
    );
    let body = http_body_util::BodyExt::collect(answer)
        .await
        .expect("a body")
        .to_bytes();
    assert_eq!(body, "/two");
}

#[tokio::test]
async fn a_guest_that_fails_costs_its_own_request_only() {
    let host = Host::new();
    let (pod, process, log) = host.run(HANDLER).await;
    let answer = host.get(&pod, 8080, "/trap").await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert!(
        !answer.contains("unreachable"),
        "the client is not told: {answer}"
    );
    log.contains("stderr: wasm trap: wasm `unreachable` instruction executed\n")
        .await;
    log.contains("break_a_rule").await;

    let answer = host.get(&pod, 8080, "/none").await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    log.contains("stderr: the handler returned without an answer\n")
        .await;

    assert!(
        host.get(&pod, 8080, "/fine")
            .await
            .starts_with("HTTP/1.1 200 ")
    );
    assert_eq!(process.exit(), None);
}

#[tokio::test]
async fn a_body_that_a_failed_guest_left_unfinished_does_not_look_whole() {
    let host = Host::new();
    let (pod, _process, _log) = host.run(HANDLER).await;
    let mut stream = host.ask(&pod, 8080, "/half").await;
    let mut answer = Vec::new();
    // The connection is cut, possibly before anything of the answer was sent.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_ended() {
    let host = Host::new();
    let (pod, _process, log) = host
        .run_with(HANDLER, |config| {
            config.http.request_timeout = Some(Duration::from_millis(50));
        })
        .await;
    let answer = host.get(&pod, 8080, "/spin").await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    log.contains("stderr: a request took too long\n").await;
}

#[tokio::test]
async fn requests_beyond_the_bound_wait_for_their_turn() {
    let host = Host::new();
    let (pod, process, _log) = host
        .run_with(HANDLER, |config| config.http.max_concurrent_requests = 1)
        .await;
    let spinning = host.ask(&pod, 8080, "/spin").await;
    while process.usage().instances == 0 {
        tokio::task::yield_now().await;
    }
    let mut waiting = host.ask(&pod, 8080, "/next").await;
    let mut answer = String::new();
    let early = tokio::time::timeout(
        Duration::from_millis(50),
        waiting.read_to_string(&mut answer),
    )
    .await;
    assert!(early.is_err(), "{answer}");
    assert_eq!(process.usage().instances, 1);
    drop(spinning);
}

#[tokio::test]
async fn all_requests_together_stay_within_the_memory_limit() {
    let host = Host::new();
    let (pod, process, log) = host
        .run_with(HANDLER, |config| config.memory_limit = Some(8 << 20))
        .await;
    let answer = host.get(&pod, 8080, "/grow").await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    log.contains("stderr: out of memory\n").await;
    assert!(
        host.get(&pod, 8080, "/fine")
            .await
            .starts_with("HTTP/1.1 200 ")
    );
    assert!(process.usage().peak_memory <= 8 << 20);
}

#[tokio::test]
async fn a_handler_that_is_asked_to_end_finishes_what_it_has() {
    let host = Host::new();
    let (pod, process, _log) = host.run(HANDLER).await;
    let mut stream = host.ask(&pod, 8080, "/wait").await;
    while process.usage().instances == 0 {
        tokio::task::yield_now().await;
    }
    process.terminate(Duration::from_hours(1));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(process.wait().await, Exit::Exited(0));
    let refused = host.fabric.dial((pod.ip(), 8080).into()).await;
    assert!(refused.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn grace_ends() {
    let host = Host::new();
    let (pod, process, _log) = host.run(HANDLER).await;
    let _spinning = host.ask(&pod, 8080, "/spin").await;
    while process.usage().instances == 0 {
        tokio::task::yield_now().await;
    }
    process.terminate(Duration::from_hours(1));
    assert_eq!(process.exit(), None);
    process.terminate(Duration::ZERO);
    assert_eq!(process.wait().await, Exit::Killed);
    assert_eq!(process.usage().instances, 0);
}

#[tokio::test]
async fn killing_cuts_everything() {
    let host = Host::new();
    let (pod, process, _log) = host.run(HANDLER).await;
    let mut spinning = host.ask(&pod, 8080, "/spin").await;
    while process.usage().instances == 0 {
        tokio::task::yield_now().await;
    }
    process.kill();
    assert_eq!(process.wait().await, Exit::Killed);
    assert_eq!(process.usage().instances, 0);
    let mut answer = String::new();
    let _ = spinning.read_to_string(&mut answer).await;
    // Cut off, unless the runtime was just quick enough to say why.
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 503 "),
        "{answer}"
    );
}

#[tokio::test]
async fn the_same_port_in_two_pods_is_two_ports_and_in_one_pod_one() {
    let host = Host::new();
    let module = host.load(HANDLER).await;
    let (one, other) = (host.pod("one"), host.pod("other"));
    start(&one, module.clone(), |_| {}).await;
    start(&other, module.clone(), |_| {}).await;
    for pod in [&one, &other] {
        assert!(host.get(pod, 8080, "/").await.starts_with("HTTP/1.1 200 "));
    }
    let config = vaquita_runtime::ProcessConfig::new("third", module);
    let refused = one.start(config).await;
    assert!(
        matches!(refused, Err(StartError::Listen { port: 8080, .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_client_that_does_not_say_whom_it_asks_is_served() {
    let host = Host::new();
    let (pod, _process, _log) = host.run(HANDLER).await;
    let mut stream = host
        .fabric
        .dial((pod.ip(), 8080).into())
        .await
        .expect("a listener");
    stream
        .write_all(b"GET /old HTTP/1.0\r\n\r\n")
        .await
        .expect("an open connection");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(
        answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("/old"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_embedder_asks_a_handler_without_a_connection() {
    let host = Host::new();
    let (_pod, process, _log) = host.run(HANDLER).await;
    let ask = async |path: &str| {
        let request = http::Request::get(path).header("host", "pod");
        let request = request.body(String::new()).expect("a request");
        process.request(request).await
    };
    let answer = ask("/direct").await.expect("a handler");
    assert_eq!(answer.status(), 200);
    let body = http_body_util::BodyExt::collect(answer.into_body()).await;
    assert_eq!(body.expect("a whole body").to_bytes(), "/direct");
    assert_eq!(ask("/trap").await.expect("a handler").status(), 500);
    let half = ask("/half").await.expect("a handler");
    let body = http_body_util::BodyExt::collect(half.into_body()).await;
    assert!(body.is_err(), "half a body is not a body");
    process.kill();
    process.wait().await;
    assert!(ask("/late").await.is_err());
}

/// How many instances there are after each of six requests, one after another, to a handler whose instances answer three.
async fn instances_after_requests(host: &Host, pod: &Pod, process: &Process) -> Vec<u64> {
    let mut kept = Vec::new();
    for request in 1..=6 {
        let path = format!("/{request}");
        assert!(host.get(pod, 8080, &path).await.contains(&path));
        // It is given back just after its answer.
        while (process.usage().instances == 0) == (request % 3 != 0) {
            tokio::task::yield_now().await;
        }
        kept.push(process.usage().instances);
    }
    kept
}

#[tokio::test]
async fn instances_answer_as_many_requests_as_they_may() {
    let host = Host::new();
    let mut attempts = Vec::new();
    // A request that comes before the instance of the one before is back has another one, which nothing tells from outside. It
    // can't always be so.
    while attempts.len() < 20 {
        let (pod, process, _log) = host
            .run_with(HANDLER, |config| config.http.requests_per_instance = 3)
            .await;
        let kept = tokio::time::timeout(
            Duration::from_secs(5),
            instances_after_requests(&host, &pod, &process),
        );
        attempts.push(kept.await.unwrap_or_default());
        let trapped = host.get(&pod, 8080, "/trap").await;
        assert!(trapped.starts_with("HTTP/1.1 500 "));
        if attempts
            .last()
            .is_some_and(|kept| *kept == [1, 1, 0, 1, 1, 0])
        {
            while process.usage().instances > 0 {
                tokio::task::yield_now().await;
            }
            return;
        }
    }
    panic!("{attempts:?}");
}
