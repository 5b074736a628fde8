//! The loop: events in, decisions out.

use std::{collections::HashSet, fmt::Write as _, future, sync::Arc};

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Client, runtime::watcher};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Options,
    bind::{Outcome, Speaker},
    budgets::Budgets,
    census::Census,
    cluster::{Cluster, NodeIx},
    events::{self, Events, What},
    feed::{self, Change, Heard},
    filter::{self, Diagnosis},
    hints::News,
    plan::Plan,
    pod::{PodInfo, PodKey, Stage},
    preempt::{self, Room, Search},
    profile::{PluginSet, Profile},
    queue::Queue,
    score,
    services::Services,
    volumes::{Step, Volumes},
};

/// How many decisions are made, or events taken in, before the others get their turn again.
const TURN: usize = 256;
/// How many conditions may be on their way. Beyond that they wait for the pod's next turn.
const SAYINGS: usize = 1024;
/// Of clusters of at most so many nodes all are looked at; of larger ones, a share that shrinks with the size.
const ALL_NODES: usize = 100;

/// Schedules pods until `shutdown`. Errors of the API server are waited out.
pub async fn run(client: Client, options: Options, shutdown: CancellationToken) {
    let mut heard = feed::follow(&client);
    let events = Events::start(&client, &shutdown);
    let mut scheduler = Scheduler::new(Speaker::new(client), events, options);
    loop {
        scheduler.decide();
        let more = scheduler.can_decide();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = future::ready(()), if more => {}
            Some(first) = heard.next() => {
                scheduler.hear(first);
                for _ in 1..TURN {
                    match heard.next().now_or_never() {
                        Some(Some(next)) => scheduler.hear(next),
                        _ => break,
                    }
                }
            }
            Some(done) = scheduler.bindings.join_next() => scheduler.bound(done.ok()),
            Some(done) = scheduler.sayings.join_next() => scheduler.said(done.ok().flatten()),
            () = sleep_until(scheduler.queue.next_tick()) => scheduler.tick(),
        }
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => future::pending().await,
    }
}

/// A binding that ended: the pod, where it was to go, what had to be done for its volumes, and how it ended.
type Binding = (Arc<PodInfo>, String, Vec<Step>, Outcome);

struct Scheduler {
    options: Options,
    speaker: Speaker,
    events: Events,
    cluster: Cluster,
    queue: Queue,
    /// What has changed since the stuck were asked last.
    news: News,
    bindings: JoinSet<Binding>,
    /// Conditions and evictions on their way. They hold nothing up. What they leave is a pod for which no room is being
    /// made after all.
    sayings: JoinSet<Option<PodKey>>,
    /// Pods that are being bound and not yet seen on their nodes: their events still say that they wait.
    binding: HashSet<PodKey>,
    turn: usize,
    /// Where the search for nodes goes on in a large cluster.
    next_node: usize,
    /// What a list that has begun has shown so far; nothing is decided before all lists are whole.
    pods_seen: Listing<PodKey>,
    nodes_seen: Listing<String>,
    minor_lists: usize,
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

/// Takes in a change of objects of a minor kind.
fn take_in<K, T: ?Sized>(
    change: Change<K>,
    whole: &mut T,
    clear: impl Fn(&mut T),
    set: impl Fn(&mut T, &K),
    remove: impl Fn(&mut T, &K),
) {
    match change {
        Change::All(all) => {
            clear(whole);
            for object in &all {
                set(whole, object);
            }
        }
        Change::Is(object) => set(whole, &object),
        Change::Gone(object) => remove(whole, &object),
    }
}

impl Scheduler {
    fn new(speaker: Speaker, events: Events, options: Options) -> Self {
        Self {
            queue: Queue::new(options.first_backoff, options.longest_backoff),
            options,
            speaker,
            events,
            cluster: Cluster::default(),
            news: News::default(),
            bindings: JoinSet::new(),
            sayings: JoinSet::new(),
            binding: HashSet::new(),
            turn: 0,
            next_node: 0,
            pods_seen: Listing::new(),
            nodes_seen: Listing::new(),
            minor_lists: 0,
        }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Pod(event) => self.pod_event(event),
            Heard::Node(event) => self.node_event(event),
            Heard::Namespace(change) => {
                self.count_list(&change);
                let census = &mut self.cluster.census;
                take_in(
                    change,
                    census,
                    Census::clear_namespaces,
                    |census, namespace| {
                        let metadata = &namespace.metadata;
                        let labels = metadata.labels.clone().unwrap_or_default();
                        census.set_namespace(metadata.name.clone().unwrap_or_default(), labels);
                    },
                    |census, namespace| {
                        let name = namespace.metadata.name.as_deref();
                        census.remove_namespace(name.unwrap_or_default());
                    },
                );
                self.changed(News::everything_changed);
            }
            Heard::Service(change) => {
                self.count_list(&change);
                let services = &mut self.cluster.services;
                take_in(
                    change,
                    services,
                    |services| *services = Services::default(),
                    Services::set,
                    Services::remove,
                );
            }
            Heard::Budget(change) => {
                self.count_list(&change);
                let budgets = &mut self.cluster.budgets;
                take_in(
                    change,
                    budgets,
                    |budgets| *budgets = Budgets::default(),
                    Budgets::set,
                    Budgets::remove,
                );
            }
            storage => self.hear_of_storage(storage),
        }
    }

