//! Runs WebAssembly, by `vaquita-runtime`.

mod spin;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use vaquita_image::{Digest, Image, ImageFiles, ImageKind, ImageStore};
use vaquita_net::{AttachError, Fabric, Neighbour, NetError, PodIdentity, PodNetwork};
use vaquita_runtime::{
    HttpConfig, MemoryStore, Module, ModuleKind, Mount, Pod, PodConfig, Process, ProcessConfig,
    Runtime, Volume,
};

use crate::{
    Backend, Connection, ContainerConfig, Exit, ExitReason, HttpSettings, Instance, LastWords,
    Program, Resources, Runnable, Sandbox, SandboxConfig, SandboxError, StartError, Traffic, Usage,
    files::hosts_file, host_ports::HostPorts, with_causes,
};

/// How long a new pod waits until policies hold for it.
const GUARD_PATIENCE: Duration = Duration::from_secs(10);
/// Modules that are kept ready although nothing runs them at the moment.
const KEPT_MODULES: usize = 32;
/// Bytes of changes that a container may make to its image's files. They are in memory.
const MOST_CHANGES: u64 = 64 << 20;
/// Bytes that a termination message may take on disk. Far fewer are read.
const MOST_LAST_WORDS: u64 = 64 << 10;

/// What makes a module: its image, and the function that it starts with, if the manifest names one.
type Key = (Digest, Option<String>);

/// Pods of WebAssembly modules.
#[derive(Clone)]
pub struct WasmBackend {
    fabric: Fabric,
    runtime: Runtime,
    images: ImageStore,
    /// The last one used at the end.
    kept: Arc<Mutex<Vec<(Key, Module)>>>,
}

impl WasmBackend {
    /// Pods in the network of `fabric`, their modules from `images`, run by `runtime`.
    pub fn new(fabric: Fabric, runtime: Runtime, images: ImageStore) -> Self {
        Self {
            fabric,
            runtime,
            images,
            kept: Arc::default(),
        }
    }

    /// Where images are.
    pub(super) fn images(&self) -> &ImageStore {
        &self.images
    }

