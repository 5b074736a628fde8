//! What probes and hooks do: ask a container over the network, or run a command in it.

mod grpc;

use std::{net::IpAddr, time::Duration};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::backend::Sandbox;

/// Bytes of an answer that are read at most, as upstream does.
const LONGEST_BODY: usize = 10 << 10;

/// Runs commands in a container.
#[async_trait]
pub(super) trait Commands: Send + Sync {
    /// Runs a command to its end: its exit code, and the beginning of what it wrote. Dropping the future ends it.
    async fn run(&self, command: Vec<String>) -> Result<(i32, String), String>;
}

/// Whom it is done to.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) sandbox: &'a dyn Sandbox,
    pub(super) commands: &'a dyn Commands,
}

/// What is done.
#[derive(Debug, Clone)]
pub(super) enum Action {
    HttpGet {
        port: u16,
        path: String,
        headers: HeaderMap,
    },
    TcpSocket {
        port: u16,
    },
    Exec {
        command: Vec<String>,
    },
    Grpc {
        port: u16,
        service: String,
    },
    Sleep(Duration),
    /// Something that cannot be done here, and why.
    Impossible(String),
}

/// How one attempt went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    Failure(String),
    /// It could not be made.
    Unknown(String),
}

impl Action {
    /// What a probe does; or why it cannot be done.
    pub(super) fn of_probe(probe: &Probe, container: &Container) -> Result<Self, String> {
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
        if let Some(exec) = &probe.exec {
            return Self::exec(exec);
        }
        if let Some(grpc) = &probe.grpc {
            let port = u16::try_from(grpc.port).ok().filter(|port| *port != 0);
            return Ok(Self::Grpc {
                port: port.ok_or_else(|| format!("unresolvable port {}", grpc.port))?,
                service: grpc.service.clone().unwrap_or_default(),
            });
        }
        Err("missing probe handler".to_owned())
    }

    /// What a hook does; or why it cannot be done.
    pub(super) fn of_hook(hook: &LifecycleHandler, container: &Container) -> Result<Self, String> {
        if let Some(exec) = &hook.exec {
            return Self::exec(exec);
        }
        if let Some(get) = &hook.http_get {
            return Self::http_get(get, container);
        }
        if let Some(sleep) = &hook.sleep {
            let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
            return Ok(Self::Sleep(Duration::from_secs(seconds)));
        }
        // Upstream knows `tcpSocket` here, too, but never does anything.
        Err("invalid handler".to_owned())
    }

    fn exec(exec: &ExecAction) -> Result<Self, String> {
        let command = exec.command.clone().unwrap_or_default();
        if command.is_empty() {
            return Err("exec.command is empty".to_owned());
        }
        Ok(Self::Exec { command })
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

impl Action {
    /// Does it once.
    pub(super) async fn attempt(&self, target: Target<'_>) -> Outcome {
        let ip = target.sandbox.ip();
        match self {
            Self::HttpGet {
                port,
                path,
                headers,
            } => http_get(target.sandbox, *port, path, headers).await,
            Self::TcpSocket { port } => match target.sandbox.dial(*port).await {
                Ok(_) => Outcome::Success,
                Err(error) => {
                    Outcome::Failure(format!("dial tcp {}: {error}", authority(ip, *port)))
                }
            },
            Self::Exec { command } => match target.commands.run(command.clone()).await {
                Ok((0, _)) => Outcome::Success,
                Ok((_, output)) => Outcome::Failure(output),
                Err(error) => Outcome::Unknown(error),
            },
            Self::Grpc { port, service } => grpc::check(target.sandbox, *port, service).await,
            Self::Sleep(length) => {
                tokio::time::sleep(*length).await;
                Outcome::Success
            }
            Self::Impossible(why) => Outcome::Unknown(why.clone()),
        }
    }

    /// What there is to say when it took too long.
    pub(super) fn timed_out(&self, target: Target<'_>, limit: Duration) -> String {
        let ip = target.sandbox.ip();
        match self {
            Self::Exec { command } => {
                format!(
                    "command timed out: {:?} timed out after {limit:?}",
                    command.join(" ")
                )
            }
            Self::Grpc { port, .. } => {
                let authority = authority(ip, *port);
                format!(
                    "timeout: failed to connect service {authority:?} within {limit:?}: context deadline exceeded"
                )
            }
            _ => format!("{}: no answer within {limit:?}", self.target(ip)),
        }
    }

    fn target(&self, ip: IpAddr) -> String {
        match self {
            Self::HttpGet { port, path, .. } => {
                format!("Get \"http://{}{path}\"", authority(ip, *port))
            }
            Self::TcpSocket { port } => format!("dial tcp {}", authority(ip, *port)),
            Self::Exec { .. } | Self::Grpc { .. } | Self::Sleep(_) | Self::Impossible(_) => {
                "probe".to_owned()
            }
        }
    }
}

pub(super) fn authority(ip: IpAddr, port: u16) -> String {
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
