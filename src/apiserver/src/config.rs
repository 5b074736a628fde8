//! How an API server is set up.

use std::{fmt, net::Ipv4Addr, ops::RangeInclusive, str::FromStr, time::Duration};

use vaquita_admission::Chain;
use vaquita_auth::tokens::{ISSUER, SigningKey};

use crate::authn::Authenticator;

/// Settings of an [`ApiServer`](crate::ApiServer), with their defaults.
#[derive(Debug)]
pub struct Config {
    /// Who the bearer tokens belong to. Default: there are none.
    pub authenticator: Authenticator,
    /// What is done to writes before they are stored. Default [`Chain::standard`].
    pub admission: Chain,
    /// The key that signs and verifies the tokens of service accounts. Default none: then one is made as the server starts,
    /// and its tokens end with the server.
    pub service_account_key: Option<SigningKey>,
    /// In whose name these tokens are issued, and who they are for if they say nothing else. Default
    /// `https://kubernetes.default.svc.cluster.local`.
    pub service_account_issuer: String,
    /// The certificate (PEM) of the authority that serves and clients' certificates come from. It is published where pods and
    /// extension servers look for it. Default none: nothing is published.
    pub authority: Option<String>,
    /// Where Services get their addresses. Default `10.96.0.0/12`.
    pub service_network: Network,
    /// Where Services get their ports on the nodes. Default 30000 to 32767.
    pub node_ports: RangeInclusive<u16>,
    /// The API's own port, as the target of the Service `kubernetes`. Default 6443.
    pub secure_port: u16,
    /// An address at which pods reach the API, for the endpoints of the Service `kubernetes`. Default none: then that
    /// Service has no endpoints. A loopback address is of no use to a pod and is taken for none.
    pub advertise_address: Option<std::net::IpAddr>,
    /// The largest request body, in bytes. Default 3 MiB.
    pub body_limit: usize,
    /// Reads that are worked on at a time, watches and streams not counted; beyond them 429 is answered. Default 400.
    pub max_reads_in_flight: usize,
    /// Writes that are worked on at a time; beyond them 429 is answered. Default 200.
    pub max_writes_in_flight: usize,
    /// Connections of exec, attach, port-forward and proxies that are open at a time; beyond them 429 is answered.
    /// Default 1000.
    pub max_streams: usize,
    /// How long nothing may come over such a connection before it is ended. Default 4 hours, as kubelets have it.
    pub stream_idle: Duration,
    /// Events of each resource that are kept in memory for watchers; older ones are read from the store. Default 8192.
    pub window_events: usize,
    /// The same in bytes. Default 16 MiB.
    pub window_bytes: usize,
    /// How long history is kept, at least; at most twice as long. Watchers that are away for longer have to list again.
    /// Default 5 minutes.
    pub history: Duration,
    /// How long an Event is kept after it happened last. Default 1 hour.
    pub event_ttl: Duration,
    /// How long requests may take to end when the server stops. Default 3 seconds.
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            authenticator: Authenticator::new(),
            admission: Chain::standard(),
            service_account_key: None,
            service_account_issuer: ISSUER.to_owned(),
            authority: None,
            service_network: Network {
                base: Ipv4Addr::new(10, 96, 0, 0),
                prefix: 12,
            },
            node_ports: 30_000..=32_767,
            secure_port: 6443,
            advertise_address: None,
            body_limit: 3 << 20,
            max_reads_in_flight: 400,
            max_writes_in_flight: 200,
            max_streams: 1000,
            stream_idle: Duration::from_hours(4),
            window_events: 8192,
            window_bytes: 16 << 20,
            history: Duration::from_mins(5),
            event_ttl: Duration::from_hours(1),
            drain: Duration::from_secs(3),
        }
    }
}

/// A range of IPv4 addresses, written `10.96.0.0/12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: Ipv4Addr,
    prefix: u8,
}

/// Why a text is no usable range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a range of at least 8 IPv4 addresses, such as 10.96.0.0/12")]
pub struct NetworkError(String);

impl Network {
    /// The first address: the Service `kubernetes` has it.
    pub fn first(self) -> Ipv4Addr {
        self.address(1)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let parse = || {
            let (base, prefix) = text.split_once('/')?;
            let (base, prefix): (Ipv4Addr, u8) = (base.parse().ok()?, prefix.parse().ok()?);
            if !(8..=29).contains(&prefix) {
                return None;
            }
            let network = Self {
                base: Ipv4Addr::from_bits(base.to_bits() & (u32::MAX << (32 - prefix))),
                prefix,
            };
            (network.base == base).then_some(network)
        };
        parse().ok_or_else(|| NetworkError(text.to_owned()))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl Network {
    /// How many hosts there are: the network's own address and the broadcast address are none.
    pub(crate) fn hosts(self) -> u32 {
        (1 << (32 - self.prefix)) - 2
    }

    /// The address at `offset` from the network's own; 1 is the first host.
    pub(crate) fn address(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits().wrapping_add(offset))
    }

    /// Whether `address` is one of the hosts.
    pub(crate) fn has_host(self, address: Ipv4Addr) -> bool {
        let offset = address.to_bits().wrapping_sub(self.base.to_bits());
        (1..=self.hosts()).contains(&offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_parse_print_and_count() {
        let network: Network = "10.96.0.0/12".parse().unwrap();
        assert_eq!(network.to_string(), "10.96.0.0/12");
        assert_eq!(network.address(1), Ipv4Addr::new(10, 96, 0, 1));
        assert!(network.has_host("10.111.255.254".parse().unwrap()));
        for outside in ["10.96.0.0", "10.111.255.255", "10.112.0.1", "10.95.255.255"] {
            assert!(!network.has_host(outside.parse().unwrap()), "{outside}");
        }
        for bad in [
            "",
            "10.96.0.0",
            "10.96.0.1/12",
            "10.96.0.0/30",
            "10.96.0.0/7",
            "::/12",
            "10.96.0.0/x",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
