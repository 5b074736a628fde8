//! Datagrams between pods and the outside, where that is allowed: by sockets of the host.
//!
//! A pod's socket that sends to the outside gets one of the host's, by which it is known there, as behind a router that
//! translates addresses. What comes in there reaches the pod only from those to whom it has sent lately.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, Weak},
};

use bytes::Bytes;
use socket2::SockRef;
use tokio::{
    net::UdpSocket,
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
};

use crate::{
    fabric::Inner,
    sync::lock,
    udp::{Mailbox, Recent},
};

/// Such sockets of the host, of all pods of a fabric together. What others send to the outside is lost.
const MAX_SOCKETS: usize = 4096;
/// Longest datagram.
const MAX_DATAGRAM: usize = 65_535;

/// Places for sockets of the host.
pub(crate) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MAX_SOCKETS))
}

/// The socket of the host that stands for a pod's.
pub(crate) struct Outward {
    socket: Arc<UdpSocket>,
    asked: Arc<Mutex<Recent>>,
    task: AbortHandle,
    _place: OwnedSemaphorePermit,
}

impl Drop for Outward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Outward {
    /// Opens one; what answers goes into the mailbox. Must be called within a tokio runtime.
    pub(crate) fn open(fabric: &Arc<Inner>, mailbox: &Arc<Mailbox>) -> io::Result<Self> {
        let place = fabric.outward.clone().try_acquire_owned();
        let place = place.map_err(|_| io::ErrorKind::QuotaExceeded)?;
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let asked = Arc::new(Mutex::new(Recent::default()));
        let receiving = receive(
            Arc::downgrade(fabric),
            Arc::downgrade(mailbox),
            socket.clone(),
            asked.clone(),
        );
        Ok(Self {
            task: runtime.spawn(receiving).abort_handle(),
            socket,
            asked,
            _place: place,
        })
    }

    /// Sends, or loses it.
    pub(crate) fn send(&self, data: &[u8], to: SocketAddr) {
        lock(&self.asked).note(to);
        let _lost = SockRef::from(&*self.socket).send_to(data, &to.into());
    }
}

async fn receive(
    fabric: Weak<Inner>,
    mailbox: Weak<Mailbox>,
    socket: Arc<UdpSocket>,
    asked: Arc<Mutex<Recent>>,
) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) if lock(&asked).contains(from) => {
                let (Some(fabric), Some(mailbox)) = (fabric.upgrade(), mailbox.upgrade()) else {
                    return;
                };
                let data = Bytes::copy_from_slice(&buffer[..length]);
                mailbox.put(data, from, &fabric.node_account, false);
            }
            // Nobody whom the pod knows, or an earlier datagram found nobody.
            Ok(_) | Err(_) => tokio::task::yield_now().await,
        }
    }
}
