//! What a process may do beyond what its pod gives to all: which interfaces it may import, whom it may call over HTTP and
//! which names it may look up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use vaquita_guest_sockets::Grants;

/// Grants for a process. Each list is `None`, which grants all that there is, or patterns of which one must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Imports, as [`Module::imports`](crate::Module::imports) has them: `wasi:sockets/tcp@0.2.0`, or
    /// `wasi_snapshot_preview1::sock_accept`. A pattern without a version stands for all versions; a `*` at its end for
    /// whatever follows: `wasi:sockets/*`. What is not granted fails the start.
    pub imports: Option<Vec<String>>,
    /// Hosts that HTTP requests may be sent to: `example.com`, `example.com:8443`, `*.example.com` for all names
    /// below that, `*`. Without a port, a pattern stands for all ports. Others are `HTTP-request-denied`.
    pub hosts: Option<Vec<String>>,
    /// Names that may be looked up, without a port. Others are `access-denied`.
    pub names: Option<Vec<String>>,
    /// Addresses that sockets may connect with and send to. Others are `access-denied`. Listening, and answering who has
    /// connected, is nobody's business but the pod's network's.
    pub destinations: Option<Vec<Destination>>,
    /// Who has granted this, for error messages. Default: empty.
    pub granted_by: String,
}

/// Addresses, ports and protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Whether it is TCP, or UDP. `None`: both.
    pub tcp: Option<bool>,
    /// A network: an address and how many of its bits count. `None`: all addresses.
    pub network: Option<(IpAddr, u8)>,
    /// Ports.
    pub ports: RangeInclusive<u16>,
}

impl Destination {
    fn has(&self, tcp: bool, address: SocketAddr) -> bool {
        let is_in = |(network, bits): (IpAddr, u8)| match (network, address.ip()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let behind = 32_u32.saturating_sub(bits.into());
                let prefix = |ip: Ipv4Addr| ip.to_bits().checked_shr(behind);
                prefix(network) == prefix(ip)
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let behind = 128_u32.saturating_sub(bits.into());
                let prefix = |ip: Ipv6Addr| ip.to_bits().checked_shr(behind);
                prefix(network) == prefix(ip)
            }
            _ => false,
        };
        self.tcp.is_none_or(|wanted| wanted == tcp)
            && self.network.is_none_or(is_in)
            && self.ports.contains(&address.port())
    }
}

impl Capabilities {
    /// The first of these imports that is not granted.
    pub(crate) fn refused<'a>(&self, imports: &'a [String]) -> Option<&'a str> {
        let granted = self.imports.as_ref()?;
        let is_granted = |import: &String| {
            granted
                .iter()
                .any(|pattern| import_matches(pattern, import))
        };
        imports
            .iter()
            .find(|import| !is_granted(import))
            .map(String::as_str)
    }

    pub(crate) fn may_call(&self, host: &str, port: u16) -> bool {
        self.hosts.as_ref().is_none_or(|granted| {
            granted.iter().any(|pattern| {
                let (name, wanted) = split_port(pattern);
                wanted.is_none_or(|wanted| wanted == port) && name_matches(name, host)
            })
        })
    }
}

impl Grants for Capabilities {
    fn may_connect(&self, is_tcp: bool, to: SocketAddr) -> bool {
        self.destinations
            .as_ref()
            .is_none_or(|granted| granted.iter().any(|it| it.has(is_tcp, to)))
    }

    fn may_look_up(&self, name: &str) -> bool {
        self.names
            .as_ref()
            .is_none_or(|granted| granted.iter().any(|pattern| name_matches(pattern, name)))
    }
}

fn import_matches(pattern: &str, import: &str) -> bool {
    if let Some(prefix) = pattern.strip_suffix('*') {
        return import.starts_with(prefix);
    }
    let unversioned = import.split_once('@').map_or(import, |(name, _)| name);
    pattern == import || pattern == unversioned
}

/// `host:port`, `[::1]:port`, or without a port.
fn split_port(pattern: &str) -> (&str, Option<u16>) {
    let split = pattern.rsplit_once(':').and_then(|(name, port)| {
        let is_part_of_address = name.contains(':') && !name.ends_with(']');
        let port = port.parse().ok().filter(|_| !is_part_of_address)?;
        Some((name, Some(port)))
    });
    let (name, port) = split.unwrap_or((pattern, None));
    (bare(name), port)
}

fn name_matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (bare(pattern), bare(name));
    match pattern.strip_prefix('*') {
        Some("") => true,
        Some(end) => {
            let start = name.len().checked_sub(end.len());
            start.is_some_and(|start| {
                start > 0
                    && name
                        .get(start..)
                        .is_some_and(|rest| rest.eq_ignore_ascii_case(end))
            })
        }
        None => name.eq_ignore_ascii_case(pattern),
    }
}

