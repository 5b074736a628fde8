//! Eviction by taints: a `NoExecute` taint drives the pods off a node that do not tolerate it.
//!
//! A pod may tolerate a taint for a while (`tolerationSeconds`, counted from when the taint was added); then it goes
//! when that is over. Once a taint has been seen, its time is counted by a clock that nobody sets. The taints by which [`nodes`](crate::nodes) marks nodes as not ready or unreachable are tolerated
//! for five minutes by pods that say nothing about them, as clusters have it by default: a node that restarts keeps its pods.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tokio::time::Instant;

use vaquita_reconcile::{
    Context, ObjectKey, Recorder,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta, pods,
    queue::{Pacing, WorkQueue},
};

/// For how long a pod tolerates that its node is not ready or unreachable, if it does not say otherwise.
const DEFAULT_TOLERATION: Duration = Duration::from_mins(5);
/// The taints for which that default holds.
const ABOUT_HEALTH: &[&str] = &[
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];

/// The reason of events about evictions.
const REASON: &str = "TaintManagerEviction";

/// Why a pod could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub enum EvictError {
    /// The reason could not be written into the pod's status.
    #[error("writing the reason into the pod's status")]
    Mark(#[source] kube::Error),
    /// The pod could not be deleted.
    #[error("deleting the pod")]
    Delete(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let queue = WorkQueue::new(Pacing::default());
    let evictor = Arc::new(Evictor {
        nodes: context.informers.of(),
        pods: context.informers.of(),
        recorder: context.recorder("taint-eviction-controller"),
        taints: Mutex::default(),
        waiting: Mutex::default(),
        context: context.clone(),
    });
    if !(evictor.nodes.synced().await && evictor.pods.synced().await) {
        return;
    }
    evictor.listen(&queue);
    context.drive(evictor, queue).await;
}

struct Evictor {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    recorder: Recorder,
    /// How old the taints of each node are.
    taints: Mutex<HashMap<String, Vec<Seen>>>,
    /// The pods that are to go when their time is over.
    waiting: Mutex<HashSet<ObjectKey>>,
}

/// A taint that drives pods off, since it was seen first.
#[derive(Debug, Clone)]
struct Seen {
    taint: Taint,
    at: Instant,
    /// How old it was then.
    age: Duration,
}

impl Seen {
    /// A taint about a node's health counts from now on: a cluster that was down for an hour must not lose its pods to taints
    /// that its nodes are about to shed.
    fn new(taint: &Taint, at: Instant, now: Timestamp) -> Self {
        let added = taint.time_added.as_ref().map_or(now, |added| added.0);
        let age = if is_about_health(taint) {
            Duration::ZERO
        } else {
            Duration::try_from(now.duration_since(added)).unwrap_or(Duration::ZERO)
        };
        Self {
            taint: taint.clone(),
            at,
            age,
        }
    }

    fn age(&self, now: Instant) -> Duration {
        self.age + now.duration_since(self.at)
    }
}

impl Reconciler for Evictor {
    /// The pod's name.
    type Key = ObjectKey;
    type Error = EvictError;
    const NAME: &'static str = "taint-eviction";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, EvictError> {
        let pod = self.pods.store().get(key);
        let Some(pod) = pod.filter(|pod| pods::is_active(pod)) else {
            self.waiting().remove(key);
            return Ok(Next::Wait);
        };
        let taints = pods::node_name(&pod).map(|node| self.taints_of(node));
        match stay(&pod, &taints.unwrap_or_default(), Instant::now()) {
            Stay::Unlimited => {
                if self.waiting().remove(key) {
                    let message = format!("Cancelling deletion of Pod {key}");
                    self.recorder.normal(&*pod, REASON, message);
                }
                Ok(Next::Wait)
            }
            Stay::For(left) => {
                self.waiting().insert(key.clone());
                // Asked again then: the taint may be gone, and its time may be another.
                Ok(Next::After(left))
            }
            Stay::Over => {
                self.evict(&pod).await?;
                self.waiting().remove(key);
                Ok(Next::Wait)
            }
        }
    }
}

