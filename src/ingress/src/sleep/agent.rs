//! The agent of a node: says which pods are idle, and wakes whom a held connect waits for.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, ReplicationController, Service},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{sync::mpsc, task::AbortHandle};
use tokio_util::sync::CancellationToken;
use vaquita_net::{Fabric, ServiceKey, Wake};
use vaquita_reconcile::{
    ObjectKey,
    informer::{Change, Informers},
    meta, pods,
};

use super::{
    IDLE, IDLE_SINCE, WAKES, parse_idle,
    workload::{Kind, Reference, Workload},
};

/// Services that wait to be woken; further calls are repeated by their connects when something changes.
const BACKLOG: usize = 1024;
/// How often waking a Service is tried before its connects are left to their time limit.
const ATTEMPTS: u32 = 6;
/// How long to wait before asking again about a pod that the network does not know, or writing again.
const RETRY: Duration = Duration::from_secs(1);

/// The agent of one node.
pub struct Agent {
    client: Client,
    node: String,
    fabric: Fabric,
}

impl Agent {
    /// The agent of the node with this name and network.
    pub fn new(client: Client, node: impl Into<String>, fabric: Fabric) -> Self {
        Self {
            client,
            node: node.into(),
            fabric,
        }
    }

    /// Works until shutdown. From the first poll on, connects to Services that sleep are held.
    pub async fn run(self, shutdown: CancellationToken) {
        let (calls, called) = mpsc::channel(BACKLOG);
        let alarm = Alarm { calls };
        self.fabric.set_waker(Some(Box::new(alarm)));
        let watch = Watch {
            client: self.client.clone(),
            fabric: self.fabric.clone(),
            pods: Arc::default(),
        };
        let informers = Informers::new(self.client.clone(), shutdown.clone());
        let pods = informers.selected::<Pod>(&format!("spec.nodeName={}", self.node));
        let watching = watch.clone();
        pods.subscribe(move |change| watching.pod_changed(change));
        shutdown
            .run_until_cancelled(wake_all(self.client, called))
            .await;
        self.fabric.set_waker(None);
        watch.end();
    }
}

/// What the network rings.
struct Alarm {
    calls: mpsc::Sender<ServiceKey>,
}

impl Wake for Alarm {
    fn wake(&self, service: &ServiceKey) {
        if self.calls.try_send(service.clone()).is_err() {
            tracing::debug!(%service, "too many Services wait to be woken");
        }
    }
}

/// Wakes Services as they are asked for, each once at a time.
async fn wake_all(client: Client, mut called: mpsc::Receiver<ServiceKey>) {
    let mut waking = tokio::task::JoinSet::new();
    let mut under_way = HashSet::new();
    loop {
        tokio::select! {
            Some(done) = waking.join_next() => {
                if let Ok(service) = done {
                    under_way.remove(&service);
                }
            }
            service = called.recv() => {
                let Some(service) = service else { return };
                if under_way.insert(service.clone()) {
                    let client = client.clone();
                    waking.spawn(async move {
                        wake(&client, &service).await;
                        service
                    });
                }
            }
        }
    }
}

/// Wakes everything behind a Service.
async fn wake(client: &Client, service: &ServiceKey) {
    for attempt in 0..ATTEMPTS {
        match try_wake(client, service).await {
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(%service, attempt, error = %meta::message(&error), "cannot wake");
            }
        }
        tokio::time::sleep(Duration::from_millis(20) * 2_u32.pow(attempt)).await;
    }
    tracing::warn!(%service, "connects wait for this Service, and what is behind it cannot be woken");
}

async fn try_wake(client: &Client, service: &ServiceKey) -> Result<(), kube::Error> {
    let services = Api::<Service>::namespaced(client.clone(), &service.namespace);
    let Some(found) = services.get_opt(&service.name).await? else {
        return Ok(());
    };
    let wakes = found.annotations().get(WAKES).cloned().unwrap_or_default();
    for reference in wakes.split(',').filter_map(|text| text.parse().ok()) {
        wake_workload(client, &service.namespace, &reference).await?;
    }
    Ok(())
}

async fn wake_workload(
    client: &Client,
    namespace: &str,
    reference: &Reference,
) -> Result<(), kube::Error> {
    let name = &reference.name;
    let workload = match reference.kind {
        Kind::Deployment => Api::<Deployment>::namespaced(client.clone(), namespace)
            .get_opt(name)
            .await?
            .map(|found| Workload::of_deployment(&found)),
        Kind::ReplicationController => {
            Api::<ReplicationController>::namespaced(client.clone(), namespace)
                .get_opt(name)
                .await?
                .map(|found| Workload::of_controller(&found))
        }
    };
    let Some(workload) = workload.filter(|workload| workload.replicas == 0) else {
        return Ok(());
    };
    let Some(replicas) = workload.awake else {
        return Ok(());
    };
    scale(client, workload.kind, &workload.key, replicas).await
}

