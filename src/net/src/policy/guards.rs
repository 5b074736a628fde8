//! What policies come to for some pods, in addresses and numbers: for who filters packets.

use std::{net::IpAddr, sync::Arc};

use super::{
    PortMatch, PortRange,
    rules::{Compiled, CompiledPeer},
    table::PodRules,
};
use crate::{Guard, Passage, PassagePorts, PeerAddresses};

type Rules = imbl::HashMap<IpAddr, Arc<PodRules>>;

/// The guards of those who are wanted, and to whom anything is forbidden.
pub(super) fn of(rules: &Rules, wanted: &dyn Fn(IpAddr) -> bool) -> Vec<Guard> {
    let is_closed = |rules: &PodRules| rules.ingress.is_some() || rules.egress.is_some();
    rules
        .iter()
        .filter(|(ip, own)| is_closed(own) && wanted(**ip))
        .map(|(&ip, own)| Guard {
            ip,
            ingress: own
                .ingress
                .as_ref()
                .map(|allowed| passages(allowed, rules, Some(ip))),
            egress: own
                .egress
                .as_ref()
                .map(|allowed| passages(allowed, rules, None)),
        })
        .collect()
}

/// `target`: who is connected to, if that is always the same.
fn passages(allowed: &[Arc<Compiled>], rules: &Rules, target: Option<IpAddr>) -> Vec<Passage> {
    let passage = |rule: &Arc<Compiled>| Passage {
        peers: rule
            .peers
            .as_ref()
            .map(|peers| peers.iter().map(addresses).collect()),
        ports: rule.ports.as_ref().map(|ports| {
            ports
                .iter()
                .flat_map(|port| numbers(port, rules, target))
                .collect()
        }),
    };
    allowed.iter().map(passage).collect()
}

fn addresses(peer: &CompiledPeer) -> PeerAddresses {
    match peer {
        CompiledPeer::Group(group) => PeerAddresses::Pods(group.all()),
        CompiledPeer::Block { net, except } => PeerAddresses::Block {
            net: *net,
            except: except.clone(),
        },
    }
}

/// The numbers of ports: a name means another one at each pod.
fn numbers(port: &PortMatch, rules: &Rules, target: Option<IpAddr>) -> Vec<PassagePorts> {
    let protocol = port.protocol;
    let plain = |ports| {
        vec![PassagePorts {
            protocol,
            ports,
            of: None,
        }]
    };
    let wanted = match &port.ports {
        PortRange::All => return plain(0..=u16::MAX),
        PortRange::Numbers(range) => return plain(range.clone()),
        PortRange::Named(wanted) => wanted,
    };
    let mut found = Vec::new();
    let mut look = |ip: IpAddr, rules: &PodRules| {
        let named = rules
            .ports
            .iter()
            .filter(|(name, of, _)| name == wanted && *of == protocol);
        found.extend(named.map(|&(_, _, number)| PassagePorts {
            protocol,
            ports: number..=number,
            of: target.is_none().then_some(ip),
        }));
    };
    match target {
        Some(ip) => rules.get(&ip).into_iter().for_each(|rules| look(ip, rules)),
        None => rules.iter().for_each(|(&ip, rules)| look(ip, rules)),
    }
    found.sort_by_key(|ports| (ports.of, *ports.ports.start()));
    found
}
