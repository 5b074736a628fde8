//! The ways in from outside: where the Ingress proxy listens and which addresses Services of type LoadBalancer get.
//!
//! Sockets are bound with all others, before anything works; the loops start with the control loops.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use tokio::net::TcpListener;
use vaquita_image::ImageStore;
use vaquita_ingress::{Ingress, Listeners, Options, load_balancers::Pool};
use vaquita_net::{DnsSockets, DnsTask, Fabric, FabricConfig};
use vaquita_reconcile::Context;

use crate::cluster::StartError;

/// Where something listens for clients outside: the Ingress proxy, the cluster's DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListenOn {
    /// Nowhere.
    #[default]
    Nowhere,
    /// On 127.0.0.1: the port that everybody knows if this process may have it (80, 443, 53), else 8080, 8443 or 10053,
    /// else nowhere.
    Loopback,
    /// There, or the start fails.
    Address(SocketAddr),
}

/// The ways in.
#[derive(Debug, Clone)]
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
    /// Where the cluster's DNS answers the host, by UDP and TCP. Default nowhere.
    pub dns: ListenOn,
    /// Connections that wait at a time for workloads that sleep; one more is refused. Default 1024, at most 16,777,216.
    pub held_connections: usize,
    /// How long one of them waits, until it fails. Default 30 s.
    pub wake_timeout: Duration,
}

impl Default for EntranceConfig {
    fn default() -> Self {
        let network = FabricConfig::default();
        Self {
            ingress: ListenOn::default(),
            ingress_tls: ListenOn::default(),
            ingress_options: Options::default(),
            load_balancer_pool: Pool::default(),
            dns: ListenOn::default(),
            held_connections: network.held,
            wake_timeout: network.wake_timeout,
        }
    }
}

/// The entrance with its sockets bound.
pub(crate) struct Entrance {
    listeners: Listeners,
    dns: Option<DnsSockets>,
    config: EntranceConfig,
}

impl Entrance {
    pub(crate) async fn bind(config: &EntranceConfig) -> Result<Self, StartError> {
        Ok(Self {
            listeners: Listeners {
                plain: bind(config.ingress, [80, 8080], "--ingress-listen").await?,
                tls: bind(config.ingress_tls, [443, 8443], "--ingress-tls-listen").await?,
            },
            dns: bind_dns(config.dns).await?,
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

    /// Where the cluster's DNS answers the host, if it does.
    pub(crate) fn dns_address(&self) -> Option<SocketAddr> {
        self.dns.as_ref().map(DnsSockets::local_addr)
    }

    /// Makes the proxy. From here on, nothing can fail. `alone`: no other process serves the cluster's Ingresses.
    pub(crate) fn open(self, fabric: &Fabric, alone: bool) -> Result<Open, StartError> {
        let mut options = Options {
            alone,
            ..self.config.ingress_options
        };
        let all = [&self.listeners.plain, &self.listeners.tls];
        let everywhere = all.into_iter().flatten().any(|listener| {
            let address = listener.local_addr();
            address.is_ok_and(|address| address.ip().is_unspecified())
        });
        if everywhere && options.publish.is_empty() {
            options.publish.push(own_address());
        }
        Ok(Open {
            ingress: Ingress::new(fabric.clone(), options)?,
            listeners: self.listeners,
            _dns: self.dns.map(|sockets| fabric.serve_dns_on(sockets)),
            pool: self.config.load_balancer_pool,
        })
    }
}

/// The entrance, ready to let requests in.
pub(crate) struct Open {
    ingress: Ingress,
    listeners: Listeners,
    _dns: Option<DnsTask>,
    pool: Pool,
}

impl Open {
    /// Writes what the proxy and the network count.
    pub(crate) fn metrics(
        &self,
        fabric: &Fabric,
        images: &ImageStore,
    ) -> impl Fn() -> String + Send + Sync + 'static {
        let (ingress, fabric) = (self.ingress.metrics(), fabric.clone());
        let images = images.clone();
        move || {
            ingress.render()
                + &network_metrics(&fabric.metrics())
                + &image_metrics(images.refused_for_size())
        }
    }

    /// The addresses of load balancers. Only one process at a time may give them out.
    pub(crate) fn pool(&self) -> Pool {
        self.pool.clone()
    }

    /// Serves Ingresses until the context is shut down.
    pub(crate) async fn serve(self, context: Context) {
        self.ingress.run(context, self.listeners).await;
    }
}

fn image_metrics(refused: u64) -> String {
    format!(
        "# HELP vaquita_images_refused_total How often an image was not unpacked, since it has more or larger files than it may.\n\
         # TYPE vaquita_images_refused_total counter\n\
         vaquita_images_refused_total {refused}\n"
    )
}

/// The address from which this machine reaches others; its loopback if it reaches none. Nothing is sent.
fn own_address() -> IpAddr {
    let towards = (Ipv4Addr::new(192, 0, 2, 1), 9);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let local = socket.and_then(|socket| {
        socket.connect(towards)?;
        socket.local_addr()
    });
    local.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |local| local.ip())
}

/// What the pods' network counts, in the text format of metrics.
fn network_metrics(metrics: &vaquita_net::Metrics) -> String {
    let gauge = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let all = [
        ("pods", "gauge", gauge(metrics.pods)),
        ("services", "gauge", gauge(metrics.services)),
        ("held_connects", "gauge", gauge(metrics.held)),
        ("connects", "counter", metrics.connects),
        ("failed_connects", "counter", metrics.connects_failed),
        ("denied_connects", "counter", metrics.connects_denied),
        ("delivered_connections", "counter", metrics.delivered),
        ("undelivered_connections", "counter", metrics.undelivered),
        ("woken_connects", "counter", metrics.woken),
        ("not_woken_connects", "counter", metrics.not_woken),
    ];
    let line = |(name, kind, value): (&str, &str, u64)| {
        let total = if kind == "counter" { "_total" } else { "" };
        format!("# TYPE vaquita_network_{name} {kind}\nvaquita_network_{name}{total} {value}\n")
    };
    all.into_iter().map(line).collect()
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

async fn bind_dns(wanted: ListenOn) -> Result<Option<DnsSockets>, StartError> {
    match wanted {
        ListenOn::Nowhere => Ok(None),
        ListenOn::Address(address) => match DnsSockets::bind(address).await {
            Ok(sockets) => Ok(Some(sockets)),
            Err(source) => Err(StartError::Listen {
                address,
                option: "--dns-listen",
                source,
            }),
        },
        ListenOn::Loopback => {
            for port in [53, 10_053] {
                let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
                match DnsSockets::bind(address).await {
                    Ok(sockets) => return Ok(Some(sockets)),
                    Err(error) => tracing::debug!(%address, %error, "cannot serve DNS"),
                }
            }
            tracing::warn!("the host gets no answers by DNS: ports 53 and 10053 are taken");
            Ok(None)
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, PermissionDenied};
    matches!(error.kind(), AddrInUse | PermissionDenied)
}
