//! Which pods are on this node: follows the API server, and keeps one worker for each.

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt as _, Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use vaquita_logs::PodKey;

use crate::{
    eviction::rank::EVICTED,
    pod::{
        Context, Feed, Worker,
        board::{Board, Verdict},
        status::Phase,
    },
};

/// A pod on this node.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) pod: Arc<Pod>,
    pub(crate) board: Arc<Board>,
}

/// The pods on this node, for those who ask. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry {
    entries: Arc<Mutex<HashMap<String, Known>>>,
}

#[derive(Debug)]
struct Known {
    feed: watch::Sender<Feed>,
    board: Arc<Board>,
}

impl Known {
    fn entry(&self) -> Entry {
        Entry {
            pod: self.feed.borrow().pod.clone(),
            board: self.board.clone(),
        }
    }
}

impl Registry {
    /// The pod of that name; the newest one, while an older one of the same name is still ending.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Entry> {
        let entries = self.lock();
        let named = entries.values().map(Known::entry).filter(|entry| {
            entry.pod.metadata.namespace.as_deref() == Some(namespace)
                && entry.pod.metadata.name.as_deref() == Some(name)
        });
        named.max_by_key(|entry| entry.pod.metadata.creation_timestamp.clone())
    }

    /// All pods, and what is known of them.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.lock().values().map(Known::entry).collect()
    }

    /// All pods, as the API server has them.
    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        self.lock()
            .values()
            .map(|known| known.feed.borrow().pod.clone())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a worker for each pod.
pub(crate) struct Manager {
    context: Arc<Context>,
    node: String,
    registry: Registry,
    workers: JoinSet<String>,
    /// Pods seen in a list that is not complete yet.
    listed: HashSet<String>,
}

impl Manager {
    pub(crate) fn new(context: Arc<Context>, node: String, registry: Registry) -> Self {
        Self {
            context,
            node,
            registry,
            workers: JoinSet::new(),
            listed: HashSet::new(),
        }
    }

    /// Follows the API server until told to stop; then whatever runs is cut off.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let pods: Api<Pod> = Api::all(self.context.client.clone());
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
        let events = watcher(pods, config).default_backoff();
        self.follow(events.boxed(), shutdown).await;
    }

    async fn follow(
        mut self,
        mut events: impl Stream<Item = watcher::Result<Event<Pod>>> + Unpin,
        shutdown: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(event) = events.next() => match event {
                    Ok(event) => self.heed(event),
                    Err(error) => tracing::warn!(%error, "cannot follow the node's pods"),
                },
                Some(Ok(uid)) = self.workers.join_next() => drop(self.registry.lock().remove(&uid)),
            }
        }
        self.workers.shutdown().await;
    }

    fn heed(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.extend(pod.uid());
                self.put(pod);
            }
            Event::InitDone => self.forget_unlisted(),
            Event::Apply(pod) => self.put(pod),
            Event::Delete(pod) => {
                if let Some(known) = pod.uid().and_then(|uid| {
                    self.registry
                        .lock()
                        .get(&uid)
                        .map(|known| known.feed.clone())
                }) {
                    known.send_replace(Feed {
                        pod: Arc::new(pod),
                        is_gone: true,
                    });
                }
            }
        }
    }

    /// After a list: what is not in it was deleted while nobody looked.
    fn forget_unlisted(&mut self) {
        let mut left = HashSet::new();
        for (uid, known) in self.registry.lock().iter() {
            if self.listed.contains(uid) {
                left.insert(PodKey::of(&known.feed.borrow().pod));
            } else {
                known.feed.send_modify(|feed| feed.is_gone = true);
            }
        }
        self.listed.clear();
        self.context.logs.keep_only(&left);
        let uids: HashSet<String> = left.into_iter().map(|pod| pod.uid).collect();
        let (backend, kept) = (self.context.backend.clone(), Arc::new(uids));
        let uids = kept.clone();
        tokio::spawn(async move { backend.keep_only(&kept).await });
        let volumes = self.context.volumes.clone();
        tokio::task::spawn_blocking(move || volumes.keep_only(&uids));
    }

    /// Tells the pod's worker, or hires one.
    fn put(&mut self, pod: Pod) {
        let Some(uid) = pod.uid() else { return };
        let is_ours = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())
            == Some(self.node.as_str());
        let mut entries = self.registry.lock();
        if let Some(known) = entries.get(&uid) {
            known.feed.send_modify(|feed| feed.pod = Arc::new(pod));
            return;
        }
        if !is_ours {
            return;
        }
        let verdict = self.refuse(&pod, &entries);
        let (feed, updates) = watch::channel(Feed {
            pod: Arc::new(pod),
            is_gone: false,
        });
        let worker = Worker::new(self.context.clone(), updates, verdict);
        entries.insert(
            uid.clone(),
            Known {
                feed,
                board: worker.board(),
            },
        );
        drop(entries);
        self.workers.spawn(async move {
            // After a panic, which has been reported, the next news of the pod hires another worker.
            let _ = AssertUnwindSafe(worker.run()).catch_unwind().await;
            uid
        });
    }

    /// Whether the node is too full for another pod, in upstream's words.
    fn refuse(&self, pod: &Pod, entries: &HashMap<String, Known>) -> Option<Verdict> {
        if let Some(verdict) = self.refuse_under_pressure(pod) {
            return Some(verdict);
        }
        let capacity = self.context.capacity.pods;
        let is_active = |pod: &Pod| !Phase::of(pod).is_final();
        // A pod that has run here before has its place.
        let is_new = pod
            .status
            .as_ref()
            .and_then(|status| status.start_time.as_ref())
            .is_none();
        if !is_new || entries.len() < capacity as usize {
            return None;
        }
        let used = entries
            .values()
            .filter(|known| is_active(&known.feed.borrow().pod))
            .count();
        if used < capacity as usize {
            return None;
        }
        let message = format!(
            "Node didn't have enough resource: pods, requested: 1, used: {used}, capacity: {capacity}"
        );
        self.context.events.warning(
            &Arc::new(kube::Resource::object_ref(pod, &())),
            "OutOfpods",
            message.clone(),
        );
        Some(Verdict {
            reason: "OutOfpods",
            message: format!("Pod was rejected: {message}"),
            grace: None,
        })
    }

    /// Whether the node is short of something that the pod would take more of.
    fn refuse_under_pressure(&self, pod: &Pod) -> Option<Verdict> {
        let started = pod.status.as_ref().and_then(|it| it.start_time.as_ref());
        let message = self.context.pressure.borrow().refusal(pod);
        let message = message.filter(|_| started.is_none())?;
        let about = Arc::new(kube::Resource::object_ref(pod, &()));
        let events = &self.context.events;
        events.warning(&about, EVICTED, message.clone());
        Some(Verdict {
            reason: EVICTED,
            message: format!("Pod was rejected: {message}"),
            grace: None,
        })
    }
}

#[cfg(test)]
mod tests;
