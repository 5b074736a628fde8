//! What nodes say that they and their containers use, and what of it happened lately.
//!
//! A node tells how much CPU time was used in all, ever since; a rate takes two such samples. They are taken when somebody
//! asks: one that is a few seconds old is good enough, and the one before it, unless it is too old, is where the
//! window began.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::body::Body;
use futures::{StreamExt as _, stream};
use http::{Request, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};

use crate::{NodeError, NodeTransport};

/// How old a sample may be for another one not to be taken.
const FRESH: Duration = Duration::from_secs(5);
/// The longest time that a rate is computed over: longer says nothing about now.
const LONGEST_WINDOW: Duration = Duration::from_mins(1);
/// The time between two samples where there is no earlier one.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// How long a node may take to answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// The most that is read of an answer.
const ANSWER_BYTES: usize = 32 << 20;
/// How many nodes are asked at a time.
const AT_ONCE: usize = 32;

/// Why a node's sample could not be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum SampleError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("the node did not answer in time")]
    Late,
    #[error("the node answered {0}")]
    Refused(StatusCode),
    #[error("the node's answer could not be read")]
    Body(#[from] axum::Error),
    #[error("the node's answer makes no sense")]
    Format(#[from] serde_json::Error),
}

/// The part of a kubelet's `/stats/summary` that is of interest.
#[derive(Debug, Deserialize)]
struct Summary {
    node: NodeStats,
    #[serde(default)]
    pods: Vec<PodStats>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeStats {
    #[serde(default)]
    start_time: Option<Timestamp>,
    cpu: Option<CpuStats>,
    memory: Option<MemoryStats>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStats {
    pod_ref: PodReference,
    #[serde(default)]
    containers: Vec<ContainerStats>,
}

#[derive(Debug, Deserialize)]
struct PodReference {
    uid: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStats {
    name: String,
    #[serde(default)]
    start_time: Option<Timestamp>,
    cpu: Option<CpuStats>,
    memory: Option<MemoryStats>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CpuStats {
    time: Timestamp,
    usage_core_nano_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MemoryStats {
    working_set_bytes: Option<u64>,
}

/// What something had used by a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    time: Timestamp,
    started: Option<Timestamp>,
    /// Nanoseconds of CPU time.
    cpu: u64,
    /// Bytes.
    memory: u64,
}

impl Point {
    fn new(
        started: Option<Timestamp>,
        cpu: Option<&CpuStats>,
        memory: Option<&MemoryStats>,
    ) -> Option<Self> {
        let cpu = cpu?;
        Some(Self {
            time: cpu.time,
            started,
            cpu: cpu.usage_core_nano_seconds?,
            memory: memory?.working_set_bytes?,
        })
    }

    /// What was used between `before` and now; of what began meanwhile, or began anew, since it did.
    fn since(&self, before: Option<&Self>) -> Option<Usage> {
        let before = before.filter(|before| before.cpu <= self.cpu && before.time < self.time);
        let (from, base) = match (before, self.started) {
            (Some(before), _) => (before.time, before.cpu),
            (None, Some(started)) => (started, 0),
            (None, None) => return None,
        };
        let window = Duration::try_from(self.time.duration_since(from)).ok()?;
        if window.is_zero() || window > LONGEST_WINDOW && before.is_none() {
            return None;
        }
        let used = u128::from(self.cpu - base) * 1_000_000_000 / window.as_nanos();
        Some(Usage {
            time: self.time,
            window,
            cpu: u64::try_from(used).unwrap_or(u64::MAX),
            memory: self.memory,
        })
    }
}

/// What something uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// The end of the window.
    pub(super) time: Timestamp,
    pub(super) window: Duration,
    /// Nanoseconds of CPU time for each second.
    pub(super) cpu: u64,
    /// Bytes.
    pub(super) memory: u64,
}

/// Everything that a node said at one moment.
#[derive(Debug, Default)]
struct Sample {
    node: Option<Point>,
    /// By the pod's uid and the container's name.
    containers: HashMap<String, HashMap<String, Point>>,
}

impl From<Summary> for Sample {
    fn from(summary: Summary) -> Self {
        let node = summary.node;
        let containers = summary.pods.into_iter().map(|pod| {
            let containers = pod.containers.into_iter().filter_map(|one| {
                let point = Point::new(one.start_time, one.cpu.as_ref(), one.memory.as_ref())?;
                Some((one.name, point))
            });
            (pod.pod_ref.uid, containers.collect())
        });
        Self {
            node: Point::new(node.start_time, node.cpu.as_ref(), node.memory.as_ref()),
            containers: containers.collect(),
        }
    }
}

/// What a node and its containers use.
#[derive(Debug, Default)]
pub(super) struct Usages {
    pub(super) node: Option<Usage>,
    /// By the pod's uid: each container's name, in order.
    pub(super) pods: HashMap<String, Vec<(String, Usage)>>,
}

impl Usages {
    fn between(before: &Sample, now: &Sample) -> Self {
        let mut pods = HashMap::new();
        for (uid, containers) in &now.containers {
            let before = before.containers.get(uid);
            let mut used: Vec<_> = containers
                .iter()
                .filter_map(|(name, point)| {
                    let before = before.and_then(|before| before.get(name));
                    Some((name.clone(), point.since(before)?))
                })
                .collect();
            used.sort_by(|one, other| one.0.cmp(&other.0));
            // A pod of which not all is known would look as if it used less.
            if used.len() == containers.len() && !used.is_empty() {
                pods.insert(uid.clone(), used);
            }
        }
        let node = now.node.and_then(|node| node.since(before.node.as_ref()));
        Self { node, pods }
    }
}

/// The latest samples of one node.
#[derive(Debug, Default)]
struct Kept {
    latest: Option<(Instant, Sample)>,
    usages: Arc<Usages>,
}

impl Kept {
    async fn refresh(
        &mut self,
        nodes: &dyn NodeTransport,
        name: &str,
    ) -> Result<Arc<Usages>, SampleError> {
        let age = self.latest.as_ref().map(|(at, _)| at.elapsed());
        if age.is_some_and(|age| age < FRESH) {
            return Ok(Arc::clone(&self.usages));
        }
        if age.is_none_or(|age| age > LONGEST_WINDOW) {
            self.latest = Some((Instant::now(), ask(nodes, name).await?));
            tokio::time::sleep(FIRST_WINDOW).await;
        }
        let now = (Instant::now(), ask(nodes, name).await?);
        if let Some((_, before)) = &self.latest {
            self.usages = Arc::new(Usages::between(before, &now.1));
        }
        self.latest = Some(now);
        Ok(Arc::clone(&self.usages))
    }
}

async fn ask(nodes: &dyn NodeTransport, name: &str) -> Result<Sample, SampleError> {
    let asking = async {
        let request = Request::get("/stats/summary?only_cpu_and_memory=true");
        let request = request.body(Body::empty()).unwrap_or_default();
        let response = nodes.call(name, request).await?;
        if response.status() != StatusCode::OK {
            return Err(SampleError::Refused(response.status()));
        }
        let body = axum::body::to_bytes(response.into_body(), ANSWER_BYTES).await?;
        Ok(serde_json::from_slice::<Summary>(&body)?.into())
    };
    let asked = tokio::time::timeout(DEADLINE, asking).await;
    asked.unwrap_or(Err(SampleError::Late))
}

/// The samples of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    nodes: Mutex<HashMap<String, Arc<Mutex<Kept>>>>,
}

impl Samples {
    /// What each of these nodes, and what is on it, uses. Those which do not answer are left out.
    pub(super) async fn of(
        &self,
        transport: &dyn NodeTransport,
        names: Vec<String>,
    ) -> HashMap<String, Arc<Usages>> {
        let asking = names.into_iter().map(|name| async move {
            let kept = Arc::clone(self.nodes.lock().await.entry(name.clone()).or_default());
            // Whoever asks meanwhile waits, and finds the answer.
            let mut kept = kept.lock().await;
            match kept.refresh(transport, &name).await {
                Ok(usages) => Some((name, usages)),
                Err(error) => {
                    tracing::debug!(node = name, %error, "no metrics");
                    None
                }
            }
        });
        let answers = stream::iter(asking).buffer_unordered(AT_ONCE);
        answers.filter_map(std::future::ready).collect().await
    }

    /// Forgets all nodes but these.
    pub(super) async fn retain(&self, names: &[String]) {
        let mut nodes = self.nodes.lock().await;
        if nodes.len() > names.len() {
            nodes.retain(|name, _| names.contains(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use axum::response::Response;
    use serde_json::json;

    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_second(1_000_000 + i64::try_from(second).unwrap()).unwrap()
    }

    /// A node that uses half a core, with a container that uses a quarter of one.
    struct Steady {
        began: Instant,
        asked: AtomicU64,
    }

    #[async_trait::async_trait]
    impl NodeTransport for Steady {
        async fn call(
            &self,
            node: &str,
            _request: Request<Body>,
        ) -> Result<Response<Body>, NodeError> {
            if node != "n1" {
                return Err(NodeError::Unknown);
            }
            self.asked.fetch_add(1, Ordering::Relaxed);
            let seconds = self.began.elapsed().as_secs();
            let cpu = |share: u64| json!({ "time": at(seconds), "usageCoreNanoSeconds": share * seconds + 77 });
            let memory = json!({ "time": at(seconds), "workingSetBytes": 4096 });
            let container = json!({ "name": "web", "cpu": cpu(250_000_000), "memory": memory });
            let summary = json!({
                "node": { "nodeName": "n1", "cpu": cpu(500_000_000), "memory": memory },
                "pods": [{ "podRef": { "name": "a", "namespace": "shop", "uid": "u" }, "containers": [container] }],
            });
            Ok(Response::new(summary.to_string().into()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rates_are_of_the_last_while_and_nobody_is_asked_too_often() {
        let samples = Samples::default();
        let node = Steady {
            began: Instant::now(),
            asked: AtomicU64::new(0),
        };
        let names = || vec!["n1".to_owned(), "gone".to_owned()];
        let mut windows = Vec::new();
        for wait in [0, 1, 15, 600] {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            let all = samples.of(&node, names()).await;
            assert_eq!(all.len(), 1);
            let usage = all["n1"].node.unwrap();
            assert_eq!((usage.cpu, usage.memory), (500_000_000, 4096));
            let (name, container) = &all["n1"].pods["u"][0];
            assert_eq!((name.as_str(), container.cpu), ("web", 250_000_000));
            windows.push((usage.window.as_secs(), node.asked.load(Ordering::Relaxed)));
        }
        assert_eq!(windows, [(1, 2), (1, 2), (16, 3), (1, 5)]);
        samples.retain(&[]).await;
        assert!(samples.nodes.lock().await.is_empty());
    }

    #[test]
    fn what_began_lately_is_measured_from_then() {
        let point = |second, started: Option<u64>, cpu| Point {
            time: at(second),
            started: started.map(at),
            cpu,
            memory: 1,
        };
        let now = point(20, Some(10), 5_000_000_000);
        let used = |before: Option<&Point>| now.since(before).map(|usage| usage.cpu);
        assert_eq!(used(None), Some(500_000_000));
        let restarted = point(5, Some(0), 9_000_000_000);
        assert_eq!(used(Some(&restarted)), Some(500_000_000));
        let before = point(15, Some(10), 4_000_000_000);
        assert_eq!(used(Some(&before)), Some(200_000_000));
        assert_eq!(point(500, Some(10), 5).since(None), None, "too long ago");
        assert_eq!(point(20, None, 5).since(None), None);
    }
}
