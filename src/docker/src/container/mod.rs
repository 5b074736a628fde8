//! One container: made, followed to its end, signalled.

mod body;
pub(crate) mod exec;
mod follow;
mod resume;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, ResizeContainerTTYOptionsBuilder,
};
use tokio::{sync::watch, task::JoinHandle};

pub(crate) use body::no_log;
pub use resume::Logged;

use crate::{
    engine::{Engine, EngineError},
    hijack::{self, Frames, Input},
    output::Output,
    pod::{Pod, remove},
    shim::Survivor,
    spec::{ContainerSpec, PodSpec, Resources},
    usage::{Groups, Usage},
};

/// What ends a program that is not asked.
const KILL: &str = "SIGKILL";

/// How a container ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exit {
    /// 128 and the signal's number, if that ended it.
    pub code: i32,
    /// Whether it had no memory left.
    pub is_out_of_memory: bool,
    /// What the engine has to say.
    pub message: Option<String>,
}

/// Why a container does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine did not make it.
    #[error("{0}")]
    Create(EngineError),
    /// Its streams could not be had.
    #[error("attaching to the container: {0}")]
    Attach(std::io::Error),
    /// It was made, but did not begin.
    #[error("{0}")]
    Start(EngineError),
}

/// A container that runs, or has run. Dropping it changes nothing for the container.
pub struct Container {
    engine: Engine,
    id: String,
    exit: watch::Receiver<Option<Exit>>,
    /// What asks it to end.
    stop_signal: Option<String>,
    groups: Arc<Mutex<Option<Groups>>>,
    /// What it used when somebody asked last.
    used: Mutex<Usage>,
    input: Mutex<Option<Input>>,
    follower: JoinHandle<()>,
    ending: Mutex<Option<JoinHandle<()>>>,
}

/// How a container is followed and ended.
struct Followed {
    source: follow::Source,
    output: Arc<dyn Output>,
    input: Option<Input>,
    stop_signal: Option<String>,
}

/// Makes a container in a pod, and starts it.
pub(crate) async fn start(
    pod: &Pod,
    spec: &ContainerSpec,
    output: Arc<dyn Output>,
) -> Result<Container, StartError> {
    let engine = &pod.engine;
    pod.revive().await.map_err(StartError::Create)?;
    let id = create(pod, spec).await.map_err(StartError::Create)?;
    remove_before(pod, spec);
    let started = async {
        // Before the start, so that nothing of the output is missed.
        let stdin = u8::from(spec.stdin);
        let path = format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1&stdin={stdin}");
        let (reader, input) = hijack::open(engine, &path, None)
            .await
            .map_err(StartError::Attach)?;
        let started = engine.docker.start_container(&id, None).await;
        started
            .map_err(EngineError::of("starting the container"))
            .map_err(StartError::Start)?;
        Ok((Frames::new(reader, spec.tty), input))
    };
    match started.await {
        Ok((frames, input)) => {
            let input = Some(input).filter(|_| spec.stdin);
            let source = follow::Source::Attached(frames);
            let followed = Followed {
                source,
                output,
                input,
                stop_signal: spec.stop_signal.clone(),
            };
            Ok(Container::new(engine.clone(), id, followed))
        }
        Err(error) => {
            // The other error tells more.
            let _ = remove(engine, &id).await;
            Err(error)
        }
    }
}

/// What the engine calls a container of a pod.
fn engine_name(pod: &PodSpec, container: &str, attempt: u32) -> String {
    let PodSpec {
        uid,
        namespace,
        name,
        ..
    } = pod;
    format!("vaquita_{container}_{name}_{namespace}_{uid}_{attempt}")
}

/// Removes the container that this one comes after; its log has been taken.
fn remove_before(pod: &Pod, spec: &ContainerSpec) {
    let Some(before) = spec.attempt.checked_sub(1) else {
        return;
    };
    let (engine, name) = (
        pod.engine.clone(),
        engine_name(&pod.spec, &spec.name, before),
    );
    tokio::spawn(async move {
        if let Err(error) = remove(&engine, &name).await {
            tracing::debug!(name, %error, "a container that has ended is left until its pod goes");
        }
    });
}

async fn create(pod: &Pod, spec: &ContainerSpec) -> Result<String, EngineError> {
    let name = engine_name(&pod.spec, &spec.name, spec.attempt);
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let body = body::of(pod, spec);
    let create = || {
        pod.engine
            .docker
            .create_container(Some(options.clone()), body.clone())
    };
    let created = match create()
        .await
        .map_err(EngineError::of("making the container"))
    {
        Err(error) if error.is_conflict() => {
            // What is left of an attempt before.
            remove(&pod.engine, &name).await?;
            create()
                .await
                .map_err(EngineError::of("making the container"))
        }
        other => other,
    };
    Ok(created?.id)
}