    fn hear_of_storage(&mut self, heard: Heard) {
        let volumes = &mut self.cluster.volumes;
        let is_list = match heard {
            Heard::Claim(change) => {
                let is_list = matches!(change, Change::All(_));
                take_in(
                    change,
                    volumes,
                    Volumes::clear_claims,
                    Volumes::set_claim,
                    Volumes::remove_claim,
                );
                is_list
            }
            Heard::Volume(change) => {
                let is_list = matches!(change, Change::All(_));
                take_in(
                    change,
                    volumes,
                    Volumes::clear_volumes,
                    Volumes::set_volume,
                    Volumes::remove_volume,
                );
                is_list
            }
            Heard::Class(change) => {
                let is_list = matches!(change, Change::All(_));
                take_in(
                    change,
                    volumes,
                    Volumes::clear_classes,
                    Volumes::set_class,
                    Volumes::remove_class,
                );
                is_list
            }
            Heard::CsiNode(change) => {
                let is_list = matches!(change, Change::All(_));
                take_in(
                    change,
                    volumes,
                    Volumes::clear_limits,
                    Volumes::set_csi_node,
                    Volumes::remove_csi_node,
                );
                is_list
            }
            Heard::Pod(_)
            | Heard::Node(_)
            | Heard::Namespace(_)
            | Heard::Service(_)
            | Heard::Budget(_) => return,
        };
        self.minor_lists += usize::from(is_list);
        self.changed(News::storage_changed);
    }

    fn count_list<K>(&mut self, change: &Change<K>) {
        self.minor_lists += usize::from(matches!(change, Change::All(_)));
    }

    /// Notes something that may help those who are stuck, if there are any.
    fn changed(&mut self, note: impl FnOnce(&mut News)) {
        if self.queue.has_stuck() {
            note(&mut self.news);
            self.queue.something_changed(Instant::now());
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.queue.tick(now);
        if self.queue.is_move_due(now) {
            let news = std::mem::take(&mut self.news);
            let (cluster, profiles) = (&self.cluster, &self.options.profiles);
            self.queue.move_along(now, |pod, refused_by| {
                let profile = profiles.get(pod.needs.profile);
                profile.is_none_or(|profile| news.may_help(cluster, profile, pod, refused_by))
            });
        }
    }

    fn pod_event(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => self.pods_seen.begin(),
            watcher::Event::InitApply(pod) | watcher::Event::Apply(pod) => {
                let info = PodInfo::of(&pod, &self.options.profiles);
                self.pods_seen.saw(info.key.clone());
                self.pod_is(info);
            }
            watcher::Event::Delete(pod) => self.pod_gone(&PodKey::of(&pod)),
            watcher::Event::InitDone => {
                let seen = self.pods_seen.end();
                let is_gone = |key: &&PodKey| !seen.contains(*key);
                let gone: Vec<_> = self.cluster.placed().filter(is_gone).cloned().collect();
                for key in gone {
                    self.pod_gone(&key);
                }
                self.queue.retain(|key| seen.contains(key));
            }
        }
    }

