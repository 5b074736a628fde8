//! Writes a pod's status to the API server whenever the board says something new.
//!
//! Writes of one pod never overtake each other, and what changes while one is under way is written as one. A status
//! that lasts only for a moment is not worth a durable write: a container that is just being created gets a moment to
//! become something else first.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Context, Feed,
    backoff::Doubling,
    board::{Board, Record},
    status::{self, Phase, Reporter},
};

/// How long a status is held back while containers are just being created.
const SETTLE: Duration = Duration::from_millis(20);
/// How soon a write that failed is tried again at first; then twice as long each time.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// Fields of a status that are the node's. In a merge patch, what is absent must be said to be absent.
const OWN_FIELDS: &[&str] = &[
    "phase",
    "reason",
    "message",
    "conditions",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "observedGeneration",
];

/// Writes the status of one pod.
pub(super) struct Publisher {
    pub(super) context: Arc<Context>,
    pub(super) feed: watch::Receiver<Feed>,
    pub(super) board: Arc<Board>,
}

/// What became of a write.
enum Written {
    Yes,
    /// There is no such pod any more.
    Gone,
}

impl Publisher {
    /// Writes until `over`, and then once more if there is something new; or until the pod is gone.
    pub(super) async fn run(mut self, over: CancellationToken) {
        let mut changes = self.board.changes();
        let pod = self.feed.borrow_and_update().pod.clone();
        let mut known = pod.status.clone().unwrap_or_default();
        let mut last = None;
        if Phase::of(&pod).is_final() {
            // What has ended before is as it was written then.
            known = self.status(&pod, &known);
            last = Some(known.clone());
        }
        loop {
            let is_over = over.is_cancelled();
            changes.mark_unchanged();
            self.settle(&mut changes, is_over).await;
            let pod = self.feed.borrow_and_update().pod.clone();
            // Others' conditions are taken from where they write them; ours from what we wrote.
            let theirs = pod
                .status
                .as_ref()
                .and_then(|status| status.conditions.clone());
            merge_others(&mut known, theirs.unwrap_or_default());
            let new = self.status(&pod, &known);
            if last.as_ref() != Some(&new) {
                if let Written::Gone = self.write(&pod, &new).await {
                    return;
                }
                known = new.clone();
                last = Some(new);
            }
            if is_over {
                return;
            }
            tokio::select! {
                _ = changes.changed() => {}
                _ = self.feed.changed() => {}
                () = over.cancelled() => {}
            }
        }
    }

    fn status(&self, pod: &Pod, known: &PodStatus) -> PodStatus {
        let reporter = Reporter {
            host_ips: &self.context.host_ips,
            now: Timestamp::now(),
        };
        let previous = known.conditions.as_deref().unwrap_or_default();
        self.board
            .read(|facts| status::status(pod, facts, reporter, previous))
    }

    async fn settle(&self, changes: &mut watch::Receiver<()>, is_over: bool) {
        let is_brief = || {
            self.board.read(|facts| {
                let mut records = facts.containers.iter();
                facts.verdict.is_none() && records.any(Record::is_being_created)
            })
        };
        let settled = async { while is_brief() && changes.changed().await.is_ok() {} };
        if !is_over {
            // If it takes longer, it is worth a write.
            let _ = timeout(SETTLE, settled).await;
        }
    }

    async fn write(&self, pod: &Pod, status: &PodStatus) -> Written {
        let pods: Api<Pod> = Api::namespaced(
            self.context.client.clone(),
            &pod.namespace().unwrap_or_default(),
        );
        let patch = Patch::Merge(patch(pod, status));
        let mut retry = Doubling::new(FIRST_RETRY, LONGEST_RETRY);
        loop {
            match pods
                .patch_status(&pod.name_any(), &PatchParams::default(), &patch)
                .await
            {
                Ok(_) => return Written::Yes,
                Err(kube::Error::Api(refusal)) if refusal.is_not_found() => return Written::Gone,
                // Another pod of that name: ours is gone.
                Err(kube::Error::Api(refusal))
                    if refusal.is_conflict() && self.feed.borrow().is_gone =>
                {
                    return Written::Gone;
                }
                Err(kube::Error::Api(refusal)) if refusal.is_invalid() => {
                    // The same again would be refused again.
                    tracing::error!(pod = pod.name_any(), error = %refusal, "the pod's status is refused");
                    return Written::Yes;
                }
                Err(error) => {
                    tracing::debug!(pod = pod.name_any(), %error, "cannot write the pod's status");
                }
            }
            sleep(retry.next()).await;
        }
    }
}

/// Conditions of types that we do not report, as others have them now.
fn merge_others(known: &mut PodStatus, theirs: Vec<k8s_openapi::api::core::v1::PodCondition>) {
    let ours = known.conditions.get_or_insert_default();
    let is_own = |type_: &str| status::OWN_CONDITIONS.contains(&type_);
    ours.retain(|condition| is_own(&condition.type_));
    ours.extend(
        theirs
            .into_iter()
            .filter(|condition| !is_own(&condition.type_)),
    );
}

fn patch(pod: &Pod, status: &PodStatus) -> Value {
    let mut own = serde_json::to_value(status).unwrap_or_default();
    if let Value::Object(fields) = &mut own {
        for field in OWN_FIELDS {
            fields.entry(*field).or_insert(Value::Null);
        }
    }
    // The uid says which pod is meant: another one of that name is a conflict.
    json!({ "metadata": { "uid": pod.uid() }, "status": own })
}

/// Tells the API server that nothing of the pod is left, however long it takes, so that its object can go.
pub(super) async fn delete(context: &Context, pod: &Pod) {
    let pods: Api<Pod> =
        Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    let just_this = Preconditions {
        uid: pod.uid(),
        resource_version: None,
    };
    let now = DeleteParams::default()
        .grace_period(0)
        .preconditions(just_this);
    let mut retry = Doubling::new(FIRST_RETRY, LONGEST_RETRY);
    loop {
        match pods.delete(&pod.name_any(), &now).await {
            Ok(_) => return,
            Err(kube::Error::Api(refusal)) if refusal.is_not_found() || refusal.is_conflict() => {
                return;
            }
            Err(error) => tracing::debug!(pod = pod.name_any(), %error, "cannot delete the pod"),
        }
        sleep(retry.next()).await;
    }
}
