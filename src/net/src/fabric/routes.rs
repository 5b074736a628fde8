//! Who is at an address: the way from a connect to a place in somebody's backlog, and from a datagram to a mailbox.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use super::{Inner, MAX_DIALS, Reserved, Source};
use crate::{
    Attempt, NetError, Origin, Protocol,
    listener::{Backlog, Place},
    pod::Pod,
    service::{Balancer, Found},
    udp::{Mailbox, Target},
};

impl Inner {
    /// Finds who is to have a connection to `to`, and a place in its backlog.
    pub(crate) async fn reserve(&self, from: Source, to: SocketAddr) -> Result<Reserved, NetError> {
        match self.services.find(Protocol::Tcp, to) {
            Found::Port(_) => {
                let find = || match self.services.find(Protocol::Tcp, to) {
                    Found::Port(balancer) => Some(balancer),
                    Found::NoSuchPort | Found::NotAService => None,
                };
                self.reserve_awake(from, to, find).await
            }
            Found::NoSuchPort => Err(NetError::ConnectionRefused(to)),
            Found::NotAService => self.reserve_directly(from, to).await,
        }
    }

    async fn reserve_directly(&self, from: Source, to: SocketAddr) -> Result<Reserved, NetError> {
        if !self.is_pod_network(to.ip()) {
            if !self.is_cluster_pod(to.ip()) && !self.config.outside.allows(to.ip(), false) {
                return Err(NetError::NetworkUnreachable(to));
            }
            self.ask_policy(Protocol::Tcp, from.origin, to)?;
            return self.reach_out(from, to).await;
        }
        if let Some(host) = self.published(to) {
            self.ask_policy(Protocol::Tcp, from.origin, to)?;
            return self.dial_outside(host).await.map(Reserved::Outside);
        }
        let pod = self.pod(to.ip()).ok_or(if to.ip() == self.node_ip {
            NetError::ConnectionRefused(to)
        } else {
            NetError::HostUnreachable(to)
        })?;
        self.ask_policy(Protocol::Tcp, from.origin, to)?;
        self.reserve_at(&pod, to, pod.listener_for_others(to)).await
    }

    /// The socket of the host that this port of the node's address leads to.
    fn published(&self, to: SocketAddr) -> Option<SocketAddr> {
        let is_node = to.ip() == self.node_ip;
        is_node.then(|| self.published.load().get(&to.port()).copied())?
    }

    /// The same for the node's own look at a pod: whoever listens there answers, also while the pod ends.
    pub(crate) async fn reserve_for_probe(&self, to: SocketAddr) -> Result<Reserved, NetError> {
        let origin = Origin::Node;
        match self.pod(to.ip()) {
            Some(pod) if self.published(to).is_none() => {
                self.ask_policy(Protocol::Tcp, origin, to)?;
                self.reserve_in(&pod, to).await
            }
            _ => self.reserve(origin.into(), to).await,
        }
    }

    /// Waits for a place in the backlog of who listens in this pod, for the pod itself.
    pub(crate) async fn reserve_in(
        &self,
        pod: &Arc<Pod>,
        at: SocketAddr,
    ) -> Result<Reserved, NetError> {
        self.reserve_at(pod, at, pod.listener(at)).await
    }

    async fn reserve_at(
        &self,
        pod: &Arc<Pod>,
        at: SocketAddr,
        backlog: Option<Arc<Backlog>>,
    ) -> Result<Reserved, NetError> {
        let backlog = backlog.ok_or(NetError::ConnectionRefused(at))?;
        let slot = match backlog.try_reserve() {
            Place::Free(slot) => slot,
            Place::Full => backlog.reserve(at, self.config.connect_timeout).await?,
            Place::Closed => return Err(NetError::ConnectionRefused(at)),
        };
        Ok(Reserved::Pod {
            pod: pod.clone(),
            at,
            slot,
        })
    }