/// Names end with a dot or not, addresses have brackets or not: it means the same.
fn bare(name: &str) -> &str {
    let name = name.strip_prefix('[').unwrap_or(name);
    let name = name.strip_suffix(']').unwrap_or(name);
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(list: &[&str]) -> Vec<String> {
        list.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn nothing_said_is_everything_granted() {
        let all = Capabilities::default();
        assert_eq!(all.refused(&owned(&["any:thing/at-all"])), None);
        assert!(all.may_call("example.com", 443) && all.may_look_up("example.com"));
        let nothing = Capabilities {
            imports: Some(vec![]),
            hosts: Some(vec![]),
            names: Some(vec![]),
            ..Capabilities::default()
        };
        assert_eq!(nothing.refused(&owned(&["a:b/c"])), Some("a:b/c"));
        assert_eq!(nothing.refused(&[]), None);
        assert!(!nothing.may_call("example.com", 443) && !nothing.may_look_up("example.com"));
    }

    #[test]
    fn imports_are_granted_by_name_version_or_beginning() {
        let refused = |granted: &[&str], import: &str| {
            let capabilities = Capabilities {
                imports: Some(owned(granted)),
                ..Capabilities::default()
            };
            capabilities.refused(&owned(&[import])).is_some()
        };
        for pattern in [
            "wasi:sockets/tcp@0.2.0",
            "wasi:sockets/tcp",
            "wasi:sockets/*",
            "wasi:*",
            "*",
        ] {
            assert!(!refused(&[pattern], "wasi:sockets/tcp@0.2.0"), "{pattern}");
        }
        for pattern in [
            "wasi:sockets/tcp@0.2.1",
            "wasi:sockets/tc",
            "wasi:socket/*",
            "",
        ] {
            assert!(refused(&[pattern], "wasi:sockets/tcp@0.2.0"), "{pattern}");
        }
        assert!(!refused(
            &["wasi_snapshot_preview1::*"],
            "wasi_snapshot_preview1::fd_write"
        ));
    }

    #[test]
    fn hosts_are_granted_with_or_without_a_port() {
        let may = |pattern: &str, host: &str, port| {
            let capabilities = Capabilities {
                hosts: Some(owned(&[pattern])),
                ..Capabilities::default()
            };
            capabilities.may_call(host, port)
        };
        assert!(may("example.com", "Example.COM", 80));
        assert!(may("example.com:8443", "example.com.", 8443));
        assert!(!may("example.com:8443", "example.com", 443));
        assert!(may("*.example.com", "a.b.example.com", 1));
        assert!(!may("*.example.com", "example.com", 1));
        assert!(!may("*.example.com", "badexample.com", 1));
        assert!(may("*", "anything", 1) && may("*:80", "anything", 80));
        assert!(!may("*:80", "anything", 81));
        assert!(may("::1", "[::1]", 80) && may("[::1]:80", "::1", 80));
        assert!(!may("[::1]:80", "::1", 81));
    }

    #[test]
    fn destinations_are_granted_by_network_port_and_protocol() {
        let may = |tcp, network: Option<(&str, u8)>, ports, to: &str| {
            let network = network.map(|(ip, bits)| (ip.parse().expect("an address"), bits));
            let destination = Destination {
                tcp: Some(tcp),
                network,
                ports,
            };
            let capabilities = Capabilities {
                destinations: Some(vec![destination]),
                ..Capabilities::default()
            };
            capabilities.may_connect(true, to.parse().expect("an address"))
        };
        assert!(may(true, None, 1..=1, "192.0.2.1:1") && may(true, None, 1..=1, "[::1]:1"));
        assert!(!may(false, None, 1..=1, "192.0.2.1:1"));
        assert!(!may(true, None, 2..=9, "192.0.2.1:1"));
        assert!(may(true, Some(("10.0.0.0", 8)), 1..=1, "10.9.8.7:1"));
        assert!(!may(true, Some(("10.0.0.0", 8)), 1..=1, "11.9.8.7:1"));
        assert!(may(true, Some(("10.0.0.0", 0)), 1..=1, "11.9.8.7:1"));
        assert!(!may(true, Some(("10.0.0.0", 32)), 1..=1, "10.0.0.1:1"));
        assert!(may(true, Some(("fd00::", 8)), 1..=1, "[fd12::1]:1"));
        assert!(!may(true, Some(("::", 0)), 1..=1, "10.0.0.1:1"));
        assert!(Capabilities::default().may_connect(false, ([1, 2, 3, 4], 5).into()));
    }
}
