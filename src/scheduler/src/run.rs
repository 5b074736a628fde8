//! The loop: events in, decisions out.

use std::{collections::HashSet, fmt::Debug, future, sync::Arc};

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

/// How many decisions are made before events get their turn again.
const DECISIONS: usize = 256;
/// How many conditions and events may be on their way. Beyond that, events are dropped, and conditions wait for the
/// pod's next turn.
const SAYINGS: usize = 1024;
/// Of clusters of at most so many nodes all are looked at; of larger ones, a share that shrinks with the size.
const ALL_NODES: usize = 100;

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
        let more = scheduler.can_decide();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = future::ready(()), if more => {}
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

/// A binding that ended: the pod, where it was to go, and how it ended.
type Binding = (PodKey, String, Outcome);

struct Scheduler {
    options: Options,
    speaker: Speaker,
    cluster: Cluster,
    queue: Queue,
    bindings: JoinSet<Binding>,
    /// Conditions and events on their way. They hold nothing up.
    sayings: JoinSet<()>,
    /// Pods that are being bound and not yet seen on their nodes: their events still say that they wait.
    binding: HashSet<PodKey>,
    turn: usize,
    /// Where the search for nodes goes on in a large cluster.
    next_node: usize,
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
            next_node: 0,
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
                // Confirmed: whatever becomes of our request, the pod is there.
                self.binding.remove(&info.key);
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

    /// Whether there is a pod to find a node for, and room for its binding.
    fn can_decide(&self) -> bool {
        self.pods_seen.usable()
            && self.nodes_seen.usable()
            && self.bindings.len() < self.options.bindings.max(1)
            && self.queue.is_ready()
    }

    /// Finds nodes for as many pods as there is room for bindings under way.
    fn decide(&mut self) {
        for _ in 0..DECISIONS {
            if !self.can_decide() {
                return;
            }
            let Some((key, needs)) = self.queue.pop() else {
                return;
            };
            match self.choose(&needs) {
                Some(node) => self.bind(key, node, needs),
                None => self.give_up(key, &needs),
            }
        }
    }

    /// The best node among enough that fit. In a large cluster each search goes on where the last one ended, so that
    /// all nodes get their share.
    fn choose(&mut self, needs: &Needs) -> Option<String> {
        let nodes = self.cluster.nodes();
        let count = nodes.len();
        let start = if count > ALL_NODES {
            self.next_node % count
        } else {
            0
        };
        let mut looked_at = 0;
        let fitting: Vec<_> = nodes
            .cycle()
            .skip(start)
            .take(count)
            .inspect(|_| looked_at += 1)
            .filter(|node| filter::fits(needs, node))
            .take(enough(count))
            .collect();
        self.next_node = start + looked_at;
        self.turn = self.turn.wrapping_add(1);
        score::best(needs, &fitting, self.turn).map(|node| node.name.clone())
    }

    fn bind(&mut self, key: PodKey, node: String, needs: Arc<Needs>) {
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
        let is_unconfirmed = self.binding.remove(&key);
        match outcome {
            Outcome::Bound => {
                self.queue.remove(&key);
                self.say_scheduled(key, node);
            }
            Outcome::Moot => {
                // If it lives, the watch says where; then it counts there.
                self.queue.remove(&key);
                if is_unconfirmed {
                    self.take_back(&key);
                }
            }
            Outcome::Failed(error) => {
                tracing::warn!(pod = %key.name, node, %error, "cannot bind");
                if is_unconfirmed {
                    self.take_back(&key);
                    self.queue.try_again(&key, Instant::now());
                }
            }
        }
    }

    /// The pod is not where it was to be: others may have its room.
    fn take_back(&mut self, key: &PodKey) {
        if self.cluster.remove(key) {
            self.queue.something_changed(Instant::now());
        }
    }

    fn give_up(&mut self, key: PodKey, needs: &Needs) {
        self.queue.give_up(&key, Instant::now());
        let message = filter::message(needs, &self.cluster);
        if self.sayings.len() < SAYINGS && self.queue.is_news(&key, &message) {
            let speaker = self.speaker.clone();
            self.sayings
                .spawn(async move { speaker.unschedulable(&key, message).await });
        }
    }

    fn say_scheduled(&mut self, key: PodKey, node: String) {
        if self.sayings.len() < SAYINGS {
            let speaker = self.speaker.clone();
            self.sayings
                .spawn(async move { speaker.scheduled(&key, &node).await });
        }
    }
}

/// How many nodes that fit are enough to choose from: half of them, less for each 125 nodes more, but at least 5 % and
/// [`ALL_NODES`].
fn enough(nodes: usize) -> usize {
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(ALL_NODES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_clusters_are_looked_at_whole_and_large_ones_in_part() {
        assert_eq!(enough(1), 100);
        assert_eq!(enough(100), 100);
        assert_eq!(enough(1000), 420);
        assert_eq!(enough(10_000), 500);
    }
}
