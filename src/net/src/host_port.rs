//! Ports of the host that lead into Services: node ports, and ports at the addresses of load balancers.
//!
//! The socket that the kernel accepted is itself handed to the endpoint's listener: no byte is copied in between. Only
//! an endpoint outside of the fabric needs a relay. Datagrams are handed on by [`crate::host_datagrams`].

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Handle,
    task::AbortHandle,
};

use crate::{
    fabric::Inner,
    host_datagrams::{self, DatagramPort},
    service::{HostPort, Protocol, ServiceKey},
    sync::lock,
};

/// How many connections the kernel keeps for a node port until they are accepted.
const KERNEL_BACKLOG: u32 = 1024;
/// How long to rest when the host has no more descriptors for accepted connections.
const REST: Duration = Duration::from_millis(50);

/// A port that a Service wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) purpose: HostPort,
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
}

/// The ports that are open.
#[derive(Default)]
pub(crate) struct HostPorts {
    open: HashMap<(Protocol, SocketAddr), Open>,
}

struct Open {
    owner: ServiceKey,
    purpose: HostPort,
    socket: Socket,
    task: AbortHandle,
}

enum Socket {
    Connections(Arc<Acceptor>),
    Datagrams(Arc<DatagramPort>),
}

impl Drop for Open {
    fn drop(&mut self) {
        // The port is free when this returns, whenever the task comes to its end.
        match &self.socket {
            Socket::Connections(socket) => socket.close(),
            Socket::Datagrams(socket) => socket.close(),
        }
        self.task.abort();
    }
}

impl HostPorts {
    /// Opens a port for a Service, unless it has it open.
    pub(crate) fn open(
        &mut self,
        fabric: &Arc<Inner>,
        owner: &ServiceKey,
        wanted: Wanted,
    ) -> io::Result<()> {
        let Wanted {
            purpose,
            protocol,
            address,
        } = wanted;
        if let Some(open) = self.open.get(&(protocol, address)) {
            if open.owner == *owner {
                return Ok(());
            }
            let message = format!("the Service {} has it", open.owner);
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        if address.port() == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "port 0 is no port to be reached at",
            ));
        }
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let weak = Arc::downgrade(fabric);
        let (socket, task) = match protocol {
            Protocol::Tcp => {
                let socket = Arc::new(Acceptor::bind(address)?);
                let task = runtime.spawn(serve(weak, socket.clone()));
                (Socket::Connections(socket), task)
            }
            Protocol::Udp => {
                let socket = Arc::new(DatagramPort::bind(address)?);
                let task = runtime.spawn(host_datagrams::serve(weak, socket.clone()));
                (Socket::Datagrams(socket), task)
            }
        };
        let open = Open {
            owner: owner.clone(),
            purpose,
            socket,
            task: task.abort_handle(),
        };
        self.open.insert((protocol, address), open);
        Ok(())
    }

    /// Closes the ports of a Service that it does not want any more, and says which they were.
    pub(crate) fn close_others(
        &mut self,
        owner: &ServiceKey,
        wanted: impl Fn((Protocol, SocketAddr)) -> bool,
    ) -> Vec<(Protocol, SocketAddr)> {
        self.open
            .extract_if(|&port, open| open.owner == *owner && !wanted(port))
            .map(|(port, _closed)| port)
            .collect()
    }

    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }

    pub(crate) fn addresses(&self, purpose: HostPort) -> Vec<(Protocol, SocketAddr)> {
        let mut all: Vec<_> = self
            .open
            .iter()
            .filter(|(_, open)| open.purpose == purpose)
            .map(|(&port, _)| port)
            .collect();
        all.sort_unstable();
        all
    }
}

/// A listening socket that can be closed from outside of the task that accepts.
struct Acceptor {
    socket: Mutex<Option<TcpListener>>,
    address: SocketAddr,
}

impl Acceptor {
    fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // Else a port can't be opened again for a minute after its last connection.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let socket = socket.listen(KERNEL_BACKLOG)?;
        Ok(Self {
            socket: Mutex::new(Some(socket)),
            address,
        })
    }

    fn close(&self) {
        let socket = lock(&self.socket).take();
        drop(socket);
    }

    /// Accepts; nothing when closed.
    fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<(TcpStream, SocketAddr)>>> {
        let socket = lock(&self.socket);
        let Some(socket) = &*socket else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(ready!(socket.poll_accept(cx))))
    }
}

/// Accepts connections and hands them on, until the port is closed or the fabric is gone.
async fn serve(fabric: Weak<Inner>, socket: Arc<Acceptor>) {
    let address = socket.address;
    let mut failing = false;
    while let Some(accepted) = poll_fn(|cx| socket.poll_accept(cx)).await {
        let Some(fabric) = fabric.upgrade() else {
            return;
        };
        match accepted {
            Ok((stream, peer)) => {
                failing = false;
                admit(fabric, address, stream, peer);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Said once, not at each attempt.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%address, %error, "cannot accept connections for a Service; trying on");
                }
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Whether only the connection is lost that was about to be accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

/// Hands one connection on: at once if there is room for it, else by a task, of which there are so many and no more.
fn admit(fabric: Arc<Inner>, address: SocketAddr, stream: TcpStream, peer: SocketAddr) {
    let pending = fabric.node_port_pending.clone();
    let mut handing = Box::pin(async move { fabric.deliver_at(address, stream, peer).await });
    // Nearly always done by the first poll, without a task.
    let done = handing
        .as_mut()
        .poll(&mut Context::from_waker(std::task::Waker::noop()));
    if done.is_pending()
        && let Ok(place) = pending.try_acquire_owned()
    {
        tokio::spawn(async move {
            let _place = place;
            // Counted and logged where it failed.
            let _delivered = handing.await;
        });
    }
}