    fn pod_is(&mut self, info: PodInfo) {
        match &info.stage {
            Stage::Placed(node) => {
                let node = node.clone();
                self.queue.remove(&info.key);
                self.cluster.withdraw(&info.key);
                // Confirmed: whatever becomes of our request, the pod is there.
                self.binding.remove(&info.key);
                self.pod_placed(Arc::new(info), &node);
            }
            // What we are binding counts where we put it; its event is from before.
            Stage::Waiting
                if self.binding.contains(&info.key) || self.cluster.is_placed(&info.key) => {}
            Stage::Waiting => {
                let info = Arc::new(info);
                if let Some(node) = &info.nominated
                    && !self.queue.knows(&info.key)
                {
                    self.cluster.nominate(Arc::clone(&info), node);
                }
                self.queue.add(info, Instant::now());
            }
            Stage::NotOurs => {
                self.queue.remove(&info.key);
                self.cluster.withdraw(&info.key);
            }
            Stage::Done => self.pod_gone(&info.key),
        }
    }

    fn pod_placed(&mut self, info: Arc<PodInfo>, node: &str) {
        let before = self.cluster.pod(&info.key).cloned();
        let is_same = before
            .as_ref()
            .is_some_and(|before| before.needs == info.needs);
        let node = self.cluster.place(Arc::clone(&info), node);
        if !is_same {
            self.changed(|news| {
                if let Some(before) = before {
                    news.pod_left(before, node);
                }
                news.pod_came(info);
            });
        }
    }

    fn pod_gone(&mut self, key: &PodKey) {
        self.queue.remove(key);
        self.binding.remove(key);
        if self.cluster.withdraw(key) {
            self.changed(News::everything_changed);
        }
        self.leave(key);
    }

    /// The pod is not where it was to be: others may have its room.
    fn leave(&mut self, key: &PodKey) {
        let info = self.cluster.pod(key).cloned();
        if let Some((node, info)) = self.cluster.remove(key).zip(info) {
            self.changed(|news| news.pod_left(info, node));
        }
    }

