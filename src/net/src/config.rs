//! What a fabric is made with: every option has a default, and every queue a bound.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    time::Duration,
};

use ipnet::Ipv4Net;

use crate::{ConfigError, names};

/// Options of a [`Fabric`](crate::Fabric).
#[derive(Clone, Debug)]
pub struct FabricConfig {
    /// Where pods get their addresses from, /8 to /30. Default `10.244.0.0/16`, which holds 65,533 pods. The network's
    /// own address, the first one (the node itself) and the broadcast address are never given to a pod.
    pub pod_cidr: Ipv4Net,
    /// The part of `pod_cidr` that is the fabric's: only its pods have addresses of there, of which the first is the node
    /// itself. Pods that live beside the fabric ([`Fabric::neighbour`](crate::Fabric::neighbour)) have the others.
    /// Default: all of it.
    pub own_cidr: Option<Ipv4Net>,
    /// The suffix of the cluster's names, without dots at its ends. Default `cluster.local`.
    pub cluster_domain: String,
    /// Bytes that one direction of a connection buffers before its writer has to wait. Default 64 KiB, at least 1,
    /// at most 16 MiB. Larger helps bulk transfers little and costs memory for each slow reader.
    pub buffer: usize,
    /// Connections that wait at a listener to be accepted. Default 512, at most 65,535.
    pub backlog: usize,
    /// Connects that wait at a listener for room in its full backlog; one more is refused. Default 512.
    pub waiting_connects: usize,
    /// How long a connect waits for room in a full backlog, or for an outside address to answer. Default 10 s.
    pub connect_timeout: Duration,
    /// Ports for sockets that ask for none. Default 32768 to 60999, as Linux has it.
    pub ephemeral_ports: RangeInclusive<u16>,
    /// What one pod may have.
    pub pod_limits: PodLimits,
    /// Address of the host on which node ports listen; none: node ports are not opened. Default `127.0.0.1`, so that
    /// nothing is reachable from other machines unless this says so.
    pub node_ports: Option<IpAddr>,
    /// Addresses of the host on which it listens for Services that have them among their external ones. Default
    /// `127.0.0.0` to `127.255.255.255`. The unspecified address is never one.
    pub host_addresses: Vec<RangeInclusive<IpAddr>>,
    /// Connections that came in by ports of the host and wait for a full backlog, or are relayed to an endpoint outside of
    /// the fabric, all ports together; one more is reset. Default 1024.
    pub node_port_pending: usize,
    /// Connects that are held at a time for Services that sleep, until these have an endpoint; one more fails. Default
    /// 1024.
    pub held: usize,
    /// How long a connect is held for a Service that sleeps. Default 30 s.
    pub wake_timeout: Duration,
    /// What may be reached outside of the virtual network. Default: nothing.
    pub outside: Outside,
}

impl Default for FabricConfig {
    fn default() -> Self {
        Self {
            pod_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16),
            own_cidr: None,
            cluster_domain: "cluster.local".to_owned(),
            buffer: 64 * 1024,
            backlog: 512,
            waiting_connects: 512,
            connect_timeout: Duration::from_secs(10),
            ephemeral_ports: 32768..=60999,
            pod_limits: PodLimits::default(),
            node_ports: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host_addresses: vec![
                IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0))
                    ..=IpAddr::V4(Ipv4Addr::new(127, 255, 255, 255)),
            ],
            node_port_pending: 1024,
            held: 1024,
            wake_timeout: Duration::from_secs(30),
            outside: Outside::default(),
        }
    }
}

/// What one pod may have of the network. Each limit bounds what a guest can make its host hold.
#[derive(Clone, Debug)]
pub struct PodLimits {
    /// Open ends of connections, accepted ones and those still in a backlog included. Default 16,384.
    pub connections: usize,
    /// Ports bound by listeners and datagram sockets. Default 1024.
    pub ports: usize,
    /// Bytes that the pod has sent and nobody has read yet, over all its connections. Default 64 MiB. Beyond it, each
    /// connection goes on with 4 KiB, so that it slows down but never stops.
    pub unread: usize,
    /// Datagrams that wait at one socket; further ones are lost, as on any network. Default 256.
    pub datagrams: usize,
    /// Bytes of datagrams that wait at one socket. Default 256 KiB, at least 64 KiB, which is the longest datagram.
    pub datagram_bytes: usize,
}

impl Default for PodLimits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            ports: 1024,
            unread: 64 * 1024 * 1024,
            datagrams: 256,
            datagram_bytes: 256 * 1024,
        }
    }
}

/// What may be reached by the host's own sockets. All denied by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// Endpoints of Services that are not pods of this fabric: a host process, another machine.
    pub service_endpoints: bool,
    /// Any address that a pod asks for, and names that the host's resolver knows.
    pub everything: bool,
    /// The host's loopback, link-local and unspecified addresses too, where one of the above reaches it. Dangerous:
    /// whoever may write endpoints then reaches services that trust local callers.
    pub host_loopback: bool,
}

