//! A UDP socket of the host, or of a namespace. To pods and Services, of which the kernel knows nothing, it sends through the fabric, and gets
//! what they answer.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use socket2::{SockRef, Socket};
use tokio::net::UdpSocket;

use super::{Entry, Open};
use crate::{
    Datagram, NetError, Protocol,
    host::Waiters,
    host_datagrams::{self, Way},
    pod::{canonical, like},
    service::Found,
    sync::lock,
};

/// Longest datagram.
const MAX_DATAGRAM: usize = 65_535;

/// Whether a socket with this peer takes datagrams from there.
fn is_wanted(peer: Option<SocketAddr>, from: SocketAddr) -> bool {
    peer.is_none_or(|peer| canonical(peer) == canonical(from))
}

/// Tokio remembers one waiting task; here, any number of them may wait.
pub(crate) struct HostDatagrams {
    local: SocketAddr,
    state: Mutex<State>,
    readers: Arc<Waiters>,
    entry: Entry,
}

struct State {
    /// None: closed.
    socket: Option<UdpSocket>,
    peer: Option<SocketAddr>,
    buffer: Vec<u8>,
    /// What has come from pods.
    inbox: VecDeque<Datagram>,
}

impl HostDatagrams {
    pub(super) fn open(socket: Socket, entry: Entry) -> Result<Arc<Self>, NetError> {
        let local = super::local(&socket)?;
        let state = State {
            socket: Some(UdpSocket::from_std(socket.into())?),
            peer: None,
            buffer: Vec::new(),
            inbox: VecDeque::new(),
        };
        let socket = Arc::new(Self {
            local,
            state: Mutex::new(state),
            readers: Arc::default(),
            entry,
        });
        let weak = Arc::downgrade(&socket);
        let pod = socket.entry.pod.clone();
        pod.becomes(&socket.entry, Open::Datagrams(weak))?;
        Ok(socket)
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        lock(&self.state).peer
    }

    /// From now on, takes the peer's datagrams only. The kernel is not told: it would not let go of a peer again on all
    /// systems.
    pub(crate) fn connect(&self, peer: Option<SocketAddr>) {
        let mut state = lock(&self.state);
        state.peer = peer;
        state
            .inbox
            .retain(|datagram| is_wanted(peer, datagram.from));
    }

    pub(crate) fn send_to(self: &Arc<Self>, data: Bytes, to: SocketAddr) -> Result<(), NetError> {
        let target = canonical(to);
        if self.entry.pod.is_virtual(Protocol::Udp, target) {
            return self.send_inside(data, target);
        }
        let state = lock(&self.state);
        let socket = state.socket.as_ref().ok_or(NetError::Closed)?;
        // Straight to the kernel: tokio only knows after a turn that a new socket can send.
        match SockRef::from(socket).send_to(&data, &to.into()) {
            Ok(_) => {
                self.entry.pod.account.count_sent(data.len());
                Ok(())
            }
            // The kernel's buffer is full: lost, as on any network.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(NetError::of_dial(error, to)),
        }
    }

    /// Sends to a pod or a Service, as the node. What nobody takes is lost, unless the socket is connected there.
    fn send_inside(self: &Arc<Self>, data: Bytes, to: SocketAddr) -> Result<(), NetError> {
        let fabric = &self.entry.pod.fabric;
        let origin = self.entry.pod.origin();
        let client = SocketAddr::new(origin.ip().unwrap_or(fabric.node_ip), self.local.port());
        let way = Way::HostPod(Arc::downgrade(self), to);
        let chosen = match fabric.services.find(Protocol::Udp, to) {
            Found::Port(balancer) => {
                let chosen = host_datagrams::choose(fabric, &way, origin, client, &balancer)?;
                if chosen.is_none() {
                    fabric.wake(&balancer);
                }
                chosen
            }
            Found::NoSuchPort => None,
            Found::NotAService => fabric
                .mailbox(origin, to, |_| false)?
                .map(|mailbox| (mailbox, to)),
        };
        match chosen {
            Some((mailbox, endpoint)) => {
                self.entry.pod.account.count_sent(data.len());
                let seen_as = fabric.flows.put_or_touch(fabric, &way, client, endpoint);
                mailbox.put(data, seen_as, &fabric.node_account, fabric.has_policy());
                Ok(())
            }
            None if self.peer().map(canonical) == Some(to) => Err(NetError::ConnectionRefused(to)),
            None => Ok(()),
        }
    }

    /// Takes what a pod answers, or loses it.
    pub(crate) fn put(&self, data: Bytes, from: SocketAddr) {
        let pod = &self.entry.pod;
        let from = like(from, self.local);
        let mut state = lock(&self.state);
        let is_full = state.inbox.len() >= pod.fabric.config.pod_limits.datagrams;
        if state.socket.is_none() || is_full || !is_wanted(state.peer, from) {
            return;
        }
        pod.account.count_received(data.len());
        state.inbox.push_back(Datagram { data, from });
        drop(state);
        std::task::Wake::wake(self.readers.clone());
    }

    pub(crate) fn try_receive(&self) -> Result<Option<Datagram>, NetError> {
        let mut state = lock(&self.state);
        let State {
            socket,
            peer,
            buffer,
            inbox,
        } = &mut *state;
        let socket = socket.as_ref().ok_or(NetError::Closed)?;
        if let Some(datagram) = inbox.pop_front() {
            return Ok(Some(datagram));
        }
        buffer.resize(MAX_DATAGRAM, 0);
        loop {
            match socket.try_recv_from(buffer) {
                Ok((_, from)) if !is_wanted(*peer, from) => {}
                Ok((length, from)) => {
                    self.entry.pod.account.count_received(length);
                    let data = Bytes::copy_from_slice(&buffer[..length]);
                    return Ok(Some(Datagram { data, from }));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // Somebody did not want an earlier datagram: of interest only to who has one peer.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    if let Some(peer) = *peer {
                        return Err(NetError::ConnectionRefused(peer));
                    }
                }
                Err(error) => return Err(NetError::Host(error)),
            }
        }
    }

    pub(crate) fn poll_ready(&self, cx: &Context<'_>) -> Poll<()> {
        self.readers.poll(cx, |cx| {
            let state = lock(&self.state);
            let ready = |socket: &UdpSocket| {
                !state.inbox.is_empty() || socket.poll_recv_ready(cx).is_ready()
            };
            state.socket.as_ref().is_none_or(ready)
        })
    }

    pub(crate) fn poll_receive(&self, cx: &Context<'_>) -> Poll<Result<Datagram, NetError>> {
        loop {
            if let Some(done) = self.try_receive().transpose() {
                return Poll::Ready(done);
            }
            if self.poll_ready(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    pub(crate) fn close(&self) {
        let socket = lock(&self.state).socket.take();
        drop(socket);
        std::task::Wake::wake(self.readers.clone());
    }
}
