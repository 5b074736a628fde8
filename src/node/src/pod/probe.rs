//! Probes: whether a container has started, is ready, is alive.
//!
//! [`Checks::of`] reads the manifest; [`run`] probes as long as its future lives, and tells the container's runner
//! what follows. The rules are upstream's `prober`: a startup probe holds the others back until it has succeeded; an
//! outcome counts once it has come as many times in a row as its threshold says; readiness begins with no, liveness
//! with yes; a probe that cannot be made changes nothing.

use std::{net::IpAddr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use crate::backend::Sandbox;

/// How long a readiness probe of a container that has just started is tried again quickly, before it is taken for
/// unready. Most modules begin to listen within milliseconds, and a period later would be late for them.
const EAGER_FOR: Duration = Duration::from_secs(1);
const EAGER_EVERY: Duration = Duration::from_millis(20);
/// Bytes of an answer that are read at most, as upstream does.
const LONGEST_BODY: usize = 10 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    /// As events spell it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// What a runner hears from the probes of its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Signal {
    /// The startup probe has succeeded.
    Started,
    /// What the readiness probe says has changed.
    Ready(bool),
    /// The container is to be ended; within that time, if the probe says it.
    Dead(Kind, Option<Duration>),
    /// A probe failed, or could not be made: for an event.
    Complaint(String),
}

/// The probes of a container.
#[derive(Debug, Clone, Default)]
pub(super) struct Checks {
    pub(super) startup: Option<Check>,
    pub(super) readiness: Option<Check>,
    pub(super) liveness: Option<Check>,
}

/// A probe, read from the manifest.
#[derive(Debug, Clone)]
pub(super) struct Check {
    action: Action,
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    success_threshold: u32,
    failure_threshold: u32,
    grace: Option<Duration>,
}

#[derive(Debug, Clone)]
enum Action {
    HttpGet {
        port: u16,
        path: String,
        headers: HeaderMap,
    },
    TcpSocket {
        port: u16,
    },
    /// Something that cannot be done here, and why.
    Impossible(String),
}

/// How one attempt went.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Success,
    Failure(String),
    /// It could not be made.
    Unknown(String),
}

impl Checks {
    pub(super) fn of(container: &Container) -> Self {
        let check = |probe: &Option<Probe>| probe.as_ref().map(|probe| Check::of(probe, container));
        Self {
            startup: check(&container.startup_probe),
            readiness: check(&container.readiness_probe),
            liveness: check(&container.liveness_probe),
        }
    }
}

impl Check {
    /// Values out of range count as the API's defaults.
    fn of(probe: &Probe, container: &Container) -> Self {
        let seconds = |value: Option<i32>, least: i32, default: u64| {
            let value = value
                .filter(|value| *value >= least)
                .and_then(|value| u64::try_from(value).ok());
            Duration::from_secs(value.unwrap_or(default))
        };
        let times = |value: Option<i32>, default| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        let grace = probe
            .termination_grace_period_seconds
            .and_then(|grace| u64::try_from(grace).ok());
        Self {
            action: Action::of(probe, container).unwrap_or_else(Action::Impossible),
            initial_delay: seconds(probe.initial_delay_seconds, 0, 0),
            period: seconds(probe.period_seconds, 1, 10),
            timeout: seconds(probe.timeout_seconds, 1, 1),
            success_threshold: times(probe.success_threshold, 1),
            failure_threshold: times(probe.failure_threshold, 3),
            grace: grace.map(Duration::from_secs),
        }
    }
}

impl Action {
    fn of(probe: &Probe, container: &Container) -> Result<Self, String> {
        if let Some(get) = &probe.http_get {
            return Self::http_get(get, container);
        }
        if let Some(socket) = &probe.tcp_socket {
            if socket.host.as_deref().is_some_and(|host| !host.is_empty()) {
                return Err("tcpSocket.host is not supported: probes reach the pod only".to_owned());
            }
            return Ok(Self::TcpSocket {
                port: port(&socket.port, container)?,
            });
        }
        if probe.exec.is_some() {
            return Err(
                "exec probes are not supported: a Wasm container has no programs to execute"
                    .to_owned(),
            );
        }
        if probe.grpc.is_some() {
            return Err("grpc probes are not supported".to_owned());
        }
        Err("missing probe handler".to_owned())
    }

