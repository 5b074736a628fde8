//! How many pods there should be, by whoever owns those that are there.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        core::v1::{Pod, ReplicationController},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::ResourceExt as _;

use vaquita_reconcile::{
    Context, ObjectKey,
    informer::{Change, Informer, Watched},
    meta,
    scale::{ScaleError, Scales, Target},
};

/// Why the owners of pods could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// What the pod names as its controller is not there.
    #[error("found no controllers for pod {0:?}")]
    NoController(String),
    /// The controller's scale could not be read.
    #[error(transparent)]
    Scale(#[from] ScaleError),
}

/// The workloads that own pods. The usual ones are known here; any other is asked for its scale.
pub(super) struct Owners {
    controllers: Informer<ReplicationController>,
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful: Informer<StatefulSet>,
    scales: Scales,
}

/// An owner that says how many pods it wants; 1 if it doesn't.
trait Replicated: Watched {
    fn replicas(&self) -> i32;
}

macro_rules! replicated {
    ($($kind:ty),*) => {$(
        impl Replicated for $kind {
            fn replicas(&self) -> i32 {
                self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
            }
        }
    )*};
}

replicated!(ReplicationController, ReplicaSet, Deployment, StatefulSet);

impl Owners {
    pub(super) fn new(context: &Context) -> Self {
        Self {
            controllers: context.informers.of(),
            sets: context.informers.of(),
            deployments: context.informers.of(),
            stateful: context.informers.of(),
            scales: Scales::new(context.client.clone()),
        }
    }

    pub(super) async fn synced(&self) -> bool {
        self.controllers.synced().await
            && self.sets.synced().await
            && self.deployments.synced().await
            && self.stateful.synced().await
    }

    /// Calls `resized` with the namespace of each owner that comes to want another number of pods.
    pub(super) fn on_resize(&self, resized: impl Fn(&str) + Clone + Send + 'static) {
        listen(&self.controllers, resized.clone());
        listen(&self.sets, resized.clone());
        listen(&self.deployments, resized.clone());
        listen(&self.stateful, resized);
    }

    /// How many pods the owners of `pods` want together. Pods without an owner want nothing.
    pub(super) async fn scale(
        &self,
        namespace: &str,
        pods: &[Arc<Pod>],
    ) -> Result<i32, OwnerError> {
        // By the uid of the pod's own controller and by that of who is asked: two replica sets of one deployment are one.
        let mut asked: HashMap<&str, String> = HashMap::new();
        let mut wanted: HashMap<String, i32> = HashMap::new();
        for pod in pods {
            let Some(owner) = meta::controller_of(&**pod) else {
                continue;
            };
            if asked.contains_key(owner.uid.as_str()) {
                continue;
            }
            let found = match self.known(namespace, owner) {
                Known::Owner(uid, replicas) => Some((uid, replicas)),
                Known::Gone => None,
                Known::Foreign => self.ask(namespace, owner).await?,
            };
            let Some((uid, replicas)) = found else {
                return Err(OwnerError::NoController(pod.name_any()));
            };
            asked.insert(&owner.uid, uid.clone());
            wanted.insert(uid, replicas);
        }
        Ok(wanted.values().fold(0, |sum, one| sum.saturating_add(*one)))
    }

    fn known(&self, namespace: &str, owner: &OwnerReference) -> Known {
        let name = ObjectKey::new(namespace, &owner.name);
        let group = owner
            .api_version
            .split_once('/')
            .map_or("", |(group, _)| group);
        match (group, owner.kind.as_str()) {
            ("", "ReplicationController") => Known::of(&self.controllers, &name, owner),
            ("apps", "StatefulSet") => Known::of(&self.stateful, &name, owner),
            ("apps", "ReplicaSet") => {
                let Some(set) = self
                    .sets
                    .store()
                    .get(&name)
                    .filter(|set| meta::uid(&**set) == owner.uid)
                else {
                    return Known::Gone;
                };
                match self.deployments.store().controlling(&*set) {
                    Some(deployment) => {
                        Known::Owner(meta::uid(&*deployment).to_owned(), deployment.replicas())
                    }
                    None => Known::Owner(owner.uid.clone(), set.replicas()),
                }
            }
            _ => Known::Foreign,
        }
    }

    /// The scale of an owner of any other kind.
    async fn ask(
        &self,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<Option<(String, i32)>, OwnerError> {
        let target = Target {
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
        };
        let scale = match self.scales.get(namespace, &target).await {
            Ok(scale) => scale,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if scale.metadata.uid.as_deref() != Some(&owner.uid) {
            return Ok(None);
        }
        let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
        Ok(Some((owner.uid.clone(), replicas)))
    }
}

/// What is known here of an owner.
enum Known {
    /// Whose number counts, and the number.
    Owner(String, i32),
    /// It is of a kind that is known here, and not there.
    Gone,
    /// It is of another kind.
    Foreign,
}

impl Known {
    fn of<K: Replicated>(informer: &Informer<K>, name: &ObjectKey, owner: &OwnerReference) -> Self {
        let object = informer.store().get(name);
        match object.filter(|object| meta::uid(&**object) == owner.uid) {
            Some(object) => Self::Owner(owner.uid.clone(), object.replicas()),
            None => Self::Gone,
        }
    }
}

fn listen<K: Replicated>(informer: &Informer<K>, resized: impl Fn(&str) + Send + 'static) {
    informer.subscribe(move |change| {
        let news = match change {
            Change::Modified { old, new } => old.replicas() != new.replicas(),
            // A pod may have been seen before its owner was.
            Change::Added(_) | Change::Deleted(_) => true,
        };
        if news {
            resized(&change.object().namespace().unwrap_or_default());
        }
    });
}
