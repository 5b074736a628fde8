//! Commands, attached containers and forwarded ports, as stock `kubectl` and the `kube` client see them.
//!
//! Commands run in a kubelet of this test's own, behind a real API server in this process: both protocols, from the
//! client's first byte to the exit code. Forwarded ports and proxies lead to real Wasm pods in a real cluster.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, Request},
    response::{IntoResponse as _, Response},
    routing::any,
};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::AttachParams};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    runtime::Runtime,
};
use tower::ServiceExt as _;
use vaquita::local;
use vaquita_apiserver::{ApiServer, Config, NodeError, NodeTransport, User};
use vaquita_streams::{
    ExecSession, ForwardSession, Limits, Outcome, Wanted, handshake, inner, serve_forwards,
};

use crate::{
    harness::{PATIENCE, Printed, Vaquita, eventually, http_get, run, run_with_input},
    pods::web,
};

/// How stock kubectl is told which protocol to speak: for commands, for ports.
const WEBSOCKETS: [&str; 2] = [
    "KUBECTL_REMOTE_COMMAND_WEBSOCKETS",
    "KUBECTL_PORT_FORWARD_WEBSOCKETS",
];
const MIB: usize = 1 << 20;

type Pairs = Query<Vec<(String, String)>>;

/// Commands that run now, and their clients have not gone.
static SLEEPING: AtomicUsize = AtomicUsize::new(0);

/// Runs what the first word of the command says.
async fn command(session: &mut ExecSession, words: &[&str]) -> Outcome {
    let gone = session.gone();
    let (mut stdin, mut stdout) = (session.stdin.take(), session.stdout.take());
    let outcome = match (words, &mut stdin, &mut stdout) {
        (["cat"], Some(stdin), Some(stdout)) => match tokio::io::copy(stdin, stdout).await {
            Ok(_) => Outcome::Success,
            Err(error) => Outcome::Failed(error.to_string()),
        },
        (["fail", code], ..) => {
            if let Some(stderr) = &mut session.stderr {
                let _ = stderr.write_all(b"oops\n").await;
            }
            Outcome::Exit(code.parse().unwrap_or(1))
        }
        (["flood", count], _, Some(stdout)) => {
            let block = vec![b'x'; MIB];
            for _ in 0..count.parse().unwrap_or(0) {
                if stdout.write_all(&block).await.is_err() {
                    break;
                }
            }
            Outcome::Success
        }
        (["size"], _, Some(stdout)) => {
            let resizes = session.resizes.as_mut();
            let size = resizes.expect("a terminal").next().await.expect("a size");
            let text = format!("{} by {}\n", size.width, size.height);
            let _ = stdout.write_all(text.as_bytes()).await;
            Outcome::Success
        }
        (["sleep"], ..) => {
            SLEEPING.fetch_add(1, Ordering::SeqCst);
            gone.await;
            SLEEPING.fetch_sub(1, Ordering::SeqCst);
            Outcome::Success
        }
        _ => Outcome::Failed(format!("no such command: {words:?}")),
    };
    session.stdout = stdout;
    outcome
}

async fn exec(Query(query): Pairs, request: Request) -> Response {
    let asks = |name: &str| query.iter().any(|(own, value)| own == name && value == "1");
    let wanted = Wanted {
        stdin: asks("input"),
        stdout: asks("output"),
        stderr: asks("error"),
        tty: asks("tty"),
    };
    let accepted = match handshake::exec(request.headers()) {
        Ok(accepted) => accepted,
        Err(refused) => return refused.response().into_response(),
    };
    let response = accepted.response();
    tokio::spawn(async move {
        let Ok(io) = hyper::upgrade::on(request).await else {
            return;
        };
        let opened = ExecSession::open(TokioIo::new(io), &accepted, wanted, Limits::default());
        let Ok(mut session) = opened.await else {
            return;
        };
        let words = query.iter().filter(|(name, _)| name == "command");
        let words: Vec<&str> = words.map(|(_, word)| word.as_str()).collect();
        let outcome = command(&mut session, &words).await;
        session.finish(&outcome).await;
    });
    response.map(|()| Body::empty())
}

