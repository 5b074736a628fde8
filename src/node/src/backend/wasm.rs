//! Runs WebAssembly, by `vaquita-runtime`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use vaquita_image::{Digest, Image, ImageStore};
use vaquita_net::{AttachError, Fabric, PodIdentity, PodNetwork};
use vaquita_runtime::{Module, ModuleKind, Pod, PodConfig, Process, ProcessConfig, Runtime};

use super::{
    Backend, Connection, ContainerConfig, Exit, ExitReason, Instance, Program, Sandbox,
    SandboxConfig, SandboxError, StartError, Usage,
};
use crate::images::with_causes;

/// Modules that are kept ready although nothing runs them at the moment.
const KEPT_MODULES: usize = 32;

/// Pods of WebAssembly modules.
#[derive(Clone)]
pub(crate) struct WasmBackend {
    fabric: Fabric,
    runtime: Runtime,
    images: ImageStore,
    /// By the image's digest, the last one used at the end.
    kept: Arc<Mutex<Vec<(Digest, Module)>>>,
}

impl WasmBackend {
    pub(crate) fn new(fabric: Fabric, runtime: Runtime, images: ImageStore) -> Self {
        Self {
            fabric,
            runtime,
            images,
            kept: Arc::default(),
        }
    }

    /// The module of an image. Only the first container of an image costs reading and compiling it.
    async fn module(&self, image: &Image) -> Result<Module, StartError> {
        if let Some(module) = self.kept(&image.digest) {
            return Ok(module);
        }
        let (images, wanted) = (self.images.clone(), image.clone());
        let read = tokio::task::spawn_blocking(move || images.read(&wanted)).await;
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(StartError::Create(with_causes(&error))),
            Err(_) => return Err(StartError::Create("the node is shutting down".to_owned())),
        };
        let module = self.runtime.load(bytes.into()).await;
        let module = module.map_err(|error| {
            StartError::Create(format!(
                "image {} cannot be run: {}",
                image.reference,
                with_causes(&error)
            ))
        })?;
        self.keep(image.digest.clone(), module.clone());
        Ok(module)
    }

    /// A module of these bytes, which is kept as long as it runs.
    async fn loaded(&self, bytes: Bytes) -> Result<Module, StartError> {
        let module = self.runtime.load(bytes).await;
        module.map_err(|error| StartError::Create(with_causes(&error)))
    }

    fn kept(&self, digest: &Digest) -> Option<Module> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let index = kept.iter().position(|(known, _)| known == digest)?;
        let entry = kept.remove(index);
        let module = entry.1.clone();
        kept.push(entry);
        Some(module)
    }

    fn keep(&self, digest: Digest, module: Module) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _)| *known != digest);
        if kept.len() == KEPT_MODULES {
            kept.remove(0);
        }
        kept.push((digest, module));
    }

    fn attach(&self, config: &SandboxConfig) -> Result<PodNetwork, AttachError> {
        let identity = PodIdentity {
            namespace: config.namespace.clone(),
            name: config.name.clone(),
            hostname: config.hostname.clone(),
            subdomain: config.subdomain.clone(),
            searches: config.searches.clone(),
            hosts: config.hosts.clone(),
        };
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
        let ip = network.ip();
        let name = format!("{}/{}", config.namespace, config.name);
        let mut pod = PodConfig::new(name, network);
        pod.hostname = config.hostname;
        let pod = self.runtime.pod(pod);
        Ok(Arc::new(WasmSandbox {
            backend: self.clone(),
            pod,
            ip,
        }))
    }
}

struct WasmSandbox {
    backend: WasmBackend,
    pod: Pod,
    ip: IpAddr,
}

#[async_trait]
impl Sandbox for WasmSandbox {
    fn ip(&self) -> IpAddr {
        self.ip
    }

    async fn start(&self, container: ContainerConfig) -> Result<Box<dyn Instance>, StartError> {
        let module = match &container.program {
            Program::Image(image) => self.backend.module(image).await?,
            Program::Wasm(bytes) => self.backend.loaded(bytes.clone()).await?,
        };
        if container.ports.is_none() && module.kind() == ModuleKind::HttpHandler {
            let message = "the module serves HTTP: it cannot be executed as a command".to_owned();
            return Err(StartError::Create(message));
        }
        let mut config = ProcessConfig::new(container.name, module);
        config.args = container.args;
        config.env = container.env;
        config.memory_limit = container.memory_limit;
        config.cpu_limit = container.cpu_limit;
        config.cpu_request = container.cpu_request;
        config.log = container.log;
        config.mounts = container.mounts;
        config.working_dir = container.working_dir;
        config.tty = container.tty;
        config.stdin = container.stdin;
        config.output = container.output;
        match container.ports {
            None => config.listen = Vec::new(),
            // What serves HTTP serves it somewhere.
            Some(ports) if ports.is_empty() => {}
            Some(ports) => config.listen = ports,
        }
        match self.pod.start(config).await {
            Ok(process) => Ok(Box::new(process)),
            Err(error) => Err(StartError::Run(with_causes(&error))),
        }
    }

    async fn dial(&self, port: u16) -> io::Result<Box<dyn Connection>> {
        let stream = self
            .backend
            .fabric
            .probe(SocketAddr::new(self.ip, port))
            .await?;
        Ok(Box::new(stream))
    }

    async fn shutdown(&self) {
        self.pod.shutdown().await;
    }
}

#[async_trait]
impl Instance for Process {
    async fn wait(&self) -> Exit {
        Process::wait(self).await.into()
    }

    fn terminate(&self, grace: Duration) {
        Process::terminate(self, grace);
    }

    fn kill(&self) {
        Process::kill(self);
    }

    fn usage(&self) -> Usage {
        let usage = Process::usage(self);
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
