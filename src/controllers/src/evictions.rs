//! Eviction by taints: a `NoExecute` taint drives the pods off a node that do not tolerate it.
//!
//! A pod may tolerate a taint for a while (`tolerationSeconds`, counted from when the taint was added); then it goes
//! when that is over. The taints by which [`nodes`](crate::nodes) marks nodes as not ready or unreachable are tolerated
//! for five minutes by pods that say nothing about them, as clusters have it by default: a node that restarts keeps its pods.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
};

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

/// Why a pod could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub enum EvictError {
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
        started: Timestamp::now(),
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
    /// Nodes could not be seen to recover before this.
    started: Timestamp,
}

impl Reconciler for Evictor {
    /// The pod's name.
    type Key = ObjectKey;
    type Error = EvictError;
    const NAME: &'static str = "taint-eviction";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, EvictError> {
        let Some(pod) = self
            .pods
            .store()
            .get(key)
            .filter(|pod| pods::is_active(pod))
        else {
            return Ok(Next::Wait);
        };
        let node = pods::node_name(&pod)
            .and_then(|node| self.nodes.store().get(&ObjectKey::new("", node)));
        let Some(node) = node else {
            return Ok(Next::Wait);
        };
        match stay(&pod, &node, self.started, Timestamp::now()) {
            Stay::Unlimited => Ok(Next::Wait),
            // Asked again then: the taint may be gone, and its time may be another.
            Stay::For(left) => Ok(Next::After(left)),
            Stay::Over => self.evict(&pod).await.map(|()| Next::Wait),
        }
    }
}

impl Evictor {
    fn listen(self: &Arc<Self>, queue: &WorkQueue<ObjectKey>) {
        let (listener, pods) = (Arc::clone(self), queue.clone());
        self.nodes.subscribe(move |change| {
            let node = change.object();
            let news = match change {
                Change::Added(_) => !driving(node).is_empty(),
                Change::Modified { old, new } => driving(old) != driving(new),
                Change::Deleted(_) => false,
            };
            if news {
                let name = node.name_any();
                for pod in listener
                    .pods
                    .store()
                    .matching(|pod| pods::node_name(pod) == Some(&name))
                {
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
        self.recorder.normal(pod, "TaintManagerEviction", message);
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

/// Of `pod` on `node`. The health of nodes is judged only by what came after `started`: a cluster that was down for an
/// hour must not lose its pods to taints that its nodes are about to shed.
fn stay(pod: &Pod, node: &Node, started: Timestamp, now: Timestamp) -> Stay {
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let mut shortest: Option<Duration> = None;
    for taint in driving(node) {
        let patience = match patience(tolerations, taint) {
            Patience::None => return Stay::Over,
            Patience::Endless => continue,
            Patience::For(patience) => patience,
        };
        let mut since = taint.time_added.as_ref().map_or(now, |added| added.0);
        if is_about_health(taint) {
            since = since.max(started);
        }
        let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO);
        let left = patience.saturating_sub(elapsed);
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

    fn stays(tolerations: &Value, key: &str, elapsed: i64) -> Stay {
        stays_since(-1000, tolerations, key, elapsed)
    }

    /// The same in a process that started this long after the taint was added.
    fn stays_since(started: i64, tolerations: &Value, key: &str, elapsed: i64) -> Stay {
        let pod = serde_json::from_value(pod("a", tolerations)).unwrap();
        let added = Timestamp::from_second(1_000_000).unwrap();
        let started = Timestamp::from_second(1_000_000 + started).unwrap();
        let node = serde_json::from_value(node(key, added)).unwrap();
        stay(
            &pod,
            &node,
            started,
            Timestamp::from_second(1_000_000 + elapsed).unwrap(),
        )
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
            stays(&a_minute, "team", -100),
            Stay::For(Duration::from_mins(1)),
            "clocks differ"
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
        let restarted = stays_since(3600, &json!([]), lost, 3700);
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
}
