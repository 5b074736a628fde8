//! Telling the API server what was decided: bindings, the condition of pods that fit nowhere, events about both.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Binding, Event, EventSource, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::pod::PodKey;

/// How binding a pod ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The pod has its node.
    Bound,
    /// The pod is gone, or got a node from somebody else: nothing is left to do.
    Moot,
    /// It did not work this time.
    Failed(kube::Error),
}

/// Speaks for one scheduler.
#[derive(Clone)]
pub(crate) struct Speaker {
    client: Client,
    name: String,
}

impl Speaker {
    pub(crate) fn new(client: Client, name: String) -> Self {
        Self { client, name }
    }

    /// Gives the pod to `node`, if it is still the same incarnation and still has none.
    pub(crate) async fn bind(&self, pod: &PodKey, node: &str) -> Outcome {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.name.clone()),
                namespace: Some(pod.namespace.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let bound: Result<serde_json::Value, _> = pods
            .create_subresource("binding", &pod.name, &PostParams::default(), &binding)
            .await;
        match bound {
            Ok(_) => Outcome::Bound,
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Outcome::Moot,
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Says that the pod has a node.
    pub(crate) async fn scheduled(&self, pod: &PodKey, node: &str) {
        let message = format!(
            "Successfully assigned {}/{} to {node}",
            pod.namespace, pod.name
        );
        self.event(pod, "Normal", "Scheduled", message).await;
    }

    /// Says that the pod fits nowhere: as its condition `PodScheduled`, and as an event.
    pub(crate) async fn unschedulable(&self, pod: &PodKey, message: String) {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        let patch = json!({
            "metadata": {"uid": pod.uid},
            "status": {"conditions": [{
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": message,
                "lastTransitionTime": Time(Timestamp::now()),
            }]},
        });
        let patched = pods
            .patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch))
            .await;
        if let Err(error) = patched {
            tracing::debug!(pod = %pod.name, %error, "cannot set the condition PodScheduled");
        }
        self.event(pod, "Warning", "FailedScheduling", message)
            .await;
    }

    /// Events are for people: one that cannot be written is no reason to do anything else differently.
    async fn event(&self, pod: &PodKey, kind: &str, reason: &str, message: String) {
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}.", pod.name)),
                namespace: Some(pod.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectReference::default()
            },
            type_: Some(kind.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            source: Some(EventSource {
                component: Some(self.name.clone()),
                host: None,
            }),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        };
        let events = Api::<Event>::namespaced(self.client.clone(), &pod.namespace);
        if let Err(error) = events.create(&PostParams::default(), &event).await {
            tracing::debug!(pod = %pod.name, reason, %error, "cannot write an event");
        }
    }
}
