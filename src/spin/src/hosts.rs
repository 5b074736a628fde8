//! Hosts that a component may send requests to and connect with.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

use serde_json::Value;

use crate::{Values, VariableError};

/// What of the network outside is open to a component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    /// For HTTP: `example.com:443`, `*.example.com`, `*`.
    pub http: Vec<String>,
    /// For sockets: by address, for these know no names.
    pub sockets: Vec<Destination>,
}

/// Addresses that sockets may connect with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Whether TCP is meant, or UDP. `None`: both.
    pub tcp: Option<bool>,
    /// A network: an address and how many bits of it count. `None`: all addresses.
    pub network: Option<(IpAddr, u8)>,
    /// Ports.
    pub ports: RangeInclusive<u16>,
}

/// Patterns as a component's description has them, of the present and of the older kind.
pub(crate) fn patterns(metadata: &BTreeMap<String, Value>) -> Vec<String> {
    let texts = |key: &str| {
        let list = metadata.get(key).and_then(Value::as_array);
        let texts = list.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect::<Vec<_>>()
    };
    let older = texts("allowed_http_hosts").into_iter();
    let older = older.flat_map(|pattern| match pattern.as_str() {
        "insecure:allow-all" => vec!["http://*:*".to_owned(), "https://*:*".to_owned()],
        text if text.contains("://") => vec![pattern],
        // Hosts stood for both schemes, with their ports or one of its own.
        text => vec![format!("http://{text}"), format!("https://{text}")],
    });
    let mut all = texts("allowed_outbound_hosts");
    all.extend(older);
    all
}

/// What patterns allow. What makes no sense, or is for a protocol that is not spoken here, allows nothing.
pub(crate) fn allowed(patterns: &[String], values: &Values) -> Result<Hosts, VariableError> {
    let mut hosts = Hosts::default();
    for pattern in patterns {
        let pattern = values.fill(pattern)?;
        let Some((scheme, authority)) = pattern.split_once("://") else {
            continue;
        };
        let authority = authority.split('/').next().unwrap_or_default();
        // A network is written with a slash, which begins a path elsewhere.
        let bits = pattern
            .split_once("://")
            .and_then(|(_, rest)| rest.split_once('/'));
        if matches!(scheme, "http" | "https" | "*") {
            hosts.http.extend(http(scheme, authority));
        }
        if matches!(scheme, "tcp" | "udp" | "*") {
            let tcp = match scheme {
                "tcp" => Some(true),
                "udp" => Some(false),
                _ => None,
            };
            hosts.sockets.extend(destination(tcp, authority, bits));
        }
    }
    Ok(hosts)
}

/// The host and port of `host:port`, where any part may be `*`.
fn http(scheme: &str, authority: &str) -> Option<String> {
    let standard = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    match split_port(authority)? {
        ("", _) => None,
        (host, Some("*")) => Some(host.to_owned()),
        // Ranges of ports cannot be said in what enforces this.
        (host, Some(port)) => Some(format!("{host}:{}", port.parse::<u16>().ok()?)),
        (host, None) => Some(match standard {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }),
    }
}

fn destination(
    tcp: Option<bool>,
    authority: &str,
    behind_slash: Option<(&str, &str)>,
) -> Option<Destination> {
    // `10.0.0.0/8:6379`: the port is behind the bits.
    let (host, bits, port) = if let Some((host, rest)) = behind_slash {
        let (bits, port) = match rest.split_once(':') {
            Some((bits, port)) => (bits, Some(port)),
            None => (rest, None),
        };
        (host, Some(bits), port)
    } else {
        let (host, port) = split_port(authority)?;
        (host, None, port)
    };
    let ports = ports(port)?;
    let network = if host == "*" {
        None
    } else {
        let address: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(all), |bits| bits.parse().ok())?;
        Some((address, bits)).filter(|_| bits <= all)
    };
    if network.is_none() && host != "*" {
        return None;
    }
    Some(Destination {
        tcp,
        network,
        ports,
    })
}