impl Evictor {
    fn listen(self: &Arc<Self>, queue: &WorkQueue<ObjectKey>) {
        let (listener, pods) = (Arc::clone(self), queue.clone());
        self.nodes.subscribe(move |change| {
            let node = change.object();
            listener.note(node, matches!(change, Change::Deleted(_)));
            let news = match change {
                Change::Added(_) => !driving(node).is_empty(),
                Change::Modified { old, new } => driving(old) != driving(new),
                Change::Deleted(_) => false,
            };
            if news {
                for pod in listener.pods.store().on_node(&node.name_any()) {
                    pods.add(ObjectKey::of(&*pod));
                }
            }
        });
        let (listener, pods) = (Arc::clone(self), queue.clone());
        self.pods.subscribe(move |change| {
            let pod = change.object();
            let Some(node) = pods::node_name(pod) else {
                return;
            };
            let node = listener.nodes.store().get(&ObjectKey::new("", node));
            if node.is_some_and(|node| !driving(&node).is_empty()) {
                pods.add(ObjectKey::of(pod));
            }
        });
    }

    /// Remembers since when the node has its taints.
    fn note(&self, node: &Node, gone: bool) {
        let (name, driving) = (node.name_any(), driving(node));
        let mut taints = self.taints.lock().unwrap_or_else(PoisonError::into_inner);
        if gone || driving.is_empty() {
            taints.remove(&name);
            return;
        }
        let known = taints.entry(name).or_default();
        let seen = |taint: &&Taint| {
            let known = known.iter().find(|known| known.taint == **taint);
            known
                .cloned()
                .unwrap_or_else(|| Seen::new(taint, Instant::now(), self.context.now()))
        };
        *known = driving.iter().map(seen).collect();
    }

    fn taints_of(&self, node: &str) -> Vec<Seen> {
        let taints = self.taints.lock().unwrap_or_else(PoisonError::into_inner);
        taints.get(node).cloned().unwrap_or_default()
    }

    fn waiting(&self) -> MutexGuard<'_, HashSet<ObjectKey>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn evict(&self, pod: &Pod) -> Result<(), EvictError> {
        let api = Api::<Pod>::namespaced(
            self.context.client.clone(),
            &pod.namespace().unwrap_or_default(),
        );
        let name = pod.name_any();
        let message = format!(
            "Marking for deletion Pod {}/{name}",
            pod.namespace().unwrap_or_default()
        );
        self.recorder.normal(pod, REASON, message);
        // For those who ask why it went: jobs above all.
        let mut patch = meta::guarded_patch(&pod.metadata, json!({}));
        patch["status"] = json!({ "conditions": pods::disrupted(
            pod,
            "DeletionByTaintManager",
            "Taint manager: deleting due to NoExecute taint",
            self.context.now(),
        ) });
        let (patch, params) = (Patch::Merge(patch), PatchParams::default());
        match api.patch_status(&name, &params, &patch).await {
            Err(error) if !meta::is_not_found(&error) => return Err(EvictError::Mark(error)),
            _ => {}
        }
        let this_one = Preconditions {
            uid: pod.uid(),
            resource_version: None,
        };
        match api
            .delete(&name, &DeleteParams::default().preconditions(this_one))
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if meta::is_not_found(&error) || meta::is_conflict(&error) => Ok(()),
            Err(error) => Err(EvictError::Delete(error)),
        }
    }
}

/// The taints that drive pods off the node.
fn driving(node: &Node) -> Vec<&Taint> {
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    taints
        .iter()
        .filter(|taint| taint.effect == "NoExecute")
        .collect()
}

fn is_about_health(taint: &Taint) -> bool {
    ABOUT_HEALTH.contains(&taint.key.as_str())
}

/// How long a pod may stay on its node.
#[derive(Debug, PartialEq, Eq)]
enum Stay {
    Unlimited,
    For(Duration),
    Over,
}

