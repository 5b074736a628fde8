//! The life of a pod on this node.
//!
//! ```text
//! Starting ──volumes, network──▶ Running ──done, failed, deleted──▶ Stopping ──▶ Over ──deleted──▶ (object removed)
//!     └────────────────── deleted, or it had ended before ──────────────────▶┘
//! ```
//!
//! A worker begins when a pod is bound to the node, or when the node starts and the pod was bound before, and ends
//! when its object is gone. Dropping it cuts off whatever runs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::{Resource as _, ResourceExt as _};
use tokio::{sync::watch, time::sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use vaquita_backends::{Nowhere, Runnable, Sandbox};
use vaquita_logs::PodKey;
use vaquita_manifest::{
    RestartPolicy, Role, ephemeral_containers, init_containers, own_grace, sandbox_config,
};

use super::{
    Context, Feed,
    backoff::Doubling,
    board::{Board, Facts, Record, State, Verdict},
    container::{Memory, Runner},
    publish::{self, Publisher},
    resize::{self, Decision},
    restore,
    status::Phase,
    storage::Storage,
};

/// How soon a network is tried to get again at first; then twice as long each time.
const SANDBOX_RETRY: Duration = Duration::from_secs(1);
const LONGEST_SANDBOX_RETRY: Duration = Duration::from_secs(30);

/// Where a pod is in its life.
enum Stage {
    /// It does not have its volumes and its network yet.
    Starting,
    /// Its containers run, or are about to.
    Running(Crew),
    /// Its containers are told to end.
    Stopping(Crew),
    /// Nothing of it runs any more.
    Over,
}

/// The containers' runners.
struct Crew {
    sandbox: Arc<dyn Sandbox>,
    storage: Arc<Storage>,
    /// By the container's place on the board.
    members: BTreeMap<usize, Member>,
}

struct Member {
    role: Role,
    stop: watch::Sender<Option<Duration>>,
    task: AbortOnDropHandle<()>,
}

/// Runs one pod.
pub(crate) struct Worker {
    context: Arc<Context>,
    feed: watch::Receiver<Feed>,
    board: Arc<Board>,
}

impl Worker {
    /// A worker for a pod that may have run here before. With a verdict, the pod is refused.
    pub(crate) fn new(
        context: Arc<Context>,
        feed: watch::Receiver<Feed>,
        verdict: Option<Verdict>,
    ) -> Self {
        let pod = feed.borrow().pod.clone();
        let now = Timestamp::now();
        let left = context.backend.survivors(&pod.uid().unwrap_or_default());
        let facts = restore::facts(&pod, now, &left);
        let facts = Facts {
            start_time: facts.start_time.or(Some(now)),
            verdict,
            ..facts
        };
        Self {
            context,
            feed,
            board: Arc::new(Board::new(facts)),
        }
    }

    /// What is known of the pod.
    pub(crate) fn board(&self) -> Arc<Board> {
        self.board.clone()
    }

    /// Runs the pod until its object is gone.
    pub(crate) async fn run(mut self) {
        let (context, feed, board) = (self.context.clone(), self.feed.clone(), self.board.clone());
        let over = CancellationToken::new();
        let publisher = Publisher {
            context,
            feed,
            board,
        }
        .run(over.clone());
        let life = async {
            Box::pin(self.live()).await;
            self.board.update(|facts| facts.is_stopped = true);
            over.cancel();
        };
        tokio::join!(publisher, life);
        let pod = self.pod();
        if !self.feed.borrow().is_gone {
            publish::delete(&self.context, &pod).await;
        }
        // Finalizers may keep the object; nothing is left to do for it here.
        let _ = self.feed.wait_for(|feed| feed.is_gone).await;
        self.context.logs.remove(&PodKey::of(&pod));
    }

    fn pod(&self) -> Arc<Pod> {
        self.feed.borrow().pod.clone()
    }

    fn about(&self) -> Arc<ObjectReference> {
        Arc::new(self.pod().object_ref(&()))
    }

    /// Goes through the stages, until nothing runs and the pod is to be deleted.
    async fn live(&mut self) {
        let had_ended = Phase::of(&self.pod()).is_final() || self.board.read(Facts::is_done);
        let is_refused = self.board.read(|facts| facts.verdict.is_some());
        let mut stage = if had_ended || is_refused {
            Stage::Over
        } else {
            Stage::Starting
        };
        loop {
            stage = match stage {
                Stage::Starting => self.starting().await,
                Stage::Running(crew) => self.running(crew).await,
                Stage::Stopping(crew) => self.stopping(crew).await,
                Stage::Over => {
                    self.context
                        .ledger
                        .release(&self.pod().uid().unwrap_or_default());
                    self.remove_volumes().await;
                    self.deletion().await;
                    return;
                }
            };
        }
    }

    /// Removes what the pod had on disk: nothing of it runs any more, and never will.
    async fn remove_volumes(&self) {
        let uid = self.pod().uid().unwrap_or_default();
        self.context.backend.remove(&uid).await;
        let dir = self.context.volumes.of(&uid);
        // Without an answer, the process is ending.
        let _ = tokio::task::spawn_blocking(move || dir.remove()).await;
    }

    /// Waits until the pod is to end.
    async fn deletion(&self) {
        // Without a sender, the node is ending, and this with it.
        let mut feed = self.feed.clone();
        if feed.wait_for(|feed| feed.grace().is_some()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn starting(&self) -> Stage {
        let ready = async {
            let mut storage = Box::pin(Storage::set_up(&self.context, &self.feed)).await;
            let sandbox = self.sandbox().await;
            if let Err(error) = storage.share_memory(&*sandbox).await {
                let message =
                    format!("the pod's modules do not see its volumes in memory: {error}");
                let events = &self.context.events;
                events.warning(&self.about(), "FailedMount", message);
            }
            (storage, sandbox)
        };
        let (storage, sandbox) = tokio::select! {
            biased;
            () = self.deletion() => return Stage::Over,
            ready = ready => ready,
        };
        self.board.update(|facts| {
            facts.ip = Some(sandbox.ip());
            facts.has_sandbox = true;
        });
        Stage::Running(Crew {
            sandbox,
            storage: Arc::new(storage),
            members: BTreeMap::new(),
        })
    }

    /// Whether some of the pod's containers is no module, as its images say; those that nobody has are brought in first,
    /// however long it takes. Without a backend for anything else, all are taken for modules.
    async fn is_native(&self) -> bool {
        let backend = &self.context.backend;
        if !backend.runs_native() {
            return false;
        }
        if !backend
            .survivors(&self.pod().uid().unwrap_or_default())
            .is_empty()
        {
            return true;
        }
        let containers: Vec<(usize, String)> = {
            let pod = self.pod();
            let spec = pod.spec.as_ref();
            let all = spec.map(|spec| [init_containers(spec), spec.containers.as_slice()].concat());
            let images = all
                .unwrap_or_default()
                .into_iter()
                .map(|one| one.image.unwrap_or_default());
            images.enumerate().collect()
        };
        for (index, name) in containers {
            let image = match self.context.find_image(&name).await {
                Ok(Some(image)) => image,
                _ => self.bring_in(index).await,
            };
            if image.is_native() {
                return true;
            }
        }
        false
    }

    /// Gets a container's image before there is a sandbox for it.
    async fn bring_in(&self, index: usize) -> Runnable {
        let (_stop, orders) = watch::channel(None);
        let runner = Runner {
            context: self.context.clone(),
            feed: self.feed.clone(),
            board: self.board.clone(),
            index,
            sandbox: Arc::new(Nowhere),
            storage: Arc::new(Storage::empty()),
            stop: orders,
            memory: Memory::default(),
        };
        loop {
            if let Some((image, _)) = runner.image(&runner.container()).await {
                return image;
            }
        }
    }

    /// Gets the pod a network, however long it takes.
    async fn sandbox(&self) -> Arc<dyn Sandbox> {
        let is_native = self.is_native().await;
        let mut retry = Doubling::new(SANDBOX_RETRY, LONGEST_SANDBOX_RETRY);
        loop {
            let host = self.context.host_ips.first().copied();
            let dir = self
                .context
                .volumes
                .of(&self.pod().uid().unwrap_or_default());
            let before = self.board.read(|facts| facts.ip);
            let mut config = sandbox_config(&self.pod(), before, host, dir.path().to_owned());
            config.is_native = is_native;
            match self.context.backend.sandbox(config).await {
                Ok(sandbox) => return sandbox,
                Err(error) => {
                    let message = format!("Failed to create pod sandbox: {error}");
                    self.context
                        .events
                        .warning(&self.about(), "FailedCreatePodSandBox", message);
                }
            }
            sleep(retry.next()).await;
        }
    }

    async fn running(&self, mut crew: Crew) -> Stage {
        let mut guests = Crew {
            sandbox: crew.sandbox.clone(),
            storage: crew.storage.clone(),
            members: BTreeMap::new(),
        };
        tokio::select! {
            biased;
            () = self.deletion() => {}
            () = self.deadline() => {
                let message = "Pod was active on the node longer than the specified deadline".to_owned();
                self.context.events.normal(&self.about(), "DeadlineExceeded", message.clone());
                self.board.update(|facts| facts.verdict = Some(Verdict { reason: "DeadlineExceeded", message, grace: None }));
            }
            () = self.board.wait_until(|facts| facts.verdict.is_some()) => {}
            () = self.follow_resources() => {}
            () = self.operate(&mut crew) => {}
            () = self.admit(&mut guests) => {}
        }
        crew.members.append(&mut guests.members);
        // Nobody but the crew holds these any more: see `stopping`.
        drop(guests);
        Stage::Stopping(crew)
    }

    /// Gives the pod other resources whenever its manifest wants that, for ever.
    async fn follow_resources(&self) {
        let mut feed = self.feed.clone();
        let Context {
            ledger, capacity, ..
        } = &*self.context;
        self.board
            .read(|facts| resize::enter(ledger, &self.pod(), facts));
        let mut said = None;
        loop {
            // Before the look, so that nothing that changes meanwhile is missed.
            let mut room = ledger.freed();
            let pod = feed.borrow_and_update().pod.clone();
            let look = |facts: &mut Facts| {
                let before = facts.pending.clone();
                let decision = resize::decide(ledger, capacity, &pod, facts);
                (decision, facts.pending != before)
            };
            // Most news are about something else: only what has changed is told.
            let is_news = |(decision, is_other): &(Decision, bool)| {
                *is_other || matches!(decision, Decision::Allocated(_))
            };
            let (decision, _) = self.board.update_if(look, is_news);
            let mut may_pass = false;
            match decision {
                Decision::Unchanged => {}
                Decision::Allocated(what) => {
                    let message = format!("Pod resize started: {what}");
                    self.context
                        .events
                        .normal(&self.about(), "ResizeStarted", message);
                }
                Decision::Pending(pending) => {
                    may_pass = pending.may_pass();
                    if said.as_ref() != Some(&pending) {
                        let reason = if may_pass {
                            "ResizeDeferred"
                        } else {
                            "ResizeInfeasible"
                        };
                        let message = format!("Pod resize {}: {}", pending.reason, pending.message);
                        self.context.events.warning(&self.about(), reason, message);
                        said = Some(pending);
                    }
                }
            }
            tokio::select! {
                changed = feed.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                _ = room.changed(), if may_pass => {}
            }
        }
    }

    /// Waits until the pod has been active for longer than it may.
    async fn deadline(&self) {
        let deadline = self
            .pod()
            .spec
            .as_ref()
            .and_then(|spec| spec.active_deadline_seconds);
        let start = self.board.read(|facts| facts.start_time);
        let (Some(deadline), Some(start)) = (deadline, start) else {
            return std::future::pending().await;
        };
        let passed = Timestamp::now().as_second() - start.as_second();
        let left = u64::try_from(deadline.saturating_sub(passed)).unwrap_or(0);
        sleep(Duration::from_secs(left)).await;
    }

    /// Runs init containers in their order and then the others, until none of these will run any more.
    async fn operate(&self, crew: &mut Crew) {
        let roles: Vec<Role> = self
            .board
            .read(|facts| facts.containers.iter().map(|record| record.role).collect());
        for (index, role) in roles
            .iter()
            .enumerate()
            .filter(|(_, role)| matches!(role, Role::Init | Role::Sidecar))
        {
            if !self.board.read(|facts| facts.containers[index].is_done()) {
                self.hire(crew, index, *role);
            }
            match role {
                Role::Sidecar => {
                    self.board
                        .wait_until(|facts| facts.containers[index].is_started())
                        .await;
                }
                Role::Init | Role::Main | Role::Ephemeral => {
                    self.board
                        .wait_until(|facts| facts.containers[index].is_done())
                        .await;
                    let has_failed = self.board.read(|facts| {
                        facts.containers[index]
                            .latest_end()
                            .is_some_and(|end| end.code != 0)
                    });
                    if has_failed {
                        return;
                    }
                }
            }
        }
        for (index, role) in roles
            .iter()
            .enumerate()
            .filter(|(_, role)| **role == Role::Main)
        {
            if self.board.read(|facts| facts.containers[index].is_done()) {
                continue;
            }
            self.hire(crew, index, *role);
            // In the manifest's order, as upstream does it: the one that comes first gets a port that two want.
            self.board
                .wait_until(|facts| !facts.containers[index].is_being_created())
                .await;
        }
        self.board.wait_until(Facts::is_done).await;
    }

    /// Starts ephemeral containers as they are added, for ever.
    async fn admit(&self, crew: &mut Crew) {
        let mut feed = self.feed.clone();
        loop {
            let pod = feed.borrow_and_update().pod.clone();
            let wanted = pod.spec.as_ref().map(ephemeral_containers);
            for container in wanted.unwrap_or_default() {
                let place = self.board.update(|facts| {
                    let is_known = |record: &Record| record.name == container.name;
                    if facts.containers.iter().any(is_known) {
                        return None;
                    }
                    let record = Record::new(
                        &container,
                        Role::Ephemeral,
                        RestartPolicy::Never,
                        "ContainerCreating",
                    );
                    facts.containers.push(record);
                    Some(facts.containers.len() - 1)
                });
                if let Some(place) = place {
                    self.hire(crew, place, Role::Ephemeral);
                }
            }
            if feed.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn hire(&self, crew: &mut Crew, index: usize, role: Role) {
        if role == Role::Main {
            // What has waited for the init containers waits for itself now.
            self.board.update(|facts| {
                if let State::Waiting { reason, .. } = &mut facts.containers[index].state {
                    *reason = "ContainerCreating";
                }
            });
        }
        let (stop, orders) = watch::channel(None);
        let runner = Runner {
            context: self.context.clone(),
            feed: self.feed.clone(),
            board: self.board.clone(),
            index,
            sandbox: crew.sandbox.clone(),
            storage: crew.storage.clone(),
            stop: orders,
            memory: Memory::default(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(runner.run()));
        crew.members.insert(index, Member { role, stop, task });
    }

    /// Ends the main containers, then the sidecars, last started first; all of them within the pod's grace.
    async fn stopping(&mut self, mut crew: Crew) -> Stage {
        let began = tokio::time::Instant::now();
        let sidecars: Vec<usize> = crew
            .members
            .iter()
            .filter(|(_, member)| member.role == Role::Sidecar)
            .map(|(index, _)| *index)
            .collect();
        let others = crew
            .members
            .keys()
            .copied()
            .filter(|index| !sidecars.contains(index))
            .collect();
        let groups = std::iter::once(others).chain(sidecars.iter().rev().map(|index| vec![*index]));
        let (board, sandbox) = (self.board.clone(), crew.sandbox.clone());
        let withdrawing = AbortOnDropHandle::new(tokio::spawn(async move {
            board.wait_until(Facts::is_leaving).await;
            sandbox.withdraw();
        }));
        for group in groups {
            self.stop_group(&mut crew, &group, began).await;
        }
        drop(withdrawing);
        crew.sandbox.shutdown().await;
        if let Some(storage) = Arc::get_mut(&mut crew.storage) {
            storage.rest().await;
        }
        self.board.update(|facts| facts.has_sandbox = false);
        Stage::Over
    }

    async fn stop_group(&mut self, crew: &mut Crew, group: &[usize], began: tokio::time::Instant) {
        loop {
            let feed = self.feed.borrow_and_update().clone();
            let verdict = |facts: &Facts| facts.verdict.as_ref()?.grace;
            let own = || {
                self.board
                    .read(verdict)
                    .unwrap_or_else(|| own_grace(&feed.pod))
            };
            let grace = feed.grace().unwrap_or_else(own);
            let left = grace.saturating_sub(began.elapsed());
            for index in group {
                if let Some(member) = crew.members.get(index) {
                    member.stop.send_replace(Some(left));
                }
            }
            let ended = async {
                for index in group {
                    if let Some(member) = crew.members.get_mut(index) {
                        // A panic has been reported, and has ended it as well.
                        let _ = (&mut member.task).await;
                        crew.members.remove(index);
                    }
                }
            };
            tokio::select! {
                () = ended => return,
                // The grace may have been cut short.
                changed = self.feed.changed() => if changed.is_err() { return },
            }
        }
    }
}
