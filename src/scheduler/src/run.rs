//! The loop: events in, decisions out.

use std::{collections::HashSet, fmt::Debug, future};

use futures::{StreamExt as _, stream::BoxStream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Options,
    bind::{Outcome, Speaker},
    cluster::Cluster,
    filter,
    pod::{Needs, PodInfo, PodKey, Stage},
    queue::Queue,
    score,
};

/// Pods that hold no resources any more are of no interest.
const LIVE_PODS: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// Schedules pods until `shutdown`. Errors of the API server are waited out.
pub async fn run(client: Client, options: Options, shutdown: CancellationToken) {
    let mut pods = follow(
        Api::<Pod>::all(client.clone()),
        watcher::Config::default().fields(LIVE_PODS),
    );
    let mut nodes = follow(Api::<Node>::all(client.clone()), watcher::Config::default());
    let mut scheduler = Scheduler::new(Speaker::new(client, options.name.clone()), options);
    loop {
        scheduler.decide();
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(event) = pods.next() => scheduler.pod_event(event),
            Some(event) = nodes.next() => scheduler.node_event(event),
            Some(done) = scheduler.bindings.join_next() => scheduler.bound(done.ok()),
            Some(_) = scheduler.sayings.join_next() => {}
            () = sleep_until(scheduler.queue.next_tick()) => scheduler.queue.tick(Instant::now()),
        }
    }
}

/// A watch that goes on whatever happens.
fn follow<K>(api: Api<K>, config: watcher::Config) -> BoxStream<'static, watcher::Event<K>>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, config)
        .default_backoff()
        .filter_map(|event| {
            if let Err(error) = &event {
                tracing::debug!(%error, "watch interrupted");
            }
            future::ready(event.ok())
        })
        .boxed()
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => future::pending().await,
    }
}

/// A binding that ended: the pod, what it needs, where it was to go, and how it ended.
type Binding = (PodKey, String, Outcome);

struct Scheduler {
    options: Options,
    speaker: Speaker,
    cluster: Cluster,
    queue: Queue,
    bindings: JoinSet<Binding>,
    /// Conditions and events on their way. They hold nothing up.
    sayings: JoinSet<()>,
    /// Pods that are being bound: their events still say that they wait.
    binding: HashSet<PodKey>,
    turn: usize,
    /// What a list that has begun has shown so far; nothing is decided before both lists are whole.
    pods_seen: Listing<PodKey>,
    nodes_seen: Listing<String>,
}

/// Whether a first or renewed list is whole.
enum Listing<K> {
    /// No list has been whole yet, or a renewed one is under way: this much of it has come.
    Under(HashSet<K>, Before),
    Whole,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    AWholeList,
}

impl<K> Listing<K> {
    fn new() -> Self {
        Self::Under(HashSet::new(), Before::Nothing)
    }

    fn begin(&mut self) {
        let before = if self.usable() {
            Before::AWholeList
        } else {
            Before::Nothing
        };
        *self = Self::Under(HashSet::new(), before);
    }

    /// Whether the picture can be decided by: a renewed list does not stop the work.
    fn usable(&self) -> bool {
        !matches!(self, Self::Under(_, Before::Nothing))
    }

    fn end(&mut self) -> HashSet<K> {
        match std::mem::replace(self, Self::Whole) {
            Self::Under(seen, _) => seen,
            Self::Whole => HashSet::new(),
        }
    }
}

impl<K: std::hash::Hash + Eq> Listing<K> {
    fn saw(&mut self, key: K) {
        if let Self::Under(seen, _) = self {
            seen.insert(key);
        }
    }
}

impl Scheduler {
    fn new(speaker: Speaker, options: Options) -> Self {
        Self {
            options,
            speaker,
            cluster: Cluster::default(),
            queue: Queue::default(),
            bindings: JoinSet::new(),
            sayings: JoinSet::new(),
            binding: HashSet::new(),
            turn: 0,
            pods_seen: Listing::new(),
            nodes_seen: Listing::new(),
        }
    }