    fn node_event(&mut self, event: watcher::Event<Node>) {
        match event {
            watcher::Event::Init => self.nodes_seen.begin(),
            watcher::Event::InitApply(node) | watcher::Event::Apply(node) => {
                self.nodes_seen
                    .saw(node.metadata.name.clone().unwrap_or_default());
                let (node, changed) = self.cluster.set_node(&node);
                if changed {
                    self.changed(|news| news.node_changed(node));
                }
            }
            watcher::Event::Delete(node) => {
                self.cluster
                    .remove_node(node.metadata.name.as_deref().unwrap_or_default());
                // Fewer domains may be easier to spread over.
                self.changed(News::everything_changed);
            }
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
            && self.minor_lists >= feed::MINOR_KINDS
            && self.bindings.len() < self.options.bindings.max(1)
            && self.queue.is_ready()
    }

    /// Finds nodes for as many pods as there is room for bindings under way.
    fn decide(&mut self) {
        for _ in 0..TURN {
            if !self.can_decide() {
                return;
            }
            let Some(pod) = self.queue.pop() else {
                return;
            };
            let Some(profile) = self.options.profiles.get(pod.needs.profile) else {
                continue;
            };
            let mut search = NodeSearch {
                cluster: &self.cluster,
                share: self.options.percentage_of_nodes,
                turn: self.turn,
                next_node: self.next_node,
            };
            let decision = search.decide(&pod, profile);
            self.next_node = search.next_node;
            self.turn = self.turn.wrapping_add(1);
            match decision {
                Decision::Take { node, steps } => self.bind(pod, node, steps),
                Decision::Nothing {
                    refused_by,
                    message,
                    room,
                } => self.give_up(&pod, refused_by, message, room),
            }
        }
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: NodeIx, steps: Vec<Step>) {
        let node = self.cluster.node(node).facts.name.clone();
        self.cluster.withdraw(&pod.key);
        self.cluster.volumes.assume(&steps);
        self.pod_placed(Arc::clone(&pod), &node);
        self.binding.insert(pod.key.clone());
        let speaker = self.speaker.clone();
        self.bindings.spawn(async move {
            let outcome = speaker.bind(&pod.key, &node, &steps).await;
            (pod, node, steps, outcome)
        });
    }

    fn bound(&mut self, done: Option<Binding>) {
        let Some((pod, node, steps, outcome)) = done else {
            return;
        };
        let key = &pod.key;
        let is_unconfirmed = self.binding.remove(key);
        match outcome {
            Outcome::Bound => {
                self.queue.remove(key);
                let message = format!(
                    "Successfully assigned {}/{} to {node}",
                    key.namespace, key.name
                );
                self.tell(&pod, key, What::Scheduled, message);
            }
            Outcome::Moot => {
                // If it lives, the watch says where; then it counts there.
                self.cluster.volumes.forget(&steps);
                self.queue.remove(key);
                if is_unconfirmed {
                    self.leave(key);
                }
            }
            Outcome::Failed(error) => {
                tracing::warn!(pod = %key.name, node, %error, "cannot bind");
                self.cluster.volumes.forget(&steps);
                if is_unconfirmed {
                    self.leave(key);
                    self.queue.try_again(key, Instant::now());
                    self.tell(&pod, key, What::FailedScheduling, error.to_string());
                }
            }
        }
    }

    fn give_up(
        &mut self,
        pod: &Arc<PodInfo>,
        refused_by: PluginSet,
        message: String,
        room: ForPod,
    ) {
        self.queue.give_up(&pod.key, refused_by, Instant::now());
        let nominated = match room {
            ForPod::Room(room) => Some(self.make_room(pod, room)),
            ForPod::BeingMade => None,
            ForPod::Nothing => {
                let withdrawn = self.cluster.withdraw(&pod.key);
                if withdrawn {
                    self.changed(News::everything_changed);
                }
                withdrawn.then(String::new)
            }
        };
        let is_news = self.sayings.len() < SAYINGS && self.queue.is_news(&pod.key, &message);
        if is_news || nominated.is_some() {
            let (speaker, key) = (self.speaker.clone(), pod.key.clone());
            let text = message.clone();
            self.sayings.spawn(async move {
                speaker
                    .unschedulable(&key, &text, nominated.as_deref())
                    .await;
                None
            });
        }
        if is_news {
            self.tell(pod, &pod.key, What::FailedScheduling, message);
        }
    }

    /// Sends victims away and keeps their room for the pod. Returns the node's name.
    fn make_room(&mut self, pod: &Arc<PodInfo>, room: Room) -> String {
        let node = self.cluster.node(room.node).facts.name.clone();
        // Whoever is less important and waits for this node may do better elsewhere.
        let lesser: Vec<_> = self
            .cluster
            .nominated_on(room.node)
            .iter()
            .filter(|other| other.needs.priority < pod.needs.priority)
            .map(|other| other.key.clone())
            .collect();
        for key in lesser {
            self.cluster.withdraw(&key);
            let speaker = self.speaker.clone();
            self.sayings.spawn(async move {
                speaker.withdraw(&key).await;
                None
            });
            self.changed(News::everything_changed);
        }
        self.cluster.nominate(Arc::clone(pod), &node);
        for victim in &room.victims {
            let message = format!("Preempted by pod {} on node {node}", pod.key.uid);
            self.tell(pod, &victim.key, What::Preempted, message);
        }
        let speaker = self.speaker.clone();
        let (scheduler, key) = (self.name_for(pod).to_owned(), pod.key.clone());
        self.sayings.spawn(async move {
            let evictions = room
                .victims
                .iter()
                .map(|victim| speaker.evict(victim, &scheduler));
            let gone = futures::future::join_all(evictions).await;
            gone.contains(&false).then_some(key)
        });
        node
    }

    /// Something was told; room for this pod is not being made after all.
    fn said(&mut self, in_vain: Option<PodKey>) {
        if let Some(key) = in_vain {
            self.cluster.withdraw(&key);
            self.changed(News::everything_changed);
        }
    }

    fn tell(&self, by: &PodInfo, about: &PodKey, what: What, message: String) {
        self.events.tell(events::News {
            pod: about.clone(),
            scheduler: self.name_for(by).to_owned(),
            what,
            message,
        });
    }

    fn name_for(&self, pod: &PodInfo) -> &str {
        let profile = self.options.profiles.get(pod.needs.profile);
        profile.map_or(crate::DEFAULT_NAME, |profile| &profile.scheduler_name)
    }
}

/// What is to become of a pod.
enum Decision {
    /// It goes to this node, once this is done for its volumes.
    Take { node: NodeIx, steps: Vec<Step> },
    /// It goes nowhere for now.
    Nothing {
        refused_by: PluginSet,
        message: String,
        room: ForPod,
    },
}

/// Whether room is made for a pod that goes nowhere.
enum ForPod {
    Room(Room),
    BeingMade,
    Nothing,
}

/// The search for a pod's node.
struct NodeSearch<'c> {
    cluster: &'c Cluster,
    /// Of how many percent of the nodes it is enough to know that they fit.
    share: Option<usize>,
    turn: usize,
    next_node: usize,
}

