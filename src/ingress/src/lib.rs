//! How requests get into a cluster.
//!
//! Three things that build on each other's ground, the virtual network ([`vaquita_net`]) and the machinery of controllers
//! ([`vaquita_reconcile`]):
//!
//! - an Ingress controller with its proxy ([`Ingress`]): hosts and paths to Services, TLS from Secrets,
//!   upgrades;
//! - addresses for Services of type LoadBalancer ([`load_balancers`]); the network itself listens there;
//! - workloads that sleep while nobody needs them and wake for the next connection ([`sleep`]).
//!
//! ```text
//! Ingresses, Services, Secrets ──informers──▶ compile ──▶ Table
//!                                                           │ read for each request, never locked
//! client ──▶ listener ──TLS──▶ proxy: host, path ───────────┴──▶ fabric: Service ──▶ pod
//! ```

mod certificates;
mod compile;
mod controller;
pub mod load_balancers;
mod metrics;
mod proxy;
mod routes;
pub mod sleep;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::net::TcpListener;
use vaquita_net::Fabric;
use vaquita_reconcile::Context;

pub use crate::{certificates::DefaultCertificateError, metrics::Metrics};

/// The table that is served at the moment.
pub(crate) type Shared = Arc<ArcSwap<compile::Table>>;

/// The name of the controller in an `IngressClass`.
pub const CONTROLLER: &str = "vaquita.dev/ingress";

/// How the proxy works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections of clients at a time; more wait to be accepted. Default 8192.
    pub max_connections: usize,
    /// How long a backend may take until the head of its answer; after that 504 is answered. Default 60 s.
    pub response_timeout: Duration,
    /// How long a connection to a backend may carry nothing in either direction before it is cut: bodies that stall,
    /// upgraded connections that nobody uses. Default 10 min.
    pub idle_timeout: Duration,
    /// The longest request body in bytes; beyond it 413 is answered. Default none: bodies are passed on as they come, and
    /// never kept.
    pub max_request_body: Option<u64>,
    /// Who is believed about the client before them: whose `X-Forwarded-*` headers are kept and added to. Default
    /// nobody: the headers say what this proxy knows itself.
    pub trusted_proxies: Vec<IpNet>,
    /// Addresses that are written into the status of Ingresses. Default: those of the listeners, which are none
    /// for one that listens on all addresses.
    pub publish: Vec<std::net::IpAddr>,
    /// Whether no other process serves the same Ingresses. Default true; if not, the addresses of others are left in their
    /// status.
    pub alone: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 8192,
            response_timeout: Duration::from_mins(1),
            idle_timeout: Duration::from_mins(10),
            max_request_body: None,
            trusted_proxies: Vec::new(),
            publish: Vec::new(),
            alone: true,
        }
    }
}

/// Where the proxy listens.
#[derive(Debug, Default)]
pub struct Listeners {
    /// In plain HTTP.
    pub plain: Option<TcpListener>,
    /// With TLS.
    pub tls: Option<TcpListener>,
}

impl Listeners {
    fn addresses(&self) -> Vec<SocketAddr> {
        let all = [&self.plain, &self.tls].into_iter().flatten();
        all.filter_map(|listener| listener.local_addr().ok())
            .collect()
    }
}

/// The Ingress controller and its proxy.
pub struct Ingress {
    proxy: Arc<proxy::Proxy>,
    resolver: Arc<certificates::Resolver>,
}

impl Ingress {
    /// Makes one that serves nothing yet, and a certificate for whoever no Secret is for.
    pub fn new(fabric: Fabric, options: Options) -> Result<Self, DefaultCertificateError> {
        let table = Shared::default();
        let resolver = certificates::Resolver {
            table: table.clone(),
            default: certificates::make_default()?,
        };
        Ok(Self {
            proxy: Arc::new(proxy::Proxy::new(fabric, table, options)),
            resolver: Arc::new(resolver),
        })
    }

    /// What it counts.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.proxy.metrics.clone()
    }

    /// Serves what the cluster's Ingresses say, until the context is shut down; then lets what is under way come to its
    /// end. (Whoever runs this may cut that short.)
    pub async fn run(self, context: Context, listeners: Listeners) {
        let Self { proxy, resolver } = self;
        let addresses = listeners.addresses();
        let controller = controller::Controller::new(&context, &proxy, &addresses);
        let plain = proxy
            .clone()
            .serve(listeners.plain, None, &context.shutdown);
        let tls = proxy.clone().serve(
            listeners.tls,
            Some(proxy::acceptor(resolver)),
            &context.shutdown,
        );
        tokio::join!(controller.run(), plain, tls);
    }
}
