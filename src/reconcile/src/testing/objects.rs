//! Objects for tests, as short to write as they can be.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
};

/// A pod with a uid of its own and nothing else.
pub fn pod(namespace: &str, name: &str) -> Pod {
    Pod {
        metadata: named(namespace, name),
        ..Pod::default()
    }
}

/// Metadata with a name and a uid made of it.
pub fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(format!("{namespace}-{name}-uid")),
        ..ObjectMeta::default()
    }
}

/// `pod`, controlled by a replication controller with this uid.
pub fn owned_by(mut pod: Pod, uid: &str) -> Pod {
    pod.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ReplicationController".to_owned(),
        name: "rc".to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }]);
    pod
}

/// `pod` as the API server would show it at this version.
pub fn at_version(mut pod: Pod, version: u64) -> Pod {
    pod.metadata.resource_version = Some(version.to_string());
    pod
}

/// `pod`, bound to `node`.
pub fn assigned(mut pod: Pod, node: &str) -> Pod {
    pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
    pod
}

/// `pod` with this status phase.
pub fn in_phase(mut pod: Pod, phase: &str) -> Pod {
    pod.status.get_or_insert_default().phase = Some(phase.to_owned());
    pod
}

/// `pod`, ready since then.
pub fn ready(mut pod: Pod, since: Timestamp) -> Pod {
    pod.status.get_or_insert_default().conditions = Some(vec![PodCondition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(since)),
        ..PodCondition::default()
    }]);
    pod
}
