//! Deletes pods that nobody else will: those of nodes that no longer exist, those that nobody runs although they are to go,
//! and the oldest of those that have ended, when there are too many.
//!
//! A pod's node says when a pod is gone. Where there is no such node, or its administrator has marked it as out of
//! service, the pod is deleted without asking it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tokio::time::Instant;

use vaquita_reconcile::{
    Context, ObjectKey,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta, pods,
    queue::{Pacing, WorkQueue},
};

use crate::nodes::is_ready;

/// How long a node must be missing before its pods are given up: it may be registering again.
const QUARANTINE: Duration = Duration::from_secs(40);
/// How long a missing node is remembered; long enough for all of its pods to be deleted.
const FORGOTTEN: Duration = Duration::from_hours(1);
/// How often pods that have ended are counted, at most.
const COUNTING: Duration = Duration::from_secs(20);
/// The taint by which an administrator says that nothing runs on a node any more.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Why a pod could not be cleaned up.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// The node could not be looked up.
    #[error("looking for node {0}")]
    Node(String, #[source] kube::Error),
    /// The pod could not be marked as failed.
    #[error("marking pod {0} as failed")]
    Mark(String, #[source] kube::Error),
    /// The pod could not be deleted.
    #[error("deleting pod {0}")]
    Delete(String, #[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let cleaner = Arc::new(Cleaner {
        nodes: context.informers.of(),
        pods: context.informers.of(),
        missing: Mutex::default(),
        context: context.clone(),
    });
    if !(cleaner.nodes.synced().await && cleaner.pods.synced().await) {
        return;
    }
    let queue = WorkQueue::new(Pacing {
        interval: COUNTING,
        ..Pacing::default()
    });
    let pods = WorkQueue::new(Pacing::default());
    cleaner.listen(&pods, &queue);
    let surplus = Arc::new(Surplus(Arc::clone(&cleaner)));
    tokio::join!(context.drive(cleaner, pods), context.drive(surplus, queue));
}

struct Cleaner {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    /// Since when nodes that pods are bound to are known not to exist.
    missing: Mutex<HashMap<String, Instant>>,
}

/// Why nobody else will delete a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// It is to go and was never given to a node.
    Unscheduled,
    /// It is to go, and its node is out of service.
    OutOfService,
    /// Its node does not exist.
    Orphaned,
}

impl Reconciler for Cleaner {
    /// The pod's name.
    type Key = ObjectKey;
    type Error = CleanError;
    const NAME: &'static str = "pod-garbage-collector";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, CleanError> {
        let Some(pod) = self.pods.store().get(key) else {
            return Ok(Next::Wait);
        };
        let Some(cause) = self.cause(&pod) else {
            return Ok(Next::Wait);
        };
        if cause == Cause::Orphaned {
            let node = pods::node_name(&pod).unwrap_or_default();
            let left = QUARANTINE.saturating_sub(self.missing_for(node));
            if !left.is_zero() {
                return Ok(Next::After(left));
            }
            if self.exists(node).await? {
                self.found(node);
                return Ok(Next::Wait);
            }
        }
        self.fail(&pod, cause).await?;
        self.delete(&pod).await?;
        Ok(Next::Wait)
    }
}

impl Cleaner {
    fn listen(self: &Arc<Self>, queue: &WorkQueue<ObjectKey>, ended: &WorkQueue<Ended>) {
        let (listener, pods) = (Arc::clone(self), queue.clone());
        self.nodes.subscribe(move |change| {
            let node = change.object();
            let concerned = match change {
                Change::Added(_) => {
                    listener.found(&node.name_any());
                    is_out_of_service(node)
                }
                Change::Modified { new, .. } => is_out_of_service(new),
                Change::Deleted(_) => true,
            };
            if concerned {
                for pod in listener.pods.store().on_node(&node.name_any()) {
                    pods.add(ObjectKey::of(&*pod));
                }
            }
        });
        let (listener, pods, ended) = (Arc::clone(self), queue.clone(), ended.clone());
        let keeps_all = self.context.options.terminated_pods == 0;
        self.pods.subscribe(move |change| {
            let pod = change.object();
            if matches!(change, Change::Deleted(_)) {
                return;
            }
            if listener.cause(pod).is_some() {
                pods.add(ObjectKey::of(pod));
            }
            if pods::is_terminal(pod) && !keeps_all {
                ended.add(Ended);
            }
        });
    }