async fn attach(request: Request) -> Response {
    let accepted = match handshake::exec(request.headers()) {
        Ok(accepted) => accepted,
        Err(refused) => return refused.response().into_response(),
    };
    let response = accepted.response();
    tokio::spawn(async move {
        let Ok(io) = hyper::upgrade::on(request).await else {
            return;
        };
        let wanted = Wanted {
            stdout: true,
            stderr: true,
            ..Wanted::default()
        };
        let opened = ExecSession::open(TokioIo::new(io), &accepted, wanted, Limits::default());
        let Ok(mut session) = opened.await else {
            return;
        };
        if let Some(stdout) = &mut session.stdout {
            let _ = stdout.write_all(b"attached\n").await;
        }
        session.finish(&Outcome::Success).await;
    });
    response.map(|()| Body::empty())
}

/// Port 80 sends back what it gets, port 81 is closed.
async fn dial(port: u16) -> Result<DuplexStream, String> {
    if port != 80 {
        return Err(format!(
            "error forwarding port {port} to pod web: connection refused"
        ));
    }
    let (near, far) = tokio::io::duplex(1024);
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(far);
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    });
    Ok(near)
}

async fn port_forward(
    Path((_, _)): Path<(String, String)>,
    Query(query): Pairs,
    request: Request,
) -> Response {
    let accepted = match handshake::port_forward(request.headers()) {
        Ok(accepted) => accepted,
        Err(refused) => return refused.response().into_response(),
    };
    let response = accepted.response();
    // Several may be in one value.
    let values = query.iter().flat_map(|(_, value)| value.split(','));
    let ports: Vec<u16> = values.filter_map(|port| port.parse().ok()).collect();
    tokio::spawn(async move {
        let Ok(io) = hyper::upgrade::on(request).await else {
            return;
        };
        let io = TokioIo::new(io);
        let session = ForwardSession::open(io, &accepted, &ports, Limits::default()).await;
        serve_forwards(session, dial).await;
    });
    response.map(|()| Body::empty())
}

/// A node whose containers are the functions above.
struct Kubelet(Router);

#[async_trait::async_trait]
impl NodeTransport for Kubelet {
    async fn call(&self, _: &str, request: Request) -> Result<Response, NodeError> {
        let router = self.0.clone();
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            router.clone().oneshot(request.map(Body::new))
        });
        let answer = inner::call(service, request).await;
        Ok(answer
            .map_err(|error| NodeError::Unreachable(error.into()))?
            .map(Body::new))
    }
}

/// An API server with one running pod, `web`, on that node.
struct Cluster {
    runtime: Runtime,
    url: String,
    router: Router,
    home: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let (url, router) = runtime.block_on(serve());
        let home = tempfile::tempdir().expect("a directory");
        let cluster = Self {
            runtime,
            url,
            router,
            home,
        };
        cluster.runtime.block_on(cluster.make_pod());
        cluster
    }

    fn client(&self) -> Client {
        let uri = self.url.parse().expect("a URI");
        Client::try_from(kube::Config::new(uri)).expect("a client")
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client(), "default")
    }

    async fn make_pod(&self) {
        let pod = json!({
            "metadata": {"name": "web"},
            "spec": {"nodeName": "one", "containers": [{"name": "c", "image": "x"}]},
        });
        let mut pod: Pod = serde_json::from_value(pod).expect("a pod");
        let pods = self.pods();
        pod = pods
            .create(&kube::api::PostParams::default(), &pod)
            .await
            .expect("created");
        pod.status.get_or_insert_default().phase = Some("Running".to_owned());
        pods.replace_status("web", &kube::api::PostParams::default(), &pod)
            .await
            .expect("its status");
    }

    /// kubectl, which speaks WebSocket or SPDY.
    fn kubectl(&self, websockets: bool, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(["--server", &self.url])
            .args(args)
            .env("KUBECONFIG", "/dev/null")
            .env("HOME", self.home.path());
        for name in WEBSOCKETS {
            command.env(name, websockets.to_string());
        }
        command
    }

    fn run(&self, websockets: bool, args: &[&str]) -> Printed {
        run(&mut self.kubectl(websockets, args))
    }
}

