use std::{
    io,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use std::net::IpAddr;

use super::*;
use crate::action::Commands;
use vaquita_backends::{Connection, ContainerConfig, Instance, Sandbox, StartError};

/// A container in which `true` succeeds and other commands fail.
struct Shell;

#[async_trait]
impl Commands for Shell {
    async fn run(&self, command: Vec<String>) -> Result<(i32, String), String> {
        match command[0].as_str() {
            "true" => Ok((0, String::new())),
            "false" => Ok((1, "it is false".to_owned())),
            _ => Err("no such command".to_owned()),
        }
    }
}

/// A pod that answers as it is told.
#[derive(Default)]
struct Pod {
    /// Head of the answer; `None`: connections are refused.
    answer: Mutex<Option<&'static str>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Pod {
    fn answering(answer: &'static str) -> Self {
        Self {
            answer: Mutex::new(Some(answer)),
            asked: Arc::default(),
        }
    }

    fn answer(&self, answer: Option<&'static str>) {
        *self.answer.lock().unwrap() = answer;
    }
}

#[async_trait]
impl Sandbox for Pod {
    fn ip(&self) -> IpAddr {
        IpAddr::from([10, 244, 0, 2])
    }

    async fn start(&self, _container: ContainerConfig) -> Result<Box<dyn Instance>, StartError> {
        Err(StartError::Run("nothing is started here".to_owned()))
    }

    async fn dial(&self, _port: u16) -> io::Result<Box<dyn Connection>> {
        let Some(answer) = *self.answer.lock().unwrap() else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let (near, mut far) = tokio::io::duplex(1024);
        let asked = self.asked.clone();
        tokio::spawn(async move {
            let mut request = vec![0; 1024];
            let length = far.read(&mut request).await.unwrap_or(0);
            asked
                .lock()
                .unwrap()
                .push(String::from_utf8_lossy(&request[..length]).into_owned());
            if answer.is_empty() {
                std::future::pending::<()>().await;
            }
            let _ = far.write_all(answer.as_bytes()).await;
        });
        Ok(Box::new(near))
    }

    async fn shutdown(&self) {}
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const BAD: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

#[expect(
    clippy::needless_pass_by_value,
    reason = "callers pass what they have just made"
)]
fn container(probes: Value) -> Container {
    let mut container = json!({"name": "c", "ports": [{"name": "http", "containerPort": 8080}]});
    container
        .as_object_mut()
        .unwrap()
        .extend(probes.as_object().unwrap().clone());
    serde_json::from_value(container).unwrap()
}

/// Starts probing; what is dropped first ends it.
fn start(pod: &Arc<Pod>, probes: Value) -> mpsc::Receiver<Signal> {
    let (sender, receiver) = mpsc::channel(64);
    let (checks, pod) = (Checks::of(&container(probes)), pod.clone());
    tokio::spawn(async move {
        let target = Target {
            sandbox: &*pod,
            commands: &Shell,
        };
        run(checks, target, sender).await;
    });
    receiver
}

async fn outcome(pod: &Pod, probe: Value) -> Outcome {
    let check = Checks::of(&container(json!({"livenessProbe": probe})))
        .liveness
        .unwrap();
    let (signals, _receiver) = mpsc::channel(1);
    Prober {
        target: Target {
            sandbox: pod,
            commands: &Shell,
        },
        signals: &signals,
        start: Instant::now(),
    }
    .outcome(&check)
    .await
}

