//! The watches that feed the graph: one for each resource that discovery finds.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use kube::{
    Client,
    runtime::watcher::{self, Event},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Kinds, Shared,
    graph::{Object, ResourceKey, Uid},
};
use crate::departures::{Departure, Departures};
use vaquita_reconcile::{
    Backoff, Context,
    drive::chain,
    informer::follow,
    served::{Metadata, Served, Survey, survey},
};

/// Before the API server answers for the first time, and when it stops answering.
const RETRY: Backoff = Backoff {
    base: Duration::from_millis(50),
    cap: Duration::from_secs(10),
};
/// How long all looks wait for the first list of one resource. After that they go on without knowing its objects.
const PATIENCE: Duration = Duration::from_secs(10);
/// A resource without these is none of the collector's business.
const COLLECTABLE: &[&str] = &["list", "watch", "delete"];

pub(super) struct Monitors {
    shared: Arc<Shared>,
    departures: Departures,
    client: Client,
    interval: Duration,
    shutdown: CancellationToken,
    running: HashMap<ResourceKey, Monitor>,
}

/// A watch at work.
struct Monitor {
    served: Arc<Served>,
    task: JoinHandle<()>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Monitor {
    /// Returns when the watch has told its last event.
    async fn stop(mut self) {
        self.task.abort();
        // It was cancelled, which is what was wanted.
        let _ = (&mut self.task).await;
    }
}

impl Monitors {
    pub(super) fn new(shared: Arc<Shared>, context: &Context, departures: Departures) -> Self {
        Self {
            shared,
            departures,
            client: context.client.clone(),
            interval: context.options.discovery_interval,
            shutdown: context.shutdown.clone(),
            running: HashMap::new(),
        }
    }

    /// Keeps the watches equal to what is served, until shutdown.
    pub(super) async fn run(mut self) {
        let shutdown = self.shutdown.clone();
        shutdown.run_until_cancelled(self.keep_up()).await;
    }

    async fn keep_up(&mut self) {
        let mut failures = 0;
        loop {
            match survey(&self.client).await {
                Ok(survey) => {
                    failures = 0;
                    self.adapt(survey).await;
                    tokio::time::sleep(self.interval).await;
                }
                Err(error) => {
                    failures += 1;
                    debug!(failures, error = %chain(&error), "discovery failed");
                    tokio::time::sleep(RETRY.delay(failures)).await;
                }
            }
        }
    }