impl Outside {
    pub(crate) fn allows(self, to: IpAddr, is_endpoint: bool) -> bool {
        let wanted = self.everything || (is_endpoint && self.service_endpoints);
        wanted && (self.host_loopback || !is_local_to_host(to))
    }
}

fn is_local_to_host(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_unspecified() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local(),
    }
}

const MAX_BUFFER: usize = 16 * 1024 * 1024;
const MAX_COUNT: usize = 1 << 24;

impl FabricConfig {
    /// Whether the host listens on this address for Services.
    pub fn is_host_address(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        !ip.is_unspecified()
            && !ip.is_multicast()
            && self.host_addresses.iter().any(|range| range.contains(&ip))
    }

    /// Where the fabric's own pods get their addresses from.
    pub(crate) fn own_pods(&self) -> Ipv4Net {
        self.own_cidr.unwrap_or(self.pod_cidr).trunc()
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if !(8..=30).contains(&self.pod_cidr.prefix_len()) {
            return Err(ConfigError::PodCidr(self.pod_cidr));
        }
        if let Some(own) = self.own_cidr
            && (own.prefix_len() > 30 || !self.pod_cidr.contains(&own))
        {
            return Err(ConfigError::OwnCidr(own, self.pod_cidr));
        }
        if !names::is_name(&self.cluster_domain) {
            return Err(ConfigError::ClusterDomain(self.cluster_domain.clone()));
        }
        if self.ephemeral_ports.is_empty() || *self.ephemeral_ports.start() == 0 {
            return Err(ConfigError::EphemeralPorts);
        }
        let limits = &self.pod_limits;
        for (name, value, min, max) in [
            ("buffer", self.buffer, 1, MAX_BUFFER),
            ("backlog", self.backlog, 1, usize::from(u16::MAX)),
            ("waiting_connects", self.waiting_connects, 0, MAX_COUNT),
            ("node_port_pending", self.node_port_pending, 0, MAX_COUNT),
            ("held", self.held, 0, MAX_COUNT),
            ("pod_limits.connections", limits.connections, 1, MAX_COUNT),
            ("pod_limits.ports", limits.ports, 1, usize::from(u16::MAX)),
            ("pod_limits.unread", limits.unread, 0, usize::MAX),
            ("pod_limits.datagrams", limits.datagrams, 1, MAX_COUNT),
            (
                "pod_limits.datagram_bytes",
                limits.datagram_bytes,
                64 * 1024,
                MAX_BUFFER,
            ),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::OutOfRange {
                    name,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_accepted() {
        assert_eq!(FabricConfig::default().check(), Ok(()));
    }

    #[test]
    fn nonsense_is_refused() {
        let cidr: Ipv4Net = "10.0.0.0/31".parse().unwrap();
        let config = FabricConfig {
            pod_cidr: cidr,
            ..FabricConfig::default()
        };
        assert_eq!(config.check(), Err(ConfigError::PodCidr(cidr)));

        let own: Ipv4Net = "10.245.0.0/17".parse().unwrap();
        let config = FabricConfig {
            own_cidr: Some(own),
            ..FabricConfig::default()
        };
        let whole = config.pod_cidr;
        assert_eq!(config.check(), Err(ConfigError::OwnCidr(own, whole)));

        let config = FabricConfig {
            cluster_domain: "a..b".to_owned(),
            ..FabricConfig::default()
        };
        assert_eq!(
            config.check(),
            Err(ConfigError::ClusterDomain("a..b".to_owned()))
        );

        let config = FabricConfig {
            ephemeral_ports: 0..=10,
            ..FabricConfig::default()
        };
        assert_eq!(config.check(), Err(ConfigError::EphemeralPorts));

        let config = FabricConfig {
            backlog: 0,
            ..FabricConfig::default()
        };
        assert!(matches!(
            config.check(),
            Err(ConfigError::OutOfRange {
                name: "backlog",
                value: 0,
                ..
            })
        ));
    }

    #[test]
    fn the_hosts_own_addresses_need_a_word_of_their_own() {
        let outside = Outside {
            service_endpoints: true,
            ..Outside::default()
        };
        let remote: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(outside.allows(remote, true));
        assert!(!outside.allows(remote, false));
        for local in [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "fe80::1",
        ] {
            let local: IpAddr = local.parse().unwrap();
            assert!(!outside.allows(local, true), "{local}");
            assert!(
                Outside {
                    host_loopback: true,
                    ..outside
                }
                .allows(local, true),
                "{local}"
            );
        }
        assert!(!Outside::default().allows(remote, true));
    }
}
