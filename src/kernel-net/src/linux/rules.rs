//! What the kernel's packet filter is told, as text for `nft`: a whole table, which takes the place of the one before.
//!
//! Packets between containers never come to the device, so what the fabric does for others is done for them by rules: the
//! addresses of Services lead to endpoints, and policies hold. What goes through the device is the fabric's to judge, and
//! passes.

use std::{
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use ipnet::{IpNet, Ipv4Net};
use vaquita_net::{
    Affinity, Fabric, Guard, Passage, PassagePorts, PeerAddresses, Protocol, ServedPort,
};

use crate::KernelFilterConfig;

/// Which side of a packet an address is looked for at.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "ip saddr",
            Self::Destination => "ip daddr",
        })
    }
}

/// The commands that make the table what it is to be, at once. `bridged`: the kernel shows the filter what it passes from
/// one container to another; else nothing can be done for these.
pub(super) fn table(fabric: &Fabric, config: &KernelFilterConfig, bridged: bool) -> String {
    let own = fabric.config().own_cidr.unwrap_or(fabric.config().pod_cidr);
    let is_container = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if config.containers.contains(&ip));
    let is_pod = |ip: IpAddr| {
        let is_own = matches!(ip, IpAddr::V4(ip) if own.contains(&ip));
        is_container(ip) || (is_own && ip != fabric.node_ip())
    };
    let (mut services, mut guards) = (Vec::new(), Vec::new());
    if bridged {
        services = fabric.services().ports();
        services.retain(|port| leads_to_containers(port, &is_container, &is_pod));
        guards = fabric.guards(&is_container);
    }
    write(config, &services, &guards, &is_container)
}

/// Whether the kernel is to choose the endpoint: if all are pods, and any of them is a container.
fn leads_to_containers(
    port: &ServedPort,
    is_container: &dyn Fn(IpAddr) -> bool,
    is_pod: &dyn Fn(IpAddr) -> bool,
) -> bool {
    let ips = || port.endpoints.iter().map(SocketAddr::ip);
    port.at.is_ipv4() && ips().any(is_container) && ips().all(is_pod)
}

fn write(
    config: &KernelFilterConfig,
    services: &[ServedPort],
    guards: &[Guard],
    is_container: &dyn Fn(IpAddr) -> bool,
) -> String {
    let table = &config.table;
    // It need not be there to be replaced.
    let mut text = format!("add table inet {table}\ndelete table inet {table}\n");
    // Writing to memory does not fail, here and below.
    let _ = writeln!(text, "table inet {table} {{");
    write_services(&mut text, config, services, is_container);
    write_way_out(&mut text, config);
    write_guards(&mut text, config, guards);
    text.push_str("}\n");
    text
}

