//! What the cluster's names lead to: the records of its zone, out of the tables of Services.
//!
//! The zone is the one that <https://github.com/kubernetes/dns/blob/master/docs/specification.md> describes, with the names
//! of pods by their addresses (`10-244-0-7.NAMESPACE.pod.DOMAIN`) that every cluster has besides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    Protocol,
    fabric::Inner,
    service::table::{Entry, Zone},
};

/// The version of the specification that the zone follows, as the zone itself tells it.
const SPECIFICATION: &str = "1.1.0";

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It is not one of the cluster's.
    Foreign,
    /// It would be one of the cluster's, but nobody has it.
    Nobody,
    /// These records, of whatever kind; perhaps none.
    Records(Vec<Record>),
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A or AAAA, and whether it is one endpoint's, which may soon be gone.
    Address(IpAddr, Lifetime),
    /// SRV: a port, and the name of who has it.
    Service { port: u16, target: String },
    /// CNAME.
    Alias(String),
    /// PTR.
    Pointer(String),
    /// TXT.
    Text(&'static str),
}

/// How long an answer may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// As long as a Service lives.
    Service,
    /// As long as a pod lives.
    Pod,
}

/// What is known of a full name, written in lower case and without a dot at its end.
pub(crate) fn find(fabric: &Inner, name: &str) -> Known {
    if let Some(ip) = reverse(name) {
        return pointers(fabric, ip);
    }
    let domain = &fabric.config.cluster_domain.to_ascii_lowercase();
    if name == *domain {
        return Known::Records(Vec::new());
    }
    let Some(rest) = name
        .strip_suffix(domain.as_str())
        .and_then(|rest| rest.strip_suffix('.'))
    else {
        return Known::Foreign;
    };
    let found = match rest
        .rsplit_once('.')
        .map_or((None, rest), |(rest, last)| (Some(rest), last))
    {
        (None, "svc" | "pod") => Some(Vec::new()),
        (None, "dns-version") => Some(vec![Record::Text(SPECIFICATION)]),
        (Some(rest), "svc") => of_services(&fabric.services.zone(), rest, domain),
        (Some(rest), "pod") => of_pod(rest),
        _ => None,
    };
    found.map_or(Known::Nobody, Known::Records)
}

/// Below `svc.DOMAIN`.
fn of_services(zone: &Zone, rest: &str, domain: &str) -> Option<Vec<Record>> {
    let mut labels = rest.rsplitn(4, '.');
    let (namespace, service, one, two) =
        (labels.next()?, labels.next(), labels.next(), labels.next());
    let Some(service) = service else {
        return zone.has_namespace(namespace).then(Vec::new);
    };
    let entry = zone.service(namespace, service)?;
    let full = format!("{service}.{namespace}.svc.{domain}");
    if let Some(alias) = entry.alias() {
        return (one.is_none()).then(|| vec![Record::Alias(alias.to_owned())]);
    }
    match (two, one) {
        (None, None) => {
            let lifetime = if entry.is_headless() {
                Lifetime::Pod
            } else {
                Lifetime::Service
            };
            let addresses = entry.addresses();
            let addresses = addresses
                .into_iter()
                .map(|ip| Record::Address(ip, lifetime));
            Some(
                addresses
                    .chain(services(&entry, &full, |_, _| true))
                    .collect(),
            )
        }
        (None, Some(host)) => {
            let found: Vec<_> = entry
                .hosts_named(host)
                .into_iter()
                .map(|ip| Record::Address(ip, Lifetime::Pod))
                .collect();
            (!found.is_empty()).then_some(found)
        }
        (Some(port), Some(protocol)) => {
            let port = port.strip_prefix('_')?;
            let protocol = match protocol {
                "_tcp" => Protocol::Tcp,
                "_udp" => Protocol::Udp,
                _ => return None,
            };
            let found = services(&entry, &full, |name, of| {
                of == protocol && name == Some(port)
            });
            (!found.is_empty()).then_some(found)
        }
        (Some(_), None) => None,
    }
}

/// The SRV records of a Service's ports.
fn services(
    entry: &Entry,
    full: &str,
    wanted: impl Fn(Option<&str>, Protocol) -> bool,
) -> Vec<Record> {
    let mut found = Vec::new();
    for (name, protocol, number, endpoints) in entry.ports() {
        if !wanted(name, protocol) {
            continue;
        }
        if entry.is_headless() {
            found.extend(endpoints.iter().map(|endpoint| {
                let host = entry.host_name(endpoint.ip());
                Record::Service {
                    port: endpoint.port(),
                    target: format!("{host}.{full}"),
                }
            }));
        } else {
            found.push(Record::Service {
                port: number,
                target: full.to_owned(),
            });
        }
    }
    found
}

/// Below `pod.DOMAIN`: the address is in the name, whether or not a pod has it.
fn of_pod(rest: &str) -> Option<Vec<Record>> {
    let Some((dashed, namespace)) = rest.rsplit_once('.') else {
        return Some(Vec::new());
    };
    let ip = dashed_address(dashed)?;
    (!namespace.is_empty()).then(|| vec![Record::Address(ip, Lifetime::Pod)])
}

/// `10-244-0-7`, or `fd00--7`.
pub(crate) fn dashed_address(text: &str) -> Option<IpAddr> {
    let v4 = text.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    let v6 = || text.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6);
    v4.or_else(|_| v6()).ok()
}

/// The name of an endpoint that has none.
pub(crate) fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

fn pointers(fabric: &Inner, ip: IpAddr) -> Known {
    let domain = &fabric.config.cluster_domain;
    let names = fabric.services.zone().names_of(ip);
    if names.is_empty() {
        return if fabric.is_pod_network(ip) {
            Known::Nobody
        } else {
            Known::Foreign
        };
    }
    let full = |name| Record::Pointer(format!("{name}.svc.{domain}"));
    Known::Records(names.into_iter().map(full).collect())
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` is about.
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let mut parts: Vec<&str> = octets.split('.').collect();
        parts.reverse();
        return parts.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let digits: Vec<&str> = digits.split('.').collect();
    if digits.len() != 32 {
        return None;
    }
    let address = digits.iter().rev().try_fold(0u128, |address, digit| {
        let is_one = digit.len() == 1;
        let digit = u128::from_str_radix(digit, 16).ok().filter(|_| is_one)?;
        Some(address << 4 | digit)
    })?;
    Some(IpAddr::V6(address.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_names() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(reverse("7.0.244.10.in-addr.arpa"), Some(ip("10.244.0.7")));
        let v6 = format!("1{}.d.f.ip6.arpa", ".0".repeat(29));
        assert_eq!(reverse(&v6), Some(ip("fd00::1")));
        for nonsense in [
            "0.244.10.in-addr.arpa",
            "x.0.244.10.in-addr.arpa",
            "1.ip6.arpa",
            "a.b",
        ] {
            assert_eq!(reverse(nonsense), None, "{nonsense}");
        }
        for address in ["10.244.0.7", "fd00::7"] {
            assert_eq!(dashed_address(&dashed(ip(address))), Some(ip(address)));
        }
        assert_eq!(dashed_address("web-0"), None);
    }
}