    /// The module of an image. Only the first container of an image costs reading and compiling it.
    async fn module(&self, image: &Image, entry: Option<&str>) -> Result<Module, StartError> {
        let key = (image.digest.clone(), entry.map(str::to_owned));
        if let Some(module) = self.kept(&key) {
            return Ok(module);
        }
        let (images, wanted) = (self.images.clone(), image.clone());
        let read = tokio::task::spawn_blocking(move || images.read(&wanted)).await;
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(StartError::Create(with_causes(&error))),
            Err(_) => return Err(StartError::Create("the node is shutting down".to_owned())),
        };
        let module = match entry {
            Some(entry) => self.runtime.load_entry(bytes.into(), entry).await,
            None => self.runtime.load(bytes.into()).await,
        };
        let module = module.map_err(|error| {
            StartError::Create(format!(
                "image {} cannot be run: {}",
                image.reference,
                with_causes(&error)
            ))
        })?;
        self.keep(key, module.clone());
        Ok(module)
    }

    /// Compiles an image, so that it is in the cache when a container needs it.
    pub async fn prepare(&self, image: Image) {
        if image.kind == ImageKind::SpinApplication {
            return self.prepare_application(image).await;
        }
        let (images, wanted) = (self.images.clone(), image.clone());
        let read = tokio::task::spawn_blocking(move || images.read(&wanted)).await;
        if let Ok(Ok(bytes)) = read
            && let Err(error) = self.runtime.load(bytes.into()).await
        {
            let (image, error) = (&image.reference, with_causes(&error));
            tracing::debug!(image, error, "not compiled in advance");
        }
    }

    /// The files of an image, if it has any. Only the first container of an image waits until they are unpacked.
    async fn files(&self, program: &Program) -> Result<Option<ImageFiles>, StartError> {
        let image = match program {
            Program::Image(Runnable::Stored(image)) if image.has_files() => (**image).clone(),
            _ => return Ok(None),
        };
        let images = self.images.clone();
        let unpack = move || images.files(&image);
        match tokio::task::spawn_blocking(unpack).await {
            Ok(files) => files.map_err(|error| StartError::Create(with_causes(&error))),
            Err(_) => Err(StartError::Create("the node is shutting down".to_owned())),
        }
    }

    /// A module of these bytes, which is kept as long as it runs.
    async fn loaded(&self, bytes: Bytes) -> Result<Module, StartError> {
        let module = self.runtime.load(bytes).await;
        module.map_err(|error| StartError::Create(with_causes(&error)))
    }

    fn kept(&self, key: &Key) -> Option<Module> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let index = kept.iter().position(|(known, _)| known == key)?;
        let entry = kept.remove(index);
        let module = entry.1.clone();
        kept.push(entry);
        Some(module)
    }

    fn keep(&self, key: Key, module: Module) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _)| *known != key);
        if kept.len() == KEPT_MODULES {
            kept.remove(0);
        }
        kept.push((key, module));
    }

    /// A sandbox on a network that is there.
    fn on(&self, config: SandboxConfig, network: PodNetwork, ports: HostPorts) -> WasmSandbox {
        let ip = network.ip();
        let name = format!("{}/{}", config.namespace, config.name);
        let mut pod = PodConfig::new(name, network.clone());
        pod.hosts = Some(hosts_file(&config, ip));
        pod.resolv_conf = Some(config.resolv_conf);
        pod.domain = config.domain;
        pod.share_processes = config.share_processes;
        pod.hostname = config.hostname;
        WasmSandbox {
            backend: self.clone(),
            pod: self.runtime.pod(pod),
            network,
            stores: Mutex::default(),
            ip,
            is_on_host: config.host_network.is_some(),
            ports: Mutex::new(ports),
        }
    }

    /// A sandbox for the modules of a pod of Linux containers that has the address `ip`: in the network namespace of this
    /// process, or with them on the host's network.
    pub(super) fn beside(
        &self,
        config: SandboxConfig,
        ip: IpAddr,
        process: u32,
    ) -> io::Result<WasmSandbox> {
        let identity = identity(&config);
        let network = match config.host_network {
            Some(ip) => self.fabric.attach_host(identity, ip),
            None => self.attach_namespace(identity, ip, process)?,
        };
        Ok(self.on(config, network, HostPorts::default()))
    }

    #[cfg(target_os = "linux")]
    fn attach_namespace(
        &self,
        identity: PodIdentity,
        ip: IpAddr,
        process: u32,
    ) -> io::Result<PodNetwork> {
        let path = format!("/proc/{process}/ns/net");
        let namespace = vaquita_net::NetworkNamespace::open(path.as_ref())?;
        Ok(self.fabric.attach_namespace(identity, ip, namespace))
    }

    #[cfg(not(target_os = "linux"))]
    fn attach_namespace(&self, _: PodIdentity, _: IpAddr, _: u32) -> io::Result<PodNetwork> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Tells the network of a pod beside it, before anything runs in the pod, and waits until policies hold for it.
    pub(crate) async fn settle(
        &self,
        config: &SandboxConfig,
        ip: IpAddr,
    ) -> Result<Option<Neighbour>, SandboxError> {
        let neighbour = self.fabric.neighbour(identity(config), ip);
        let neighbour = neighbour.inspect_err(|error| {
            // Policies know it once its status says its address.
            tracing::debug!(%ip, %error, "the network does not know the pod yet");
        });
        match tokio::time::timeout(GUARD_PATIENCE, self.fabric.followed()).await {
            Ok(()) => Ok(neighbour.ok()),
            Err(_) => Err(SandboxError::Unguarded),
        }
    }

    fn attach(&self, config: &SandboxConfig) -> Result<PodNetwork, AttachError> {
        let identity = identity(config);
        if let Some(ip) = config.host_network {
            return Ok(self.fabric.attach_host(identity, ip));
        }
        if let Some(wanted) = config.wanted_ip
            && let Ok(network) = self.fabric.attach_as(identity.clone(), Some(wanted))
        {
            return Ok(network);
        }
        self.fabric.attach_as(identity, None)
    }
}

#[async_trait]
impl Backend for WasmBackend {
    async fn sandbox(&self, config: SandboxConfig) -> Result<Arc<dyn Sandbox>, SandboxError> {
        let network = self.attach(&config)?;
        // In the host's own network, each port is one of the host's.
        let ports = if config.host_network.is_some() {
            HostPorts::default()
        } else {
            HostPorts::open(&self.fabric, network.ip(), &config.host_ports).await?
        };
        Ok(Arc::new(self.on(config, network, ports)))
    }
}