    fn http_get(get: &HTTPGetAction, container: &Container) -> Result<Self, String> {
        if get
            .scheme
            .as_deref()
            .is_some_and(|scheme| !scheme.is_empty() && scheme != "HTTP")
        {
            return Err("httpGet.scheme HTTPS is not supported".to_owned());
        }
        if get.host.as_deref().is_some_and(|host| !host.is_empty()) {
            return Err("httpGet.host is not supported: probes reach the pod only".to_owned());
        }
        let mut headers = HeaderMap::new();
        for wanted in get.http_headers.iter().flatten() {
            let name = HeaderName::try_from(wanted.name.as_str());
            let value = HeaderValue::try_from(wanted.value.as_str());
            match (name, value) {
                (Ok(name), Ok(value)) => headers.append(name, value),
                _ => {
                    return Err(format!(
                        "httpGet.httpHeaders: {:?} is no valid header",
                        wanted.name
                    ));
                }
            };
        }
        let path = get
            .path
            .as_deref()
            .filter(|path| !path.is_empty())
            .unwrap_or("/");
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        if path.parse::<http::Uri>().is_err() {
            return Err(format!("httpGet.path: {path:?} is no valid path"));
        }
        Ok(Self::HttpGet {
            port: port(&get.port, container)?,
            path,
            headers,
        })
    }
}

/// A port by number, or by the name that the container declares for it.
fn port(wanted: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match wanted {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_ref() == Some(name));
            named
                .map(|port| port.container_port)
                .or_else(|| name.parse().ok())
        }
    };
    let number = number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0);
    number.ok_or_else(|| format!("unresolvable port {wanted:?}"))
}

/// Counts outcomes in a row.
#[derive(Debug, Default)]
struct Tally {
    last: Option<bool>,
    run: u32,
}

impl Tally {
    /// What the check says now, if the outcome has come often enough.
    fn count(&mut self, success: bool, check: &Check) -> Option<bool> {
        if self.last != Some(success) {
            *self = Self {
                last: Some(success),
                run: 0,
            };
        }
        self.run = self.run.saturating_add(1);
        let threshold = if success {
            check.success_threshold
        } else {
            check.failure_threshold
        };
        (self.run >= threshold).then_some(success)
    }
}

/// Probes a container that started just now, until the startup probe or the liveness probe ends it.
pub(super) async fn run(checks: Checks, sandbox: &dyn Sandbox, signals: mpsc::Sender<Signal>) {
    let start = Instant::now();
    let prober = Prober {
        sandbox,
        signals: &signals,
        start,
    };
    if let Some(check) = &checks.startup {
        if !prober.startup(check).await {
            return;
        }
        prober.send(Signal::Started).await;
    }
    tokio::join!(
        prober.readiness(checks.readiness.as_ref()),
        prober.liveness(checks.liveness.as_ref())
    );
}

struct Prober<'a> {
    sandbox: &'a dyn Sandbox,
    signals: &'a mpsc::Sender<Signal>,
    start: Instant,
}

