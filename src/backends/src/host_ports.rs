//! Ports of the machine that lead to a pod of modules: `hostPort`. The node listens there, and hands each connection over to the
//! pod as it is, so that the pod sees the client's own address and policies count.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::task::AbortOnDropHandle;
use vaquita_docker::{HostPort, Protocol};
use vaquita_net::Fabric;

/// Connections of one port that wait for the pod to take them; more wait in the kernel.
const PENDING: usize = 128;
/// How long nothing is accepted after the system had no means for another connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The machine cannot give a port to a pod.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on the host's {address}: {source}")]
pub struct HostPortError {
    address: SocketAddr,
    source: io::Error,
}

/// The ports of one pod; they are closed when this is dropped. Connections that exist stay.
#[derive(Debug, Default)]
pub(super) struct HostPorts {
    _open: Vec<AbortOnDropHandle<()>>,
}

impl HostPorts {
    /// Listens on all of them, or on none.
    pub(super) async fn open(
        fabric: &Fabric,
        pod: IpAddr,
        wanted: &[HostPort],
    ) -> Result<Self, HostPortError> {
        let mut listeners = Vec::new();
        let wanted = wanted.iter().filter(|way| way.protocol == Protocol::Tcp);
        for way in wanted {
            let ip = way.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let address = SocketAddr::new(ip, way.host_port);
            let listener = TcpListener::bind(address).await;
            let listener = listener.map_err(|source| HostPortError { address, source })?;
            listeners.push((listener, SocketAddr::new(pod, way.port)));
        }
        let open = listeners.into_iter().map(|(listener, to)| {
            let serving = serve(fabric.clone(), listener, to);
            AbortOnDropHandle::new(tokio::spawn(serving))
        });
        Ok(Self {
            _open: open.collect(),
        })
    }
}

async fn serve(fabric: Fabric, listener: TcpListener, to: SocketAddr) {
    let places = Arc::new(Semaphore::new(PENDING));
    loop {
        // Never closed.
        let place = places.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((socket, from)) => {
                let fabric = fabric.clone();
                tokio::spawn(async move {
                    let _place = place;
                    if let Err(error) = fabric.deliver(to, socket, from).await {
                        tracing::debug!(%to, %from, %error, "a connection to a host port ends");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept on a host port");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };
    use vaquita_net::FabricConfig;

    use super::*;

    #[tokio::test]
    async fn a_port_of_the_host_leads_into_the_pod_and_is_its_alone() {
        let fabric = Fabric::new(FabricConfig::default()).unwrap();
        let pod = fabric.attach(None).unwrap();
        let listener = pod.listen(SocketAddr::new(pod.ip(), 80)).unwrap();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = free.local_addr().unwrap();
        let way = HostPort {
            host_ip: Some(address.ip()),
            host_port: address.port(),
            port: 80,
            protocol: Protocol::Tcp,
        };
        let taken = HostPorts::open(&fabric, pod.ip(), &[way])
            .await
            .unwrap_err();
        assert!(taken.to_string().contains(&address.to_string()), "{taken}");
        drop(free);
        let ports = HostPorts::open(&fabric, pod.ip(), &[way]).await.unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut served, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        served.write_all(b"hi").await.unwrap();
        let mut read = [0; 2];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"hi");
        drop(ports);
        // The task ends soon, and the port with it.
        while TcpListener::bind(address).await.is_err() {
            tokio::task::yield_now().await;
        }
    }
}
