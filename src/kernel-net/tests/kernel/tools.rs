//! A namespace for a test, and pods to talk to.

use std::{
    env,
    net::{IpAddr, SocketAddr},
    process::Command,
    time::Duration,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use vaquita_kernel_net::{KernelNet, KernelNetConfig};
use vaquita_net::{Fabric, FabricConfig, PodNetwork, Stream};

/// Set in the process that runs a test in its namespace.
const INSIDE: &str = "VAQUITA_TEST_IN_NAMESPACE";

/// Runs the test of this name in a new network namespace: by another process, as a namespace is a thread's.
pub(crate) fn in_namespace(name: &str, test: impl AsyncFnOnce()) {
    if env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"]);
        // Shows the devices of the namespace.
        run("mount", &["-t", "sysfs", "sysfs", "/sys"]);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let limit = Duration::from_mins(2);
        let done = runtime.block_on(async { tokio::time::timeout(limit, test()).await });
        done.expect("the test came to no end");
        return;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare (of util-linux) makes the test's network namespace");
    assert!(status.success(), "failed in its namespace: {status}");
}

/// Runs a command to its end, which must be a good one.
pub(crate) fn run(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{command} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A fabric, and the kernel's way to it.
pub(crate) struct Network {
    pub(crate) fabric: Fabric,
    pub(crate) kernel: KernelNet,
}

impl Network {
    pub(crate) fn start() -> Self {
        Self::with(KernelNetConfig::default())
    }

    pub(crate) fn with(config: KernelNetConfig) -> Self {
        Self::make(FabricConfig::default(), config)
    }

    pub(crate) fn of(fabric: FabricConfig) -> Self {
        Self::make(fabric, KernelNetConfig::default())
    }

    fn make(fabric: FabricConfig, config: KernelNetConfig) -> Self {
        let fabric = Fabric::new(fabric).unwrap();
        let config = KernelNetConfig {
            services: vec!["10.96.0.0/12".parse().unwrap()],
            ..config
        };
        let kernel = KernelNet::start(&fabric, config).unwrap();
        Self { fabric, kernel }
    }

    pub(crate) fn pod(&self) -> PodNetwork {
        self.fabric.attach(None).unwrap()
    }
}

pub(crate) fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// A server in a pod: each connection is served by `serve`.
pub(crate) fn serve<F>(
    pod: &PodNetwork,
    port: u16,
    serve: impl Fn(Stream, SocketAddr) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = pod.listen(SocketAddr::from(([0, 0, 0, 0], port))).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            tokio::spawn(serve(stream, peer));
        }
    });
}

/// Says back what it hears, and then its end.
pub(crate) async fn echo(stream: Stream, _: SocketAddr) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length) = (&stream).read(&mut buffer).await
        && length > 0
    {
        if (&stream).write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _gone = stream.shutdown(std::net::Shutdown::Write);
}
