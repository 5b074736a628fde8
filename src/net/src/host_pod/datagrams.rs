//! A UDP socket of the host.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use socket2::{SockRef, Socket};
use tokio::net::UdpSocket;

use super::{Entry, Open};
use crate::{Datagram, NetError, host::Waiters, pod::canonical, sync::lock};

/// Longest datagram.
const MAX_DATAGRAM: usize = 65_535;

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
}

impl HostDatagrams {
    pub(super) fn open(socket: Socket, entry: Entry) -> Result<Arc<Self>, NetError> {
        let local = super::local(&socket)?;
        let state = State {
            socket: Some(UdpSocket::from_std(socket.into())?),
            peer: None,
            buffer: Vec::new(),
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
        lock(&self.state).peer = peer;
    }

    pub(crate) fn send_to(&self, data: &[u8], to: SocketAddr) -> Result<(), NetError> {
        let state = lock(&self.state);
        let socket = state.socket.as_ref().ok_or(NetError::Closed)?;
        // Straight to the kernel: tokio only knows after a turn that a new socket can send.
        match SockRef::from(socket).send_to(data, &to.into()) {
            Ok(_) => {
                self.entry.pod.account.count_sent(data.len());
                Ok(())
            }
            // The kernel's buffer is full: lost, as on any network.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(NetError::of_dial(error, to)),
        }
    }

    pub(crate) fn try_receive(&self) -> Result<Option<Datagram>, NetError> {
        let mut state = lock(&self.state);
        let State {
            socket,
            peer,
            buffer,
        } = &mut *state;
        let socket = socket.as_ref().ok_or(NetError::Closed)?;
        buffer.resize(MAX_DATAGRAM, 0);
        loop {
            match socket.try_recv_from(buffer) {
                Ok((_, from)) if peer.is_some_and(|peer| canonical(peer) != canonical(from)) => {}
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
            let ready = |socket: &UdpSocket| socket.poll_recv_ready(cx).is_ready();
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
