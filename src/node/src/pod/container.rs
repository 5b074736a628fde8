//! One container's life: find its image, resolve its configuration, start it, watch over it, and do it all again as
//! the restart policy says.
//!
//! A [`Runner`] never gives up by itself while there is hope: what fails is tried again, with waits in between that
//! grow, and the board says meanwhile what it waits for. It returns when the container has ended for good, or was
//! stopped.

use std::{pin::pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod};
use kube::{Resource as _, ResourceExt as _};
use tokio::{
    io::AsyncRead,
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use vaquita_image::Image;

use super::{
    Context, Feed,
    backoff::{BackOff, Doubling},
    board::{Board, Record, State, Termination},
    environment, features,
    manifest::{RestartPolicy, Role, full_name, init_containers, own_grace, tcp_ports},
    probe::{self, Checks, Kind, Signal},
    settings::container_settings,
    storage::Storage,
};
use crate::{
    backend::{ContainerConfig, Exit, Instance, Program, Sandbox},
    exec::{Live, Stdin, outlet::Hub},
    logs::{ContainerLog, PodKey},
    registration::image_id,
    stats::Meter,
};

/// How soon an incomplete configuration is looked at again at first, then twice as long each time: what is missing is
/// usually about to be created.
const CONFIG_RETRY: Duration = Duration::from_secs(2);
const LONGEST_CONFIG_RETRY: Duration = Duration::from_secs(30);
/// How much longer than its grace an instance may take to end before it is killed from outside.
const SLACK: Duration = Duration::from_secs(1);
/// The longest message about an end, in bytes: upstream's limit for termination messages.
const LONGEST_MESSAGE: usize = 4096;

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
}