/// Sets how many replicas a workload is to have.
async fn scale(
    client: &Client,
    kind: Kind,
    key: &ObjectKey,
    replicas: i32,
) -> Result<(), kube::Error> {
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    let (client, params) = (client.clone(), PatchParams::default());
    match kind {
        Kind::Deployment => {
            let api = Api::<Deployment>::namespaced(client, &key.namespace);
            api.patch_scale(&key.name, &params, &patch).await.map(drop)
        }
        Kind::ReplicationController => {
            let api = Api::<ReplicationController>::namespaced(client, &key.namespace);
            api.patch_scale(&key.name, &params, &patch).await.map(drop)
        }
    }
}

/// Follows the pods of the node that take part: a task for each, asleep nearly always.
#[derive(Clone)]
struct Watch {
    client: Client,
    fabric: Fabric,
    pods: Arc<Mutex<HashMap<String, Watched>>>,
}

struct Watched {
    idle: Duration,
    ip: IpAddr,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let pod = change.object();
        let uid = meta::uid(pod).to_owned();
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = match change {
            Change::Deleted(_) => None,
            Change::Added(_) | Change::Modified { .. } => wanted(pod),
        };
        let Some((idle, ip)) = wanted else {
            pods.remove(&uid);
            return;
        };
        if pods
            .get(&uid)
            .is_some_and(|known| (known.idle, known.ip) == (idle, ip))
        {
            return;
        }
        let reporter = Reporter {
            api: Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default()),
            pod: ObjectKey::of(pod),
            uid: uid.clone(),
            fabric: self.fabric.clone(),
        };
        let is_reported = pod.annotations().contains_key(IDLE_SINCE);
        let task = tokio::spawn(reporter.run(ip, idle, is_reported)).abort_handle();
        pods.insert(uid, Watched { idle, ip, task });
    }

    fn end(&self) {
        self.pods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// The idle time and the address of a pod that takes part and is to stay.
fn wanted(pod: &Pod) -> Option<(Duration, IpAddr)> {
    let idle = parse_idle(pod.annotations().get(IDLE)?).ok()?;
    let ip = pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()?;
    pods::is_active(pod).then_some((idle, ip))
}

/// Says when one pod becomes idle, and when it no longer is.
struct Reporter {
    api: Api<Pod>,
    pod: ObjectKey,
    uid: String,
    fabric: Fabric,
}

impl Reporter {
    async fn run(self, ip: IpAddr, idle: Duration, mut reported: bool) {
        loop {
            // Heard of from here on: what comes while we look is not missed.
            let arrival = self.fabric.arrival(ip);
            let Some(activity) = self.fabric.activity(ip) else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let quiet = activity.since.elapsed();
            if activity.open == 0 && quiet >= idle {
                if !reported {
                    self.report(Some(quiet)).await;
                    reported = true;
                }
                arrival.await;
                continue;
            }
            if reported {
                self.report(None).await;
                reported = false;
            }
            // Whatever is open now cannot be over for as long before that time has passed.
            let rest = if activity.open > 0 {
                idle
            } else {
                idle.saturating_sub(quiet)
            };
            tokio::time::sleep(rest.max(Duration::from_millis(1))).await;
        }
    }

    /// Writes for how long the pod has been idle; or that it is not. Tries until it is written: the task is ended when the
    /// pod is gone.
    async fn report(&self, quiet: Option<Duration>) {
        let since = quiet.map(|quiet| {
            let quiet = jiff::SignedDuration::try_from(quiet).unwrap_or(jiff::SignedDuration::MAX);
            let since = Timestamp::now().saturating_sub(quiet);
            since.map_or_else(|_| String::new(), |since| since.to_string())
        });
        let patch = json!({"metadata": {"uid": self.uid, "annotations": {IDLE_SINCE: since}}});
        let patch = Patch::Merge(patch);
        loop {
            match self
                .api
                .patch(&self.pod.name, &PatchParams::default(), &patch)
                .await
            {
                Ok(_) => return,
                Err(error) if meta::is_not_found(&error) || meta::is_conflict(&error) => return,
                Err(error) => {
                    tracing::debug!(pod = %self.pod, %error, "cannot say whether the pod is idle");
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
