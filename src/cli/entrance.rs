//! Options of the ways in from outside: Ingress and LoadBalancer.

use std::{net::SocketAddr, time::Duration};

use ipnet::IpNet;
use vaquita_ingress::{Options, load_balancers::Pool};

use super::up::duration;
use crate::{EntranceConfig, ListenOn};

/// Where requests come in from outside.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Ingress, load balancers, DNS")]
pub(super) struct EntranceArgs {
    /// Where Ingresses are served in plain HTTP: ADDRESS:PORT, `none`, or `auto`, which is 127.0.0.1:80 if this process may
    /// listen there, else 127.0.0.1:8080, and nowhere if both are taken.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "auto", value_parser = listen_on)]
    ingress_listen: ListenOn,
    /// Where Ingresses are served with TLS; `auto` is port 443 or 8443.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "auto", value_parser = listen_on)]
    ingress_tls_listen: ListenOn,
    /// Connections of clients that the Ingress proxy holds at a time; more wait [default: 8192].
    #[arg(long, value_name = "COUNT")]
    ingress_max_connections: Option<usize>,
    /// How long a backend may take until its answer begins, such as 90s; beyond it 504 is answered [default: 60s].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    ingress_response_timeout: Option<Duration>,
    /// How long a connection to a backend may carry nothing before it is cut [default: 10m].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    ingress_idle_timeout: Option<Duration>,
    /// The longest request body through an Ingress, in bytes; beyond it 413 is answered [default: no limit].
    #[arg(long, value_name = "BYTES")]
    ingress_max_request_body: Option<u64>,
    /// Proxies in front of this one, whose X-Forwarded-* headers are believed: networks such as 10.0.0.0/8, separated by
    /// commas [default: none].
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',')]
    ingress_trusted_proxies: Vec<IpNet>,
    /// Addresses for Services of type LoadBalancer: networks, ranges (192.0.2.10-192.0.2.20) or single addresses, separated
    /// by commas. The host must have them [default on Linux: 127.1.0.1-127.1.255.254, else 127.0.0.1].
    #[arg(long, value_name = "ADDRESSES")]
    load_balancer_pool: Option<Pool>,
    /// Where the cluster's DNS answers the host, by UDP and TCP: ADDRESS:PORT, `none`, or `auto`, which is 127.0.0.1:53 if
    /// this process may listen there, else 127.0.0.1:10053, and nowhere if both are taken.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "auto", value_parser = listen_on)]
    dns_listen: ListenOn,
    /// Connections that wait at a time for workloads that were scaled to zero; one more is refused [default: 1024].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(..=1 << 24))]
    max_held_connections: Option<u32>,
    /// How long such a connection waits until it fails, such as 10s [default: 30s].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wake_timeout: Option<Duration>,
}

impl EntranceArgs {
    pub(super) fn resolve(self) -> EntranceConfig {
        let default = Options::default();
        let entrance = EntranceConfig::default();
        EntranceConfig {
            ingress: self.ingress_listen,
            ingress_tls: self.ingress_tls_listen,
            ingress_options: Options {
                max_connections: self
                    .ingress_max_connections
                    .unwrap_or(default.max_connections),
                response_timeout: self
                    .ingress_response_timeout
                    .unwrap_or(default.response_timeout),
                idle_timeout: self.ingress_idle_timeout.unwrap_or(default.idle_timeout),
                max_request_body: self.ingress_max_request_body,
                trusted_proxies: self.ingress_trusted_proxies,
                ..default
            },
            load_balancer_pool: self.load_balancer_pool.unwrap_or_default(),
            dns: self.dns_listen,
            held_connections: self
                .max_held_connections
                .map_or(entrance.held_connections, |count| count as usize),
            wake_timeout: self.wake_timeout.unwrap_or(entrance.wake_timeout),
        }
    }
}

fn listen_on(text: &str) -> Result<ListenOn, String> {
    match text {
        "auto" => Ok(ListenOn::Loopback),
        "none" => Ok(ListenOn::Nowhere),
        address => address
            .parse::<SocketAddr>()
            .map(ListenOn::Address)
            .map_err(|_| "neither ADDRESS:PORT, nor auto, nor none".to_owned()),
    }
}
