//! `vaquita up`: a one-node cluster in this process, until SIGINT or SIGTERM.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use vaquita_docker::Subnet;

use super::{
    DataDir, controllers::ControllerArgs, demo, entrance::EntranceArgs, eviction::EvictionOptions,
    image_files::ImageFilesOptions, image_gc::ImageGcOptions, kernel_network::KernelNetworkArgs,
    registries::RegistryOptions, report::Report,
};
use crate::{ApiLimits, Cluster, ClusterConfig, ContainersConfig, EngineChoice};

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
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    controllers: ControllerArgs,
    #[command(flatten)]
    entrance: EntranceArgs,
    /// Have controllers and scheduler work only while they hold their Leases in kube-system, as several control planes
    /// over one store need it.
    #[arg(long)]
    leader_elect: bool,
    #[command(flatten)]
    registries: RegistryOptions,
    #[command(flatten)]
    image_gc: ImageGcOptions,
    #[command(flatten)]
    image_files: ImageFilesOptions,
    /// How pods get their nodes: a `KubeSchedulerConfiguration` of kubescheduler.config.k8s.io/v1, in YAML or JSON
    /// [default: one profile, with upstream's plugins].
    #[arg(long, value_name = "FILE")]
    scheduler_config: Option<PathBuf>,
    #[command(flatten)]
    eviction: EvictionOptions,
    #[command(flatten)]
    containers: ContainerArgs,
    #[command(flatten)]
    kernel_network: KernelNetworkArgs,
    /// Apply the guestbook example, call it, and print its answer.
    #[arg(long)]
    demo: bool,
}

/// What runs Linux images.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Linux images")]
struct ContainerArgs {
    /// The Docker engine that runs Linux images: <unix:///PATH> or tcp://HOST:PORT; "none" for none [default: the one at
    /// /var/run/docker.sock, if it answers].
    #[arg(long, value_name = "ADDRESS", env = "VAQUITA_DOCKER")]
    docker: Option<String>,
    /// The network that is made on the engine for pods. Two clusters with one engine need two.
    #[arg(long, value_name = "NAME", default_value = "vaquita")]
    docker_network: String,
    /// The addresses of that network [default: the upper half of the pods' range].
    #[arg(long, value_name = "ADDRESS/BITS")]
    docker_subnet: Option<Subnet>,
    /// The image of the program that holds a pod's namespaces [default: one that is made on the spot].
    #[arg(long, value_name = "IMAGE")]
    pause_image: Option<String>,
}

impl ContainerArgs {
    fn resolve(self) -> ContainersConfig {
        ContainersConfig {
            engine: match self.docker {
                None => EngineChoice::Usual,
                Some(address) if address == "none" => EngineChoice::None,
                Some(address) => EngineChoice::At(address),
            },
            network: Some(self.docker_network),
            subnet: self.docker_subnet,
            pause_image: self.pause_image,
        }
    }
}

/// The limits of the API server; the options have the names that they have upstream, where there is one.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits of the API server")]
struct LimitArgs {
    /// Reads that are worked on at a time; beyond them 429 is answered [default: 400].
    #[arg(long, value_name = "COUNT")]
    max_requests_inflight: Option<NonZeroUsize>,
    /// Writes that are worked on at a time; beyond them 429 is answered [default: 200].
    #[arg(long, value_name = "COUNT")]
    max_mutating_requests_inflight: Option<NonZeroUsize>,
    /// The largest request body, in bytes; beyond it 413 is answered [default: 3145728].
    #[arg(long, value_name = "BYTES")]
    max_request_body: Option<NonZeroUsize>,
    /// How long the past can be watched and listed, such as 90s or 5m; beyond it 410 is answered [default: 5m].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    watch_history: Option<Duration>,
    /// How long an Event is kept after it happened last [default: 1h].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    event_ttl: Option<Duration>,
}

impl LimitArgs {
    fn resolve(self) -> ApiLimits {
        let default = ApiLimits::default();
        let count = |given: Option<NonZeroUsize>, default| given.map_or(default, NonZeroUsize::get);
        ApiLimits {
            max_reads_in_flight: count(self.max_requests_inflight, default.max_reads_in_flight),
            max_writes_in_flight: count(
                self.max_mutating_requests_inflight,
                default.max_writes_in_flight,
            ),
            body_limit: count(self.max_request_body, default.body_limit),
            watch_history: self.watch_history.unwrap_or(default.watch_history),
            event_ttl: self.event_ttl.unwrap_or(default.event_ttl),
        }
    }
}

/// A duration as people write it: `90s`, `5m`, `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text
        .parse()
        .map_err(|error: jiff::Error| error.to_string())?;
    match Duration::try_from(parsed) {
        Ok(duration) if duration >= Duration::from_secs(1) => Ok(duration),
        _ => Err("it must be a second at least".to_owned()),
    }
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
            () = keep_small() => None,
        }
    };
    cluster.stop().await;
    match ending {
        None => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok(failure)) => Err(anyhow::anyhow!("{failure}")),
    }
}

#[cfg(target_os = "linux")]
use super::trim::keep_small;

#[cfg(not(target_os = "linux"))]
async fn keep_small() {
    std::future::pending().await
}

fn config(args: UpArgs) -> anyhow::Result<ClusterConfig> {
    let mut config = ClusterConfig::new(args.data_dir.resolve()?);
    config.registries = args.registries.resolve()?;
    config.image_gc = args.image_gc.resolve()?;
    config.image_files = args.image_files.resolve();
    config.listen = args.listen;
    config.insecure_listen = args
        .insecure_port
        .map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    config.api = args.limits.resolve();
    config.controllers = args.controllers.resolve();
    config.leader_elect = args.leader_elect;
    (config.eviction, config.soft_eviction) = args.eviction.resolve()?;
    config.containers = args.containers.resolve();
    config.entrance = args.entrance.resolve();
    config.kernel_network = args.kernel_network.resolve();
    if let Some(path) = &args.scheduler_config {
        let name = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        config.scheduler = vaquita_scheduler::Options::from_configuration(&text)
            .with_context(|| format!("cannot use {name}"))?;
    }
    if let Some(name) = args.node_name {
        config.node_name = name;
    }
    Ok(config)
}

fn next_steps(cluster: &Cluster) {
    if let Some(url) = cluster.insecure_url() {
        Report::say(&format!("  insecure      {url}"));
    }
    if let Some(address) = cluster.dns_address() {
        Report::say(&format!("  DNS           {address}"));
    }
    for url in cluster.ingress_urls() {
        Report::say(&format!("  ingress       {url}"));
    }
    Report::say(&format!(
        "try:\n  export KUBECONFIG={}\n  kubectl get nodes -o wide",
        cluster.kubeconfig_path().display()
    ));
}