    fn pod_event(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => self.pods_seen.begin(),
            watcher::Event::InitApply(pod) | watcher::Event::Apply(pod) => {
                let info = PodInfo::of(&pod, &self.options.name);
                self.pods_seen.saw(info.key.clone());
                self.pod_is(info);
            }
            watcher::Event::Delete(pod) => {
                self.pod_gone(&PodInfo::of(&pod, &self.options.name).key);
            }
            watcher::Event::InitDone => {
                let seen = self.pods_seen.end();
                let gone: Vec<_> = self
                    .cluster
                    .placed()
                    .filter(|key| !seen.contains(key))
                    .cloned()
                    .collect();
                for key in gone {
                    self.pod_gone(&key);
                }
                self.queue.retain(|key| seen.contains(key));
            }
        }
    }

    fn pod_is(&mut self, info: PodInfo) {
        match info.stage {
            Stage::Placed(node) => {
                self.queue.remove(&info.key);
                self.cluster.place(info.key, &node, info.needs);
            }
            // What we are binding counts where we put it; its event is from before.
            Stage::Waiting
                if self.binding.contains(&info.key) || self.cluster.is_placed(&info.key) => {}
            Stage::Waiting => self.queue.add(&info.key, info.needs, Instant::now()),
            Stage::NotOurs => self.queue.remove(&info.key),
            Stage::Done => self.pod_gone(&info.key),
        }
    }

    fn pod_gone(&mut self, key: &PodKey) {
        self.queue.remove(key);
        if self.cluster.remove(key) {
            self.queue.something_changed(Instant::now());
        }
    }

    fn node_event(&mut self, event: watcher::Event<Node>) {
        match event {
            watcher::Event::Init => self.nodes_seen.begin(),
            watcher::Event::InitApply(node) | watcher::Event::Apply(node) => {
                self.nodes_seen
                    .saw(node.metadata.name.clone().unwrap_or_default());
                if self.cluster.set_node(&node) {
                    self.queue.something_changed(Instant::now());
                }
            }
            watcher::Event::Delete(node) => self
                .cluster
                .remove_node(node.metadata.name.as_deref().unwrap_or_default()),
            watcher::Event::InitDone => {
                let seen = self.nodes_seen.end();
                self.cluster.retain_nodes(|name| seen.contains(name));
            }
        }
    }

    /// Finds nodes for as many pods as there is room for bindings under way.
    fn decide(&mut self) {
        if !(self.pods_seen.usable() && self.nodes_seen.usable()) {
            return;
        }
        while self.bindings.len() < self.options.bindings {
            let Some((key, needs)) = self.queue.pop() else {
                return;
            };
            match self.choose(&needs) {
                Some(node) => self.bind(key, node, needs),
                None => self.give_up(key, &needs),
            }
        }
    }

    fn choose(&mut self, needs: &Needs) -> Option<String> {
        let fitting: Vec<_> = self
            .cluster
            .nodes()
            .filter(|node| filter::refusals(needs, node).is_empty())
            .collect();
        self.turn = self.turn.wrapping_add(1);
        score::best(needs, &fitting, self.turn).map(|node| node.name.clone())
    }

    fn bind(&mut self, key: PodKey, node: String, needs: Needs) {
        self.cluster.place(key.clone(), &node, needs);
        self.binding.insert(key.clone());
        let speaker = self.speaker.clone();
        self.bindings.spawn(async move {
            let outcome = speaker.bind(&key, &node).await;
            (key, node, outcome)
        });
    }

    fn bound(&mut self, done: Option<Binding>) {
        let Some((key, node, outcome)) = done else {
            return;
        };
        self.binding.remove(&key);
        match outcome {
            Outcome::Bound => {
                self.queue.remove(&key);
                let speaker = self.speaker.clone();
                self.sayings
                    .spawn(async move { speaker.scheduled(&key, &node).await });
            }
            Outcome::Moot => {
                // If it lives, the watch says where; then it counts there.
                self.queue.remove(&key);
                self.cluster.remove(&key);
            }
            Outcome::Failed(error) => {
                tracing::warn!(pod = %key.name, node, %error, "cannot bind");
                self.cluster.remove(&key);
                self.queue.try_again(&key, Instant::now());
            }
        }
    }

    fn give_up(&mut self, key: PodKey, needs: &Needs) {
        let message = filter::message(needs, &self.cluster);
        if self.queue.give_up(&key, &message, Instant::now()) {
            let speaker = self.speaker.clone();
            self.sayings
                .spawn(async move { speaker.unschedulable(&key, message).await });
        }
    }
}