/// One port, those from a first one up to a last one, which is not meant any more (`80..90`), or all.
fn ports(port: Option<&str>) -> Option<RangeInclusive<u16>> {
    let Some(port) = port.filter(|port| *port != "*") else {
        return Some(0..=u16::MAX);
    };
    if let Some((first, end)) = port.split_once("..") {
        return Some(first.parse().ok()?..=end.parse::<u16>().ok()?.checked_sub(1)?);
    }
    let port = port.parse().ok()?;
    Some(port..=port)
}

/// A host, and what is behind the colon that ends it.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if authority.starts_with('[') {
        let (host, rest) = authority.split_at(authority.find(']')? + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    Some(match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(pattern: &str) -> Hosts {
        allowed(&[pattern.to_owned()], &Values::default()).unwrap()
    }

    #[test]
    fn schemes_stand_for_ports_and_other_protocols_for_nothing() {
        for (pattern, is) in [
            ("https://example.com", Some("example.com:443")),
            ("http://example.com", Some("example.com:80")),
            ("http://example.com/", Some("example.com:80")),
            ("https://example.com:8443", Some("example.com:8443")),
            ("https://*.example.com:*", Some("*.example.com")),
            ("*://*:*", Some("*")),
            ("*://example.com", Some("example.com")),
            ("https://[::1]", Some("[::1]:443")),
            ("https://[::1]:81", Some("[::1]:81")),
            ("redis://example.com:6379", None),
            ("https://example.com:8000..9000", None),
            ("https://", None),
            ("https://:80", None),
            ("https://[::1", None),
            ("example.com", None),
        ] {
            assert_eq!(
                of(pattern).http.first().map(String::as_str),
                is,
                "{pattern}"
            );
        }
    }

    #[test]
    fn sockets_are_allowed_by_network_and_port() {
        for (pattern, tcp, network, ports) in [
            ("*://*:*", None, None, 0..=u16::MAX),
            ("tcp://*:*", Some(true), None, 0..=u16::MAX),
            (
                "tcp://127.0.0.1:6379",
                Some(true),
                Some(("127.0.0.1", 32)),
                6379..=6379,
            ),
            (
                "udp://10.0.0.0/8:53",
                Some(false),
                Some(("10.0.0.0", 8)),
                53..=53,
            ),
            ("tcp://[fd00::]/8:1", Some(true), Some(("fd00::", 8)), 1..=1),
            (
                "tcp://[fd00::1]:1",
                Some(true),
                Some(("fd00::1", 128)),
                1..=1,
            ),
            (
                "tcp://127.0.0.1:80..82",
                Some(true),
                Some(("127.0.0.1", 32)),
                80..=81,
            ),
        ] {
            let network = network.map(|(ip, bits)| (ip.parse().unwrap(), bits));
            let destination = Destination {
                tcp,
                network,
                ports,
            };
            assert_eq!(of(pattern).sockets, [destination], "{pattern}");
        }
        for nonsense in [
            "tcp://example.com:80",
            "tcp://10.0.0.0/33:1",
            "tcp://1.2.3.4:x",
            "https://*",
            "tcp://",
            "tcp://1.2.3.4:0..0",
        ] {
            assert!(of(nonsense).sockets.is_empty(), "{nonsense}");
        }
    }

    #[test]
    fn the_older_name_counts_too() {
        let hosts = |list: Value| {
            let metadata = BTreeMap::from([("allowed_http_hosts".to_owned(), list)]);
            allowed(&patterns(&metadata), &Values::default()).unwrap()
        };
        assert_eq!(
            hosts(json!(["example.com", "https://a.example"])).http,
            ["example.com:80", "example.com:443", "a.example:443"]
        );
        let all = hosts(json!(["insecure:allow-all"]));
        assert_eq!(all.http, ["*", "*"]);
        assert!(all.sockets.is_empty(), "it was about HTTP alone");
        assert!(patterns(&BTreeMap::new()).is_empty());
    }

    #[test]
    fn variables_may_be_part_of_a_host() {
        let declared = [("host".to_owned(), crate::Variable::default())].into();
        let pattern = ["https://{{ host }}:444".to_owned()];
        let values = Values::of(&declared, |_| Some("a.example".to_owned()));
        assert_eq!(allowed(&pattern, &values).unwrap().http, ["a.example:444"]);
        let values = Values::of(&declared, |_| None);
        assert!(allowed(&pattern, &values).is_err());
    }
}
