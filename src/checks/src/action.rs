//! What probes and hooks do: ask a container over the network, or run a command in it.

mod grpc;
mod http;

use std::{net::IpAddr, time::Duration};

use ::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use async_trait::async_trait;
use k8s_openapi::{
    api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

pub use self::http::Get;
use vaquita_backends::Sandbox;

/// Bytes of an answer that are read at most, as upstream does.
const LONGEST_BODY: usize = 10 << 10;

/// Runs commands in a container.
#[async_trait]
pub trait Commands: Send + Sync {
    /// Runs a command to its end: its exit code, and the beginning of what it wrote. Dropping the future ends it.
    async fn run(&self, command: Vec<String>) -> Result<(i32, String), String>;
}

/// Whom it is done to.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// Its pod.
    pub sandbox: &'a dyn Sandbox,
    /// Its container.
    pub commands: &'a dyn Commands,
}

/// What is done.
#[derive(Debug, Clone)]
pub enum Action {
    /// A GET over HTTP, which an answer below 400 succeeds.
    HttpGet(Get),
    /// A connection, nothing more.
    TcpSocket {
        /// Whom to connect to, if not the pod itself.
        host: Option<String>,
        /// The port there.
        port: u16,
    },
    /// A command in the container.
    Exec {
        /// The whole argument vector, the program first.
        command: Vec<String>,
    },
    /// gRPC's health checking protocol.
    Grpc {
        /// The pod's port.
        port: u16,
        /// Which service is asked about; empty: all of it.
        service: String,
    },
    /// Nothing, for so long.
    Sleep(Duration),
    /// Something that cannot be done here, and why.
    Impossible(String),
}

/// How one attempt went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Success,
    /// It succeeded, but there is something to say about it.
    Warning(String),
    /// It failed, for that reason.
    Failure(String),
    /// It could not be made.
    Unknown(String),
}

impl Action {
    /// What a probe does; or why it cannot be done.
    pub fn of_probe(probe: &Probe, container: &Container) -> Result<Self, String> {
        if let Some(get) = &probe.http_get {
            return Self::http_get(get, container);
        }
        if let Some(socket) = &probe.tcp_socket {
            return Ok(Self::TcpSocket {
                host: socket.host.clone().filter(|host| !host.is_empty()),
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
    pub fn of_hook(hook: &LifecycleHandler, container: &Container) -> Result<Self, String> {
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
        if path.parse::<Uri>().is_err() {
            return Err(format!("httpGet.path: {path:?} is no valid path"));
        }
        Ok(Self::HttpGet(Get {
            is_secure: get.scheme.as_deref() == Some("HTTPS"),
            host: get.host.clone().filter(|host| !host.is_empty()),
            port: port(&get.port, container)?,
            path,
            headers,
        }))
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
    pub async fn attempt(&self, target: Target<'_>) -> Outcome {
        let ip = target.sandbox.ip();
        match self {
            Self::HttpGet(get) => get.attempt(target.sandbox).await,
            Self::TcpSocket { host, port } => {
                let dialled = match host {
                    None => target.sandbox.dial(*port).await,
                    Some(host) => target.sandbox.dial_host(host, *port).await,
                };
                match dialled {
                    Ok(_) => Outcome::Success,
                    Err(error) => Outcome::Failure(format!("{}: {error}", self.target(ip))),
                }
            }
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
    pub fn timed_out(&self, target: Target<'_>, limit: Duration) -> String {
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
            Self::HttpGet(get) => format!("Get \"{}\"", get.url(ip)),
            Self::TcpSocket { host: None, port } => format!("dial tcp {}", authority(ip, *port)),
            Self::TcpSocket {
                host: Some(host),
                port,
            } => format!("dial tcp {host}:{port}"),
            Self::Exec { .. } | Self::Grpc { .. } | Self::Sleep(_) | Self::Impossible(_) => {
                "probe".to_owned()
            }
        }
    }
}

pub(crate) fn authority(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}
