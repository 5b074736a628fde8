//! The ways in from outside: where the Ingress proxy listens and which addresses Services of type LoadBalancer get.
//!
//! Sockets are bound with all others, before anything works; the loops start with the control loops.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use tokio::net::TcpListener;
use vaquita_ingress::{
    Ingress, Listeners, Options,
    load_balancers::{self, Pool},
    sleep,
};
use vaquita_net::Fabric;
use vaquita_reconcile::Context;

use crate::cluster::StartError;

/// Where a listener of the Ingress proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListenOn {
    /// Nowhere.
    #[default]
    Nowhere,
    /// On 127.0.0.1: the port that everybody knows if this process may have it (80, 443), else 8080 or 8443, else
    /// nowhere.
    Loopback,
    /// There, or the start fails.
    Address(SocketAddr),
}

/// The ways in.
#[derive(Debug, Clone, Default)]
pub struct EntranceConfig {
    /// Where Ingresses are served in plain HTTP. Default nowhere.
    pub ingress: ListenOn,
    /// Where they are served with TLS. Default nowhere.
    pub ingress_tls: ListenOn,
    /// How the proxy works.
    pub ingress_options: Options,
    /// The addresses of Services of type LoadBalancer. Default `127.1.0.1-127.1.255.254` on Linux, whose loopback has
    /// them all, and `127.0.0.1` elsewhere.
    pub load_balancer_pool: Pool,
}

/// The entrance with its sockets bound.
pub(crate) struct Entrance {
    listeners: Listeners,
    config: EntranceConfig,
}

impl Entrance {
    pub(crate) async fn bind(config: &EntranceConfig) -> Result<Self, StartError> {
        Ok(Self {
            listeners: Listeners {
                plain: bind(config.ingress, [80, 8080], "--ingress-listen").await?,
                tls: bind(config.ingress_tls, [443, 8443], "--ingress-tls-listen").await?,
            },
            config: config.clone(),
        })
    }

    /// Where Ingresses are served, as URLs.
    pub(crate) fn urls(&self) -> Vec<String> {
        let url = |scheme: &str, listener: &Option<TcpListener>| {
            let address = listener.as_ref()?.local_addr().ok()?;
            Some(format!("{scheme}://{address}"))
        };
        let plain = url("http", &self.listeners.plain);
        plain
            .into_iter()
            .chain(url("https", &self.listeners.tls))
            .collect()
    }

    /// Makes the proxy. From here on, nothing can fail.
    pub(crate) fn open(self, fabric: &Fabric) -> Result<Open, StartError> {
        Ok(Open {
            ingress: Ingress::new(fabric.clone(), self.config.ingress_options)?,
            listeners: self.listeners,
            pool: self.config.load_balancer_pool,
        })
    }
}

/// The entrance, ready to let requests in.
pub(crate) struct Open {
    ingress: Ingress,
    listeners: Listeners,
    pool: Pool,
}

impl Open {
    /// Serves Ingresses, gives addresses to Services, and puts workloads to sleep, until the context is shut down.
    pub(crate) async fn run(self, context: Context) {
        tokio::join!(
            self.ingress.run(context.clone(), self.listeners),
            load_balancers::run(context.clone(), self.pool),
            sleep::run_controller(context),
        );
    }
}

async fn bind(
    wanted: ListenOn,
    ports: [u16; 2],
    option: &'static str,
) -> Result<Option<TcpListener>, StartError> {
    match wanted {
        ListenOn::Nowhere => Ok(None),
        ListenOn::Address(address) => match TcpListener::bind(address).await {
            Ok(listener) => Ok(Some(listener)),
            Err(source) => Err(StartError::Listen {
                address,
                option,
                source,
            }),
        },
        ListenOn::Loopback => {
            for port in ports {
                let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
                match TcpListener::bind(address).await {
                    Ok(listener) => return Ok(Some(listener)),
                    Err(error) if is_taken(&error) => {}
                    Err(error) => tracing::debug!(%address, %error, "cannot listen"),
                }
            }
            tracing::warn!(
                "Ingresses are not served on port {} or {}: both are taken",
                ports[0],
                ports[1]
            );
            Ok(None)
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, PermissionDenied};
    matches!(error.kind(), AddrInUse | PermissionDenied)
}
