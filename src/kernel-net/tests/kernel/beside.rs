//! Pods beside the fabric, which only the kernel knows: here in a namespace behind a pair of devices.

use std::{io, net::IpAddr, process::Command};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use vaquita_net::FabricConfig;

use crate::tools::{Network, at, echo, in_namespace, run, serve};

/// A container's address.
const CONTAINER: &str = "10.244.128.2";

/// A network namespace, which is removed at the end.
struct Container(String);

impl Container {
    /// A namespace whose only way out is a pair of devices, with packets of ordinary length.
    fn start() -> Self {
        let name = format!("vaquita-test-{}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let own = Self(name);
        for command in [
            "link add vethhost type veth peer name eth0 netns NAMESPACE",
            "address add 10.244.128.1/17 dev vethhost",
            "link set vethhost up",
            "-n NAMESPACE address add 10.244.128.2/17 dev eth0",
            "-n NAMESPACE link set eth0 up",
            "-n NAMESPACE link set lo up",
            "-n NAMESPACE route add default via 10.244.128.1",
        ] {
            let command = command.replace("NAMESPACE", &own.0);
            run("ip", &command.split(' ').collect::<Vec<_>>());
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        own
    }

    fn command(&self, program: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("ip");
        command
            .args(["netns", "exec", &self.0, program])
            .kill_on_drop(true);
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _gone = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn network() -> Network {
    let config = FabricConfig {
        own_cidr: Some("10.244.0.0/17".parse().unwrap()),
        ..FabricConfig::default()
    };
    Network::of(config)
}

#[test]
fn pods_reach_containers_by_their_own_addresses() {
    in_namespace(
        "beside::pods_reach_containers_by_their_own_addresses",
        async || {
            let network = network();
            let container = Container::start();
            let pod = network.pod();
            let to: IpAddr = CONTAINER.parse().unwrap();

            let refused = pod.connect(at(to, 80)).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            let nobody = pod.connect(at("10.244.128.99".parse().unwrap(), 80)).await;
            assert_eq!(nobody.unwrap_err().kind(), io::ErrorKind::HostUnreachable);

            // Says who connects, then all that it hears.
            let mut server = container
                .command("python3")
                .args(["-c", SERVER])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut ready = [0; 1];
            server
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut ready)
                .await
                .unwrap();
            let stream = pod.connect(at(to, 8080)).await.unwrap();
            let mut name = vec![0; pod.ip().to_string().len()];
            (&stream).read_exact(&mut name).await.unwrap();
            assert_eq!(String::from_utf8(name).unwrap(), pod.ip().to_string());
            let sent: Vec<u8> = (0..8_000_000_u32)
                .map(|index| (index / 7).to_le_bytes()[0])
                .collect();
            let mut heard = vec![0; sent.len()];
            let (written, read) = tokio::join!(async { (&stream).write_all(&sent).await }, async {
                (&stream).read_exact(&mut heard).await
            },);
            written.unwrap();
            read.unwrap();
            assert!(sent == heard);
            let metrics = network.kernel.metrics();
            let mean = metrics.bytes_out / metrics.packets_out;
            assert!(mean > 3000, "long segments are cut by the kernel: {mean}");
        },
    );
}

const SERVER: &str = "
import socket
s = socket.create_server(('0.0.0.0', 8080))
print('!', end='', flush=True)
c, a = s.accept()
c.sendall(a[0].encode())
while True:
    d = c.recv(1 << 20)
    if not d: break
    c.sendall(d)
";

#[test]
fn containers_reach_pods_by_their_own_addresses() {
    in_namespace(
        "beside::containers_reach_pods_by_their_own_addresses",
        async || {
            let network = network();
            let container = Container::start();
            let pod = network.pod();
            serve(&pod, 80, async |stream, peer| {
                let said = peer.ip().to_string();
                (&stream).write_all(said.as_bytes()).await.unwrap();
            });
            serve(&pod, 81, echo);
            let ask = format!(
                "import socket; print(socket.create_connection(('{}', 80)).recv(99).decode(), end='')",
                pod.ip()
            );
            let output = container
                .command("python3")
                .args(["-c", &ask])
                .output()
                .await
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), CONTAINER);

            let much = format!(
                "
import socket, threading
c = socket.create_connection(('{}', 81))
n = 16 << 20
threading.Thread(target=lambda: c.sendall(bytes(n))).start()
got = 0
while got < n: got += len(c.recv(1 << 20))
print(got, end='')",
                pod.ip()
            );
            let output = container
                .command("python3")
                .args(["-c", &much])
                .output()
                .await
                .unwrap();
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                (16 << 20).to_string()
            );
            let metrics = network.kernel.metrics();
            let mean = metrics.bytes_in / metrics.packets_in;
            assert!(
                mean > 1500,
                "the kernel does not cut what it hands over: {mean}"
            );
        },
    );
}
