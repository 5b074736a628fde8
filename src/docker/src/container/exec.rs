//! A command in a container that runs.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex},
    time::Duration,
};

use bollard::exec::{CreateExecOptions, ResizeExecOptions};
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use super::{Container, Exit, StartError, lock};
use crate::{
    engine::{Engine, EngineError},
    hijack::{self, Frames, Input},
    output::{Channel, Output},
    pod::is_of,
};

/// How often an engine is asked for the code of a command whose streams have ended.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// The code of a command of which nobody knows how it ended.
const LOST: i32 = 137;

/// A command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it has a standard input.
    pub stdin: bool,
}

/// A command that runs, or has run.
pub struct Execution {
    engine: Engine,
    id: String,
    exit: watch::Receiver<Option<Exit>>,
    input: Mutex<Option<Input>>,
    follower: JoinHandle<()>,
}

impl Container {
    /// Runs a command beside the container's own program, as the same user and with the same environment.
    pub async fn exec(
        &self,
        spec: ExecSpec,
        output: Arc<dyn Output>,
    ) -> Result<Execution, StartError> {
        let engine = &self.engine;
        let options = CreateExecOptions {
            attach_stdin: Some(spec.stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(!spec.tty),
            tty: Some(spec.tty),
            cmd: Some(spec.args),
            ..CreateExecOptions::default()
        };
        let created = engine.docker.create_exec(&self.id, options).await;
        let id = created
            .map_err(EngineError::of("making the command"))
            .map_err(StartError::Create)?
            .id;
        let body = json!({"Detach": false, "Tty": spec.tty});
        let path = format!("/exec/{id}/start");
        let (reader, input) = hijack::open(engine, &path, Some(&body))
            .await
            .map_err(StartError::Attach)?;
        let (ended, exit) = watch::channel(None);
        let frames = Frames::new(reader, spec.tty);
        let following = follow(engine.clone(), id.clone(), frames, output, ended);
        Ok(Execution {
            engine: engine.clone(),
            id,
            exit,
            input: Mutex::new(Some(input).filter(|_| spec.stdin)),
            follower: tokio::spawn(following),
        })
    }
}

impl Execution {
    /// Its standard input, if it has one. Only the first call gets it.
    pub fn take_input(&self) -> Option<Input> {
        lock(&self.input).take()
    }

    /// Waits until it has ended and all of its output has been handed on.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await;
        ended.ok().and_then(|exit| exit.clone()).unwrap_or(Exit {
            code: LOST,
            ..Exit::default()
        })
    }

    /// Ends it. Returns at once. The engine has no request for that: the kernel is told, if it is this machine's.
    pub fn kill(&self) {
        let (engine, id) = (self.engine.clone(), self.id.clone());
        tokio::spawn(async move {
            let Ok(state) = engine.docker.inspect_exec(&id).await else {
                return;
            };
            let pid = state.pid.and_then(|pid| i32::try_from(pid).ok());
            let container = state.container_id.unwrap_or_default();
            if state.running == Some(true) && !container.is_empty() {
                pid.and_then(|pid| signal(pid, &container));
            }
        });
    }

    /// Gives its terminal another size, in characters.
    pub async fn resize(&self, width: u16, height: u16) {
        // It may have ended, or have no terminal.
        let _ = self
            .engine
            .docker
            .resize_exec(&self.id, ResizeExecOptions { width, height })
            .await;
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl std::fmt::Debug for Execution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Execution")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Kills a process of a container; `None` if that is not its, as with an engine on another machine.
fn signal(pid: i32, container: &str) -> Option<()> {
    let is_ours = u32::try_from(pid).is_ok_and(|pid| is_of(pid, container));
    if !is_ours {
        return None;
    }
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid)?,
        rustix::process::Signal::KILL,
    )
    .ok()
}

async fn follow(
    engine: Engine,
    id: String,
    mut frames: Frames,
    output: Arc<dyn Output>,
    ended: watch::Sender<Option<Exit>>,
) {
    while let Ok(Some((channel, piece))) = frames.next().await {
        let channel = if channel == 2 {
            Channel::Stderr
        } else {
            Channel::Stdout
        };
        poll_fn(|context| output.poll_ready(context)).await;
        output.write(channel, &piece);
    }
    output.finish();
    let code = loop {
        match engine.docker.inspect_exec(&id).await {
            Ok(state) if state.running == Some(true) => sleep(ASK_EVERY).await,
            Ok(state) => break state.exit_code.and_then(|code| i32::try_from(code).ok()),
            Err(_) => break None,
        }
    };
    ended.send_replace(Some(Exit {
        code: code.unwrap_or(LOST),
        ..Exit::default()
    }));
}