impl NodeSearch<'_> {
    fn decide(&mut self, pod: &PodInfo, profile: &Profile) -> Decision {
        let total = self.cluster.nodes().len();
        if total == 0 {
            return Decision::Nothing {
                refused_by: PluginSet::default(),
                message: "no nodes available to schedule pods".to_owned(),
                room: ForPod::Nothing,
            };
        }
        let plan = match Plan::new(self.cluster, pod, profile) {
            Ok(plan) => plan,
            Err((plugin, why)) => {
                let mut message = format!("0/{total} nodes are available: {why}.");
                if profile.preempts {
                    let useless = "Preemption is not helpful for scheduling";
                    let _ = write!(
                        message,
                        " preemption: 0/{total} nodes are available: {total} {useless}."
                    );
                }
                return Decision::Nothing {
                    refused_by: [plugin].into_iter().collect(),
                    message,
                    room: ForPod::Nothing,
                };
            }
        };
        if let Some(node) = self.choose(&plan, pod) {
            let facts = &self.cluster.node(node).facts;
            let steps = self.cluster.volumes.steps(&plan.wanted, facts);
            return Decision::Take {
                node,
                steps: steps.unwrap_or_default(),
            };
        }
        let diagnosis = filter::diagnose(&plan, self.cluster);
        self.look_for_room(&plan, pod, &diagnosis)
    }

    fn look_for_room(&self, plan: &Plan<'_>, pod: &PodInfo, diagnosis: &Diagnosis) -> Decision {
        let mut message = diagnosis.message.clone();
        let room = if plan.profile.preempts {
            match preempt::search(plan, self.cluster, pod, diagnosis, self.turn) {
                Search::Found(room) => ForPod::Room(room),
                Search::BeingMade(why) => {
                    let _ = write!(message, " preemption: {why}");
                    ForPod::BeingMade
                }
                Search::Nothing(why) => {
                    let _ = write!(message, " preemption: {why}");
                    ForPod::Nothing
                }
            }
        } else {
            ForPod::Nothing
        };
        Decision::Nothing {
            refused_by: diagnosis.plugins,
            message,
            room,
        }
    }

    /// The best node among enough that fit. In a large cluster each search goes on where the last one ended, so that
    /// all nodes get their share. Where room was made for the pod, it goes if it can.
    fn choose(&mut self, plan: &Plan<'_>, pod: &PodInfo) -> Option<NodeIx> {
        let cluster = self.cluster;
        let nominated = cluster.nomination_of(&pod.key);
        if let Some(node) = nominated.and_then(|name| cluster.node_named(name))
            && filter::fits(plan, cluster, node)
        {
            return Some(node);
        }
        let nodes = cluster.nodes();
        let enough = enough(nodes.len(), self.share);
        let start = if nodes.len() > enough {
            self.next_node % nodes.len()
        } else {
            0
        };
        let (before, after) = nodes.split_at(start);
        let mut looked_at = 0;
        let mut fitting = Vec::with_capacity(enough.min(nodes.len()));
        for node in after.iter().chain(before) {
            looked_at += 1;
            if filter::fits(plan, cluster, *node) {
                fitting.push(*node);
                if fitting.len() >= enough {
                    break;
                }
            }
        }
        self.next_node = start + looked_at;
        score::best(plan, cluster, &fitting, self.turn)
    }
}

/// How many nodes that fit are enough to choose from: `share` percent of them, or else half of them, less for each 125
/// nodes more, but at least 5 %; and [`ALL_NODES`] in any case.
fn enough(nodes: usize, share: Option<usize>) -> usize {
    let percent = share.unwrap_or_else(|| 50_usize.saturating_sub(nodes / 125).max(5));
    (nodes * percent / 100).max(ALL_NODES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_clusters_are_looked_at_whole_and_large_ones_in_part() {
        assert_eq!(enough(1, None), 100);
        assert_eq!(enough(100, None), 100);
        assert_eq!(enough(1000, None), 420);
        assert_eq!(enough(10_000, None), 500);
        assert_eq!(enough(10_000, Some(100)), 10_000);
    }
}
