//! The controller: who takes part, who can be woken through which Service, and when it is time to sleep.

use std::{fmt, sync::Arc};

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{Pod, ReplicationController, Service},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
    core::NamespaceResourceScope,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vaquita_reconcile::{
    Context, ObjectKey, Recorder,
    drive::{Next, Reconciler},
    informer::Informer,
    meta, pods,
    queue::{Pacing, WorkQueue},
};

use super::{
    IDLE, IDLE_SINCE, REPLICAS, WAKES, parse_idle,
    workload::{Kind, Workload},
};

/// Puts workloads to sleep until the context is shut down.
pub async fn run_controller(context: Context) {
    let informers = &context.informers;
    let watched = Watched {
        deployments: informers.of(),
        sets: informers.of(),
        controllers: informers.of(),
        pods: informers.of(),
        services: informers.of(),
    };
    let queue = WorkQueue::new(Pacing::default());
    watched.subscribe(&queue);
    let all_synced = async {
        watched.deployments.synced().await
            && watched.sets.synced().await
            && watched.controllers.synced().await
            && watched.pods.synced().await
            && watched.services.synced().await
    };
    if context.shutdown.run_until_cancelled(all_synced).await != Some(true) {
        return;
    }
    let sandman = Sandman {
        client: context.client.clone(),
        recorder: context.recorder("scale-to-zero"),
        watched,
    };
    context.drive(Arc::new(sandman), queue).await;
}

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Workload(Kind, ObjectKey),
    Service(ObjectKey),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(kind, key) => write!(f, "{} {key}", kind.resource()),
            Self::Service(key) => write!(f, "service {key}"),
        }
    }
}

#[derive(Clone)]
struct Watched {
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    controllers: Informer<ReplicationController>,
    pods: Informer<Pod>,
    services: Informer<Service>,
}

impl Watched {
    fn subscribe(&self, queue: &WorkQueue<Key>) {
        let (watched, queued) = (self.clone(), queue.clone());
        self.deployments.subscribe(move |change| {
            let workload = Workload::of_deployment(change.object());
            watched.workload_changed(&workload, &queued);
        });
        let (watched, queued) = (self.clone(), queue.clone());
        self.controllers.subscribe(move |change| {
            let workload = Workload::of_controller(change.object());
            watched.workload_changed(&workload, &queued);
        });
        let (watched, queued) = (self.clone(), queue.clone());
        self.pods.subscribe(move |change| {
            if let Some(workload) = watched.workload_of(change.object())
                && workload.takes_part()
            {
                queued.add(Key::Workload(workload.kind, workload.key));
            }
        });
        let queued = queue.clone();
        self.services
            .subscribe(move |change| queued.add(Key::Service(ObjectKey::of(change.object()))));
    }

    fn workload_changed(&self, workload: &Workload, queue: &WorkQueue<Key>) {
        queue.add(Key::Workload(workload.kind, workload.key.clone()));
        let namespace = &workload.key.namespace;
        let services = self.services.store();
        for service in services.in_namespace(namespace, |service| {
            workload.is_behind(service) || service.annotations().contains_key(WAKES)
        }) {
            queue.add(Key::Service(ObjectKey::of(&*service)));
        }
    }

    fn get(&self, kind: Kind, key: &ObjectKey) -> Option<Workload> {
        Some(match kind {
            Kind::Deployment => Workload::of_deployment(&*self.deployments.store().get(key)?),
            Kind::ReplicationController => {
                Workload::of_controller(&*self.controllers.store().get(key)?)
            }
        })
    }

    fn workload_of(&self, pod: &Pod) -> Option<Workload> {
        let controllers = self.controllers.store();
        if let Some(controller) = controllers.controlling(pod) {
            return Some(Workload::of_controller(&controller));
        }
        let set = self.sets.store().controlling(pod)?;
        let deployment = self.deployments.store().controlling(&*set)?;
        Some(Workload::of_deployment(&deployment))
    }

