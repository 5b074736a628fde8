//! Who may connect to whom.
//!
//! A fabric asks its [`ConnectPolicy`] once for each connection. [`Policies`] is the one that a cluster uses: rules about
//! pods selected by labels, compiled into sets of addresses.

mod guards;
mod rules;
mod selector;
mod table;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

pub use self::{
    rules::{Peer, PolicySpec, PortMatch, PortRange, Rule},
    selector::{Labels, Requirement, Selector},
    table::{Policies, PolicyPod},
};
use crate::{Changed, Guard, PodIdentity, Protocol};

/// Who opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The pod with this address.
    Pod(IpAddr),
    /// The node itself: probes, port forwarding.
    Node,
    /// A client outside of the virtual network, by a socket of the host.
    Outside(IpAddr),
}

impl Origin {
    /// The client's address, if it has one.
    pub(crate) fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Pod(ip) | Self::Outside(ip) => Some(ip),
            Self::Node => None,
        }
    }
}

/// A connection about to be made, or a datagram about to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// Who.
    pub from: Origin,
    /// To what: a pod's address, or one outside of the virtual network. Never a Service's: the endpoint is chosen
    /// already.
    pub to: SocketAddr,
    /// By which protocol.
    pub protocol: Protocol,
}

/// Decides, once for each connection, whether it may be made. It is asked on the way of every connect: it must be quick
/// and must not block. Connections of a pod to itself are not asked about, nor are answers to datagrams.
pub trait ConnectPolicy: Send + Sync + 'static {
    /// Whether this may be; if not, the connect fails with [`NetError::Denied`](crate::NetError::Denied).
    fn allows(&self, attempt: &Attempt) -> bool;

    /// What it lets those pods do whose addresses are wanted, for who filters their packets: see
    /// [`Fabric::guards`](crate::Fabric::guards). Pods that may do everything are left out.
    fn guards(&self, _wanted: &dyn Fn(IpAddr) -> bool) -> Vec<Guard> {
        Vec::new()
    }

    /// Given to it once, to be told whenever [guards](Self::guards) may have become others.
    fn watch(&self, _changed: Changed) {}

    /// Told of each pod that gets an address, before it can use it.
    fn attached(&self, _ip: IpAddr, _pod: &PodIdentity) {}

    /// Told when a pod has given its address back.
    fn detached(&self, _ip: IpAddr, _pod: &PodIdentity) {}
}
