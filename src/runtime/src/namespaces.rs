//! What the processes of a pod have in common besides its network: the IPC namespace, the process table, and the pod's name.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::ipc::Ipc;
use crate::pod::PodConfig;
use crate::process::Process;

/// A pod's namespaces.
pub(crate) struct Namespaces {
    pub(crate) ipc: Ipc,
    pub(crate) hostname: String,
    pub(crate) domain: Option<String>,
    share_processes: bool,
    last_id: AtomicU32,
    processes: Mutex<Vec<Listed>>,
}

/// A process in its pod's table.
#[derive(Clone)]
pub(crate) struct Listed {
    pub(crate) member: Arc<Member>,
    pub(crate) process: Process,
}

/// What a process is among those of its pod.
pub(crate) struct Member {
    pub(crate) id: u32,
    pub(crate) container: String,
    pub(crate) command: Vec<String>,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) namespaces: Arc<Namespaces>,
}

impl Namespaces {
    pub(crate) fn new(pod: &PodConfig, engine: wasmtime::Engine) -> Arc<Self> {
        Arc::new(Self {
            ipc: Ipc::new(pod.ipc.clone(), engine),
            hostname: pod.hostname.clone(),
            domain: pod.domain.clone(),
            share_processes: pod.share_processes,
            last_id: AtomicU32::new(0),
            processes: Mutex::default(),
        })
    }

    /// A new member of the pod. It is listed when it [runs](Self::list).
    pub(crate) fn member(self: &Arc<Self>, container: String, command: Vec<String>) -> Arc<Member> {
        Arc::new(Member {
            id: self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            container,
            command,
            lifecycle: Arc::new(Lifecycle::new()),
            namespaces: Arc::clone(self),
        })
    }

    fn processes(&self) -> MutexGuard<'_, Vec<Listed>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a process, until it has ended.
    pub(crate) fn list(&self, listed: Listed) {
        let mut processes = self.processes();
        processes.retain(|listed| listed.process.exit().is_none());
        processes.push(listed);
    }

    /// The pod is gone: so is the table, whose processes know it.
    pub(crate) fn end(&self) {
        let gone = std::mem::take(&mut *self.processes());
        drop(gone);
    }

    /// Those that run, oldest first.
    pub(crate) fn running(&self) -> Vec<Listed> {
        let processes = self.processes();
        let running = processes
            .iter()
            .filter(|listed| listed.process.exit().is_none());
        running.cloned().collect()
    }
}

impl Member {
    /// The processes that this one may know of, oldest first.
    pub(crate) fn visible(&self) -> Vec<Listed> {
        let mut visible = self.namespaces.running();
        if !self.namespaces.share_processes {
            visible.retain(|listed| listed.member.container == self.container);
        }
        visible
    }

    pub(crate) fn find(&self, id: u32) -> Option<Process> {
        let mut visible = self.visible().into_iter();
        let found = visible.find(|listed| listed.member.id == id)?;
        Some(found.process)
    }
}

/// Whether a process is to end, and whether it wants to know.
pub(crate) struct Lifecycle {
    state: watch::Sender<Wanted>,
    heeded: AtomicBool,
}

/// What is wanted of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    ToRun,
    /// To end until then, if there is a bound.
    ToEnd(Option<Instant>),
}

impl Lifecycle {
    fn new() -> Self {
        Self {
            state: watch::Sender::new(Wanted::ToRun),
            heeded: AtomicBool::new(false),
        }
    }

    /// The process is to end within that time. The shorter one counts.
    pub(crate) fn end_within(&self, grace: Duration) {
        let end = Instant::now().checked_add(grace);
        self.state.send_if_modified(|wanted| {
            let sooner = match *wanted {
                Wanted::ToRun => end,
                Wanted::ToEnd(before) => [before, end].into_iter().flatten().min(),
            };
            std::mem::replace(wanted, Wanted::ToEnd(sooner)) != Wanted::ToEnd(sooner)
        });
    }

    /// Whether it is to end, and how much time is left for it if there is a bound.
    #[expect(
        clippy::option_option,
        reason = "whether it is to end is one thing, whether there is a bound is another"
    )]
    pub(crate) fn ending(&self) -> Option<Option<Duration>> {
        match *self.state.borrow() {
            Wanted::ToRun => None,
            Wanted::ToEnd(end) => {
                Some(end.map(|end| end.saturating_duration_since(Instant::now())))
            }
        }
    }

    /// The guest will listen: it is given its time.
    pub(crate) fn heed(&self) {
        self.heeded.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_heeded(&self) -> bool {
        self.heeded.load(Ordering::Relaxed)
    }

    /// Waits until the process is to end.
    pub(crate) async fn ended(&self) {
        let mut state = self.state.subscribe();
        // The sender is ours, so it can't be gone.
        let _ = state.wait_for(|wanted| *wanted != Wanted::ToRun).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_shortest_time_counts() {
        let lifecycle = Lifecycle::new();
        assert_eq!(lifecycle.ending(), None);
        lifecycle.end_within(Duration::MAX);
        lifecycle.ended().await;
        assert_eq!(lifecycle.ending(), Some(None));
        lifecycle.end_within(Duration::from_secs(30));
        tokio::time::sleep(Duration::from_secs(10)).await;
        lifecycle.end_within(Duration::from_mins(1));
        assert_eq!(lifecycle.ending(), Some(Some(Duration::from_secs(20))));
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(lifecycle.ending(), Some(Some(Duration::ZERO)));
    }
}
