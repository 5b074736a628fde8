//! Namespace deletion: empties a namespace that is going, then lets it go.
//!
//! A namespace holds itself back by the entry `kubernetes` in `spec.finalizers`. When its deletion is asked for,
//! everything in it is deleted, whatever the resource: the pods first, so that they still find the secrets, config
//! maps and services they need to end well. When nothing is left, the entry is taken away by the subresource `finalize`.
//! What holds this up is told by the namespace's conditions.

mod conditions;
mod contents;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use self::contents::Findings;
use vaquita_reconcile::{
    Clock, Context, ObjectKey,
    drive::{Next, Reconciler},
    informer::{Change, Informer},
    meta,
    queue::{Pacing, WorkQueue},
    served::survey,
};

/// The finalizer that stands for the namespace's contents.
const FINALIZER: &str = "kubernetes";
/// Between two looks at a namespace, the first soon after the deletion was asked for, later ones ever rarer.
const SOONEST: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(10);

/// Why a look at a namespace failed.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The namespace could not be read.
    #[error("reading the namespace")]
    Read(#[source] kube::Error),
    /// What the API server serves could not be learned.
    #[error("finding out what a namespace can contain")]
    Discover(#[source] kube::Error),
    /// The conditions could not be written.
    #[error("updating the conditions")]
    Status(#[source] kube::Error),
    /// The namespace is empty, but could not be let go.
    #[error("finalizing the namespace")]
    Finalize(#[source] kube::Error),
}

/// Runs the controller until shutdown.
pub async fn run(context: Context) {
    let queue = WorkQueue::new(Pacing::default());
    let namespaces: Informer<Namespace> = context.informers.of();
    let pods: Informer<Pod> = context.informers.of();
    if !namespaces.synced().await {
        return;
    }
    let listener = queue.clone();
    namespaces.subscribe(move |change| {
        let namespace: &Namespace = change.object();
        if awaits_us(namespace) {
            listener.add(ObjectKey::of(namespace));
        }
    });
    let (listener, known) = (queue.clone(), namespaces.clone());
    pods.subscribe(move |change| {
        let Change::Deleted(pod) = change else {
            return;
        };
        // Perhaps its namespace waits for just this one.
        let key = ObjectKey::new("", pod.namespace().unwrap_or_default());
        if known
            .store()
            .get(&key)
            .is_some_and(|namespace| awaits_us(&namespace))
        {
            listener.add(key);
        }
    });
    let controller = Controller {
        client: context.client.clone(),
        clock: context.options.clock.clone(),
        namespaces,
    };
    context.drive(Arc::new(controller), queue).await;
}

/// Whether the namespace is going and holds itself back for its contents.
fn awaits_us(namespace: &Namespace) -> bool {
    meta::is_terminating(&namespace.metadata)
        && finalizers(namespace).iter().any(|held| held == FINALIZER)
}

fn finalizers(namespace: &Namespace) -> &[String] {
    let spec = namespace.spec.as_ref();
    spec.and_then(|spec| spec.finalizers.as_deref())
        .unwrap_or_default()
}

struct Controller {
    client: Client,
    clock: Clock,
    namespaces: Informer<Namespace>,
}

impl Reconciler for Controller {
    type Key = ObjectKey;
    type Error = NamespaceError;
    const NAME: &'static str = "namespace-controller";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, NamespaceError> {
        let known = self.namespaces.store().get(key);
        if !known.is_some_and(|namespace| awaits_us(&namespace)) {
            return Ok(Next::Wait);
        }
        // Deleting everything deserves to be sure: the local copy may be that of an earlier namespace of this name.
        let api = Api::<Namespace>::all(self.client.clone());
        let namespace = match api.get_opt(&key.name).await {
            Ok(Some(namespace)) if awaits_us(&namespace) => namespace,
            Ok(_) => return Ok(Next::Wait),
            Err(error) => return Err(NamespaceError::Read(error)),
        };
        let survey = survey(&self.client)
            .await
            .map_err(NamespaceError::Discover)?;
        let findings = contents::delete(&self.client, &key.name, survey).await;
        if findings.is_empty() {
            self.finalize(&api, namespace).await?;
            return Ok(Next::Wait);
        }
        let now = self.clock.now();
        self.tell(&api, &namespace, &findings, now).await?;
        Ok(Next::After(patience(&namespace, now)))
    }
}

impl Controller {
    async fn finalize(
        &self,
        api: &Api<Namespace>,
        mut namespace: Namespace,
    ) -> Result<(), NamespaceError> {
        let name = namespace.name_any();
        let mut left = finalizers(&namespace).to_vec();
        left.retain(|held| held != FINALIZER);
        namespace.spec.get_or_insert_default().finalizers = Some(left);
        let finalized = api
            .replace_subresource("finalize", &name, &PostParams::default(), &namespace)
            .await;
        match finalized {
            Ok(_) => Ok(()),
            Err(error) if meta::is_not_found(&error) => Ok(()),
            Err(error) => Err(NamespaceError::Finalize(error)),
        }
    }

    /// Writes the conditions if they say anything new.
    async fn tell(
        &self,
        api: &Api<Namespace>,
        namespace: &Namespace,
        findings: &Findings,
        now: Timestamp,
    ) -> Result<(), NamespaceError> {
        let status = namespace.status.as_ref();
        let before: &[NamespaceCondition] = status
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default();
        let conditions = conditions::update(before, findings, now);
        if conditions == before {
            return Ok(());
        }
        let mut patch = meta::guarded_patch(&namespace.metadata, json!({}));
        patch["status"] = json!({ "conditions": conditions });
        let name = namespace.name_any();
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map(drop)
            .map_err(NamespaceError::Status)
    }
}

/// When to look again: after a quarter of the time that it has taken so far.
fn patience(namespace: &Namespace, now: Timestamp) -> Duration {
    let asked = namespace.metadata.deletion_timestamp.as_ref();
    let taken = asked.map(|asked| now.duration_since(asked.0));
    let taken = taken.and_then(|taken| Duration::try_from(taken).ok());
    (taken.unwrap_or_default() / 4).clamp(SOONEST, LATEST)
}