/// Serves an API for as long as the runtime is there.
async fn serve() -> (String, Router) {
    let store = Arc::new(vaquita_store::memory());
    let api = ApiServer::start(store, Config::default())
        .await
        .expect("it starts");
    let router = Router::new()
        .route("/exec/{namespace}/{pod}/{container}", any(exec))
        .route("/attach/{namespace}/{pod}/{container}", any(attach))
        .route("/portForward/{namespace}/{pod}", any(port_forward));
    api.set_nodes(Arc::new(Kubelet(router)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a socket");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let whole = api.router();
    tokio::spawn(async move {
        let serving = api.serve_plain(listener, std::future::pending());
        let _ = serving.await;
    });
    (url, whole)
}

#[test]
fn kubectl_runs_commands_in_either_protocol() {
    let cluster = Cluster::start();
    for websockets in [true, false] {
        let fail = cluster.run(websockets, &["exec", "web", "--", "fail", "42"]);
        assert_eq!(fail.status.code(), Some(42), "{}", fail.stderr);
        assert!(fail.stderr.starts_with("oops\n"), "{}", fail.stderr);
        assert!(
            fail.stderr.contains("command terminated with exit code 42"),
            "{}",
            fail.stderr
        );

        // Ends only because the end of the input arrives.
        let text = "line\n".repeat(50_000);
        let mut cat = cluster.kubectl(websockets, &["exec", "-i", "web", "--", "cat"]);
        let cat = run_with_input(&mut cat, &text);
        assert!(
            cat.status.success() && cat.stdout == text,
            "{}: {}",
            websockets,
            cat.stderr
        );

        let none = cluster.run(websockets, &["exec", "web", "--", "dance"]);
        assert!(
            none.stderr.contains("no such command: [\"dance\"]"),
            "{}",
            none.stderr
        );

        let attached = cluster.run(websockets, &["attach", "web"]);
        assert_eq!(attached.stdout, "attached\n", "{}", attached.stderr);
    }
}

#[test]
fn a_hundred_megabytes_arrive_twice_at_once() {
    let cluster = Cluster::start();
    for websockets in [true, false] {
        let start = || {
            let mut flood = cluster.kubectl(websockets, &["exec", "web", "--", "flood", "100"]);
            flood
                .stdout(Stdio::piped())
                .spawn()
                .expect("kubectl starts")
        };
        for mut flood in [start(), start()] {
            let mut stdout = flood.stdout.take().expect("a pipe");
            let count = std::io::copy(&mut stdout, &mut std::io::sink()).expect("output");
            assert_eq!(count, 100 * MIB as u64);
            assert!(flood.wait().expect("it ends").success());
        }
    }
}

#[test]
fn a_client_that_is_killed_ends_its_command() {
    let cluster = Cluster::start();
    for websockets in [true, false] {
        let mut sleep = cluster.kubectl(websockets, &["exec", "web", "--", "sleep"]);
        let mut sleep = sleep.spawn().expect("kubectl starts");
        let sleeping = |count| {
            let now = SLEEPING.load(Ordering::SeqCst);
            (now == count).then_some(()).ok_or_else(|| now.to_string())
        };
        eventually("the command runs", || sleeping(1));
        sleep.kill().expect("it runs");
        let _ = sleep.wait();
        eventually("the command has ended", || sleeping(0));
    }
}

#[test]
fn the_kube_client_runs_commands_and_forwards_ports() {
    let cluster = Cluster::start();
    let _runtime = cluster.runtime.enter();
    let within = local::client(cluster.router.clone(), User::in_process("tester"));
    for client in [cluster.client(), within] {
        cluster.runtime.block_on(async {
            let all = by_kube(Api::namespaced(client, "default"));
            tokio::time::timeout(PATIENCE, all).await.expect("in time");
        });
    }
}

/// What the kube client can do, over a socket as well as within the process.
async fn by_kube(pods: Api<Pod>) {
    let params = AttachParams::default().stdin(true).stderr(false);
    let mut cat = pods.exec("web", ["cat"], &params).await.expect("exec");
    let (mut stdin, mut stdout) = (cat.stdin().expect("stdin"), cat.stdout().expect("stdout"));
    let status = cat.take_status().expect("a status");
    stdin.write_all(b"hello").await.expect("written");
    stdin.shutdown().await.expect("ended");
    drop(stdin);
    let mut text = String::new();
    stdout.read_to_string(&mut text).await.expect("read");
    assert_eq!(text, "hello");
    let status = status.await.expect("a status");
    assert_eq!(status.status.as_deref(), Some("Success"));

    let params = AttachParams::default();
    let mut fail = pods
        .exec("web", ["fail", "7"], &params)
        .await
        .expect("exec");
    let status = fail
        .take_status()
        .expect("a status")
        .await
        .expect("a status");
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));

    let params = AttachParams::interactive_tty();
    let mut process = pods.exec("web", ["size"], &params).await.expect("exec");
    let mut sizes = process.terminal_size().expect("a terminal");
    let (width, height) = (132, 50);
    let size = kube::api::TerminalSize { width, height };
    futures::SinkExt::send(&mut sizes, size)
        .await
        .expect("sent");
    let mut text = String::new();
    let mut stdout = process.stdout().expect("stdout");
    stdout.read_to_string(&mut text).await.expect("read");
    assert_eq!(text, "132 by 50\n");

    let mut forwarder = pods
        .portforward("web", &[80, 81])
        .await
        .expect("portforward");
    let refused = forwarder.take_error(81).expect("a port").await;
    assert!(refused.expect("an error").contains("connection refused"));
    let mut port = forwarder.take_stream(80).expect("a port");
    port.write_all(b"ping").await.expect("written");
    let mut pong = [0; 4];
    port.read_exact(&mut pong).await.expect("read");
    assert_eq!(&pong, b"ping");
}