    /// The pods of a workload that are to stay.
    fn pods_of(&self, workload: &Workload) -> Vec<Arc<Pod>> {
        let running = self.pods.store();
        let mut all = match workload.kind {
            Kind::ReplicationController => running.controlled_by(&workload.uid),
            Kind::Deployment => self
                .sets
                .store()
                .controlled_by(&workload.uid)
                .iter()
                .flat_map(|set| running.controlled_by(meta::uid(&**set)))
                .collect(),
        };
        all.retain(|pod| pods::is_active(pod));
        all
    }
}

impl Workload {
    fn takes_part(&self) -> bool {
        self.idle.is_some() || self.awake.is_some()
    }
}

#[derive(Debug, thiserror::Error)]
enum SleepError {
    #[error("marking {what}")]
    Mark { what: String, source: kube::Error },
    #[error("writing {what}")]
    Write { what: String, source: kube::Error },
}

struct Sandman {
    client: Client,
    recorder: Recorder,
    watched: Watched,
}

impl Reconciler for Sandman {
    type Key = Key;
    type Error = SleepError;
    const NAME: &'static str = "scale-to-zero";

    async fn reconcile(&self, key: &Key) -> Result<Next, SleepError> {
        match key {
            Key::Service(key) => self.look_at_service(key).await?,
            Key::Workload(kind, key) => {
                if let Some(workload) = self.watched.get(*kind, key) {
                    self.look_at(&workload).await?;
                }
            }
        }
        Ok(Next::Wait)
    }
}

impl Sandman {
    /// Marks a Service with the workloads that can be woken for it.
    async fn look_at_service(&self, key: &ObjectKey) -> Result<(), SleepError> {
        let Some(service) = self.watched.services.store().get(key) else {
            return Ok(());
        };
        let namespace = &key.namespace;
        let deployments = self.watched.deployments.store();
        let deployments = deployments.in_namespace(namespace, has_idle);
        let controllers = self.watched.controllers.store();
        let controllers = controllers.in_namespace(namespace, has_idle);
        let mut wakes: Vec<String> = deployments
            .iter()
            .map(|deployment| Workload::of_deployment(deployment))
            .chain(
                controllers
                    .iter()
                    .map(|controller| Workload::of_controller(controller)),
            )
            .filter(|workload| workload.can_wake() && workload.is_behind(&service))
            .map(|workload| workload.reference().to_string())
            .collect();
        wakes.sort_unstable();
        let wanted = (!wakes.is_empty()).then(|| wakes.join(","));
        if service.annotations().get(WAKES) == wanted.as_ref() {
            return Ok(());
        }
        self.annotate(&*service, WAKES, json!(wanted)).await
    }

    async fn look_at(&self, workload: &Workload) -> Result<(), SleepError> {
        let idle = workload.idle.as_deref().map(parse_idle);
        let pods = self.watched.pods_of(workload);
        let mark = match (&idle, &workload.idle) {
            (Some(Ok(_)), text) => text.clone(),
            _ => None,
        };
        if let Some(Err(message)) = &idle {
            let message = format!("annotation {IDLE}: {message}");
            self.warn(workload, "InvalidScaleToZero", message);
        }
        for pod in &pods {
            if pod.annotations().get(IDLE) != mark.as_ref() {
                self.annotate(&**pod, IDLE, json!(mark)).await?;
            }
        }
        if mark.is_none() {
            return self.let_go(workload).await;
        }
        if workload.replicas == 0 {
            return Ok(());
        }
        if workload.awake.is_some() {
            self.change(workload, None, None).await?;
            self.tell(
                workload,
                "Awake",
                format!("Woken, with {} replicas", workload.replicas),
            );
            return Ok(());
        }
        let all_idle = pods.iter().all(|pod| {
            let marked = pod.annotations().get(IDLE) == mark.as_ref();
            marked && pod.annotations().contains_key(IDLE_SINCE)
        });
        let complete = usize::try_from(workload.replicas).is_ok_and(|count| pods.len() == count);
        if workload.settled && complete && all_idle {
            self.put_to_sleep(workload).await?;
        }
        Ok(())
    }