    /// Tries the endpoints of a Service in the balancer's order. Dead ones are passed over; full ones too, at first.
    pub(crate) async fn reserve_endpoint(
        &self,
        from: Source,
        to: SocketAddr,
        balancer: &Balancer,
    ) -> Result<Reserved, NetError> {
        let client = from.origin.ip();
        let chosen = |at| balancer.settle(client, at);
        let mut full: Option<(Arc<Pod>, SocketAddr, Arc<Backlog>)> = None;
        let mut dials = 0;
        for at in balancer.order(client) {
            self.ask_policy(Protocol::Tcp, from.origin, at)?;
            let published = self.published(at);
            if published.is_none() && self.is_pod_network(at.ip()) {
                let Some(pod) = self.pod(at.ip()) else {
                    continue;
                };
                let Some(backlog) = pod.listener_for_others(at) else {
                    continue;
                };
                match backlog.try_reserve() {
                    Place::Free(slot) => {
                        chosen(at);
                        return Ok(Reserved::Pod { pod, at, slot });
                    }
                    Place::Full => drop(full.get_or_insert((pod, at, backlog))),
                    Place::Closed => {}
                }
            } else if dials < MAX_DIALS
                && (self.is_cluster_pod(at.ip()) || self.config.outside.allows(at.ip(), true))
            {
                dials += 1;
                match self.reach_out(from, published.unwrap_or(at)).await {
                    Ok(reserved) => {
                        chosen(at);
                        return Ok(reserved);
                    }
                    Err(error) if error.is_endpoint_dead() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let (pod, at, backlog) = full.ok_or(NetError::ConnectionRefused(to))?;
        let slot = backlog.reserve(to, self.config.connect_timeout).await?;
        chosen(at);
        Ok(Reserved::Pod { pod, at, slot })
    }

    /// Asks whether this may be. Nobody keeps a pod from itself, not even by way of a Service.
    pub(crate) fn ask_policy(
        &self,
        protocol: Protocol,
        from: Origin,
        to: SocketAddr,
    ) -> Result<(), NetError> {
        let policy = self.policy.load();
        let Some(policy) = policy.as_ref().filter(|_| from != Origin::Pod(to.ip())) else {
            return Ok(());
        };
        if policy.allows(&Attempt { from, to, protocol }) {
            Ok(())
        } else {
            Err(NetError::Denied(to))
        }
    }

    /// Whether somebody has to be asked about connections.
    pub(crate) fn has_policy(&self) -> bool {
        self.policy.load().is_some()
    }

    /// Finds who takes datagrams sent to `to`, a pod's address: nobody, if the pod does not listen. The policy is not
    /// asked about answers, as which `is_answer` may know them by the mailbox.
    pub(crate) fn mailbox(
        &self,
        from: Origin,
        to: SocketAddr,
        is_answer: impl FnOnce(Option<&Mailbox>) -> bool,
    ) -> Result<Option<Arc<Mailbox>>, NetError> {
        if !self.is_pod_network(to.ip()) {
            return Err(NetError::NetworkUnreachable(to));
        }
        let pod = self.pod(to.ip()).ok_or(NetError::HostUnreachable(to))?;
        let mailbox = pod.mailbox(to);
        if !is_answer(mailbox.as_deref()) {
            self.ask_policy(Protocol::Udp, from, to)?;
        }
        Ok(mailbox)
    }

    /// Where a datagram of a pod goes: in the fabric, beside it or outside. `is_endpoint`: of a Service.
    pub(crate) fn datagram_target(
        &self,
        from: Origin,
        to: SocketAddr,
        is_answer: bool,
        is_endpoint: bool,
    ) -> Result<Option<Target>, NetError> {
        let is_beside = !self.is_pod_network(to.ip()) && self.leads_out(to.ip());
        let may_leave = to.is_ipv4()
            && !self.is_cluster_pod(to.ip())
            && self.config.outside.allows(to.ip(), is_endpoint);
        if !is_beside && !may_leave {
            let mailbox = self.mailbox(from, to, |_| is_answer)?;
            return Ok(mailbox.map(Target::Pod));
        }
        if !is_answer {
            self.ask_policy(Protocol::Udp, from, to)?;
        }
        Ok(Some(if is_beside {
            Target::Beside(to)
        } else {
            Target::Outside(to)
        }))
    }

    /// Connects to what is not in the fabric.
    async fn reach_out(&self, from: Source, to: SocketAddr) -> Result<Reserved, NetError> {
        match self.connect_out(from, to).await {
            Some(connected) => connected.map(Reserved::Beside),
            None => self.dial_outside(to).await.map(Reserved::Outside),
        }
    }

    async fn dial_outside(&self, to: SocketAddr) -> Result<TcpStream, NetError> {
        match tokio::time::timeout(self.config.connect_timeout, TcpStream::connect(to)).await {
            Ok(connected) => connected.map_err(|error| NetError::of_dial(error, to)),
            Err(_elapsed) => Err(NetError::TimedOut(to)),
        }
    }
}
