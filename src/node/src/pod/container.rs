//! One container's life: find its image, resolve its configuration, start it, watch over it, and do it all again as
//! the restart policy says.
//!
//! A [`Runner`] never gives up by itself while there is hope: what fails is tried again, with waits in between that
//! grow, and the board says meanwhile what it waits for. It returns when the container has ended for good, or was
//! stopped. What happens between an instance's start and its end is in [`watching`]; what runs
//! already when the node starts is taken over in [`adoption`].

mod adoption;
mod watching;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod};
use kube::{Resource as _, ResourceExt as _};
use tokio::{
    io::AsyncRead,
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use vaquita_backends::{
    ContainerConfig, Grants, Instance, LastWords, Native, Program, Runnable, Sandbox, StartError,
};
use vaquita_logs::{ContainerLog, PodKey};
use vaquita_manifest::{
    Role, add_image_variables, arguments, ephemeral_containers, full_name, http_settings,
    init_containers, native, native_arguments, tcp_ports, unsupported,
};

use super::{
    Context, Feed,
    backoff::{BackOff, Doubling},
    board::{Board, Record, State},
    settings::container_settings,
    storage::Storage,
};
use crate::{
    exec::{Live, Stdin, outlet::Hub},
    stats::Meter,
};

/// How soon an incomplete configuration is looked at again at first, then twice as long each time: what is missing is
/// usually about to be created.
const CONFIG_RETRY: Duration = Duration::from_secs(2);
const LONGEST_CONFIG_RETRY: Duration = Duration::from_secs(30);

/// Where a container leaves a message about its end if the manifest does not say: the API's default.
const LAST_WORDS: &str = "/dev/termination-log";
/// Bytes of standard input that wait to be read.
const STDIN_BUFFER: usize = 64 << 10;

/// Runs one container.
pub(super) struct Runner {
    pub(super) context: Arc<Context>,
    pub(super) feed: watch::Receiver<Feed>,
    pub(super) board: Arc<Board>,
    /// The container's place on the board.
    pub(super) index: usize,
    pub(super) sandbox: Arc<dyn Sandbox>,
    pub(super) storage: Arc<Storage>,
    /// The grace, once the container is to be stopped.
    pub(super) stop: watch::Receiver<Option<Duration>>,
    pub(super) memory: Memory,
}

/// What a runner remembers from one instance to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    crashes: BackOff,
    /// When the last instance failed, until that has been waited for.
    failed: Option<Instant>,
}

/// An instance that runs.
struct Running {
    instance: Arc<dyn Instance>,
    log: Arc<ContainerLog>,
    container: Container,
    grants: Grants,
}

/// Why a container could not be started, as its status says it.
struct Problem {
    reason: &'static str,
    message: String,
    /// Whether something outside of the container is missing, which may appear any time.
    is_config: bool,
}

impl Problem {
    fn of(error: &StartError) -> Self {
        Self {
            reason: error.reason(),
            message: error.to_string(),
            is_config: false,
        }
    }
}

impl Runner {
    /// Runs the container until it has ended for good, or was stopped.
    pub(super) async fn run(mut self) {
        loop {
            let mut stop = self.stop.clone();
            let running = tokio::select! {
                biased;
                () = ordered(&mut stop) => return,
                running = self.bring_up() => running,
            };
            let (exit, is_replaced) = self.watch_over(&running).await;
            running.log.close();
            self.board.set_meter(self.index, None);
            self.board.set_live(self.index, None);
            if self.take_down(exit, is_replaced).await {
                return;
            }
        }
    }

    /// The container as the manifest has it now, with what the node gives it. Only its image and its resources can change.
    pub(super) fn container(&self) -> Container {
        let (role, name, allocated) = self.board.read(|facts| {
            let record = &facts.containers[self.index];
            (record.role, record.name.clone(), record.allocated.clone())
        });
        let pod = self.pod();
        let spec = pod.spec.as_ref();
        let all = match role {
            Role::Main => spec.map(|spec| spec.containers.clone()),
            Role::Init | Role::Sidecar => spec.map(|spec| init_containers(spec).to_vec()),
            Role::Ephemeral => spec.map(ephemeral_containers),
        };
        let mut all = all.unwrap_or_default();
        match all.iter().position(|container| container.name == name) {
            Some(place) => Container {
                resources: Some(allocated),
                ..all.swap_remove(place)
            },
            None => Container {
                name,
                ..Container::default()
            },
        }
    }

    pub(super) fn pod(&self) -> Arc<Pod> {
        self.feed.borrow().pod.clone()
    }