/// Whom a pod's network is for.
fn identity(config: &SandboxConfig) -> PodIdentity {
    PodIdentity {
        namespace: config.namespace.clone(),
        name: config.name.clone(),
        hostname: config.hostname.clone(),
        subdomain: config.subdomain.clone(),
        lookups: config.lookups.clone(),
        searches: config.searches.clone(),
        ndots: config.ndots,
        hosts: config.hosts.clone(),
    }
}

/// The function that a command names by which its module starts: `/app.wasm#run`. Other runtimes for WebAssembly read a container's
/// command in this way.
fn entry(path: &str) -> Option<&str> {
    let (_, entry) = path.split_once('#')?;
    Some(entry).filter(|entry| !entry.is_empty())
}

/// What the runtime is to start.
fn process_config(module: Module, container: ContainerConfig) -> Result<ProcessConfig, StartError> {
    let kind = module.kind();
    if container.ports.is_none() && kind == ModuleKind::HttpHandler {
        let message = "the module serves HTTP: it cannot be executed as a command".to_owned();
        return Err(StartError::Create(message));
    }
    let mut config = ProcessConfig::new(container.name, module);
    config.args = container.args;
    config.settings.values = container.env.iter().cloned().collect();
    config.env = container.env;
    config.memory_limit = container.memory_limit;
    config.cpu_limit = container.cpu_limit;
    config.cpu_request = container.cpu_request;
    config.log = container.log;
    config.capabilities = container.grants.capabilities();
    if let Some(bound) = container.grants.open_files {
        config.max_open_files = config.max_open_files.min(bound);
    }
    if let Some(bound) = container.grants.threads {
        config.max_threads = config.max_threads.min(bound);
    }
    config.mounts = container.mounts;
    // What serves HTTP never ends by itself.
    if kind != ModuleKind::HttpHandler
        && let Some(words) = &container.last_words
        && config.mounts.iter().all(|mount| mount.guest != words.guest)
    {
        let mount = last_words(words).map_err(|error| {
            StartError::Create(format!(
                "making the file for the termination message: {error}"
            ))
        })?;
        config.mounts.push(mount);
    }
    config.working_dir = container.working_dir;
    config.tty = container.tty;
    config.stdin = container.stdin;
    config.output = container.output;
    set_http(&mut config.http, &container.http);
    match (container.ports, container.http.port) {
        (None, _) => config.listen = Vec::new(),
        (Some(_), Some(port)) if kind == ModuleKind::HttpHandler => config.listen = vec![port],
        // What serves HTTP serves it somewhere.
        (Some(ports), _) if ports.is_empty() => {}
        (Some(ports), _) => config.listen = ports,
    }
    Ok(config)
}

fn set_http(config: &mut HttpConfig, wanted: &HttpSettings) {
    if let Some(count) = wanted.requests_per_instance {
        config.requests_per_instance = count;
    }
    if let Some(count) = wanted.concurrent_requests_per_instance {
        config.concurrent_requests_per_instance = count;
        // Who wants many at once does not mean that they are all that there will ever be.
        config.requests_per_instance = wanted.requests_per_instance.unwrap_or(u32::MAX);
    }
    if let Some(count) = wanted.max_concurrent_requests {
        config.max_concurrent_requests = count as usize;
    }
    config.request_timeout = wanted.request_timeout;
}