impl Prober<'_> {
    /// Probes until it counts, and says whether the container has started.
    async fn startup(&self, check: &Check) -> bool {
        let mut tally = Tally::default();
        let mut next = self.start + check.initial_delay;
        loop {
            let outcome = self.attempt(Kind::Startup, check, next).await;
            match outcome.and_then(|success| tally.count(success, check)) {
                Some(true) => return true,
                Some(false) => {
                    self.send(Signal::Dead(Kind::Startup, check.grace)).await;
                    return false;
                }
                None => {}
            }
            next = (next + check.period).max(Instant::now());
        }
    }

    async fn readiness(&self, check: Option<&Check>) {
        let Some(check) = check else { return };
        let first = (self.start + check.initial_delay).max(Instant::now());
        let mut next = self.eager(check, first).await;
        let mut tally = Tally::default();
        let mut ready = false;
        loop {
            let outcome = self.attempt(Kind::Readiness, check, next).await;
            let verdict = outcome.and_then(|success| tally.count(success, check));
            if let Some(verdict) = verdict.filter(|verdict| *verdict != ready) {
                ready = verdict;
                self.send(Signal::Ready(ready)).await;
            }
            next = (next + check.period).max(Instant::now());
        }
    }

    /// Waits, for a short while, until a first success is likely, and says when to begin in earnest. What fails
    /// meanwhile is not counted.
    async fn eager(&self, check: &Check, first: Instant) -> Instant {
        sleep_until(first).await;
        let deadline = self.start + check.initial_delay + EAGER_FOR;
        loop {
            let outcome = self.outcome(check).await;
            let next = Instant::now() + EAGER_EVERY;
            if !matches!(outcome, Outcome::Failure(_)) || next > deadline {
                return Instant::now();
            }
            sleep_until(next).await;
        }
    }

    async fn liveness(&self, check: Option<&Check>) {
        let Some(check) = check else { return };
        let mut tally = Tally::default();
        let mut next = (self.start + check.initial_delay).max(Instant::now());
        loop {
            let outcome = self.attempt(Kind::Liveness, check, next).await;
            if outcome.and_then(|success| tally.count(success, check)) == Some(false) {
                self.send(Signal::Dead(Kind::Liveness, check.grace)).await;
                return;
            }
            next = (next + check.period).max(Instant::now());
        }
    }

    /// One attempt at that time, and whether it succeeded; `None` if it could not be made.
    async fn attempt(&self, kind: Kind, check: &Check, at: Instant) -> Option<bool> {
        sleep_until(at).await;
        let name = kind.as_str();
        match self.outcome(check).await {
            Outcome::Success => Some(true),
            Outcome::Failure(message) => {
                self.send(Signal::Complaint(format!("{name} probe failed: {message}")))
                    .await;
                Some(false)
            }
            Outcome::Unknown(message) => {
                let complaint =
                    format!("{name} probe errored and resulted in unknown state: {message}");
                self.send(Signal::Complaint(complaint)).await;
                None
            }
        }
    }

    async fn outcome(&self, check: &Check) -> Outcome {
        let ip = self.sandbox.ip();
        let attempt = async {
            match &check.action {
                Action::HttpGet {
                    port,
                    path,
                    headers,
                } => http_get(self.sandbox, *port, path, headers).await,
                Action::TcpSocket { port } => match self.sandbox.dial(*port).await {
                    Ok(_) => Outcome::Success,
                    Err(error) => {
                        Outcome::Failure(format!("dial tcp {}: {error}", authority(ip, *port)))
                    }
                },
                Action::Impossible(why) => Outcome::Unknown(why.clone()),
            }
        };
        match timeout(check.timeout, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failure(format!(
                "{}: no answer within {:?}",
                check.action.target(ip),
                check.timeout
            )),
        }
    }

    async fn send(&self, signal: Signal) {
        // Without a receiver, this future is about to be dropped.
        let _ = self.signals.send(signal).await;
    }
}

impl Action {
    fn target(&self, ip: IpAddr) -> String {
        match self {
            Self::HttpGet { port, path, .. } => {
                format!("Get \"http://{}{path}\"", authority(ip, *port))
            }
            Self::TcpSocket { port } => format!("dial tcp {}", authority(ip, *port)),
            Self::Impossible(_) => "probe".to_owned(),
        }
    }
}

fn authority(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

async fn http_get(sandbox: &dyn Sandbox, port: u16, path: &str, headers: &HeaderMap) -> Outcome {
    let authority = authority(sandbox.ip(), port);
    let failure = |error: &dyn std::error::Error| {
        Outcome::Failure(format!(
            "Get \"http://{authority}{path}\": {}",
            crate::images::with_causes(error)
        ))
    };
    let stream = match sandbox.dial(port).await {
        Ok(stream) => stream,
        Err(error) => return failure(&error),
    };
    let (mut sender, connection) =
        match hyper::client::conn::http1::handshake(TokioIo::new(stream)).await {
            Ok(connected) => connected,
            Err(error) => return failure(&error),
        };
    let request = match request(&authority, path, headers) {
        Ok(request) => request,
        Err(error) => return Outcome::Unknown(error.to_string()),
    };
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        // Only the status matters. The rest is taken all the same, so that the server sees its answer through; what is
        // longer, or breaks off, is left.
        let body = Limited::new(response.into_body(), LONGEST_BODY);
        let _ = body.collect().await;
        Ok::<_, hyper::Error>(status.as_u16())
    };
    tokio::pin!(exchange);
    let outcome = tokio::select! {
        outcome = &mut exchange => outcome,
        // It ends when the answer is complete, or because of an error that the exchange has, too.
        _ = connection => exchange.await,
    };
    match outcome {
        Ok(200..400) => Outcome::Success,
        Ok(status) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Err(error) => failure(&error),
    }
}

fn request(
    authority: &str,
    path: &str,
    headers: &HeaderMap,
) -> http::Result<Request<Empty<bytes::Bytes>>> {
    let mut request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, "kube-probe/1.36")
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())?;
    for name in headers.keys() {
        // The manifest's words replace ours.
        request.headers_mut().remove(name);
    }
    for (name, value) in headers {
        request.headers_mut().append(name, value.clone());
    }
    Ok(request)
}

#[cfg(test)]
mod tests;