    async fn adapt(&mut self, survey: Survey) {
        for missing in &survey.missing {
            debug!(group_version = missing.group_version, error = %missing.error, "not described by the API server");
        }
        // Nothing can be said about these: what was known of them stays.
        let missing: HashSet<String> = survey
            .missing
            .iter()
            .map(|missing| missing.group().to_owned())
            .collect();
        let served: Vec<Arc<Served>> = survey.resources.into_iter().map(Arc::new).collect();
        self.learn_kinds(&served, &missing);
        let wanted: HashMap<ResourceKey, Arc<Served>> = served
            .into_iter()
            .filter(|served| is_collectable(served))
            .map(|served| (ResourceKey::of(&served), served))
            .collect();
        let unwanted: Vec<ResourceKey> = self
            .running
            .iter()
            .filter(|(key, monitor)| {
                !wanted.contains_key(key) && !missing.contains(&monitor.served.api.group)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in unwanted {
            self.stop(&key).await;
            self.shared.update(|graph| graph.forget(&key));
        }
        self.start(wanted).await;
    }

    fn learn_kinds(&self, served: &[Arc<Served>], missing: &HashSet<String>) {
        let mut kinds = Kinds::new();
        for resource in served.iter().filter(|served| served.supports(&["get"])) {
            let kind = (resource.api.group.clone(), resource.api.kind.clone());
            kinds.entry(kind).or_insert_with(|| Arc::clone(resource));
        }
        for (kind, resource) in &*self.shared.kinds() {
            if missing.contains(&kind.0) {
                kinds
                    .entry(kind.clone())
                    .or_insert_with(|| Arc::clone(resource));
            }
        }
        self.shared.set_kinds(kinds);
    }

    async fn start(&mut self, mut wanted: HashMap<ResourceKey, Arc<Served>>) {
        wanted.retain(|key, served| {
            self.running
                .get(key)
                .is_none_or(|running| running.served != *served)
        });
        // All at once, before the first of them can be done.
        self.shared
            .unsynced
            .send_modify(|unsynced| unsynced.extend(wanted.keys().cloned()));
        for (key, served) in wanted {
            if let Some(outdated) = self.running.remove(&key) {
                outdated.stop().await;
            }
            let feed = Feed {
                shared: Arc::clone(&self.shared),
                departures: self.departures.clone(),
                key: key.clone(),
                served: Arc::clone(&served),
                listed: HashSet::new(),
            };
            let task = tokio::spawn(feed.run(self.client.clone()));
            self.running.insert(key, Monitor { served, task });
        }
    }

    async fn stop(&mut self, key: &ResourceKey) {
        if let Some(monitor) = self.running.remove(key) {
            monitor.stop().await;
        }
        self.shared.mark_synced(key);
    }
}

/// Events are too many, own nothing and expire by themselves; leases change all the time and go with their nodes.
fn is_collectable(served: &Served) -> bool {
    let is_leases = served.api.group == "coordination.k8s.io" && served.api.plural == "leases";
    served.supports(COLLECTABLE) && !served.is_events() && !is_leases
}

impl Shared {
    fn mark_synced(&self, key: &ResourceKey) -> bool {
        self.unsynced
            .send_if_modified(|unsynced| unsynced.remove(key))
    }
}

/// Carries the events of one resource into the graph.
struct Feed {
    shared: Arc<Shared>,
    departures: Departures,
    key: ResourceKey,
    served: Arc<Served>,
    /// What a list that is still arriving has told so far.
    listed: HashSet<Uid>,
}

impl Feed {
    async fn run(mut self, client: Client) {
        let (shared, key, served) = (
            Arc::clone(&self.shared),
            self.key.clone(),
            Arc::clone(&self.served),
        );
        let api = served.metadata(&client, "");
        let following = follow(api, watcher::Config::default(), |event| self.event(event));
        let losing_patience = async {
            tokio::time::sleep(PATIENCE).await;
            if shared.mark_synced(&key) {
                warn!(
                    resource = served.qualified_name(),
                    "can't be listed; collecting without it"
                );
            }
            std::future::pending::<()>().await;
        };
        tokio::join!(following, losing_patience);
    }

    fn event(&mut self, event: Event<Metadata>) {
        match event {
            Event::Apply(object) => {
                self.observe(object);
            }
            Event::Delete(object) => {
                self.tell_departure(object.metadata.namespace.clone());
                if let Some(uid) = object.metadata.uid.as_deref() {
                    let uid = Uid::from(uid);
                    self.shared.update(|graph| graph.gone(&uid));
                }
            }
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                if let Some(uid) = self.observe(object) {
                    self.listed.insert(uid);
                }
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                let mut some_went = false;
                self.shared.update(|graph| {
                    let mut known = graph.of_resource(&self.key);
                    known.retain(|uid| !listed.contains(uid));
                    some_went = !known.is_empty();
                    known.iter().flat_map(|uid| graph.gone(uid)).collect()
                });
                if some_went {
                    self.tell_departure(None);
                }
                self.shared.mark_synced(&self.key);
            }
        }
    }

    /// Of an object in this namespace, or in some that is not known.
    fn tell_departure(&self, namespace: Option<String>) {
        if self.served.namespaced {
            self.departures.tell(Departure {
                group: self.served.api.group.as_str().into(),
                plural: self.served.api.plural.as_str().into(),
                namespace,
            });
        }
    }

    fn observe(&self, object: Metadata) -> Option<Uid> {
        let object = Object::new(Arc::clone(&self.served), object.metadata)?;
        let uid = object.uid.clone();
        self.shared.update(|graph| graph.observe(object));
        Some(uid)
    }
}
