//! What a kubelet answers with a connection: `/portForward`, `/attach` and `/exec`.
//!
//! A forwarded port is a connection over the node's virtual network to the pod's own address, as any other pod's would
//! be. Commands, and being attached, are `exec`'s. None of it needs to know which protocol the client speaks; that is
//! `vaquita-streams`'.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    extract::{Path, Query as UrlQuery, Request, State as Shared},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use vaquita_backends::Connection;
use vaquita_logs::PodKey;
use vaquita_net::Fabric;
use vaquita_streams::{
    ExecSession, ForwardSession, Limits, Wanted,
    handshake::{self, Accepted, Refused},
    serve_forwards,
};

use crate::{
    exec::serve,
    http::{Kubelet, Refusal},
    pod::board::{Board, State},
    pods::Entry,
};

/// Connections that a node serves at a time.
const MAX_SESSIONS: usize = 1000;

/// The pairs of a query string, in order.
type Pairs = UrlQuery<Vec<(String, String)>>;

/// What connections need of the node.
#[derive(Clone)]
pub(crate) struct Connections {
    fabric: Fabric,
    places: Arc<Semaphore>,
    /// Ends them all.
    shutdown: CancellationToken,
}

impl Connections {
    pub(crate) fn new(fabric: Fabric, shutdown: CancellationToken) -> Self {
        Self {
            fabric,
            places: Arc::new(Semaphore::new(MAX_SESSIONS)),
            shutdown,
        }
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let message = || "too many open streams".to_owned();
        self.places
            .clone()
            .try_acquire_owned()
            .map_err(|_| Refusal(StatusCode::TOO_MANY_REQUESTS, message()))
    }