/// Why a container could not be started, as its status says it.
struct Problem {
    reason: &'static str,
    message: String,
    /// Whether something outside of the container is missing, which may appear any time.
    is_config: bool,
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
            if self.take_down(exit, is_replaced) {
                return;
            }
        }
    }

    /// The container as the manifest has it now. Only its image can change.
    pub(super) fn container(&self) -> Container {
        let (role, name) = self.board.read(|facts| {
            let record = &facts.containers[self.index];
            (record.role, record.name.clone())
        });
        let pod = self.pod();
        let spec = pod.spec.as_ref();
        let all = match role {
            Role::Main => spec.map(|spec| spec.containers.as_slice()),
            Role::Init | Role::Sidecar => spec.map(init_containers),
        };
        let found = all
            .unwrap_or_default()
            .iter()
            .find(|container| container.name == name);
        found.cloned().unwrap_or_else(|| Container {
            name,
            ..Container::default()
        })
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
        let list = if role == Role::Main {
            "containers"
        } else {
            "initContainers"
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
            if announced.as_ref() != Some(&image.digest) {
                self.context.events.normal(&self.about(), "Pulled", news);
                announced = Some(image.digest.clone());
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
    async fn start(&self, container: &Container, image: Image) -> Result<Running, Problem> {
        let pod = self.pod();
        let config_problem = |message| Problem {
            reason: "CreateContainerConfigError",
            message,
            is_config: true,
        };
        if let Some(message) = features::unsupported(&pod, container) {
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
        let args = environment::arguments(container, image.start.as_ref(), &settings.env);
        environment::add_image_variables(image.start.as_ref(), &mut settings.env);
        let attempt = self.board.read(|facts| {
            let record = &facts.containers[self.index];
            record.restarts + u32::from(record.latest_end().is_some())
        });
        let log = self
            .context
            .logs
            .begin(&PodKey::of(&pod), &container.name, attempt);
        let id = image_id(&image);
        let hub = Arc::new(Hub::default());
        let (stdin, typed) = standard_input(container);
        let config = ContainerConfig {
            name: container.name.clone(),
            args,
            env: settings.env,
            memory_limit: settings.memory_limit,
            cpu_limit: settings.cpu_limit,
            cpu_request: settings.cpu_request,
            ports: Some(tcp_ports(container)),
            mounts: settings.mounts,
            working_dir: settings.working_dir,
            tty: container.tty == Some(true),
            stdin,
            output: Some(hub.clone()),
            log: log.sink(),
            program: Program::Image(image.clone()),
        };
        let started = self.sandbox.start(config).await;
        let instance = started.map_err(|error| {
            log.close();
            Problem {
                reason: error.reason(),
                message: error.to_string(),
                is_config: false,
            }
        })?;
        let (events, about, name) = (&self.context.events, self.about(), &container.name);
        events.normal(&about, "Created", format!("Created container: {name}"));
        events.normal(&about, "Started", format!("Started container {name}"));
        let instance = Arc::from(instance);
        let meter = Meter::new(container.name.clone(), Arc::clone(&instance));
        self.board.set_meter(self.index, Some(meter));
        let live = Live {
            sandbox: self.sandbox.clone(),
            storage: self.storage.clone(),
            image,
            hub,
            stdin: typed,
        };
        self.board.set_live(self.index, Some(Arc::new(live)));
        self.show_running(container, id, attempt);
        Ok(Running {
            instance,
            log,
            container: container.clone(),
        })
    }

    fn show_running(&self, container: &Container, image_id: String, attempt: u32) {
        let started = container.startup_probe.is_none();
        let ready = started && container.readiness_probe.is_none();
        let id = format!(
            "vaquita://{}.{}.{attempt}",
            self.pod().uid().unwrap_or_default(),
            container.name
        );
        self.update(|record| {
            record.last = record.latest_end().cloned();
            record.state = State::Running {
                since: Timestamp::now(),
                started,
                ready,
            };
            record.restarts = attempt;
            record.image = container.image.clone().unwrap_or_default();
            record.image_id = image_id;
            record.container_id = Some(id);
        });
    }

    /// Waits for the instance's end, and sees to it that it comes when it must. Also says whether the instance makes
    /// place for another one, of a new image.
    async fn watch_over(&mut self, running: &Running) -> (Exit, bool) {
        let (sender, mut signals) = mpsc::channel(16);
        let checks = Checks::of(&running.container);
        let has_readiness = checks.readiness.is_some();
        let mut probes = pin!(probe::run(checks, &*self.sandbox, sender));
        let mut are_probes_done = false;
        let mut image_changed = pin!(self.image_changed(running.container.image.as_deref()));
        let mut is_replaced = false;
        let mut stop = self.stop.clone();
        let mut ordered_grace = None;
        let mut kill_at: Option<Instant> = None;
        loop {
            let kill = async {
                match kill_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let grace = tokio::select! {
                biased;
                exit = running.instance.wait() => return (exit, is_replaced),
                grace = shorter_order(&mut stop, ordered_grace) => {
                    if ordered_grace.is_none() {
                        self.say_killing(running, format!("Stopping container {}", running.container.name));
                    }
                    ordered_grace = Some(grace);
                    grace
                }
                () = kill => {
                    running.instance.kill();
                    kill_at = None;
                    continue;
                }
                () = &mut image_changed, if !is_replaced => {
                    is_replaced = true;
                    let name = &running.container.name;
                    self.say_killing(running, format!("Container {name} definition changed, will be restarted"));
                    own_grace(&self.pod())
                }
                () = &mut probes, if !are_probes_done => {
                    are_probes_done = true;
                    continue;
                }
                Some(signal) = signals.recv() => match self.heed(running, signal, has_readiness) {
                    Some(grace) => grace,
                    None => continue,
                },
            };
            running.instance.terminate(grace);
            let at = Instant::now() + grace + SLACK;
            kill_at = Some(kill_at.map_or(at, |earlier| earlier.min(at)));
        }
    }

    /// Does what a probe's outcome asks for. If that is the container's end, says within what time.
    fn heed(&self, running: &Running, signal: Signal, has_readiness: bool) -> Option<Duration> {
        match signal {
            Signal::Complaint(message) => {
                self.context
                    .events
                    .warning(&self.about(), "Unhealthy", message);
            }
            Signal::Started => self.update(|record| {
                if let State::Running { started, ready, .. } = &mut record.state {
                    *started = true;
                    *ready = !has_readiness;
                }
            }),
            Signal::Ready(now) => self.update(|record| {
                if let State::Running { ready, .. } = &mut record.state {
                    *ready = now;
                }
            }),
            Signal::Dead(kind, grace) => {
                let name = &running.container.name;
                let probe = if kind == Kind::Startup {
                    "startup"
                } else {
                    "liveness"
                };
                let restarts = RestartPolicy::of(&self.pod()) != RestartPolicy::Never;
                let fate = if restarts { ", will be restarted" } else { "" };
                self.say_killing(
                    running,
                    format!("Container {name} failed {probe} probe{fate}"),
                );
                return Some(grace.unwrap_or_else(|| own_grace(&self.pod())));
            }
        }
        None
    }

    fn say_killing(&self, running: &Running, message: String) {
        tracing::debug!(container = running.container.name, message);
        self.context
            .events
            .normal(&self.about(), "Killing", message);
    }

    /// Puts the end on the board, and says whether it is for good.
    fn take_down(&mut self, exit: Exit, is_replaced: bool) -> bool {
        let is_stopped = self.stop.borrow().is_some();
        let policy = RestartPolicy::of(&self.pod());
        let for_good = self.update(|record| {
            // Whoever is replaced starts again whatever the policy.
            let restarts = is_replaced || policy.restarts(record.role, exit.code);
            let for_good = is_stopped || !restarts;
            let started_at = match record.state {
                State::Running { since, .. } => Some(since),
                State::Waiting { .. } | State::Terminated { .. } => None,
            };
            let end = Termination {
                code: exit.code,
                reason: exit.reason.as_str().to_owned(),
                message: exit.message.map(cut),
                started_at,
                finished_at: Some(Timestamp::now()),
                container_id: record.container_id.clone(),
            };
            record.state = State::Terminated { end, for_good };
            for_good
        });
        self.memory.failed = Some(Instant::now()).filter(|_| !is_replaced);
        for_good
    }
}

/// What a container reads, and who is attached to it writes, if the manifest wants that.
fn standard_input(
    container: &Container,
) -> (Option<Box<dyn AsyncRead + Send + Unpin>>, Option<Stdin>) {
    if container.stdin != Some(true) {
        return (None, None);
    }
    let (near, far) = tokio::io::simplex(STDIN_BUFFER);
    (Some(Box::new(near)), Some(Stdin::new(Some(Box::new(far)))))
}

/// Waits until the container is to be stopped.
async fn ordered(stop: &mut watch::Receiver<Option<Duration>>) {
    if stop.wait_for(Option::is_some).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits for an order to stop within a shorter time than before.
async fn shorter_order(
    stop: &mut watch::Receiver<Option<Duration>>,
    before: Option<Duration>,
) -> Duration {
    let is_shorter = |order: &Option<Duration>| {
        order.is_some_and(|grace| before.is_none_or(|before| grace < before))
    };
    let order = stop
        .wait_for(is_shorter)
        .await
        .ok()
        .and_then(|order| *order);
    match order {
        Some(grace) => grace,
        None => std::future::pending().await,
    }
}

fn cut(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
    message
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

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(cut("short".to_owned()), "short");
        assert_eq!(
            cut(format!("x{}", "é".repeat(4096))).len(),
            LONGEST_MESSAGE - 1
        );
    }
}