/// Takes over a container that is there.
pub(crate) async fn adopt(
    pod: &Pod,
    survivor: &Survivor,
    tail: Vec<Logged>,
    output: Arc<dyn Output>,
) -> Result<Container, EngineError> {
    let (engine, id) = (&pod.engine, &survivor.id);
    let found = engine.docker.inspect_container(id, None).await;
    let found = found.map_err(EngineError::of("looking for a container"))?;
    let config = found.config.unwrap_or_default();
    let (tty, stdin) = (config.tty == Some(true), config.open_stdin == Some(true));
    let mut input = None;
    let mut source = follow::Source::Log { tail };
    if (tty || stdin) && survivor.is_running {
        let path = format!(
            "/containers/{id}/attach?stream=1&stdout=1&stderr=1&stdin={}",
            u8::from(stdin)
        );
        if let Ok((reader, end)) = hijack::open(engine, &path, None).await {
            source = follow::Source::Attached(Frames::new(reader, tty));
            input = Some(end).filter(|_| stdin);
        }
    }
    let followed = Followed {
        source,
        output,
        input,
        // The image's own, where nobody has said otherwise.
        stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
    };
    Ok(Container::new(engine.clone(), id.clone(), followed))
}

impl Container {
    fn new(engine: Engine, id: String, followed: Followed) -> Self {
        let Followed {
            source,
            output,
            input,
            stop_signal,
        } = followed;
        let (ended, exit) = watch::channel(None);
        let groups = Arc::default();
        let work = follow::Follower {
            engine: engine.clone(),
            id: id.clone(),
            groups: Arc::clone(&groups),
        };
        Self {
            engine,
            id,
            exit,
            stop_signal,
            groups,
            used: Mutex::default(),
            input: Mutex::new(input),
            follower: tokio::spawn(work.run(source, output, ended)),
            ending: Mutex::default(),
        }
    }

    /// What the engine calls it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its standard input, if it has one. Only the first call gets it.
    pub fn take_input(&self) -> Option<Input> {
        lock(&self.input).take()
    }

    /// Waits until it has ended and all of its output has been handed on.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await;
        // Without a sender, the follower has panicked: what has become of the container, nobody knows.
        ended.ok().and_then(|exit| exit.clone()).unwrap_or(Exit {
            code: 137,
            ..Exit::default()
        })
    }

    /// Asks it to end, by the signal that it wants; kills it after the grace. Returns at once. A later call replaces an
    /// earlier one.
    pub fn terminate(&self, grace: Duration) {
        let (engine, id) = (self.engine.clone(), self.id.clone());
        let signal = self.stop_signal.clone();
        let mut exit = self.exit.clone();
        let ending = tokio::spawn(async move {
            if !grace.is_zero() {
                let signal = signal.as_deref().unwrap_or("SIGTERM");
                send(&engine, &id, signal).await;
                let ended = exit.wait_for(Option::is_some);
                if tokio::time::timeout(grace, ended).await.is_ok() {
                    return;
                }
            }
            send(&engine, &id, KILL).await;
        });
        if let Some(before) = lock(&self.ending).replace(ending) {
            before.abort();
        }
    }

    /// Ends it. Returns at once.
    pub fn kill(&self) {
        self.terminate(Duration::ZERO);
    }

    /// Gives its terminal another size, in characters.
    pub async fn resize(&self, width: u16, height: u16) {
        let options = ResizeContainerTTYOptionsBuilder::default()
            .w(width.into())
            .h(height.into())
            .build();
        // It may have ended, or have no terminal.
        let _ = self
            .engine
            .docker
            .resize_container_tty(&self.id, options)
            .await;
    }

    /// Gives it other limits of memory and CPU while it runs.
    pub async fn update(&self, resources: &Resources) -> Result<(), EngineError> {
        let body = body::update(resources);
        let updated = self.engine.docker.update_container(&self.id, body).await;
        updated.map_err(EngineError::of("changing the container's limits"))
    }

    /// What it uses. After its end, what it had used when somebody asked last.
    pub fn usage(&self) -> Usage {
        let now = lock(&self.groups).as_ref().and_then(Groups::usage);
        let mut used = lock(&self.used);
        if let Some(now) = now {
            *used = now;
        }
        *used
    }

    /// Removes it and what it has written to its own root.
    pub async fn remove(&self) -> Result<(), EngineError> {
        remove(&self.engine, &self.id).await
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

async fn send(engine: &Engine, id: &str, signal: &str) {
    let options = KillContainerOptionsBuilder::default()
        .signal(signal)
        .build();
    let sent = engine.docker.kill_container(id, Some(options)).await;
    match sent.map_err(EngineError::of("signalling the container")) {
        // It has ended meanwhile.
        Err(error) if error.is_absent() || error.is_conflict() => {}
        Err(error) => {
            tracing::warn!(container = id, signal, %error, "a container was not told to end");
        }
        Ok(()) => {}
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