/// Makes the file, empty, and mounts it.
fn last_words(words: &LastWords) -> io::Result<Mount> {
    let (Some(dir), Some(name)) = (words.file.parent(), words.file.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    std::fs::create_dir_all(dir)?;
    std::fs::write(&words.file, "")?;
    Ok(Mount {
        guest: words.guest.clone(),
        volume: Volume::directory_with_limit(dir, MOST_LAST_WORDS)?,
        sub_path: name.to_string_lossy().into_owned(),
        read_only: false,
    })
}

pub(super) struct WasmSandbox {
    backend: WasmBackend,
    pod: Pod,
    network: PodNetwork,
    /// Key-value stores of Spin applications, by container and name.
    stores: Mutex<HashMap<(String, String), Arc<MemoryStore>>>,
    ip: IpAddr,
    /// Whether its network is the host's own.
    is_on_host: bool,
    /// The host's ports that lead here.
    ports: Mutex<HostPorts>,
}

#[async_trait]
impl Sandbox for WasmSandbox {
    fn ip(&self) -> IpAddr {
        self.ip
    }

    async fn start(&self, container: ContainerConfig) -> Result<Box<dyn Instance>, StartError> {
        if let Program::Image(Runnable::Stored(image)) = &container.program
            && image.kind == ImageKind::SpinApplication
        {
            let image = (**image).clone();
            return spin::start(self, &image, container).await;
        }
        let module = match &container.program {
            Program::Image(Runnable::Stored(image)) => {
                let entry = container.args.first().and_then(|path| entry(path));
                self.backend.module(image, entry).await?
            }
            Program::Image(Runnable::Engine(..)) => {
                let message = "the pod's sandbox is one for modules only".to_owned();
                return Err(StartError::Create(message));
            }
            Program::Wasm(bytes) => self.backend.loaded(bytes.clone()).await?,
        };
        let granted = container.grants.check(module.imports());
        granted.map_err(StartError::Create)?;
        let files = self.backend.files(&container.program).await?;
        let mut config = process_config(module, container)?;
        config.root = files.as_ref().map(root).transpose()?;
        match self.pod.start(config).await {
            Ok(process) => Ok(Box::new(Started {
                process,
                _files: files,
            })),
            Err(error) => Err(StartError::Run(with_causes(&error))),
        }
    }

    async fn dial(&self, port: u16) -> io::Result<Box<dyn Connection>> {
        if self.is_on_host {
            let stream = tokio::net::TcpStream::connect((self.ip, port)).await?;
            return Ok(Box::new(stream));
        }
        let stream = self
            .backend
            .fabric
            .probe(SocketAddr::new(self.ip, port))
            .await?;
        Ok(Box::new(stream))
    }

    async fn dial_host(&self, host: &str, port: u16) -> io::Result<Box<dyn Connection>> {
        if let Ok(ip) = host.parse() {
            // Pods and Services are not in the host's network.
            match self.backend.fabric.probe(SocketAddr::new(ip, port)).await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(NetError::HostUnreachable(_) | NetError::NetworkUnreachable(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Box::new(
            tokio::net::TcpStream::connect((host, port)).await?,
        ))
    }

    fn withdraw(&self) {
        self.pod.withdraw();
    }

    fn traffic(&self) -> Option<Traffic> {
        // Of the host's network, it is not known what is the pod's.
        let stats = (!self.is_on_host).then(|| self.network.stats())?;
        Some(Traffic {
            received: stats.received,
            sent: stats.sent,
        })
    }

    async fn shutdown(&self) {
        let ports = std::mem::take(&mut *self.ports.lock().unwrap_or_else(PoisonError::into_inner));
        drop(ports);
        self.pod.shutdown().await;
    }
}

/// A copy of an image's files, which its container may change and which goes with it.
fn root(files: &ImageFiles) -> Result<Volume, StartError> {
    Volume::copy_of(files.path(), MOST_CHANGES)
        .map_err(|error| StartError::Create(format!("opening the image's files: {error}")))
}

/// A container, and what must stay as long as it runs.
struct Started {
    process: Process,
    _files: Option<ImageFiles>,
}

#[async_trait]
impl Instance for Started {
    async fn wait(&self) -> Exit {
        self.process.wait().await.into()
    }

    fn terminate(&self, grace: Duration) {
        self.process.terminate(grace);
    }

    fn kill(&self) {
        self.process.kill();
    }

    async fn resize(&self, resources: Resources) -> Result<(), String> {
        let Resources {
            memory_limit,
            cpu_limit,
            cpu_request,
        } = resources;
        self.process
            .set_limits(memory_limit, cpu_limit, cpu_request)
            .map_err(|error| error.to_string())
    }

    fn usage(&self) -> Usage {
        let usage = self.process.usage();
        Usage {
            cpu: usage.cpu,
            memory: usage.memory,
        }
    }
}

impl From<vaquita_runtime::Exit> for Exit {
    fn from(exit: vaquita_runtime::Exit) -> Self {
        use vaquita_runtime::Exit as Ended;
        let code = exit.code();
        match exit {
            Ended::Exited(code) => Self::with_code(code),
            Ended::Trapped { message } => Self {
                code,
                reason: ExitReason::Error,
                message: Some(message),
            },
            Ended::OutOfMemory => Self {
                code,
                reason: ExitReason::OomKilled,
                message: None,
            },
            Ended::Failed { message } => Self {
                code,
                reason: ExitReason::StartError,
                message: Some(message),
            },
            Ended::Terminated | Ended::Killed => Self {
                code,
                reason: ExitReason::Error,
                message: None,
            },
        }
    }
}
