//! Watching over an instance: its hooks, its probes, and its end.

use std::{future::pending, io::Read as _, pin::pin, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use kube::ResourceExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use vaquita_backends::Exit;
use vaquita_checks::{Action, Checks, Commands, Kind, Outcome, Signal, Target};
use vaquita_logs::{PodKey, Query};
use vaquita_manifest::{own_grace, resources};

use super::{
    super::{
        board::{Facts, State, Termination},
        resize::Change,
    },
    Runner, Running,
};
use crate::exec::Executor;

/// How much longer than its grace an instance may take to end before it is killed from outside.
const SLACK: Duration = Duration::from_secs(1);
/// What an instance gets at least of its grace after its preStop hook: upstream's.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// The longest message about an end, in bytes: upstream's limit for termination messages.
const LONGEST_MESSAGE: usize = 4096;
/// How soon a change of resources that failed is tried again.
const RESIZE_RETRY: Duration = Duration::from_secs(5);
/// The exit code of what was killed.
const KILLED: i32 = 137;
/// What of a log stands in for a termination message: lines, and bytes.
const LOG_LINES: u64 = 80;
const LOG_BYTES: usize = 2048;

/// How far the end of an instance has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It is to run.
    No,
    /// Its preStop hook runs, until then at the most.
    Hook(Instant),
    /// It has been told.
    Told,
}

/// Runs commands for probes and hooks.
struct InContainer<'a>(&'a Runner);

#[async_trait]
impl Commands for InContainer<'_> {
    async fn run(&self, command: Vec<String>) -> Result<(i32, String), String> {
        let runner = self.0;
        let name = runner.update(|record| record.name.clone());
        let executor = Executor {
            context: runner.context.clone(),
        };
        let pod = runner.pod();
        let ran = executor.run(&pod, &runner.board, &name, command);
        ran.await.map_err(|error| error.to_string())
    }
}

impl Runner {
    /// Waits for the instance's end, and sees to it that it comes when it must. Also says whether the instance makes
    /// place for another one, of a new image.
    pub(super) async fn watch_over(&self, running: &Running) -> (Exit, bool) {
        let (sender, mut signals) = mpsc::channel(16);
        let commands = InContainer(self);
        let target = Target {
            sandbox: &*self.sandbox,
            commands: &commands,
        };
        let checks = Checks::of(&running.container);
        let has_readiness = checks.readiness.is_some();
        let mut course = pin!(course(running, checks, target, sender));
        let mut is_course_over = false;
        let mut image_changed = pin!(self.image_changed(running.container.image.as_deref()));
        let mut resizing = pin!(self.resize(running));
        let mut hook = pin!(self.pre_stop(running, target));
        let has_hook = hook_of(running, End::Last).is_some();
        let mut ending = Ending::No;
        let mut is_replaced = false;
        let mut stop = self.stop.clone();
        let mut ordered_grace = None;
        let mut kill_at: Option<Instant> = None;
        loop {
            let hook_over = match ending {
                Ending::Hook(until) => Some(until),
                Ending::No | Ending::Told => None,
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
                () = at(kill_at) => {
                    running.instance.kill();
                    kill_at = None;
                    continue;
                }
                () = async { tokio::select! { () = &mut hook => {} () = at(hook_over) => {} } }, if hook_over.is_some() => {
                    ending = Ending::Told;
                    let left = hook_over.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
                    tell(running, left.max(LEAST_GRACE), &mut kill_at);
                    self.update(|record| record.is_told = ordered_grace.is_some());
                    continue;
                }
                () = &mut image_changed, if !is_replaced => {
                    is_replaced = true;
                    let name = &running.container.name;
                    self.say_killing(running, format!("Container {name} definition changed, will be restarted"));
                    own_grace(&self.pod())
                }
                () = &mut resizing, if !is_replaced && ending == Ending::No => {
                    is_replaced = true;
                    let name = &running.container.name;
                    self.say_killing(running, format!("Container {name} resize requires restart"));
                    own_grace(&self.pod())
                }
                () = &mut course, if !is_course_over && ending == Ending::No => {
                    is_course_over = true;
                    continue;
                }
                Some(signal) = signals.recv() => match self.heed(running, signal, has_readiness) {
                    Some(grace) => grace,
                    None => continue,
                },
            };
            ending = match ending {
                Ending::No if has_hook && !grace.is_zero() => Ending::Hook(Instant::now() + grace),
                // The grace has been cut short.
                Ending::Hook(until) if !grace.is_zero() => {
                    Ending::Hook(until.min(Instant::now() + grace))
                }
                _ => {
                    tell(running, grace, &mut kill_at);
                    self.update(|record| record.is_told = ordered_grace.is_some());
                    Ending::Told
                }
            };
        }
    }

