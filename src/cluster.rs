//! A whole cluster in this process: [`Cluster::start`] is the one place that knows every part.
//!
//! The order is the order of need. The data directory is locked and the sockets are bound before anything works, so
//! that a second start fails early and addresses are known; then store, API server, control loops and node follow,
//! each talking to the API server alone. Stopping goes the other way.

use std::{
    fs::{self, File, TryLockError},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use vaquita_apiserver::{ApiServer, Authenticator, Config, User};
use vaquita_image::{FilesLimits, ImageStore, Registries, RegistriesConfig};
use vaquita_ingress::{
    load_balancers::{self, Pool},
    sleep,
};
use vaquita_net::{DnsTask, Fabric, FabricConfig};
use vaquita_node::{Containers, EvictionThresholds, ImageGc, Node, NodeConfig, SoftEviction};
use vaquita_pki::{AdminFiles, Pki, PkiError, keep_fresh};
use vaquita_reconcile::{
    Context, SigningAuthority, TokenSigner,
    lead::{Election, lead},
};
use vaquita_runtime::Runtime;
use vaquita_store::{Options, Redb, Store};

use crate::{
    containers::{self, ContainersConfig, ContainersError},
    entrance::{Entrance, EntranceConfig, Open},
    kernel_network::{JoinError, KernelNetwork, KernelNetworkConfig},
    local,
    supervise::{Ending, Supervisor},
};

include!(concat!(env!("OUT_DIR"), "/toolbox.rs"));

/// How long a part may take to end once it has been told to.
const PART_DEADLINE: Duration = Duration::from_secs(5);
/// How long to wait for the API server and the node to become ready before the start counts as failed.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// What a cluster is made of. [`ClusterConfig::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Directory of everything that the cluster keeps; made if absent, with mode 700.
    pub data_dir: PathBuf,
    /// Where the API is served over HTTPS. Default `127.0.0.1:6443`; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where the same API is served in plain HTTP to anybody who can connect. Default none.
    pub insecure_listen: Option<SocketAddr>,
    /// Name of the Node object. Default: the host's name.
    pub node_name: String,
    /// The limits of the API server.
    pub api: ApiLimits,
    /// How the controllers work. What they sign and verify with is the cluster's own.
    pub controllers: vaquita_reconcile::Options,
    /// Whether controllers and scheduler work only while they hold their Leases, for several control planes over one
    /// store. Default false: a cluster in one process locks its store, so there is no other, and each Lease would cost a
    /// write every 2 s.
    pub leader_elect: bool,
    /// How pods get their nodes: profiles, plugins, back-offs.
    pub scheduler: vaquita_scheduler::Options,
    /// Whether Linux images run, and by which Docker engine. Default: they do not.
    pub containers: ContainersConfig,
    /// The ways in from outside. Default: no Ingress is served.
    pub entrance: EntranceConfig,
    /// Whether the host and Linux containers reach pods by their addresses. Default: they do not.
    pub kernel_network: KernelNetworkConfig,
    /// Below what the node ends pods, so that something of the machine is left. Default: upstream's thresholds.
    pub eviction: EvictionThresholds,
    /// The same, where it may be so for a while. Default: nothing.
    pub soft_eviction: SoftEviction,
    /// How registries of images are reached. Default: by HTTPS, as their names say.
    pub registries: RegistriesConfig,
    /// When images are removed that nobody needs. Default: as Kubernetes does it.
    pub image_gc: ImageGc,
    /// How much of an image is unpacked. Default: 16 GiB, 1,048,576 files, 128 directories in each other.
    pub image_files: FilesLimits,
}

impl ClusterConfig {
    /// The defaults, over `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6443),
            insecure_listen: None,
            node_name: host_name(),
            api: ApiLimits::default(),
            controllers: vaquita_reconcile::Options::default(),
            leader_elect: false,
            scheduler: vaquita_scheduler::Options::default(),
            containers: ContainersConfig::default(),
            entrance: EntranceConfig::default(),
            kernel_network: KernelNetworkConfig::default(),
            eviction: EvictionThresholds::default(),
            soft_eviction: SoftEviction::default(),
            registries: RegistriesConfig::default(),
            image_gc: ImageGc::default(),
            image_files: FilesLimits::default(),
        }
    }
}