#[tokio::test(start_paused = true)]
async fn http_succeeds_from_200_to_399() {
    let get = json!({"httpGet": {"port": "http", "path": "health?x=1", "httpHeaders": [{"name": "Host", "value": "me"}]}});
    let pod = Pod::answering(OK);
    assert_eq!(outcome(&pod, get.clone()).await, Outcome::Success);
    let asked = pod.asked.lock().unwrap().join("");
    assert!(asked.starts_with("GET /health?x=1 HTTP/1.1\r\n"), "{asked}");
    assert!(
        asked.contains("host: me\r\n") && !asked.contains("10.244.0.2"),
        "{asked}"
    );
    assert!(asked.contains("user-agent: kube-probe/"), "{asked}");

    pod.answer(Some("HTTP/1.1 304 Not Modified\r\n\r\n"));
    assert_eq!(outcome(&pod, get.clone()).await, Outcome::Success);
    pod.answer(Some(
        "HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n",
    ));
    assert_eq!(
        outcome(&pod, get.clone()).await,
        Outcome::Failure("Get \"http://10.244.0.2:8080/x\": stopped after 10 redirects".to_owned())
    );
    pod.answer(Some(
        "HTTP/1.1 302 Found\r\nlocation: http://example.com/\r\ncontent-length: 4\r\n\r\ngone",
    ));
    assert_eq!(
        outcome(&pod, get.clone()).await,
        Outcome::Warning("Probe terminated redirects, Response body: gone".to_owned())
    );
    pod.answer(Some(BAD));
    assert_eq!(
        outcome(&pod, get.clone()).await,
        Outcome::Failure("HTTP probe failed with statuscode: 503".to_owned())
    );
    for (answer, part) in [
        (None, "connection refused"),
        (Some("nonsense"), "Get "),
        (Some(""), "no answer within 1s"),
    ] {
        pod.answer(answer);
        match outcome(&pod, get.clone()).await {
            Outcome::Failure(message) => {
                assert!(
                    message.contains(part) && message.contains("http://10.244.0.2:8080/health"),
                    "{message}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn tcp_succeeds_when_somebody_listens_and_others_say_what_they_cannot() {
    let pod = Pod::answering("");
    assert_eq!(
        outcome(&pod, json!({"tcpSocket": {"port": 8080}})).await,
        Outcome::Success
    );
    pod.answer(None);
    assert!(matches!(
        outcome(&pod, json!({"tcpSocket": {"port": 8080}})).await,
        Outcome::Failure(_)
    ));
    for (probe, part) in [
        (json!({"exec": {"command": ["absent"]}}), "no such command"),
        (json!({"exec": {}}), "exec.command is empty"),
        (json!({"grpc": {"port": 0}}), "unresolvable port"),
        (json!({"httpGet": {"port": "nope"}}), "unresolvable port"),
        (json!({"httpGet": {"port": 0}}), "unresolvable port"),
        (
            json!({"httpGet": {"port": 1, "httpHeaders": [{"name": "a b", "value": ""}]}}),
            "no valid header",
        ),
        (
            json!({"httpGet": {"port": 1, "path": "/ \r\nx"}}),
            "no valid path",
        ),
        (json!({}), "missing probe handler"),
    ] {
        match outcome(&pod, probe).await {
            Outcome::Unknown(message) => assert!(message.contains(part), "{message}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_goes_by_its_thresholds() {
    let pod = Arc::new(Pod::answering(OK));
    let probe = json!({"httpGet": {"port": 80}, "periodSeconds": 5, "successThreshold": 2, "failureThreshold": 2});
    let mut signals = start(&pod, json!({"readinessProbe": probe}));
    let begin = Instant::now();
    assert_eq!(signals.recv().await, Some(Signal::Ready(true)));
    assert_eq!(
        begin.elapsed().as_secs(),
        5,
        "two successes, a period apart"
    );
    pod.answer(Some(BAD));
    let complaint = Signal::Complaint(
        "Readiness probe failed: HTTP probe failed with statuscode: 503".to_owned(),
    );
    assert_eq!(signals.recv().await, Some(complaint.clone()));
    assert_eq!(signals.recv().await, Some(complaint));
    assert_eq!(signals.recv().await, Some(Signal::Ready(false)));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_listens_a_moment_later_is_ready_without_a_complaint() {
    let pod = Arc::new(Pod::default());
    let mut signals = start(&pod, json!({"readinessProbe": {"tcpSocket": {"port": 80}}}));
    let begin = Instant::now();
    tokio::time::sleep(Duration::from_millis(50)).await;
    pod.answer(Some(""));
    assert_eq!(signals.recv().await, Some(Signal::Ready(true)));
    assert!(begin.elapsed() < Duration::from_millis(200));
}

#[tokio::test(start_paused = true)]
async fn liveness_ends_the_container_after_its_threshold() {
    let pod = Arc::new(Pod::default());
    let probe = json!({"tcpSocket": {"port": 80}, "initialDelaySeconds": 7, "terminationGracePeriodSeconds": 3});
    let mut signals = start(&pod, json!({"livenessProbe": probe}));
    let begin = Instant::now();
    for _ in 0..3 {
        assert!(matches!(signals.recv().await, Some(Signal::Complaint(_))));
    }
    assert_eq!(
        signals.recv().await,
        Some(Signal::Dead(Kind::Liveness, Some(Duration::from_secs(3))))
    );
    assert_eq!(begin.elapsed().as_secs(), 27);
    assert_eq!(signals.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_startup_probe_holds_the_others_back() {
    let pod = Arc::new(Pod::default());
    let probes = json!({
        "startupProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1, "failureThreshold": 10},
        "livenessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1, "failureThreshold": 1},
        "readinessProbe": {"tcpSocket": {"port": 80}},
    });
    let mut signals = start(&pod, probes.clone());
    for _ in 0..5 {
        match signals.recv().await {
            Some(Signal::Complaint(complaint)) => assert!(
                complaint.starts_with("Startup probe failed: "),
                "{complaint}"
            ),
            other => panic!("{other:?}"),
        }
    }
    pod.answer(Some(""));
    assert_eq!(signals.recv().await, Some(Signal::Started));
    assert_eq!(signals.recv().await, Some(Signal::Ready(true)));

    let mut hopeless = start(&Arc::new(Pod::default()), probes);
    for _ in 0..10 {
        assert!(matches!(hopeless.recv().await, Some(Signal::Complaint(_))));
    }
    assert_eq!(
        hopeless.recv().await,
        Some(Signal::Dead(Kind::Startup, None))
    );
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_cannot_be_made_complains_and_changes_nothing() {
    let pod = Arc::new(Pod::answering(OK));
    let exec = json!({"exec": {"command": ["absent"]}});
    let mut signals = start(&pod, json!({"livenessProbe": exec, "readinessProbe": exec}));
    for _ in 0..10 {
        match signals.recv().await {
            Some(Signal::Complaint(complaint)) => {
                assert!(complaint.contains("no such command"), "{complaint}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_succeeds_by_its_code() {
    let pod = Pod::answering(OK);
    let exec = |name: &str| json!({"exec": {"command": [name]}});
    assert_eq!(outcome(&pod, exec("true")).await, Outcome::Success);
    assert_eq!(
        outcome(&pod, exec("false")).await,
        Outcome::Failure("it is false".to_owned())
    );
}