/// Removes the table, if it is there.
pub(super) fn nothing(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

fn chain(text: &mut String, name: &str, rules: &[String]) {
    let _ = writeln!(text, "  chain {name} {{");
    for rule in rules {
        let _ = writeln!(text, "    {rule}");
    }
    text.push_str("  }\n");
}

fn list<T: fmt::Display>(all: impl IntoIterator<Item = T>) -> String {
    let all: Vec<_> = all.into_iter().map(|one| one.to_string()).collect();
    all.join(", ")
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn service_chain(port: &ServedPort) -> String {
    let (at, protocol) = (port.at, word(port.protocol));
    format!("service-{}-{protocol}-{}", at.ip(), at.port())
}

/// Where containers get to by the addresses of Services.
fn write_services(
    text: &mut String,
    config: &KernelFilterConfig,
    services: &[ServedPort],
    is_container: &dyn Fn(IpAddr) -> bool,
) {
    for port in services {
        let own = port.endpoints.iter().map(SocketAddr::ip);
        let mut own: Vec<_> = own.filter(|ip| is_container(*ip)).collect();
        own.sort_unstable();
        own.dedup();
        let count = port.endpoints.len();
        let choice = match port.affinity {
            Affinity::None => format!("numgen inc mod {count}"),
            Affinity::ClientIp { .. } => format!("jhash ip saddr mod {count}"),
        };
        let endpoints = port.endpoints.iter().enumerate();
        let endpoints =
            list(endpoints.map(|(index, to)| format!("{index} : {} . {}", to.ip(), to.port())));
        let protocol = word(port.protocol);
        let rules = [
            // Nobody can be sent back to himself here. The fabric knows how.
            format!("ip saddr {{ {} }} return", list(own)),
            format!("meta l4proto {protocol} dnat ip to {choice} map {{ {endpoints} }}"),
        ];
        chain(text, &service_chain(port), &rules);
    }
    let leads = |services: &mut dyn Iterator<Item = &ServedPort>| {
        let leads = list(services.map(|port| {
            let (at, protocol) = (port.at, word(port.protocol));
            let chain = service_chain(port);
            format!("{} . {protocol} . {} : goto {chain}", at.ip(), at.port())
        }));
        (!leads.is_empty())
            .then(|| format!("ip daddr . meta l4proto . th dport vmap {{ {leads} }}"))
    };
    let mut rules = vec!["type nat hook prerouting priority dstnat - 5; policy accept;".to_owned()];
    let all = leads(&mut services.iter());
    rules.extend(all.map(|all| format!("iifname \"{}\" {all}", config.bridge)));
    chain(text, "services", &rules);
    // The fabric hands on connections of the host, but not its datagrams to containers.
    let is_udp = |port: &&ServedPort| port.protocol == Protocol::Udp;
    let mut rules = vec!["type nat hook output priority -105; policy accept;".to_owned()];
    rules.extend(leads(&mut services.iter().filter(is_udp)));
    chain(text, "services-of-host", &rules);
}

/// Pods see containers under their own addresses, the rest of the world sees the machine.
fn write_way_out(text: &mut String, config: &KernelFilterConfig) {
    let KernelFilterConfig {
        bridge,
        device,
        containers,
        ..
    } = config;
    let rules = [
        "type nat hook postrouting priority srcnat - 5; policy accept;".to_owned(),
        // To say so keeps others from translating it.
        format!("ip saddr {containers} oifname \"{device}\" snat ip to ip saddr"),
        format!("ip saddr {containers} oifname != {{ \"{device}\", \"{bridge}\" }} masquerade"),
    ];
    chain(text, "way-out", &rules);
}

/// What policies let containers do with each other and with the rest of the world.
fn write_guards(text: &mut String, config: &KernelFilterConfig, guards: &[Guard]) {
    let mut from = Vec::new();
    let mut to = Vec::new();
    for guard in guards {
        let ip = guard.ip;
        if let Some(egress) = &guard.egress {
            let name = format!("from-{ip}");
            chain(text, &name, &passages(egress, Side::Destination));
            from.push(format!("{ip} : jump {name}"));
        }
        if let Some(ingress) = &guard.ingress {
            let name = format!("to-{ip}");
            chain(text, &name, &passages(ingress, Side::Source));
            to.push(format!("{ip} : jump {name}"));
        }
    }
    let jump = |side: Side, leads: &[String]| {
        let leads = list(leads);
        (!leads.is_empty()).then(|| format!("{side} vmap {{ {leads} }}"))
    };
    let (from, to) = (jump(Side::Source, &from), jump(Side::Destination, &to));
    let known = "ct state established,related accept".to_owned();
    let mut rules = vec![
        "type filter hook forward priority filter - 5; policy accept;".to_owned(),
        known.clone(),
        format!("iifname \"{}\" accept", config.device),
        format!("oifname \"{}\" accept", config.device),
    ];
    rules.extend(from.clone().into_iter().chain(to));
    chain(text, "forward", &rules);
    let mut rules = vec![
        "type filter hook input priority filter - 5; policy accept;".to_owned(),
        format!("iifname != \"{}\" accept", config.bridge),
        known,
    ];
    rules.extend(from);
    chain(text, "input", &rules);
}

/// What passes goes on where it came from, the rest is refused. `peer`: the side that is the other one's.
fn passages(allowed: &[Passage], peer: Side) -> Vec<String> {
    let mut rules = Vec::new();
    for passage in allowed {
        let peers = passage.peers.as_ref().map_or_else(
            || vec![String::new()],
            |peers| {
                peers
                    .iter()
                    .filter_map(|one| addresses(one, peer))
                    .collect()
            },
        );
        let ports = passage.ports.as_ref().map_or_else(
            || vec![String::new()],
            |ports| ports.iter().filter_map(numbers).collect(),
        );
        for peers in &peers {
            rules.extend(ports.iter().map(|ports| format!("{peers}{ports}return")));
        }
    }
    rules.push("reject with icmpx admin-prohibited".to_owned());
    rules
}

/// What matches these addresses; nothing does if there are none of IPv4.
fn addresses(peers: &PeerAddresses, side: Side) -> Option<String> {
    match peers {
        PeerAddresses::Pods(pods) => {
            let pods = list(pods.iter().filter(|ip| ip.is_ipv4()));
            (!pods.is_empty()).then(|| format!("{side} {{ {pods} }} "))
        }
        PeerAddresses::Block { net, except } => {
            let net = v4(net)?;
            let mut text = String::new();
            if net.prefix_len() > 0 {
                let _ = write!(text, "{side} {net} ");
            }
            for except in except.iter().filter_map(v4) {
                if except.prefix_len() == 0 {
                    return None;
                }
                let _ = write!(text, "{side} != {except} ");
            }
            Some(text)
        }
    }
}

fn v4(net: &IpNet) -> Option<Ipv4Net> {
    match net {
        IpNet::V4(net) => Some(net.trunc()),
        IpNet::V6(_) => None,
    }
}

fn numbers(ports: &PassagePorts) -> Option<String> {
    let of = match ports.of {
        None => String::new(),
        Some(IpAddr::V4(ip)) => format!("ip daddr {ip} "),
        Some(IpAddr::V6(_)) => return None,
    };
    let protocol = word(ports.protocol);
    Some(match range(&ports.ports) {
        None => format!("{of}meta l4proto {protocol} "),
        Some(range) => format!("{of}{protocol} dport {range} "),
    })
}

/// None: all of them.
fn range(ports: &RangeInclusive<u16>) -> Option<String> {
    let (first, last) = (*ports.start(), *ports.end());
    match (first, last) {
        (0, u16::MAX) => None,
        _ if first == last => Some(first.to_string()),
        _ => Some(format!("{first}-{last}")),
    }
}

#[cfg(test)]
mod tests {
    use vaquita_net::{
        FabricConfig, Peer, Policies, PolicyPod, PolicySpec, PortMatch, PortRange, Rule, Selector,
        ServiceKey, ServicePort, ServiceSpec,
    };

    use super::*;

    fn config() -> KernelFilterConfig {
        KernelFilterConfig {
            bridge: "br".to_owned(),
            containers: "10.244.128.0/17".parse().unwrap(),
            ..KernelFilterConfig::default()
        }
    }

    fn fabric() -> Fabric {
        Fabric::new(FabricConfig {
            own_cidr: Some("10.244.0.0/17".parse().unwrap()),
            node_ports: None,
            ..FabricConfig::default()
        })
        .unwrap()
    }

    fn serve(fabric: &Fabric, name: &str, ip: &str, affinity: Affinity, endpoints: &[&str]) {
        let key = ServiceKey {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        };
        let spec = ServiceSpec {
            cluster_ips: vec![ip.parse().unwrap()],
            affinity,
            ports: vec![ServicePort {
                name: None,
                protocol: Protocol::Tcp,
                port: 80,
                node_port: None,
                endpoints: endpoints.iter().map(|one| one.parse().unwrap()).collect(),
                outside_endpoints: None,
            }],
            ..ServiceSpec::default()
        };
        assert!(fabric.services().set(&key, &spec).is_empty());
    }

    #[test]
    fn services_of_containers_are_the_kernels_to_balance() {
        let fabric = fabric();
        let both = ["10.244.128.2:8080", "10.244.0.2:81"];
        serve(&fabric, "both", "10.96.0.20", Affinity::None, &both);
        serve(
            &fabric,
            "modules",
            "10.96.0.21",
            Affinity::None,
            &["10.244.0.2:81"],
        );
        serve(
            &fabric,
            "far",
            "10.96.0.22",
            Affinity::None,
            &["10.244.128.2:80", "192.0.2.1:80"],
        );
        serve(
            &fabric,
            "node",
            "10.96.0.23",
            Affinity::None,
            &["10.244.128.2:80", "10.244.0.1:80"],
        );
        let timeout = std::time::Duration::from_mins(1);
        serve(
            &fabric,
            "stay",
            "10.96.0.24",
            Affinity::ClientIp { timeout },
            &["10.244.128.3:80"],
        );
        let text = table(&fabric, &config(), true);
        for line in [
            "ip saddr { 10.244.128.2 } return\n",
            "meta l4proto tcp dnat ip to numgen inc mod 2 map { 0 : 10.244.128.2 . 8080, 1 : 10.244.0.2 . 81 }\n",
            "meta l4proto tcp dnat ip to jhash ip saddr mod 1 map { 0 : 10.244.128.3 . 80 }\n",
            "iifname \"br\" ip daddr . meta l4proto . th dport vmap { 10.96.0.20 . tcp . 80 : goto service-10.96.0.20-tcp-80, 10.96.0.24 . tcp . 80 : goto service-10.96.0.24-tcp-80 }\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        for address in ["10.96.0.21", "10.96.0.22", "10.96.0.23"] {
            assert!(!text.contains(address), "{address} is in\n{text}");
        }
        assert!(!table(&fabric, &config(), false).contains("10.96.0.20"));
    }

    #[test]
    fn policies_become_rules_about_addresses() {
        let fabric = fabric();
        let policies = Policies::new();
        fabric.set_policy(Some(Box::new(policies.clone())));
        let pod = |ip: &str| PolicyPod {
            ips: vec![ip.parse().unwrap()],
            ports: vec![("web".to_owned(), Protocol::Tcp, 8080)],
            ..PolicyPod::default()
        };
        policies.set_pod("a", "one", pod("10.244.128.2"));
        policies.set_pod("a", "module", pod("10.244.0.2"));
        let port = |protocol, ports| PortMatch { protocol, ports };
        let block = Peer::Block {
            net: "10.0.0.0/8".parse().unwrap(),
            except: vec!["10.1.0.0/16".parse().unwrap()],
        };
        let everybody = Peer::Block {
            net: "0.0.0.0/0".parse().unwrap(),
            except: Vec::new(),
        };
        let spec = PolicySpec {
            ingress: Some(vec![Rule {
                peers: Some(vec![
                    Peer::Pods {
                        namespaces: None,
                        pods: Selector::default(),
                    },
                    block,
                ]),
                ports: Some(vec![port(
                    Protocol::Tcp,
                    PortRange::Named("web".to_owned()),
                )]),
            }]),
            egress: Some(vec![Rule {
                peers: Some(vec![everybody]),
                ports: Some(vec![
                    port(Protocol::Udp, PortRange::All),
                    port(Protocol::Tcp, PortRange::Numbers(80..=90)),
                ]),
            }]),
            ..PolicySpec::default()
        };
        policies.set_policy("a", "p", spec);
        let text = table(&fabric, &config(), true);
        let to = "  chain to-10.244.128.2 {\n    \
                  ip saddr { 10.244.0.2, 10.244.128.2 } tcp dport 8080 return\n    \
                  ip saddr 10.0.0.0/8 ip saddr != 10.1.0.0/16 tcp dport 8080 return\n    \
                  reject with icmpx admin-prohibited\n  }\n";
        let from = "  chain from-10.244.128.2 {\n    meta l4proto udp return\n    tcp dport 80-90 return\n    \
                    reject with icmpx admin-prohibited\n  }\n";
        for part in [
            to,
            from,
            "ip saddr vmap { 10.244.128.2 : jump from-10.244.128.2 }\n    ip daddr vmap",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(
            !text.contains("from-10.244.0.2"),
            "modules are the fabric's to guard"
        );
    }

    #[test]
    fn nobody_is_let_through_by_a_rule_without_addresses() {
        let passage = |peers, ports| Passage { peers, ports };
        let refused = ["reject with icmpx admin-prohibited"];
        let none = PeerAddresses::Pods(Vec::new());
        assert_eq!(
            passages(&[passage(Some(vec![none]), None)], Side::Source),
            refused
        );
        let six = PeerAddresses::Block {
            net: "::/0".parse().unwrap(),
            except: Vec::new(),
        };
        assert_eq!(
            passages(&[passage(Some(vec![six]), None)], Side::Source),
            refused
        );
        assert_eq!(
            passages(&[passage(None, Some(Vec::new()))], Side::Source),
            refused
        );
        let all = passages(&[passage(None, None)], Side::Source);
        assert_eq!(all, ["return", refused[0]]);
    }
}