    /// Gives the instance what is allocated to the container, whenever that changes. Returns when it takes another instance.
    async fn resize(&self, running: &Running) {
        loop {
            let is_wanted = |facts: &Facts| facts.containers[self.index].is_resizing();
            self.board.wait_until(is_wanted).await;
            let change = self.update(|record| Change {
                from: record.actual.clone(),
                to: record.allocated.clone(),
            });
            if change.needs_restart(&running.container) {
                return;
            }
            let resized = Container {
                resources: Some(change.to.clone()),
                ..Container::default()
            };
            let outcome = match running.grants.bound(resources(&resized)) {
                Ok(resources) => running.instance.resize(resources).await,
                Err(problem) => Err(problem),
            };
            let has_failed = outcome.is_err();
            if !has_failed {
                let message = format!("Pod resize completed: {change:?}");
                let (events, about) = (&self.context.events, self.about());
                events.normal(&about, "ResizeCompleted", message);
            }
            self.update(|record| {
                record.resize_error = outcome.err();
                if !has_failed {
                    record.actual = change.to;
                }
            });
            if has_failed {
                sleep(RESIZE_RETRY).await;
            }
        }
    }

    /// Runs the preStop hook. What it does not succeed in is said, and changes nothing.
    async fn pre_stop(&self, running: &Running, target: Target<'_>) {
        let Some(hook) = hook_of(running, End::Last) else {
            return;
        };
        let outcome = perform(hook, running, target).await;
        if let Err(message) = outcome {
            let container = &running.container.name;
            tracing::debug!(container, message, "a preStop hook failed");
            let (events, about) = (&self.context.events, self.about());
            events.warning(&about, "FailedPreStopHook", "PreStopHook failed");
        }
    }

    /// What the container has to say about its end: what it left in its file, or else, if the manifest wants it, the
    /// end of its log; or else what is known from outside.
    async fn last_words(&self, exit: &Exit) -> Option<String> {
        let container = self.container();
        let dir = self
            .context
            .volumes
            .of(&self.pod().uid().unwrap_or_default());
        let file = dir.container(&container.name).join("termination-log");
        let read = tokio::task::spawn_blocking(move || {
            let mut words = Vec::new();
            let file = std::fs::File::open(file).ok()?;
            file.take(LONGEST_MESSAGE as u64)
                .read_to_end(&mut words)
                .ok()?;
            Some(String::from_utf8_lossy(&words).into_owned())
        });
        let left = read.await.ok().flatten();
        if let Some(left) = left.filter(|words| !words.is_empty()) {
            return Some(cut(left));
        }
        let wants_log =
            container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        if wants_log && exit.code != 0 {
            let log = self.end_of_log(&container.name).await;
            if !log.is_empty() {
                return Some(log);
            }
        }
        exit.message.clone().map(cut)
    }

    async fn end_of_log(&self, container: &str) -> String {
        let attempt = self.update(|record| record.restarts);
        let query = Query {
            tail: Some(LOG_LINES),
            ..Query::default()
        };
        let key = PodKey::of(&self.pod());
        let mut pieces = self
            .context
            .logs
            .reader(&key, container, attempt)
            .read(query);
        let mut end = Vec::new();
        while let Some(Ok(piece)) = pieces.recv().await {
            end.extend_from_slice(&piece);
            let surplus = end.len().saturating_sub(LOG_BYTES);
            end.drain(..surplus);
        }
        cut(String::from_utf8_lossy(&end).into_owned())
    }

