//! `vaquita up`: a one-node cluster in this process, until SIGINT or SIGTERM.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{DataDir, demo, report::Report};
use crate::{Cluster, ClusterConfig};

/// Options of `vaquita up`.
#[derive(Debug, clap::Args)]
pub(super) struct UpArgs {
    #[command(flatten)]
    data_dir: DataDir,
    /// Address of the Kubernetes API (HTTPS). Port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// Serve the same API in plain HTTP, without authentication, on this port of 127.0.0.1. Port 0 picks a free one.
    /// Everybody who can reach that port is an administrator: for a local try-out only.
    #[arg(long, value_name = "PORT")]
    insecure_port: Option<u16>,
    /// Name of this machine's Node object [default: the host's name].
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Do not use a Docker engine. Only Wasm images run in this version, with the flag or without it.
    #[arg(long)]
    no_docker: bool,
    /// Apply the guestbook example, call it, and print its answer.
    #[arg(long)]
    demo: bool,
}

pub(super) async fn run(args: UpArgs) -> anyhow::Result<()> {
    // Before anything else, so that no signal finds us half started.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::pin!(stop);

    let demo = args.demo.then(demo::Demo::embedded).transpose()?;
    let config = config(args)?;
    let mut report = Report::start();
    Report::say(&format!(
        "vaquita {} in {}",
        env!("CARGO_PKG_VERSION"),
        config.data_dir.display()
    ));
    let start = Cluster::start_reporting(config, |step| report.cluster_step(&step));
    let cluster = tokio::select! {
        started = start => started?,
        () = &mut stop => return Ok(()),
    };
    Report::say(&format!("ready {}", cluster.url()));

    let ending = {
        let serve = async {
            match demo {
                Some(demo) => demo.run(&cluster, &mut report).await?,
                None => next_steps(&cluster),
            }
            anyhow::Ok(cluster.failure().await)
        };
        tokio::select! {
            failure = serve => Some(failure),
            () = &mut stop => None,
        }
    };
    cluster.stop().await;
    match ending {
        None => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok(failure)) => Err(anyhow::anyhow!("{failure}")),
    }
}

fn config(args: UpArgs) -> anyhow::Result<ClusterConfig> {
    let mut config = ClusterConfig::new(args.data_dir.resolve()?);
    config.listen = args.listen;
    config.insecure_listen = args
        .insecure_port
        .map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    config.docker = !args.no_docker;
    if let Some(name) = args.node_name {
        config.node_name = name;
    }
    Ok(config)
}

fn next_steps(cluster: &Cluster) {
    if let Some(url) = cluster.insecure_url() {
        Report::say(&format!("  insecure      {url}"));
    }
    Report::say(&format!(
        "try:\n  export KUBECONFIG={}\n  kubectl get nodes -o wide",
        cluster.kubeconfig_path().display()
    ));
}
