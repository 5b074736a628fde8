//! What a filter of packets must know to do for pods beside the fabric what the fabric does for its own: where the
//! addresses of Services lead, and what policies let those pods do.
//!
//! It asks for both again whenever they have changed ([`Fabric::changes`]), and says how far it has followed
//! ([`Fabric::set_follower`]), so that a new pod need not start before policies hold for it.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
};

use ipnet::IpNet;
use tokio::sync::watch;

use crate::{Affinity, Fabric, Protocol, sync::lock};

/// Tells who follows a fabric that something has changed.
#[derive(Clone, Debug, Default)]
pub struct Changed(Arc<watch::Sender<u64>>);

impl Changed {
    /// Something has.
    pub fn tell(&self) {
        self.0.send_modify(|count| *count += 1);
    }
}

/// A port of a Service at one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedPort {
    /// Its protocol.
    pub protocol: Protocol,
    /// The Service's address and port.
    pub at: SocketAddr,
    /// Where connections go.
    pub endpoints: Vec<SocketAddr>,
    /// Whether a client stays with one endpoint.
    pub affinity: Affinity,
}

/// What policies let a pod do. Connections of the node itself, and those of the pod to itself, are not asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The pod's address.
    pub ip: IpAddr,
    /// Who may connect to it; none: everybody.
    pub ingress: Option<Vec<Passage>>,
    /// To whom it may connect; none: to everybody.
    pub egress: Option<Vec<Passage>>,
}

/// Lets pass what is with any of these peers on any of these ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// The other side; none: everybody.
    pub peers: Option<Vec<PeerAddresses>>,
    /// The ports at the side that is connected to; none: all, of all protocols.
    pub ports: Option<Vec<PassagePorts>>,
}

/// Addresses of one kind of other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAddresses {
    /// Those of pods, in order.
    Pods(Vec<IpAddr>),
    /// A block.
    Block {
        /// In this network ...
        net: IpNet,
        /// ... and in none of these.
        except: Vec<IpNet>,
    },
}

/// Some ports of one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassagePorts {
    /// The protocol.
    pub protocol: Protocol,
    /// Which of its ports.
    pub ports: RangeInclusive<u16>,
    /// Of which pod that is connected to, if the port has another number at others.
    pub of: Option<IpAddr>,
}

impl Fabric {
    /// Counts changes of Services and policies.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner().changed.0.subscribe()
    }

    /// What policies let those pods do that are asked for, where there is anything that they forbid, in the order of addresses.
    pub fn guards(&self, wanted: &dyn Fn(IpAddr) -> bool) -> Vec<Guard> {
        let policy = self.inner().policy.load();
        let mut guards = policy
            .as_ref()
            .map(|policy| policy.guards(wanted))
            .unwrap_or_default();
        guards.sort_by_key(|guard| guard.ip);
        guards
    }

    /// Sets who filters for pods beside the fabric: the receiver holds the number of [changes](Self::changes) that it has
    /// heeded.
    pub fn set_follower(&self, followed: Option<watch::Receiver<u64>>) {
        *lock(&self.inner().follower) = followed;
    }

    /// Waits until the changes so far are heeded for pods beside the fabric: at once if nobody filters for these.
    pub async fn followed(&self) {
        let so_far = *self.inner().changed.0.borrow();
        let follower = lock(&self.inner().follower).clone();
        if let Some(mut follower) = follower {
            // Fails if who filtered is gone.
            let _gone = follower.wait_for(|heeded| *heeded >= so_far).await;
        }
    }
}