/// Of `pod` on a node with these taints.
fn stay(pod: &Pod, taints: &[Seen], now: Instant) -> Stay {
    let spec = pod.spec.as_ref();
    let tolerations = spec
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let mut shortest: Option<Duration> = None;
    for seen in taints {
        let patience = match patience(tolerations, &seen.taint) {
            Patience::None => return Stay::Over,
            Patience::Endless => continue,
            Patience::For(patience) => patience,
        };
        let left = patience.saturating_sub(seen.age(now));
        shortest = Some(shortest.map_or(left, |shortest| shortest.min(left)));
    }
    match shortest {
        None => Stay::Unlimited,
        Some(left) if left.is_zero() => Stay::Over,
        Some(left) => Stay::For(left),
    }
}

/// How long a taint is tolerated.
enum Patience {
    None,
    For(Duration),
    Endless,
}

/// The first toleration that covers the taint decides.
fn patience(tolerations: &[Toleration], taint: &Taint) -> Patience {
    match tolerations
        .iter()
        .find(|toleration| covers(toleration, taint))
    {
        Some(Toleration {
            toleration_seconds: None,
            ..
        }) => Patience::Endless,
        Some(Toleration {
            toleration_seconds: Some(seconds),
            ..
        }) => {
            // Zero and less: at once.
            u64::try_from(*seconds)
                .ok()
                .filter(|seconds| *seconds > 0)
                .map_or(Patience::None, |seconds| {
                    Patience::For(Duration::from_secs(seconds))
                })
        }
        None if is_about_health(taint) => Patience::For(DEFAULT_TOLERATION),
        None => Patience::None,
    }
}

fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let stated = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let same_effect = stated(&toleration.effect).is_none_or(|effect| effect == taint.effect);
    let exists = toleration.operator.as_deref() == Some("Exists");
    let same_key = stated(&toleration.key).map_or(exists, |key| key == taint.key);
    let same_value = exists
        || toleration.value.as_deref().unwrap_or_default()
            == taint.value.as_deref().unwrap_or_default();
    same_effect && same_key && same_value
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use vaquita_reconcile::{Options, testing::api::FakeApi};

    const PODS: &str = "api/v1/pods";
    const NODES: &str = "api/v1/nodes";

    fn pod(name: &str, tolerations: &Value) -> Value {
        json!({
            "metadata": { "namespace": "shop", "name": name, "uid": format!("{name}-uid") },
            "spec": { "nodeName": "n1", "containers": [], "tolerations": tolerations },
            "status": { "phase": "Running" },
        })
    }

    fn node(key: &str, added: Timestamp) -> Value {
        let added = added.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        json!({
            "metadata": { "name": "n1" },
            "spec": { "taints": [{ "key": key, "value": "v", "effect": "NoExecute", "timeAdded": added }] },
        })
    }

    /// How long it stays if the taint was added this many seconds before it was seen, which is as many seconds ago.
    fn stays_since(before: i64, tolerations: &Value, key: &str, elapsed: u64) -> Stay {
        let pod = serde_json::from_value(pod("a", tolerations)).unwrap();
        let now = Timestamp::from_second(1_000_000).unwrap();
        let added = Timestamp::from_second(1_000_000 - before).unwrap();
        let node: Node = serde_json::from_value(node(key, added)).unwrap();
        let at = Instant::now();
        let seen = Seen::new(driving(&node)[0], at, now);
        stay(&pod, &[seen], at + Duration::from_secs(elapsed))
    }

    fn stays(tolerations: &Value, key: &str, elapsed: u64) -> Stay {
        stays_since(0, tolerations, key, elapsed)
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_the_taint() {
        assert_eq!(stays(&json!([]), "team", 0), Stay::Over);
        assert_eq!(
            stays(&json!([{ "operator": "Exists" }]), "team", 9999),
            Stay::Unlimited
        );
        assert_eq!(
            stays(&json!([{ "key": "team", "value": "v" }]), "team", 9999),
            Stay::Unlimited
        );
        assert_eq!(
            stays(&json!([{ "key": "team", "value": "w" }]), "team", 0),
            Stay::Over
        );
        assert_eq!(
            stays(
                &json!([{ "key": "team", "value": "v", "effect": "NoSchedule" }]),
                "team",
                0
            ),
            Stay::Over
        );
        let a_minute = json!([{ "key": "team", "operator": "Exists", "tolerationSeconds": 60 }]);
        assert_eq!(
            stays(&a_minute, "team", 15),
            Stay::For(Duration::from_secs(45))
        );
        assert_eq!(stays(&a_minute, "team", 60), Stay::Over);
        assert_eq!(
            stays_since(-100, &a_minute, "team", 0),
            Stay::For(Duration::from_mins(1)),
            "clocks differ"
        );
        assert_eq!(
            stays_since(50, &a_minute, "team", 5),
            Stay::For(Duration::from_secs(5)),
            "it was added before this process started"
        );
    }

    #[test]
    fn a_lost_node_is_tolerated_for_five_minutes_by_default() {
        let lost = "node.kubernetes.io/unreachable";
        assert_eq!(
            stays(&json!([]), lost, 100),
            Stay::For(Duration::from_secs(200))
        );
        assert_eq!(stays(&json!([]), lost, 300), Stay::Over);
        let restarted = stays_since(3600, &json!([]), lost, 100);
        assert_eq!(restarted, Stay::For(Duration::from_secs(200)));
        let at_once = json!([{ "key": lost, "operator": "Exists", "tolerationSeconds": 0 }]);
        assert_eq!(stays(&at_once, lost, 0), Stay::Over);
    }

    #[tokio::test(start_paused = true)]
    async fn pods_are_driven_off_when_a_taint_comes_unless_they_tolerate_it() {
        let api = FakeApi::new();
        api.put(NODES, &json!({ "metadata": { "name": "n1" }, "spec": {} }));
        api.put(PODS, &pod("plain", &json!([])));
        api.put(
            PODS,
            &pod(
                "tolerant",
                &json!([{ "key": "team", "operator": "Exists" }]),
            ),
        );
        let context = Context::new(api.client(), Options::default(), CancellationToken::new());
        tokio::spawn(run(context));
        api.settle().await;
        assert!(api.object(PODS, "shop", "plain").is_some());
        api.edit(NODES, "", "n1", |stored| {
            stored["spec"] = node("team", Timestamp::now())["spec"].take();
        });
        api.until("driven off", |api| {
            api.object(PODS, "shop", "plain").is_none()
        })
        .await;
        api.settle().await;
        assert!(api.object(PODS, "shop", "tolerant").is_some());
    }
    #[tokio::test(start_paused = true)]
    async fn a_pod_goes_when_its_time_is_over_unless_the_taint_goes_before() {
        let api = FakeApi::new();
        let a_minute = json!([{ "key": "team", "operator": "Exists", "tolerationSeconds": 60 }]);
        api.put(PODS, &pod("a", &a_minute));
        // By a clock that is ahead by an hour.
        let tainted = || node("team", Timestamp::now() + Duration::from_hours(1));
        api.put(NODES, &tainted());
        let context = Context::new(api.client(), Options::default(), CancellationToken::new());
        tokio::spawn(run(context));
        tokio::time::sleep(Duration::from_secs(59)).await;
        api.edit(NODES, "", "n1", |node| node["spec"]["taints"] = json!([]));
        let says = |api: &FakeApi, message: &str| {
            let events = api.objects("api/v1/events");
            events.iter().any(|event| event["message"] == message)
        };
        api.until("cancelled", |api| {
            says(api, "Cancelling deletion of Pod shop/a")
        })
        .await;
        api.edit(NODES, "", "n1", |node| *node = tainted());
        tokio::time::sleep(Duration::from_secs(59)).await;
        let before = api.object(PODS, "shop", "a").unwrap();
        assert!(before["metadata"]["deletionTimestamp"].is_null());
        api.edit(PODS, "shop", "a", |pod| {
            pod["metadata"]["finalizers"] = json!(["example.com/look"]);
        });
        api.until("marked for deletion", |api| {
            let pod = api.object(PODS, "shop", "a").unwrap();
            !pod["metadata"]["deletionTimestamp"].is_null()
        })
        .await;
        let pod = api.object(PODS, "shop", "a").unwrap();
        let condition = &pod["status"]["conditions"][0];
        assert_eq!(condition["type"], "DisruptionTarget");
        assert_eq!(condition["reason"], "DeletionByTaintManager");
        api.until("an event", |api| {
            says(api, "Marking for deletion Pod shop/a")
        })
        .await;
    }
}
