//! Running another command in a container that runs: `kubectl exec`, exec probes and hooks.
//!
//! A command is a module of its own in the namespaces of the pod, with the container's environment, volumes and limits.
//! Its name says which: see [`Executor::start`].

pub(crate) mod outlet;
pub(crate) mod serve;
pub(crate) mod tty;

use std::{
    fmt,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::io::{AsyncRead, AsyncWrite};
use vaquita_backends::{
    ContainerConfig, ExecConfig, HttpSettings, Instance, Native, Program, Runnable, Sandbox,
};
use vaquita_image::MAX_MODULE_BYTES;
use vaquita_manifest::{add_image_variables, ephemeral_containers};
use vaquita_runtime::{Discard, OutputSink};

use self::outlet::{Hub, Outlet};
use crate::pod::{
    Context,
    board::Board,
    container_settings,
    storage::{MountPoint, Storage},
};

/// Bytes of a probe's or hook's output that are kept: upstream's.
const MOST_OUTPUT: usize = 10 << 10;

/// What is at hand of a container that runs.
pub(crate) struct Live {
    pub(crate) sandbox: Arc<dyn Sandbox>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) image: Runnable,
    pub(crate) instance: Arc<dyn Instance>,
    /// What it writes, for those who are attached.
    pub(crate) hub: Arc<Hub>,
    /// Its standard input, if it has one.
    pub(crate) stdin: Option<Stdin>,
}

/// The writing end of a container's standard input; `None` once it was closed.
pub(crate) type Stdin = tokio::sync::Mutex<Option<Box<dyn AsyncWrite + Send + Unpin>>>;

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

/// What is to be run, and with what.
pub(crate) struct Command {
    /// The command's name, and its arguments.
    pub(crate) args: Vec<String>,
    pub(crate) stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub(crate) output: Arc<dyn OutputSink>,
    pub(crate) tty: bool,
}

/// Why a command did not start. The texts are those of a container runtime where it has some.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    #[error("container not found (\"{0}\")")]
    NotRunning(String),
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotFound(String),
    #[error("exec: {path:?}: {why}")]
    Unreadable { path: String, why: String },
    #[error("{0}")]
    Configuration(String),
    #[error("{0}")]
    Start(#[from] vaquita_backends::StartError),
}

/// Runs commands in containers.
#[derive(Clone)]
pub(crate) struct Executor {
    pub(crate) context: Arc<Context>,
}

impl Executor {
    /// Starts a command in a container. In a Linux container it is a program there. Beside a module, its name means, in
    /// this order:
    ///
    /// 1. the container's own module, if it is the container's name or the first word of its `command`;
    /// 2. a file of one of the container's volumes, if it is a path;
    /// 3. a command of the node's toolbox.
    pub(crate) async fn start(
        &self,
        pod: &Pod,
        board: &Board,
        container: &str,
        command: Command,
    ) -> Result<Box<dyn Instance>, ExecError> {
        let not_running = || ExecError::NotRunning(container.to_owned());
        let live = board.live(container).ok_or_else(not_running)?;
        if live.image.is_native() {
            return Self::start_native(&live, command).await;
        }
        let declared = find(pod, container).ok_or_else(not_running)?;
        let name = command.args.first().cloned().unwrap_or_default();
        let settings =
            container_settings(&self.context, pod, &declared, &*live.sandbox, &live.storage);
        let mut settings = settings.await.map_err(ExecError::Configuration)?;
        add_image_variables(live.image.start(), &mut settings.env);
        settings.grants.filter(&mut settings.env);
        let program = if is_own(&declared, &name) {
            Program::Image(live.image.clone())
        } else if name.contains('/') {
            let points = live.storage.points(&declared, &settings.env);
            let start = settings.working_dir.clone().unwrap_or_default();
            Program::Wasm(read(points, start, name).await?)
        } else {
            let toolbox = self.context.toolbox.clone();
            Program::Wasm(toolbox.ok_or(ExecError::NotFound(name))?)
        };
        let config = ContainerConfig {
            name: declared.name.clone(),
            program,
            grants: settings.grants,
            args: command.args,
            env: settings.env,
            memory_limit: settings.resources.memory_limit,
            cpu_limit: settings.resources.cpu_limit,
            cpu_request: settings.resources.cpu_request,
            ports: None,
            http: HttpSettings::default(),
            mounts: settings.mounts,
            working_dir: settings.working_dir,
            tty: command.tty,
            stdin: command.stdin,
            output: Some(command.output),
            log: Arc::new(Discard),
            last_words: None,
            native: Native::default(),
        };
        Ok(live.sandbox.start(config).await?)
    }

    /// Starts a command of the container's own file system.
    async fn start_native(live: &Live, command: Command) -> Result<Box<dyn Instance>, ExecError> {
        let name = command.args.first().cloned().unwrap_or_default();
        let config = ExecConfig {
            args: command.args,
            tty: command.tty,
            stdin: command.stdin,
            output: command.output,
        };
        match live.instance.exec(config).await {
            Some(started) => Ok(started?),
            None => Err(ExecError::NotFound(name)),
        }
    }
}