    /// A workload that does not take part any more is not left asleep.
    async fn let_go(&self, workload: &Workload) -> Result<(), SleepError> {
        let Some(awake) = workload.awake else {
            return Ok(());
        };
        let replicas = (workload.replicas == 0).then_some(awake);
        self.change(workload, replicas, None).await
    }

    async fn put_to_sleep(&self, workload: &Workload) -> Result<(), SleepError> {
        let replicas = workload.replicas;
        self.change(workload, Some(0), Some(replicas)).await?;
        let idle = workload.idle.as_deref().unwrap_or_default();
        let message = format!("Nobody needed it for {idle}: scaled from {replicas} to 0");
        self.tell(workload, "ScaledToZero", message);
        Ok(())
    }

    /// Scales, and writes down how many replicas there are when it is awake, in one write: nobody ever sees the one
    /// without the other. It applies to the very version that was looked at; whoever scaled in between wins.
    async fn change(
        &self,
        workload: &Workload,
        replicas: Option<i32>,
        awake: Option<i32>,
    ) -> Result<(), SleepError> {
        let awake = awake.map(|replicas| replicas.to_string());
        let mut patch = json!({"metadata": {
            "uid": workload.uid,
            "resourceVersion": workload.version,
            "annotations": {REPLICAS: awake},
        }});
        if let Some(replicas) = replicas {
            patch["spec"] = json!({ "replicas": replicas });
        }
        let patched = match workload.kind {
            Kind::Deployment => self.patch::<Deployment>(&workload.key, &patch).await,
            Kind::ReplicationController => {
                self.patch::<ReplicationController>(&workload.key, &patch)
                    .await
            }
        };
        patched.map_err(|source| SleepError::Write {
            what: workload.reference().to_string(),
            source,
        })
    }

    async fn patch<K>(&self, key: &ObjectKey, patch: &Value) -> Result<(), kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + fmt::Debug
            + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &key.namespace);
        api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map(drop)
    }

    async fn annotate<K>(&self, object: &K, name: &str, value: Value) -> Result<(), SleepError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + fmt::Debug
            + DeserializeOwned,
    {
        let patch = json!({"metadata": {"uid": object.uid(), "annotations": {name: value}}});
        match self.patch::<K>(&ObjectKey::of(object), &patch).await {
            Ok(()) => Ok(()),
            Err(error) if meta::is_not_found(&error) || meta::is_conflict(&error) => Ok(()),
            Err(source) => Err(SleepError::Mark {
                what: format!("{} {}", K::kind(&()), ObjectKey::of(object)),
                source,
            }),
        }
    }

    fn tell(&self, workload: &Workload, reason: &'static str, message: String) {
        let stores = &self.watched;
        match workload.kind {
            Kind::Deployment => {
                if let Some(object) = stores.deployments.store().get(&workload.key) {
                    self.recorder.normal(&*object, reason, message);
                }
            }
            Kind::ReplicationController => {
                if let Some(object) = stores.controllers.store().get(&workload.key) {
                    self.recorder.normal(&*object, reason, message);
                }
            }
        }
    }

    fn warn(&self, workload: &Workload, reason: &'static str, message: String) {
        let stores = &self.watched;
        match workload.kind {
            Kind::Deployment => {
                if let Some(object) = stores.deployments.store().get(&workload.key) {
                    self.recorder.warning(&*object, reason, message);
                }
            }
            Kind::ReplicationController => {
                if let Some(object) = stores.controllers.store().get(&workload.key) {
                    self.recorder.warning(&*object, reason, message);
                }
            }
        }
    }
}

fn has_idle<K: Resource>(object: &K) -> bool {
    object.annotations().contains_key(IDLE)
}
