//! Pods in a network namespace of the kernel. Entering one takes the superuser, as the tests of the whole project do.

use std::{
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};
use vaquita_net::{
    Attempt, ConnectPolicy, Fabric, NetError, NetworkNamespace, Origin, PodIdentity, PodNetwork,
    Stream,
};

use crate::tools::*;

/// A process in a namespace of its own, whose loopback is up.
struct Container(Child);

impl Container {
    fn start() -> Self {
        let mut child = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "ip link set lo up && echo && exec sleep 600",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is installed");
        let mut said = String::new();
        let out = child.stdout.take().expect("a pipe");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut said).unwrap();
        assert_eq!(said, "\n", "this is the superuser, and `ip` is installed");
        Self(child)
    }

    fn attach(&self, fabric: &Fabric) -> PodNetwork {
        let path = format!("/proc/{}/ns/net", self.0.id());
        let namespace = NetworkNamespace::open(path.as_ref()).unwrap();
        fabric.attach_namespace(PodIdentity::default(), ip("10.99.0.7"), namespace)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn says(stream: &Stream, text: &'static str) {
    stream.write_bytes(text.into()).await.unwrap();
}

#[tokio::test]
async fn its_ports_and_its_loopback_are_its_own() {
    let (fabric, container) = (fabric(), Container::start());
    let pod = container.attach(&fabric);
    let on_host = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = on_host.local_addr().unwrap();

    let listener = pod.listen(address).unwrap();
    let taken = pod.listen(address);
    assert!(matches!(taken, Err(NetError::AddrInUse(_))));
    let (near, far) = tokio::join!(pod.connect(address), listener.accept());
    let (near, (far, peer)) = (near.unwrap(), far.unwrap());
    assert_eq!(near.local_addr(), peer);
    says(&near, "inside").await;
    assert_eq!(far.read_bytes(100).await.unwrap(), "inside");

    // Who connects on the host finds the host's.
    let (client, accepted) = tokio::join!(TcpStream::connect(address), on_host.accept());
    drop(accepted.unwrap());
    assert_eq!(client.unwrap().read(&mut [0; 1]).await.unwrap(), 0);
    assert!(listener.try_accept().unwrap().is_none());

    // It is another one's with the next container.
    let other = Container::start();
    let refused = other.attach(&fabric).connect(address).await;
    assert!(matches!(refused, Err(NetError::ConnectionRefused(_))));
}

#[tokio::test]
async fn datagrams_stay_inside() {
    let (fabric, container) = (fabric(), Container::start());
    let pod = container.attach(&fabric);
    let here = pod.bind_udp(addr("127.0.0.1:0")).unwrap();
    let there = pod.bind_udp(addr("127.0.0.1:0")).unwrap();
    there.send_to("hello".into(), here.local_addr()).unwrap();
    let datagram = here.recv_from().await.unwrap();
    assert_eq!(datagram.data, "hello");
    assert_eq!(datagram.from, there.local_addr());
}

/// Forbids everything, and notes who asked.
struct Guard(Arc<Mutex<Vec<Origin>>>);

impl ConnectPolicy for Guard {
    fn allows(&self, attempt: &Attempt) -> bool {
        self.0.lock().unwrap().push(attempt.from);
        false
    }
}

#[tokio::test]
async fn pods_and_policies_of_the_fabric_know_it_by_its_address() {
    let (fabric, container) = (fabric(), Container::start());
    let pod = container.attach(&fabric);
    let server = fabric.attach(None).unwrap();
    let listener = server.listen(addr("0.0.0.0:80")).unwrap();
    let near = pod.connect(at(&server, 80)).await.unwrap();
    let (far, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.ip(), pod.ip());
    says(&near, "hello").await;
    assert_eq!(far.read_bytes(100).await.unwrap(), "hello");

    let asked = Arc::default();
    fabric.set_policy(Some(Box::new(Guard(Arc::clone(&asked)))));
    let denied = pod.connect(at(&server, 80)).await;
    assert!(matches!(denied, Err(NetError::Denied(_))));
    assert_eq!(*asked.lock().unwrap(), [Origin::Pod(pod.ip())]);
}