    fn cause(&self, pod: &Pod) -> Option<Cause> {
        let terminating = meta::is_terminating(&pod.metadata);
        let Some(name) = pods::node_name(pod) else {
            return terminating.then_some(Cause::Unscheduled);
        };
        match self.nodes.store().get(&ObjectKey::new("", name)) {
            None => Some(Cause::Orphaned),
            Some(node) => (terminating && is_out_of_service(&node)).then_some(Cause::OutOfService),
        }
    }

    fn missing_for(&self, node: &str) -> Duration {
        let now = Instant::now();
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = missing.get(node) {
            return now.duration_since(*since);
        }
        // Nodes that never came back are forgotten some day.
        missing.retain(|_, since| now.duration_since(*since) < FORGOTTEN);
        missing.insert(node.to_owned(), now);
        Duration::ZERO
    }

    fn found(&self, node: &str) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.remove(node);
    }

    /// Asks the API server itself: what is not in the local copy may have come a moment ago.
    async fn exists(&self, node: &str) -> Result<bool, CleanError> {
        let api = Api::<Node>::all(self.context.client.clone());
        let found = api.get_metadata_opt(node).await;
        let found = found.map_err(|error| CleanError::Node(node.to_owned(), error))?;
        Ok(found.is_some())
    }

    /// Says in the pod's status what became of it, for those who look at it before it is gone: jobs above all.
    async fn fail(&self, pod: &Pod, cause: Cause) -> Result<(), CleanError> {
        if pods::is_terminal(pod) {
            return Ok(());
        }
        let mut status = json!({ "phase": "Failed" });
        if cause == Cause::Orphaned {
            let message = "PodGC: node no longer exists";
            let conditions = pods::disrupted(pod, "DeletionByPodGC", message, self.context.now());
            status["conditions"] = json!(conditions);
        }
        let mut patch = meta::guarded_patch(&pod.metadata, json!({}));
        patch["status"] = status;
        let name = pod.name_any();
        let (patch, params) = (Patch::Merge(patch), PatchParams::default());
        match self.api(pod).patch_status(&name, &params, &patch).await {
            Err(error) if !meta::is_not_found(&error) => Err(CleanError::Mark(name, error)),
            _ => Ok(()),
        }
    }

    async fn delete(&self, pod: &Pod) -> Result<(), CleanError> {
        let this_one = Preconditions {
            uid: pod.uid(),
            resource_version: None,
        };
        let params = DeleteParams::default()
            .grace_period(0)
            .preconditions(this_one);
        let name = pod.name_any();
        match self.api(pod).delete(&name, &params).await {
            Ok(_) => Ok(()),
            Err(error) if meta::is_not_found(&error) || meta::is_conflict(&error) => Ok(()),
            Err(error) => Err(CleanError::Delete(name, error)),
        }
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        let namespace = pod.namespace().unwrap_or_default();
        Api::namespaced(self.context.client.clone(), &namespace)
    }
}

/// Whether the node's pods are known not to run: it is not ready, and somebody vouches for it.
fn is_out_of_service(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let mut taints = spec
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default()
        .iter();
    taints.any(|taint| taint.key == OUT_OF_SERVICE) && !is_ready(node)
}

/// All pods that have ended: they are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ended pods")
    }
}

/// Deletes the oldest of too many pods that have ended.
struct Surplus(Arc<Cleaner>);

impl Reconciler for Surplus {
    type Key = Ended;
    type Error = CleanError;
    const NAME: &'static str = "ended-pods";