/// How much the API server takes on at a time, and how long it remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiLimits {
    /// Reads that are worked on at a time, watches and streams not counted; beyond them 429 is answered. Default 400.
    pub max_reads_in_flight: usize,
    /// Writes that are worked on at a time; beyond them 429 is answered. Default 200.
    pub max_writes_in_flight: usize,
    /// The largest request body, in bytes; beyond it 413 is answered. Default 3 MiB.
    pub body_limit: usize,
    /// How long the past can be watched and listed, at least; beyond it 410 is answered. Default 5 minutes.
    pub watch_history: Duration,
    /// How long an Event is kept after it happened last. Default 1 hour.
    pub event_ttl: Duration,
}

impl Default for ApiLimits {
    fn default() -> Self {
        let server = Config::default();
        Self {
            max_reads_in_flight: server.max_reads_in_flight,
            max_writes_in_flight: server.max_writes_in_flight,
            body_limit: server.body_limit,
            watch_history: server.history,
            event_ttl: server.event_ttl,
        }
    }
}

/// Why a cluster could not start. Each variant is the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory could not be made or opened.
    #[error("cannot use the data directory {path}: {source}")]
    DataDir {
        /// The directory, or the file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process runs a cluster over the same data directory.
    #[error(
        "the data directory {path} is in use by another process: stop that one, or choose another with --data-dir"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A socket could not be bound.
    #[error(
        "cannot listen on {address}: {source}: stop what listens there, or choose another address with {option}"
    )]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// The option that chooses another.
        option: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The database could not be opened.
    #[error("cannot open the database: {}", chain(.0))]
    Store(#[from] vaquita_store::OpenError),
    /// Keys and certificates could not be read or made.
    #[error("cannot prepare keys and certificates: {}", chain(.0))]
    Pki(#[from] PkiError),
    /// The API server refused its configuration or could not read the store.
    #[error("cannot start the API server: {}", chain(.0))]
    Api(#[from] vaquita_apiserver::StartError),
    /// The image store could not be opened.
    #[error("cannot open the image store: {}", chain(.0))]
    Images(#[from] vaquita_image::ImageError),
    /// The virtual network refused its configuration.
    #[error("cannot make the pod network: {}", chain(.0))]
    Network(#[from] vaquita_net::ConfigError),
    /// The Wasm runtime could not start.
    #[error("cannot start the Wasm runtime: {}", chain(.0))]
    Runtime(#[from] vaquita_runtime::RuntimeError),
    /// The Ingress proxy could not be made.
    #[error("cannot make the Ingress proxy: {}", chain(.0))]
    Ingress(#[from] vaquita_ingress::DefaultCertificateError),
    /// There is to be a way between pods and the kernel's network, and there cannot be.
    #[error("cannot join pods with the kernel's network: {}", chain(.0))]
    KernelNetwork(#[from] JoinError),
    /// The Docker engine cannot be used.
    #[error("cannot use the Docker engine: {}", chain(.0))]
    Containers(#[from] ContainersError),
    /// The node could not start.
    #[error("cannot start the node: {}", chain(.0))]
    Node(#[from] vaquita_node::StartError),
    /// Everything runs, but did not become ready in time.
    #[error("not ready after {} s: {what}", READY_DEADLINE.as_secs())]
    NotReady {
        /// What was still missing.
        what: String,
    },
}

/// An error and its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// A part of the start that is done.
#[derive(Debug, Clone)]
pub struct Step {
    /// A word or two.
    pub name: &'static str,
    /// What came out of it.
    pub detail: String,
    /// How long it took.
    pub took: Duration,
}

/// A running cluster. Dropping it cuts it off; [`Cluster::stop`] ends it in good order. Either way, nothing that was
/// acknowledged is lost.
pub struct Cluster {
    supervisor: Supervisor,
    api: Arc<ApiServer>,
    store: Arc<dyn Store>,
    client: kube::Client,
    url: String,
    insecure_url: Option<String>,
    kubeconfig: PathBuf,
    images: ImageStore,
    fabric: Fabric,
    ingress_urls: Vec<String>,
    dns_address: Option<SocketAddr>,
    /// Answers Linux containers.
    _container_dns: Option<DnsTask>,
    kernel_network: KernelNetwork,
    // Held as long as the cluster runs: the lock on the data directory.
    _lock: File,
}

impl Cluster {
    /// Starts a cluster and returns when its API answers and its node is Ready.
    pub async fn start(config: ClusterConfig) -> Result<Self, StartError> {
        Self::start_reporting(config, |_| {}).await
    }

    /// The same, telling `report` of each step as it ends.
    pub async fn start_reporting(
        config: ClusterConfig,
        report: impl FnMut(Step),
    ) -> Result<Self, StartError> {
        let mut clock = Clock::new(report);
        let lock = lock_data_dir(&config.data_dir)?;
        let sockets = Sockets::bind(&config).await?;
        let entrance = Entrance::bind(&config.entrance).await?;
        let (ingress_urls, dns_address) = (entrance.urls(), entrance.dns_address());

        let store: Arc<dyn Store> = open_store(&config.data_dir).await?;
        clock.step("store", format!("revision {}", store.revision()));

        let url = format!("https://{}", reachable(sockets.address));
        let mut network = network(&config);
        let mut containers =
            containers::open(&config.containers, &config.data_dir, network.pod_cidr).await?;
        if let Some(containers) = &containers {
            let engine = containers.shim.engine().version();
            clock.step("containers", format!("Docker {engine}"));
            if config.containers.subnet.is_none() {
                network.own_cidr = Some(containers::lower_half(network.pod_cidr));
            }
        }
        let fabric = Fabric::new(network)?;
        let container_dns = match &mut containers {
            Some(containers) => containers::serve_names(containers, &fabric).await,
            None => None,
        };
        let kernel_network =
            KernelNetwork::join(&config.kernel_network, &fabric, containers.as_mut()).await?;
        if let Some(device) = kernel_network.describe() {
            clock.step("kernel network", device);
        }
        let in_cluster = Config::default().service_network.first();
        let pki = Pki::load_or_create(
            &config.data_dir.join("pki"),
            &[sockets.address.ip().to_string(), in_cluster.to_string()],
        )?;
        let tls = Arc::new(pki.server_config()?);
        let kubeconfig = config.data_dir.join("admin.kubeconfig");
        pki.write_admin_files(&config.data_dir, &url)?;
        let pki = Arc::new(pki);
        clock.step("credentials", kubeconfig.display().to_string());

        let admin = User::new("kubernetes-admin", ["system:masters"]);
        let api_config = Config {
            authenticator: Authenticator::new().with_token(pki.admin_token(), admin.clone()),
            service_account_key: Some(pki.service_account_key().clone()),
            authority: Some(pki.ca_certificate().to_owned()),
            secure_port: sockets.address.port(),
            advertise_address: Some(advertise(sockets.address, &fabric)),
            max_reads_in_flight: config.api.max_reads_in_flight,
            max_writes_in_flight: config.api.max_writes_in_flight,
            body_limit: config.api.body_limit,
            history: config.api.watch_history,
            event_ttl: config.api.event_ttl,
            ..Config::default()
        };
        let api = Arc::new(ApiServer::start(store.clone(), api_config).await?);
        let mut supervisor = Supervisor::default();
        let insecure_url = sockets
            .insecure_address
            .map(|address| format!("http://{address}"));
        sockets.serve(&mut supervisor, &api, tls);
        keep_credentials_fresh(&mut supervisor, &pki, &config.data_dir, &url);
        clock.step("API server", url.clone());

        let client = local::client(api.router(), admin);
        let entrance = entrance.open(&fabric, !config.leader_elect)?;
        let images = ImageStore::open(&config.data_dir.join("images"))?;
        let images = images.with_files_limits(config.image_files);
        let (outer, inner) = (kernel_network.metrics(), entrance.metrics(&fabric, &images));
        api.set_more_metrics(move || inner() + &outer());
        start_control_loops(&mut supervisor, &api, &config, &pki, entrance);
        clock.step("control loops", "controllers, scheduler".to_owned());

        let pods = Pods {
            containers,
            kernel_network: kernel_network.outcome(),
        };
        let node = start_node(&mut supervisor, &api, &config, &images, &fabric, pods).await?;
        wait_ready(&client, &node).await?;
        clock.step("node", format!("{} is Ready", config.node_name));

        Ok(Self {
            supervisor,
            api,
            store,
            client,
            url,
            insecure_url,
            kubeconfig,
            images,
            fabric,
            ingress_urls,
            dns_address,
            _container_dns: container_dns,
            kernel_network,
            _lock: lock,
        })
    }

    /// A client that may do everything.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// Where the API is served, `https://ADDRESS:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where the API is served in plain HTTP, if it is.
    pub fn insecure_url(&self) -> Option<&str> {
        self.insecure_url.as_deref()
    }

    /// Where Ingresses are served, `http://ADDRESS:PORT` and `https://ADDRESS:PORT`, if they are.
    pub fn ingress_urls(&self) -> &[String] {
        &self.ingress_urls
    }

    /// Where the cluster's DNS answers the host, if it does.
    pub fn dns_address(&self) -> Option<SocketAddr> {
        self.dns_address
    }

    /// The file with which `kubectl` reaches this cluster as its administrator.
    pub fn kubeconfig_path(&self) -> &Path {
        &self.kubeconfig
    }

    /// The images that this cluster's pods can use.
    pub fn images(&self) -> &ImageStore {
        &self.images
    }

    /// The network of this cluster's pods, to reach them without a socket.
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// Resolves when a part of the cluster has ended by itself, with a line that says which and how.
    pub async fn failure(&self) -> String {
        let (part, ending) = self.supervisor.failure().await;
        match ending {
            Ending::Returned => format!("the {part} ended by itself"),
            Ending::Panicked(message) => format!("the {part} panicked: {message}"),
        }
    }

    /// Stops everything, newest part first. Objects stay; pods run again at the next start.
    pub async fn stop(self) {
        for part in self.supervisor.stop().await {
            tracing::warn!("the {part} did not stop in time and was cut off");
        }
        self.kernel_network.close().await;
        self.api.shutdown().await;
        self.store.close().await;
    }
}

/// The network of pods: the host listens for Services at its loopback addresses and those of load balancers, and endpoints
/// that somebody wrote down are reached wherever they are, the host itself left out.
fn network(config: &ClusterConfig) -> FabricConfig {
    let mut network = FabricConfig::default();
    let balancers = config.entrance.load_balancer_pool.ranges();
    network
        .host_addresses
        .extend(balancers.map(|(first, last)| first..=last));
    network.outside.service_endpoints = true;
    network.held = config.entrance.held_connections;
    network.wake_timeout = config.entrance.wake_timeout;
    network
}

/// The address at which pods reach the API: the one where it listens, or the node's in the pods' network if the former is of
/// use to the host alone, with the way from there.
fn advertise(api: SocketAddr, fabric: &Fabric) -> IpAddr {
    let ip = api.ip().to_canonical();
    if !ip.is_loopback() && !ip.is_unspecified() {
        return ip;
    }
    fabric.publish(api.port(), Some(reachable(api)));
    fabric.node_ip()
}

/// The sockets of the API, bound before anything works.
struct Sockets {
    tls: TcpListener,
    address: SocketAddr,
    plain: Option<TcpListener>,
    insecure_address: Option<SocketAddr>,
}

impl Sockets {
    async fn bind(config: &ClusterConfig) -> Result<Self, StartError> {
        let (tls, address) = bind(config.listen, "--listen").await?;
        let (plain, insecure_address) = match config.insecure_listen {
            Some(wanted) => {
                let (listener, address) = bind(wanted, "--insecure-port").await?;
                (Some(listener), Some(address))
            }
            None => (None, None),
        };
        Ok(Self {
            tls,
            address,
            plain,
            insecure_address,
        })
    }

    /// Serves the API on them until the supervisor stops it.
    fn serve(
        self,
        supervisor: &mut Supervisor,
        api: &Arc<ApiServer>,
        tls: Arc<rustls::ServerConfig>,
    ) {
        let server = api.clone();
        supervisor.start("API server", PART_DEADLINE, |stop| async move {
            server
                .serve_tls(self.tls, tls, stop.cancelled_owned())
                .await;
        });
        if let Some(listener) = self.plain {
            let server = api.clone();
            supervisor.start("insecure API server", PART_DEADLINE, |stop| async move {
                if let Err(error) = server.serve_plain(listener, stop.cancelled_owned()).await {
                    tracing::error!(%error, "the insecure port is not served");
                }
            });
        }
    }
}

async fn bind(
    wanted: SocketAddr,
    option: &'static str,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen {
        address: wanted,
        option,
        source,
    };
    let listener = TcpListener::bind(wanted).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Opens the database on a thread that may block: recovery after a crash reads it whole.
async fn open_store(dir: &Path) -> Result<Arc<dyn Store>, StartError> {
    let path = dir.join("store.redb");
    let opened = tokio::task::spawn_blocking(move || Redb::open(&path, Options::default()));
    match opened.await {
        Ok(opened) => Ok(Arc::new(opened?)),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn start_control_loops(
    supervisor: &mut Supervisor,
    api: &ApiServer,
    config: &ClusterConfig,
    pki: &Pki,
    entrance: Open,
) {
    let options = vaquita_reconcile::Options {
        root_ca: Some(pki.ca_certificate().to_owned()),
        authority: Some(SigningAuthority {
            certificate: pki.ca_certificate().to_owned(),
            key: pki.ca_key(),
        }),
        tokens: Some(secret_tokens(pki)),
        ..config.controllers.clone()
    };
    let client = local::client(
        api.router(),
        User::in_process("system:kube-controller-manager"),
    );
    let election = |name| {
        let elect = config.leader_elect;
        elect.then(|| Election::new(name, &config.node_name))
    };
    let elected = election("kube-controller-manager");
    let pool = entrance.pool();
    supervisor.start("controllers", PART_DEADLINE, async move |stop| {
        let context = Context::new(client.clone(), options.clone(), stop.clone());
        let Some(election) = elected else {
            tokio::join!(control(context.clone(), pool), entrance.serve(context));
            return;
        };
        // Ingresses are served by every process, whoever leads.
        let leading = lead(client.clone(), election, stop, |term| {
            control(
                Context::new(client.clone(), options.clone(), term),
                pool.clone(),
            )
        });
        tokio::join!(leading, entrance.serve(context));
    });
    // It needs nothing beyond its role.
    let user = User::new::<String>("system:kube-scheduler", []);
    let client = local::client(api.router(), user);
    let elected = election("kube-scheduler");
    let scheduling = config.scheduler.clone();
    supervisor.start("scheduler", PART_DEADLINE, async move |stop| {
        let schedule = |stop| vaquita_scheduler::run(client.clone(), scheduling.clone(), stop);
        match elected {
            None => schedule(stop).await,
            Some(election) => lead(client.clone(), election, stop, schedule).await,
        }
    });
}

/// Renews certificates before they end, and the kubeconfig with them.
fn keep_credentials_fresh(supervisor: &mut Supervisor, pki: &Arc<Pki>, dir: &Path, url: &str) {
    let files = AdminFiles {
        dir: dir.to_owned(),
        server: url.to_owned(),
    };
    let pki = pki.clone();
    supervisor.start(
        "renewal of certificates",
        PART_DEADLINE,
        async move |stop| {
            tokio::select! {
                () = stop.cancelled() => {}
                () = keep_fresh(&pki, &files, jiff::Timestamp::now) => {}
            }
        },
    );
}

/// Signs the tokens that are kept in Secrets.
fn secret_tokens(pki: &Pki) -> TokenSigner {
    let key = pki.service_account_key().clone();
    TokenSigner::new(move |of| {
        key.sign_for_secret(&of.namespace, &of.secret, &of.account, &of.uid)
            .map_err(|error| error.to_string())
    })
}

/// Runs all controllers.
async fn control(context: Context, pool: Pool) {
    tokio::join!(
        vaquita_controllers::run(context.clone()),
        vaquita_workload_controllers::run(context.clone()),
        load_balancers::run(context.clone(), pool),
        sleep::run_controller(context),
    );
}

/// What pods have of this machine.
struct Pods {
    containers: Option<Containers>,
    kernel_network: Option<Result<String, String>>,
}

/// Starts this machine's node, and tells the API server the way to it.
async fn start_node(
    supervisor: &mut Supervisor,
    api: &ApiServer,
    config: &ClusterConfig,
    images: &ImageStore,
    fabric: &Fabric,
    pods: Pods,
) -> Result<Node, StartError> {
    let mut runtime = vaquita_runtime::Config::default();
    runtime.cache_dir = Some(config.data_dir.join("compiled"));
    // Reserving address space and starting threads is quick, but it blocks.
    let runtime = tokio::task::spawn_blocking(move || Runtime::new(runtime))
        .await
        .map_err(|panic| StartError::NotReady {
            what: format!("the Wasm runtime could not be set up: {panic}"),
        })??;
    let user = User::new(
        &format!("system:node:{}", config.node_name),
        ["system:masters", "system:nodes"],
    );
    let client = local::client(api.router(), user.clone());
    let logs = config.data_dir.join("logs");
    let mut node = NodeConfig::new(
        config.node_name.clone(),
        fabric.clone(),
        images.clone(),
        runtime,
        logs,
    );
    node.containers = pods.containers;
    node.kernel_network = pods.kernel_network;
    node.toolbox = TOOLBOX.map(Bytes::from_static);
    node.eviction = config.eviction.clone();
    node.soft_eviction = config.soft_eviction.clone();
    node.registries = Registries::new(config.registries.clone());
    node.image_gc = config.image_gc.clone();
    let stop = CancellationToken::new();
    let node = Node::start(client, node, stop.clone()).await?;
    api.set_dialer(Arc::new(local::PodNetwork(fabric.clone())));
    api.set_nodes(Arc::new(local::Nodes::new(
        config.node_name.clone(),
        node.router(),
    )));
    let running = node.clone();
    // With a client of its own: what it writes must not wait behind what the node has to say.
    let agent = sleep::Agent::new(
        local::client(api.router(), user),
        config.node_name.clone(),
        fabric.clone(),
    );
    supervisor.start("wake agent", PART_DEADLINE, |stop| agent.run(stop));
    supervisor.start("node", PART_DEADLINE, |told| async move {
        told.cancelled().await;
        stop.cancel();
        running.stopped().await;
    });
    Ok(node)
}

/// The address under which a client of this machine reaches a socket bound to `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Waits until the API server says that it is ready and the cluster knows the node as Ready.
async fn wait_ready(client: &kube::Client, node: &Node) -> Result<(), StartError> {
    let ready = async {
        if !node.ready().await {
            return Err(format!("the node {} stopped", node.name()));
        }
        let request = http::Request::get("/readyz")
            .body(Vec::new())
            .map_err(|error| error.to_string())?;
        client
            .request_text(request)
            .await
            .map_err(|error| error.to_string())
    };
    let what = match tokio::time::timeout(READY_DEADLINE, ready).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error,
        Err(_) => format!("the node {} is not Ready", node.name()),
    };
    Err(StartError::NotReady { what })
}

/// Measures steps.
struct Clock<R> {
    last: Instant,
    report: R,
}

impl<R: FnMut(Step)> Clock<R> {
    fn new(report: R) -> Self {
        Self {
            last: Instant::now(),
            report,
        }
    }

    fn step(&mut self, name: &'static str, detail: String) {
        let took = self.last.elapsed();
        self.last = Instant::now();
        (self.report)(Step { name, detail, took });
    }
}

/// Makes the directory, for its owner alone, and takes the lock that keeps a second process out.
fn lock_data_dir(dir: &Path) -> Result<File, StartError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StartError::DataDir { path, source }
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed(dir))?;
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::InUse {
            path: dir.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(failed(&path)(source)),
    }
}

fn host_name() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_lowercase();
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name
    }
}