    /// Answers with the head of `accepted`, and serves the connection that `request` becomes.
    fn switch<F>(
        &self,
        accepted: &Accepted,
        request: Request,
        serve: impl FnOnce(TokioIo<hyper::upgrade::Upgraded>) -> F + Send + 'static,
    ) -> Result<Response, Refusal>
    where
        F: Future<Output = ()> + Send,
    {
        let place = self.place()?;
        let shutdown = self.shutdown.clone();
        let upgrade = hyper::upgrade::on(request);
        tokio::spawn(async move {
            let _place = place;
            let serving = async {
                match upgrade.await {
                    Ok(io) => serve(TokioIo::new(io)).await,
                    Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
                }
            };
            tokio::select! {
                () = serving => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(accepted.response().map(|()| Body::empty()))
    }
}

fn refused(refused: &Refused) -> Response {
    refused.response().into_response()
}

fn find(kubelet: &Kubelet, namespace: &str, pod: &str) -> Result<Entry, Refusal> {
    let entry = kubelet.registry.find(namespace, pod);
    let message = || format!("pod \"{pod}\" does not exist");
    entry.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, message()))
}

/// `/portForward/{namespace}/{pod}`.
pub(crate) async fn port_forward(
    Shared(kubelet): Shared<Kubelet>,
    Path((namespace, pod)): Path<(String, String)>,
    UrlQuery(query): Pairs,
    request: Request,
) -> Result<Response, Refusal> {
    let ports = ports(&query)?;
    let entry = find(&kubelet, &namespace, &pod)?;
    let accepted = match handshake::port_forward(request.headers()) {
        Ok(accepted) => accepted,
        Err(why) => return Ok(refused(&why)),
    };
    let dialer = Dialer {
        fabric: kubelet.connections.fabric.clone(),
        pod,
        uid: PodKey::of(&entry.pod).uid,
        board: entry.board,
    };
    let chosen = accepted.clone();
    kubelet
        .connections
        .switch(&accepted, request, async move |io| {
            let session = ForwardSession::open(io, &chosen, &ports, Limits::default()).await;
            serve_forwards(session, |port| dialer.clone().dial(port)).await;
        })
}

/// The ports that the query names; several may be in one value.
fn ports(query: &[(String, String)]) -> Result<Vec<u16>, Refusal> {
    let values = query.iter().filter(|(name, _)| name == "port");
    values
        .flat_map(|(_, value)| value.split(','))
        .map(|port| {
            let number = port.parse().ok().filter(|port| *port > 0);
            let message = || format!("unable to parse {port:?} as a port");
            number.ok_or_else(|| Refusal::bad(message()))
        })
        .collect()
}

/// Connects to a pod's ports.
#[derive(Clone)]
struct Dialer {
    fabric: Fabric,
    pod: String,
    uid: String,
    board: Arc<Board>,
}

impl Dialer {
    async fn dial(self, port: u16) -> Result<Box<dyn Connection>, String> {
        let (pod, uid) = (&self.pod, &self.uid);
        let failed =
            |why: String| format!("error forwarding port {port} to pod {pod}, uid {uid}: {why}");
        let ip = self.board.read(|facts| facts.ip);
        let ip = ip.ok_or_else(|| failed("the pod has no address yet".to_owned()))?;
        if let Some(sandbox) = self.board.native_sandbox() {
            let dialed = sandbox.dial(port).await;
            return dialed.map_err(|error| failed(error.to_string()));
        }
        let dialed = self.fabric.dial(SocketAddr::new(ip, port)).await;
        match dialed {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// Which streams of a command the query asks for.
fn wanted(query: &[(String, String)]) -> Result<Wanted, Refusal> {
    let asks = |name: &str| query.iter().any(|(own, value)| own == name && value == "1");
    let wanted = Wanted {
        stdin: asks("input"),
        stdout: asks("output"),
        stderr: asks("error") && !asks("tty"),
        tty: asks("tty"),
    };
    if wanted.stdin || wanted.stdout || wanted.stderr {
        Ok(wanted)
    } else {
        let message = "you must specify at least 1 of stdin, stdout, stderr";
        Err(Refusal::bad(message))
    }
}

/// The command that the query spells, word by word.
fn command(query: &[(String, String)]) -> Result<Vec<String>, Refusal> {
    let words = query.iter().filter(|(name, _)| name == "command");
    let words: Vec<String> = words.map(|(_, word)| word.clone()).collect();
    if words.is_empty() {
        return Err(Refusal::bad("you must specify a command to execute"));
    }
    Ok(words)
}

/// `/exec/{namespace}/{pod}/{container}`.
pub(crate) async fn exec(
    Shared(kubelet): Shared<Kubelet>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    UrlQuery(query): Pairs,
    request: Request,
) -> Result<Response, Refusal> {
    let (wanted, args) = (wanted(&query)?, command(&query)?);
    let entry = find(&kubelet, &namespace, &pod)?;
    running(&entry, &pod, &container)?;
    let accepted = match handshake::exec(request.headers()) {
        Ok(accepted) => accepted,
        Err(why) => return Ok(refused(&why)),
    };
    let (connections, chosen) = (kubelet.connections.clone(), accepted.clone());
    connections.switch(&accepted, request, async move |io| {
        let opened = ExecSession::open(io, &chosen, wanted, Limits::default()).await;
        let Ok(session) = opened else { return };
        let Entry { pod, board } = &entry;
        serve::exec(
            &kubelet.executor,
            pod,
            board,
            &container,
            args,
            session,
            wanted.tty,
        )
        .await;
    })
}

/// `/attach/{namespace}/{pod}/{container}`.
pub(crate) async fn attach(
    Shared(kubelet): Shared<Kubelet>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    UrlQuery(query): Pairs,
    request: Request,
) -> Result<Response, Refusal> {
    let wanted = wanted(&query)?;
    let entry = find(&kubelet, &namespace, &pod)?;
    running(&entry, &pod, &container)?;
    let live = entry.board.live(&container);
    let message = || format!("container {container} in pod {pod} is not running");
    let live = live.ok_or_else(|| Refusal::bad(message()))?;
    let accepted = match handshake::exec(request.headers()) {
        Ok(accepted) => accepted,
        Err(why) => return Ok(refused(&why)),
    };
    let (connections, chosen) = (kubelet.connections.clone(), accepted.clone());
    connections.switch(&accepted, request, async move |io| {
        let opened = ExecSession::open(io, &chosen, wanted, Limits::default()).await;
        let Ok(session) = opened else { return };
        serve::attach(&live, &entry.pod, &container, session, wanted.tty).await;
    })
}

/// The instance of a container that runs.
fn running(entry: &Entry, pod: &str, container: &str) -> Result<u32, Refusal> {
    let found = entry.board.read(|facts| {
        let mut records = facts.containers.iter();
        let record = records.find(|record| record.name == container)?;
        let runs = matches!(record.state, State::Running { .. });
        Some((runs, record.restarts))
    });
    match found {
        Some((true, attempt)) => Ok(attempt),
        Some((false, _)) => Err(Refusal::bad(format!(
            "container {container} in pod {pod} is not running"
        ))),
        None => Err(Refusal(
            StatusCode::NOT_FOUND,
            format!("container not found (\"{container}\")"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(query: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        query.iter().map(owned).collect()
    }

    #[test]
    fn ports_come_one_by_one_or_together() {
        let query = pairs(&[("port", "80"), ("x", "1"), ("port", "81,65535")]);
        assert_eq!(ports(&query).unwrap(), [80, 81, 65_535]);
        for bad in ["0", "", "65536", "http", "80,"] {
            assert!(ports(&pairs(&[("port", bad)])).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_terminal_has_no_stderr_and_nothing_is_too_little() {
        let all = pairs(&[
            ("input", "1"),
            ("output", "1"),
            ("error", "1"),
            ("tty", "1"),
        ]);
        let all = wanted(&all).unwrap();
        assert!(all.stdin && all.stdout && !all.stderr && all.tty);
        let refusal = wanted(&pairs(&[("tty", "1"), ("error", "1"), ("output", "0")]));
        assert_eq!(
            refusal.unwrap_err().1,
            "you must specify at least 1 of stdin, stdout, stderr"
        );
    }
}