impl Executor {
    /// Runs a command to its end, and returns its exit code and the beginning of what it wrote. Dropping the future ends
    /// the command.
    pub(crate) async fn run(
        &self,
        pod: &Pod,
        board: &Board,
        container: &str,
        args: Vec<String>,
    ) -> Result<(i32, String), ExecError> {
        let output = Arc::new(Outlet::default());
        let command = Command {
            args,
            stdin: None,
            output: output.clone(),
            tty: false,
        };
        let instance = KilledOnDrop(self.start(pod, board, container, command).await?);
        let ended = async {
            let exit = instance.0.wait().await;
            output.finish();
            exit.code
        };
        let read = async {
            let mut text = Vec::new();
            while let Some((_, piece)) = output.next().await {
                let room = MOST_OUTPUT.saturating_sub(text.len());
                text.extend_from_slice(&piece[..piece.len().min(room)]);
            }
            String::from_utf8_lossy(&text).into_owned()
        };
        Ok(tokio::join!(ended, read))
    }
}

/// A command that ends with whoever waits for it.
struct KilledOnDrop(Box<dyn Instance>);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// The container of that name, whatever it is for.
pub(crate) fn find(pod: &Pod, name: &str) -> Option<Container> {
    let spec = pod.spec.as_ref()?;
    let mut all = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let found = all.find(|container| container.name == name).cloned();
    found.or_else(|| {
        let mut all = ephemeral_containers(spec).into_iter();
        all.find(|container| container.name == name)
    })
}

fn is_own(container: &Container, name: &str) -> bool {
    let command = container
        .command
        .as_ref()
        .and_then(|command| command.first());
    name == container.name || command.is_some_and(|command| command == name)
}

/// Reads a module from a volume.
async fn read(points: Vec<MountPoint>, start: String, name: String) -> Result<Bytes, ExecError> {
    let path = if name.starts_with('/') {
        name.clone()
    } else {
        format!("/{start}/{name}")
    };
    let not_found = ExecError::NotFound(name.clone());
    let Some((root, inside)) = locate(&points, &path) else {
        return Err(not_found);
    };
    let reading = tokio::task::spawn_blocking(move || read_below(&root, &inside)).await;
    match reading {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Err(not_found),
        Ok(Err(error)) => Err(ExecError::Unreadable {
            path: name,
            why: error.to_string(),
        }),
        Err(_) => Err(not_found),
    }
}

/// Which directory of the machine a path is in, and where there. The longest mount path wins.
fn locate(points: &[MountPoint], path: &str) -> Option<(PathBuf, PathBuf)> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
    {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    let path = PathBuf::from(format!("/{}", parts.join("/")));
    let found = points
        .iter()
        .filter(|point| path.starts_with(&point.guest))
        .max_by_key(|point| point.guest.components().count())?;
    let inside = path.strip_prefix(&found.guest).ok()?;
    Some((found.directory.clone()?, found.sub_path.join(inside)))
}

/// Reads a file that is in a directory for certain: links may lead around in it, but not out of it.
fn read_below(root: &Path, inside: &Path) -> std::io::Result<Bytes> {
    let root = root.canonicalize()?;
    let path = root.join(inside).canonicalize()?;
    if !path.starts_with(&root) {
        return Err(std::io::ErrorKind::PermissionDenied.into());
    }
    // Whoever changes a directory on the way into a link meanwhile gets the node to read a module, and to run it without
    // any right that another module would not have: nothing is shown of what is no module.
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::ErrorKind::PermissionDenied.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_MODULE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_MODULE_BYTES {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(guest: &str, directory: &str, sub_path: &str) -> MountPoint {
        MountPoint {
            guest: guest.into(),
            directory: Some(directory.into()),
            sub_path: sub_path.into(),
        }
    }

    #[test]
    fn the_innermost_mount_has_the_file() {
        let points = [
            point("/data", "/v/a", ""),
            point("/data/tools", "/v/b", "bin"),
        ];
        let at = |path| locate(&points, path).map(|(root, inside)| root.join(inside));
        assert_eq!(at("/data/x.wasm"), Some("/v/a/x.wasm".into()));
        assert_eq!(at("/data/tools/./y/../x"), Some("/v/b/bin/x".into()));
        assert_eq!(at("/data/tools/../../../etc/passwd"), None);
        assert_eq!(at("/database"), None);
    }

    #[test]
    fn a_link_does_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(&outside, "secret").unwrap();
        std::fs::write(inside.join("file"), "wasm").unwrap();
        std::os::unix::fs::symlink("file", inside.join("good")).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("bad")).unwrap();
        assert_eq!(read_below(&inside, Path::new("good")).unwrap(), "wasm");
        assert!(read_below(&inside, Path::new("bad")).is_err());
        assert!(read_below(&inside, Path::new(".")).is_err());
    }
}
