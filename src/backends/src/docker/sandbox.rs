//! A pod on the engine, and its containers.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio::net::TcpStream;
use vaquita_docker::{
    Bind, Container, ContainerSpec, EngineImage, ExecSpec, Execution, Input, Pod,
    Resources as EngineResources, Shim, Source,
};
use vaquita_image::{Image, ImageStore};
use vaquita_net::Neighbour;

use super::{
    modules::Modules,
    output::{Tap, ToScreen},
};
use crate::{
    AdoptConfig, Connection, ContainerConfig, ExecConfig, Exit, ExitReason, Instance, LastWords,
    Program, Resources, Runnable, Sandbox, StartError, Usage,
};

/// Bytes that are copied at once to a standard input.
const PIECE: usize = 16 << 10;

pub(super) struct DockerSandbox {
    pub(super) shim: Shim,
    /// The node's own images.
    pub(super) images: ImageStore,
    pub(super) pod: Pod,
    pub(super) ip: IpAddr,
    /// Files that every container sees, by where it finds them.
    pub(super) files: Vec<(String, PathBuf)>,
    pub(super) modules: Modules,
    /// What the network knows of it, as long as it is there.
    pub(super) _neighbour: Option<Neighbour>,
}

/// By which name the engine has its copy of an image.
pub(super) fn key(image: &Image) -> String {
    image.digest.hex().to_owned()
}

impl DockerSandbox {
    /// The engine's copy of an image of the node's.
    async fn copy(&self, image: &Image) -> Result<EngineImage, StartError> {
        let archive = |name| self.images.docker_archive(image, vec![name]);
        let copied = self.shim.copy(&key(image), archive).await;
        copied.map_err(|error| {
            let name = &image.reference;
            StartError::Create(format!("giving image {name} to the Docker engine: {error}"))
        })
    }

    fn spec(
        &self,
        container: &ContainerConfig,
        image: &EngineImage,
    ) -> Result<ContainerSpec, StartError> {
        let native = &container.native;
        let mut binds = native.binds.clone();
        let is_taken =
            |target: &str, binds: &[Bind]| binds.iter().any(|bind| bind.target == target);
        for (target, source) in &self.files {
            if !is_taken(target, &binds) {
                binds.push(bind(source, target));
            }
        }
        if let Some(words) = &container.last_words
            && !is_taken(&words.guest, &binds)
        {
            make_file(words).map_err(|error| {
                StartError::Create(format!(
                    "making the file for the termination message: {error}"
                ))
            })?;
            binds.push(bind(&words.file, &words.guest));
        }
        let limits = Resources {
            memory_limit: container.memory_limit,
            cpu_limit: container.cpu_limit,
            cpu_request: container.cpu_request,
        };
        Ok(ContainerSpec {
            name: container.name.clone(),
            attempt: native.attempt,
            image: image.id.clone(),
            stop_signal: native
                .stop_signal
                .clone()
                .or_else(|| image.stop_signal.clone()),
            args: container.args.clone(),
            env: container.env.clone(),
            working_dir: container.working_dir.clone(),
            binds,
            tty: container.tty,
            stdin: container.stdin.is_some(),
            stdin_once: native.stdin_once,
            resources: engine_resources(limits, native.pids, native.oom_score),
            security: native.security.clone(),
            devices: native.devices.clone(),
        })
    }
}

/// A request that says nothing is as much as the limit, as the API has it.
fn engine_resources(wanted: Resources, pids: Option<u32>, oom_score: i32) -> EngineResources {
    EngineResources {
        memory: wanted.memory_limit,
        cpu_limit: wanted.cpu_limit,
        cpu_request: wanted.cpu_request.or(wanted.cpu_limit),
        pids,
        oom_score,
    }
}

fn bind(source: &Path, target: &str) -> Bind {
    Bind {
        source: Source::Path(source.to_owned()),
        target: target.to_owned(),
        read_only: false,
        propagation: None,
    }
}

/// Makes the file, empty. Whoever runs the container may write it.
fn make_file(words: &LastWords) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(dir) = words.file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(&words.file, "")?;
    std::fs::set_permissions(&words.file, std::fs::Permissions::from_mode(0o666))
}

#[async_trait]
impl Sandbox for DockerSandbox {
    fn ip(&self) -> IpAddr {
        self.ip
    }

    async fn start(&self, mut container: ContainerConfig) -> Result<Box<dyn Instance>, StartError> {
        let image = match &container.program {
            Program::Image(Runnable::Engine(image, _)) => (**image).clone(),
            Program::Image(Runnable::Stored(image)) if !image.kind.is_wasm() => {
                self.copy(image).await?
            }
            Program::Image(Runnable::Stored(_)) | Program::Wasm(_) => {
                return self
                    .modules
                    .sandbox(&self.pod)
                    .await?
                    .start(container)
                    .await;
            }
        };
        let spec = self.spec(&container, &image)?;
        let tap = Tap::new(container.log.clone(), container.output.clone());
        let started = self.pod.start(&spec, Arc::new(tap)).await;
        let started = started.map_err(|error| match error {
            vaquita_docker::StartError::Create(error) => StartError::Create(error.to_string()),
            error => StartError::Run(error.to_string()),
        })?;
        self.modules.follow(&self.pod).await;
        if let (Some(stdin), Some(input)) = (container.stdin.take(), started.take_input()) {
            tokio::spawn(feed(stdin, input));
        }
        Ok(Box::new(DockerInstance(started)))
    }