    /// What events about the container are about.
    pub(super) fn about(&self) -> Arc<ObjectReference> {
        let (role, name) = self.board.read(|facts| {
            let record = &facts.containers[self.index];
            (record.role, record.name.clone())
        });
        let list = match role {
            Role::Main => "containers",
            Role::Init | Role::Sidecar => "initContainers",
            Role::Ephemeral => "ephemeralContainers",
        };
        let mut about = self.pod().object_ref(&());
        about.field_path = Some(format!("spec.{list}{{{name}}}"));
        Arc::new(about)
    }

    fn update<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        self.board
            .update(|facts| change(&mut facts.containers[self.index]))
    }

    /// Says on the board what the container waits for.
    pub(super) fn wait_with(&self, reason: &'static str, message: Option<String>) {
        self.update(|record| {
            let waiting = State::Waiting { reason, message };
            if let State::Terminated { end, .. } = std::mem::replace(&mut record.state, waiting) {
                record.last = Some(end);
            }
        });
    }

    /// Waits until the container's image differs from this one.
    pub(super) async fn image_changed(&self, image: Option<&str>) {
        let mut feed = self.feed.clone();
        while self.container().image.as_deref() == image {
            if feed.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Starts an instance, however long it takes.
    async fn bring_up(&mut self) -> Running {
        if let Some(running) = self.take_over().await {
            return running;
        }
        self.sit_out_crash().await;
        let mut config_retry = Doubling::new(CONFIG_RETRY, LONGEST_CONFIG_RETRY);
        let mut start_retry = Doubling::as_for_crashes();
        let mut announced = None;
        loop {
            let container = self.container();
            let Some((image, news)) = self.image(&container).await else {
                continue;
            };
            // Once is enough, however often it is tried.
            let digest = image.digest();
            if announced.as_ref() != Some(&digest) {
                self.context.events.normal(&self.about(), "Pulled", news);
                announced = Some(digest);
            }
            // Before the attempt, so that no change during it is missed.
            let mut images = self.context.images.changes();
            let problem = match self.start(&container, image).await {
                Ok(running) => return running,
                Err(problem) => problem,
            };
            let message = format!("Error: {}", problem.message);
            self.context
                .events
                .warning(&self.about(), "Failed", message);
            self.wait_with(problem.reason, Some(problem.message));
            let retry = if problem.is_config {
                config_retry.next()
            } else {
                start_retry.next()
            };
            tokio::select! {
                () = sleep(retry) => {}
                () = self.image_changed(container.image.as_deref()) => {}
                _ = images.changed() => {}
            }
        }
    }

    /// Waits after an instance has ended, the longer the more often it did.
    async fn sit_out_crash(&mut self) {
        let Some(failed) = self.memory.failed.take() else {
            return;
        };
        if let Some((length, end)) = self.memory.crashes.due(failed) {
            let container = self.container();
            let (name, pod) = (&container.name, full_name(&self.pod()));
            let length = go_duration(length);
            let message = format!("back-off {length} restarting failed container={name} pod={pod}");
            self.wait_with("CrashLoopBackOff", Some(message));
            let message = format!("Back-off restarting failed container {name} in pod {pod}");
            self.context
                .events
                .warning(&self.about(), "BackOff", message);
            tokio::select! {
                () = sleep_until(end) => {}
                // Another image is another container: what is held against this one does not count.
                () = self.image_changed(container.image.as_deref()) => self.memory = Memory::default(),
            }
        }
        self.memory.crashes.attempt(failed, Instant::now());
    }

    /// One attempt to start the container.
    async fn start(&self, container: &Container, image: Runnable) -> Result<Running, Problem> {
        let pod = self.pod();
        let config_problem = |message| Problem {
            reason: "CreateContainerConfigError",
            message,
            is_config: true,
        };
        if let Some(message) = unsupported(&pod, container, image.is_native()) {
            return Err(Problem {
                is_config: false,
                ..config_problem(message)
            });
        }
        let settings = container_settings(
            &self.context,
            &pod,
            container,
            &*self.sandbox,
            &self.storage,
        );
        let mut settings = settings.await.map_err(config_problem)?;
        let args = if image.is_native() {
            native_arguments(container, image.start(), &settings.env)
        } else {
            arguments(container, image.start(), &settings.env)
        };
        add_image_variables(image.start(), &mut settings.env);
        if !image.is_native() {
            settings.grants.filter(&mut settings.env);
        }
        let attempt = self.board.read(|facts| {
            let record = &facts.containers[self.index];
            record.restarts + u32::from(record.latest_end().is_some())
        });
        let log = self
            .context
            .logs
            .begin(&PodKey::of(&pod), &container.name, attempt);
        let native = if image.is_native() {
            let native = native(&pod, container, settings.binds, attempt, image.start());
            native.map_err(config_problem)?
        } else {
            Native::default()
        };
        let id = image.id();
        let http = http_settings(&pod, &settings.env).map_err(config_problem)?;
        let hub = Arc::new(Hub::default());
        let (stdin, typed) = standard_input(container);
        let config = ContainerConfig {
            name: container.name.clone(),
            grants: settings.grants.clone(),
            args,
            env: settings.env,
            memory_limit: settings.resources.memory_limit,
            cpu_limit: settings.resources.cpu_limit,
            cpu_request: settings.resources.cpu_request,
            ports: Some(tcp_ports(container)),
            http,
            mounts: settings.mounts,
            working_dir: settings.working_dir,
            tty: container.tty == Some(true),
            stdin,
            output: Some(hub.clone()),
            log: log.sink(),
            last_words: Some(self.last_words_file(&pod, container)),
            program: Program::Image(image.clone()),
            native,
        };
        let started = self.sandbox.start(config).await;
        let instance = started.map_err(|error| {
            log.close();
            Problem::of(&error)
        })?;
        let (events, about, name) = (&self.context.events, self.about(), &container.name);
        events.normal(&about, "Created", format!("Created container: {name}"));
        events.normal(&about, "Started", format!("Started container {name}"));
        let instance = self.enter(instance, image, (hub, typed));
        self.show_running(container, id, instance.id(), attempt);
        Ok(Running {
            instance,
            log,
            grants: settings.grants,
            container: container.clone(),
        })
    }

    /// Makes what runs known to those who measure it, attach to it and execute commands in it.
    fn enter(
        &self,
        instance: Box<dyn Instance>,
        image: Runnable,
        (hub, stdin): (Arc<Hub>, Option<Stdin>),
    ) -> Arc<dyn Instance> {
        let instance: Arc<dyn Instance> = Arc::from(instance);
        let meter = Meter::new(self.container().name, Arc::clone(&instance));
        self.board.set_meter(self.index, Some(meter));
        let live = Live {
            sandbox: self.sandbox.clone(),
            storage: self.storage.clone(),
            image,
            instance: Arc::clone(&instance),
            hub,
            stdin,
        };
        self.board.set_live(self.index, Some(Arc::new(live)));
        instance
    }

    /// Where the container may leave a message about its end.
    fn last_words_file(&self, pod: &Pod, container: &Container) -> LastWords {
        let dir = self.context.volumes.of(&pod.uid().unwrap_or_default());
        let path = container.termination_message_path.as_deref();
        LastWords {
            guest: path
                .filter(|path| path.starts_with('/'))
                .unwrap_or(LAST_WORDS)
                .to_owned(),
            file: dir.container(&container.name).join("termination-log"),
        }
    }

    fn show_running(
        &self,
        container: &Container,
        image_id: String,
        own_id: Option<String>,
        attempt: u32,
    ) {
        let hooks = container.lifecycle.as_ref();
        let has_hook = hooks.is_some_and(|hooks| hooks.post_start.is_some());
        let started = container.startup_probe.is_none() && !has_hook;
        let ready = started && container.readiness_probe.is_none();
        let id = own_id.unwrap_or_else(|| {
            format!(
                "vaquita://{}.{}.{attempt}",
                self.pod().uid().unwrap_or_default(),
                container.name
            )
        });
        self.update(|record| {
            record.last = record.latest_end().cloned();
            record.state = State::Running {
                since: Timestamp::now(),
                started,
                ready,
            };
            record.actual = container.resources.clone().unwrap_or_default();
            record.resize_error = None;
            record.restarts = attempt;
            record.image = container.image.clone().unwrap_or_default();
            record.image_id = image_id;
            record.container_id = Some(id);
        });
    }
}

/// What a container reads, and who is attached to it writes, if the manifest wants that.
fn standard_input(
    container: &Container,
) -> (Option<Box<dyn AsyncRead + Send + Unpin>>, Option<Stdin>) {
    if container.stdin != Some(true) {
        return (None, None);
    }
    let (near, far) = tokio::io::duplex(STDIN_BUFFER);
    (Some(Box::new(near)), Some(Stdin::new(Some(Box::new(far)))))
}

/// Waits until the container is to be stopped.
async fn ordered(stop: &mut watch::Receiver<Option<Duration>>) {
    if stop.wait_for(Option::is_some).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// As Go prints durations of whole seconds: `10s`, `1m20s`.
pub(super) fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{seconds}s")
    } else {
        format!("{}m{}s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_go_does() {
        for (seconds, text) in [(10, "10s"), (60, "1m0s"), (80, "1m20s"), (300, "5m0s")] {
            assert_eq!(go_duration(Duration::from_secs(seconds)), text);
        }
    }
}