/// A running `kubectl port-forward`.
pub(crate) struct Forwarded {
    child: Child,
    pub(crate) port: u16,
}

impl Forwarded {
    /// Waits until it says on which port it listens.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let line = lines.next().expect("a line").expect("a line");
        // Whatever else it says must not stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let port = line
            .strip_prefix("Forwarding from 127.0.0.1:")
            .and_then(|rest| rest.split(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{line}"));
        Self { child, port }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn kubectl_forwards_ports_in_either_protocol() {
    let cluster = Cluster::start();
    for websockets in [true, false] {
        let mut command = cluster.kubectl(websockets, &["port-forward", "pod/web", ":80"]);
        let forwarded = Forwarded::start(&mut command);
        // Two at once, one of which ends while the other goes on.
        let (mut one, mut two) = (forwarded.connect(), forwarded.connect());
        one.write_all(b"one").expect("written");
        two.write_all(b"two").expect("written");
        two.shutdown(std::net::Shutdown::Write).expect("ended");
        let mut text = String::new();
        two.read_to_string(&mut text).expect("read");
        assert_eq!(text, "two");
        let mut back = [0; 3];
        one.read_exact(&mut back).expect("read");
        assert_eq!(&back, b"one");
        // Much, both ways.
        let data = vec![5; 4 * MIB];
        let mut writer = one.try_clone().expect("a socket");
        let sent = data.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).expect("written");
            writer.shutdown(std::net::Shutdown::Write).expect("ended");
        });
        let mut all = Vec::new();
        one.read_to_end(&mut all).expect("read");
        assert!(all == data, "{} bytes", all.len());
        writing.join().expect("written");
    }
}

#[test]
fn ports_of_wasm_pods_are_forwarded_and_proxied() {
    let vaquita = Vaquita::up();
    vaquita.load_guest("hello", "localhost/hello:v1");
    vaquita.apply(&web("hello", 1));
    let pods = vaquita.wait_ready("app=hello", 1);
    for websockets in ["true", "false"] {
        for (what, port) in [
            (format!("pod/{}", pods[0]), ":8080"),
            ("svc/hello".to_owned(), ":80"),
        ] {
            let mut command = vaquita.kubectl_command();
            command.args(["port-forward", &what, port]);
            command.envs(WEBSOCKETS.map(|name| (name, websockets)));
            let forwarded = Forwarded::start(&mut command);
            let (status, body) = http_get(forwarded.port, "/").expect("an answer");
            assert!(status == 200 && body.contains(&pods[0]), "{status}: {body}");
        }
    }
    for name in [
        format!("pods/{}:8080", pods[0]),
        "services/hello:80".to_owned(),
    ] {
        let path = format!("/api/v1/namespaces/default/{name}/proxy/");
        let body = eventually("the proxy answers", || {
            let printed = vaquita.try_kubectl(&["get", "--raw", &path]);
            printed
                .status
                .success()
                .then_some(printed.stdout)
                .ok_or(printed.stderr)
        });
        assert!(body.contains(&pods[0]), "{body}");
    }
    let exec = vaquita.try_kubectl(&["exec", &pods[0], "--", "sh"]);
    assert!(exec.stderr.contains("sh: not found"), "{}", exec.stderr);
    let healthy = vaquita.kubectl(&["get", "--raw", "/api/v1/nodes/test-node/proxy/healthz"]);
    assert_eq!(healthy, "ok");
}