    async fn adopt(&self, container: AdoptConfig) -> Option<Box<dyn Instance>> {
        let left = self.pod.survivors().iter();
        let mut left =
            left.filter(|left| left.name == container.name && left.attempt == container.attempt);
        let left = left.next_back()?;
        let tap = Tap::new(container.log, Some(container.output));
        let adopted = self.pod.adopt(left, container.logged, Arc::new(tap)).await;
        match adopted {
            Ok(adopted) => {
                if let (Some(stdin), Some(input)) = (container.stdin, adopted.take_input()) {
                    tokio::spawn(feed(stdin, input));
                }
                Some(Box::new(DockerInstance(adopted)))
            }
            Err(error) => {
                let name = container.name;
                tracing::warn!(container = name, %error, "a container could not be taken over");
                None
            }
        }
    }

    async fn dial(&self, port: u16) -> io::Result<Box<dyn Connection>> {
        let stream = TcpStream::connect((self.ip, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn memory_volume(&self, name: &str) -> Option<PathBuf> {
        let process = self.pod.process().await.ok()??;
        Some(self.pod.memory_volume(process, name))
    }

    async fn shutdown(&self) {
        self.modules.shutdown().await;
        if let Err(error) = self.pod.remove().await {
            tracing::warn!(%error, "a pod's containers are left");
        }
    }
}

/// Copies what is typed until there is no more.
async fn feed(mut stdin: Box<dyn AsyncRead + Send + Unpin>, mut input: Input) {
    let mut piece = vec![0; PIECE];
    loop {
        let count = tokio::io::AsyncReadExt::read(&mut stdin, &mut piece).await;
        let Ok(count @ 1..) = count else { break };
        if input
            .write_all(piece.get(..count).unwrap_or_default())
            .await
            .is_err()
        {
            return;
        }
    }
    // Who reads no more needs no end.
    let _ = input.shutdown().await;
}

struct DockerInstance(Container);

#[async_trait]
impl Instance for DockerInstance {
    async fn wait(&self) -> Exit {
        self.0.wait().await.into()
    }

    fn terminate(&self, grace: Duration) {
        self.0.terminate(grace);
    }

    fn kill(&self) {
        self.0.kill();
    }

    fn usage(&self) -> Usage {
        let usage = self.0.usage();
        Usage {
            cpu: usage.cpu,
            memory: usage.memory,
        }
    }

    async fn resize(&self, resources: Resources) -> Result<(), String> {
        let resources = engine_resources(resources, None, 0);
        let updated = self.0.update(&resources).await;
        updated.map_err(|error| error.to_string())
    }

    fn id(&self) -> Option<String> {
        Some(format!("docker://{}", self.0.id()))
    }

    fn has_own_terminal(&self) -> bool {
        true
    }

    async fn set_terminal_size(&self, width: u16, height: u16) {
        self.0.resize(width, height).await;
    }

    async fn exec(&self, command: ExecConfig) -> Option<Result<Box<dyn Instance>, StartError>> {
        let spec = ExecSpec {
            args: command.args,
            tty: command.tty,
            stdin: command.stdin.is_some(),
        };
        let output = Arc::new(ToScreen(command.output));
        Some(match self.0.exec(spec, output).await {
            Ok(execution) => {
                if let (Some(stdin), Some(input)) = (command.stdin, execution.take_input()) {
                    tokio::spawn(feed(stdin, input));
                }
                Ok(Box::new(DockerCommand(execution)))
            }
            Err(error) => Err(StartError::Run(error.to_string())),
        })
    }
}

/// A command in a container.
struct DockerCommand(Execution);

#[async_trait]
impl Instance for DockerCommand {
    async fn wait(&self) -> Exit {
        self.0.wait().await.into()
    }

    /// A command has no grace of its own.
    fn terminate(&self, _grace: Duration) {
        self.0.kill();
    }

    fn kill(&self) {
        self.0.kill();
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn has_own_terminal(&self) -> bool {
        true
    }

    async fn set_terminal_size(&self, width: u16, height: u16) {
        self.0.resize(width, height).await;
    }
}

impl From<vaquita_docker::Exit> for Exit {
    fn from(exit: vaquita_docker::Exit) -> Self {
        let mut ended = Self::with_code(exit.code);
        if exit.is_out_of_memory {
            ended.reason = ExitReason::OomKilled;
        }
        ended.message = exit.message;
        ended
    }
}
