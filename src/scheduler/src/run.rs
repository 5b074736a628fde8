//! The loop: events in, decisions out.

use std::{collections::HashSet, future, sync::Arc};

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Client, runtime::watcher};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Options,
    bind::{Outcome, Preparations, Speaker},
    budgets::Budgets,
    census::Census,
    cluster::{Cluster, NodeIx},
    devices::Devices,
    events::{self, Events, What},
    feed::{self, Change, Heard},
    hints::News,
    pod::{PodInfo, PodKey, Stage},
    preempt::Room,
    profile::PluginSet,
    queue::Queue,
    search::{Decision, ForPod, NodeSearch},
    services::Services,
    volumes::Volumes,
};

/// How many decisions are made, or events taken in, before the others get their turn again.
const TURN: usize = 256;
/// How many conditions may be on their way. Beyond that they wait for the pod's next turn.
const SAYINGS: usize = 1024;

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

/// A binding that ended: the pod, where it was to go, what had to be done before, and how it ended.
type Binding = (Arc<PodInfo>, String, Preparations, Outcome);

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
            devices => return self.hear_of_devices(devices),
        };
        self.minor_lists += usize::from(is_list);
        self.changed(News::storage_changed);
    }

    fn hear_of_devices(&mut self, heard: Heard) {
        match heard {
            Heard::DeviceClaim(change) => {
                self.count_list(&change);
                let devices = &mut self.cluster.devices;
                take_in(
                    change,
                    devices,
                    Devices::clear_claims,
                    Devices::set_claim,
                    Devices::remove_claim,
                );
            }
            Heard::DeviceClass(change) => {
                self.count_list(&change);
                let devices = &mut self.cluster.devices;
                take_in(
                    change,
                    devices,
                    Devices::clear_classes,
                    Devices::set_class,
                    Devices::remove_class,
                );
            }
            Heard::Devices(change) => {
                self.count_list(&change);
                let devices = &mut self.cluster.devices;
                take_in(
                    change,
                    devices,
                    Devices::clear_slices,
                    Devices::set_slice,
                    Devices::remove_slice,
                );
            }
            _ => return,
        }
        self.changed(News::devices_changed);
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
                Decision::Take { node, first } => self.bind(pod, node, first),
                Decision::Nothing {
                    refused_by,
                    message,
                    room,
                } => self.give_up(&pod, refused_by, message, room),
            }
        }
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: NodeIx, first: Preparations) {
        let node = self.cluster.node(node).facts.name.clone();
        self.cluster.withdraw(&pod.key);
        self.cluster.volumes.assume(&first.steps);
        self.cluster.devices.assume(&first.grants);
        self.pod_placed(Arc::clone(&pod), &node);
        self.binding.insert(pod.key.clone());
        let speaker = self.speaker.clone();
        self.bindings.spawn(async move {
            let outcome = speaker.bind(&pod.key, &node, &first).await;
            (pod, node, first, outcome)
        });
    }

    fn bound(&mut self, done: Option<Binding>) {
        let Some((pod, node, first, outcome)) = done else {
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
                self.forget(&first);
                self.queue.remove(key);
                if is_unconfirmed {
                    self.leave(key);
                }
            }
            Outcome::Failed(error) => {
                tracing::warn!(pod = %key.name, node, %error, "cannot bind");
                self.forget(&first);
                if is_unconfirmed {
                    self.leave(key);
                    self.queue.try_again(key, Instant::now());
                    self.tell(&pod, key, What::FailedScheduling, error.to_string());
                }
            }
        }
    }

    /// What was to be done before a binding is not done any more.
    fn forget(&mut self, first: &Preparations) {
        self.cluster.volumes.forget(&first.steps);
        self.cluster.devices.forget(&first.grants);
        if !first.grants.is_empty() {
            self.changed(News::devices_changed);
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
            room @ (ForPod::Nothing | ForPod::GivenBack(_)) => {
                if let ForPod::GivenBack(claim) = room {
                    let (speaker, key) = (self.speaker.clone(), pod.key.clone());
                    self.sayings.spawn(async move {
                        speaker.give_back(&key, &claim).await;
                        None
                    });
                }
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