    /// Does what a probe's outcome asks for. If that is the container's end, says within what time.
    fn heed(&self, running: &Running, signal: Signal, has_readiness: bool) -> Option<Duration> {
        match signal {
            Signal::Complaint(message) => {
                self.context
                    .events
                    .warning(&self.about(), "Unhealthy", message);
            }
            Signal::Warning(message) => {
                self.context
                    .events
                    .warning(&self.about(), "ProbeWarning", message);
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
            Signal::HookFailed(message) => {
                let name = &running.container.name;
                tracing::debug!(container = name, message, "a postStart hook failed");
                let (events, about) = (&self.context.events, self.about());
                events.warning(&about, "FailedPostStartHook", "PostStartHook failed");
                self.say_killing(running, "FailedPostStartHook".to_owned());
                return Some(own_grace(&self.pod()));
            }
            Signal::Dead(kind, grace) => {
                let name = &running.container.name;
                let probe = if kind == Kind::Startup {
                    "startup"
                } else {
                    "liveness"
                };
                let restarts = self.update(|record| record.restarting.after(record.role, KILLED));
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
    pub(super) async fn take_down(&mut self, exit: Exit, is_replaced: bool) -> bool {
        let message = self.last_words(&exit).await;
        let is_stopped = self.stop.borrow().is_some();
        let for_good = self.update(|record| {
            // Whoever is replaced starts again whatever the policy.
            let restarts = is_replaced || record.restarting.after(record.role, exit.code);
            let for_good = is_stopped || !restarts;
            let started_at = match record.state {
                State::Running { since, .. } => Some(since),
                State::Waiting { .. } | State::Terminated { .. } => None,
            };
            let end = Termination {
                code: exit.code,
                reason: exit.reason.as_str().to_owned(),
                message,
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

/// Which of a container's hooks.
#[derive(Debug, Clone, Copy)]
enum End {
    First,
    Last,
}

fn hook_of(running: &Running, end: End) -> Option<&LifecycleHandler> {
    let hooks = running.container.lifecycle.as_ref()?;
    match end {
        End::First => hooks.post_start.as_ref(),
        End::Last => hooks.pre_stop.as_ref(),
    }
}

async fn perform(
    hook: &LifecycleHandler,
    running: &Running,
    target: Target<'_>,
) -> Result<(), String> {
    let action = Action::of_hook(hook, &running.container)?;
    match action.attempt(target).await {
        Outcome::Success | Outcome::Warning(_) => Ok(()),
        Outcome::Failure(message) | Outcome::Unknown(message) => Err(message),
    }
}

/// What accompanies an instance while it runs: the postStart hook first, then its probes.
async fn course(
    running: &Running,
    checks: Checks,
    target: Target<'_>,
    signals: mpsc::Sender<Signal>,
) {
    if let Some(hook) = hook_of(running, End::First) {
        let signal = match perform(hook, running, target).await {
            Ok(()) if checks.startup.is_none() => Some(Signal::Started),
            Ok(()) => None,
            Err(message) => Some(Signal::HookFailed(message)),
        };
        let has_failed = matches!(signal, Some(Signal::HookFailed(_)));
        if let Some(signal) = signal {
            // Without a receiver, this future is about to be dropped.
            let _ = signals.send(signal).await;
        }
        if has_failed {
            return;
        }
    }
    vaquita_checks::run(checks, target, signals).await;
}

/// Asks an instance to end within that time, and has it killed some time later.
fn tell(running: &Running, grace: Duration, kill_at: &mut Option<Instant>) {
    running.instance.terminate(grace);
    let at = Instant::now() + grace + SLACK;
    *kill_at = Some(kill_at.map_or(at, |earlier| earlier.min(at)));
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(cut("short".to_owned()), "short");
        assert_eq!(
            cut(format!("x{}", "é".repeat(4096))).len(),
            LONGEST_MESSAGE - 1
        );
    }
}
