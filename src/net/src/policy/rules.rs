//! What a policy says, and what it is compiled to.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
};

use arc_swap::ArcSwap;
use ipnet::IpNet;

use super::Selector;
use crate::Protocol;

/// A policy. Pods that a policy selects may do only what some policy that selects them allows, in the directions that
/// the policy speaks of. Policies add up: the order makes no difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySpec {
    /// Which pods of the policy's namespace it is about.
    pub pods: Selector,
    /// Who may connect to them. None: the policy says nothing about that. Without a rule: nobody.
    pub ingress: Option<Vec<Rule>>,
    /// To whom they may connect.
    pub egress: Option<Vec<Rule>>,
}

/// Allows connections with any of these peers on any of these ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The other side. None: everybody.
    pub peers: Option<Vec<Peer>>,
    /// The ports at the side that is connected to. None: all.
    pub ports: Option<Vec<PortMatch>>,
}

/// One kind of other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Pods by their labels.
    Pods {
        /// In which namespaces. None: in the policy's own.
        namespaces: Option<Selector>,
        /// Which of the pods there.
        pods: Selector,
    },
    /// Addresses.
    Block {
        /// In this network ...
        net: IpNet,
        /// ... and in none of these.
        except: Vec<IpNet>,
    },
}

/// Some ports of one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMatch {
    /// The protocol.
    pub protocol: Protocol,
    /// Which of its ports.
    pub ports: PortRange,
}

/// Ports by number or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRange {
    /// All.
    All,
    /// These.
    Numbers(RangeInclusive<u16>),
    /// The one to which the pod that is connected to gives this name.
    Named(String),
}

/// A port of a pod that has a name.
pub(super) type NamedPort = (String, Protocol, u16);

impl PortMatch {
    pub(super) fn matches(&self, protocol: Protocol, port: u16, names: &[NamedPort]) -> bool {
        self.protocol == protocol
            && match &self.ports {
                PortRange::All => true,
                PortRange::Numbers(range) => range.contains(&port),
                PortRange::Named(wanted) => names
                    .iter()
                    .any(|(name, of, number)| name == wanted && *of == protocol && *number == port),
            }
    }
}

/// What a group of pods is selected by. Equal groups of all policies are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct GroupKey {
    pub(super) namespaces: Namespaces,
    pub(super) pods: Selector,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Namespaces {
    This(String),
    Selected(Selector),
}

/// The addresses of the pods that a selector selects at the moment.
#[derive(Debug, Default)]
pub(super) struct Group {
    members: ArcSwap<imbl::HashSet<IpAddr>>,
}

impl Group {
    pub(super) fn of(members: imbl::HashSet<IpAddr>) -> Self {
        Self {
            members: ArcSwap::from_pointee(members),
        }
    }

    /// All of them, in order.
    pub(super) fn all(&self) -> Vec<IpAddr> {
        let mut all: Vec<_> = self.members.load().iter().copied().collect();
        all.sort_unstable();
        all
    }

    fn contains(&self, ip: IpAddr) -> bool {
        self.members.load().contains(&ip)
    }

    /// Takes an address in or out. There is one who changes groups, at a time.
    pub(super) fn set(&self, ip: IpAddr, is_member: bool) {
        let members = self.members.load();
        if members.contains(&ip) == is_member {
            return;
        }
        let mut next = imbl::HashSet::clone(&members);
        if is_member {
            next.insert(ip);
        } else {
            next.remove(&ip);
        }
        self.members.store(Arc::new(next));
    }
}

/// A rule with its selectors as sets of addresses.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) peers: Option<Vec<CompiledPeer>>,
    pub(super) ports: Option<Vec<PortMatch>>,
}

#[derive(Debug)]
pub(super) enum CompiledPeer {
    Group(Arc<Group>),
    Block { net: IpNet, except: Vec<IpNet> },
}

impl CompiledPeer {
    fn matches(&self, ip: IpAddr) -> bool {
        match self {
            Self::Group(group) => group.contains(ip),
            Self::Block { net, except } => {
                net.contains(&ip) && !except.iter().any(|except| except.contains(&ip))
            }
        }
    }
}

impl Compiled {
    /// Whether it allows a connection to `to` whose other side, as seen from the pod that the rule is about, is `peer`.
    /// `names` are those of the ports at `to`.
    pub(super) fn allows(
        &self,
        peer: IpAddr,
        protocol: Protocol,
        to: SocketAddr,
        names: &[NamedPort],
    ) -> bool {
        let is_port = self.ports.as_ref().is_none_or(|ports| {
            ports
                .iter()
                .any(|port| port.matches(protocol, to.port(), names))
        });
        is_port
            && self
                .peers
                .as_ref()
                .is_none_or(|peers| peers.iter().any(|one| one.matches(peer)))
    }
}