    async fn reconcile(&self, _: &Ended) -> Result<Next, CleanError> {
        let keep = self.0.context.options.terminated_pods;
        let store = self.0.pods.store();
        let mut ended =
            store.matching(|pod| pods::is_terminal(pod) && !meta::is_terminating(&pod.metadata));
        let Some(surplus) = ended.len().checked_sub(keep).filter(|count| *count > 0) else {
            return Ok(Next::Wait);
        };
        ended.sort_by_cached_key(|pod| (pod.creation_timestamp().map(|at| at.0), pod.name_any()));
        for pod in ended.iter().take(surplus) {
            self.0.delete(pod).await?;
        }
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use serde_json::Value;

    use super::*;
    use vaquita_reconcile::{Options, testing::api::FakeApi};

    const NODES: &str = "api/v1/nodes";
    const PODS: &str = "api/v1/pods";

    fn start(api: &FakeApi, options: Options) {
        let context = Context::new(api.client(), options, CancellationToken::new());
        tokio::spawn(run(context));
    }

    fn node(name: &str, ready: &str, taint: &str) -> Value {
        json!({
            "metadata": { "name": name },
            "spec": { "taints": [{ "key": taint, "effect": "NoExecute" }] },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        })
    }

    fn pod(name: &str, node: Option<&str>) -> Value {
        json!({
            "metadata": { "namespace": "shop", "name": name },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "phase": "Running" },
        })
    }

    /// A pod that only its node can let go.
    fn going(mut pod: Value) -> Value {
        pod["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        pod
    }

    fn is_there(api: &FakeApi, name: &str) -> bool {
        api.object(PODS, "shop", name).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn pods_of_a_node_that_is_gone_for_a_while_go_too() {
        let api = FakeApi::new();
        api.put(NODES, &node("n1", "True", "x"));
        api.put(PODS, &pod("a", Some("n1")));
        start(&api, Options::default());
        api.settle().await;
        api.remove(NODES, "", "n1");
        tokio::time::sleep(QUARANTINE / 2).await;
        api.put(NODES, &node("n1", "True", "x"));
        tokio::time::sleep(QUARANTINE * 2).await;
        assert!(is_there(&api, "a"), "its node came back");
        api.remove(NODES, "", "n1");
        tokio::time::sleep(QUARANTINE.saturating_sub(Duration::from_secs(1))).await;
        assert!(is_there(&api, "a"));
        api.until("no pod", |api| !is_there(api, "a")).await;
        let writes = api.writes();
        assert_eq!(
            writes,
            ["PATCH api/v1/pods/a/status", "DELETE api/v1/pods/a"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn pods_that_are_to_go_need_nobody_if_there_is_nobody() {
        let api = FakeApi::new();
        api.put(NODES, &node("lost", "Unknown", OUT_OF_SERVICE));
        api.put(NODES, &node("back", "True", OUT_OF_SERVICE));
        api.put(PODS, &pod("unscheduled", None));
        api.put(PODS, &going(pod("never", None)));
        api.put(PODS, &pod("stays", Some("lost")));
        api.put(PODS, &going(pod("lost", Some("lost"))));
        api.put(PODS, &going(pod("back", Some("back"))));
        start(&api, Options::default());
        api.until("two gone", |api| {
            !is_there(api, "never") && !is_there(api, "lost")
        })
        .await;
        api.settle().await;
        for name in ["unscheduled", "stays", "back"] {
            assert!(is_there(&api, name), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_pods_that_have_ended_the_oldest_go() {
        let api = FakeApi::new();
        api.put(NODES, &node("n1", "True", "x"));
        for (name, day) in [("young", 3), ("oldest", 1), ("older", 2)] {
            let mut pod = pod(name, Some("n1"));
            pod["status"]["phase"] = json!("Succeeded");
            pod["metadata"]["creationTimestamp"] = json!(format!("2020-01-0{day}T00:00:00Z"));
            api.put(PODS, &pod);
        }
        let options = Options {
            terminated_pods: 1,
            ..Options::default()
        };
        start(&api, options);
        api.until("two less", |api| api.objects(PODS).len() == 1)
            .await;
        assert!(is_there(&api, "young"));
    }
}
