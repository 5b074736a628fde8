//! Metadata that all controllers read and write: owner references, uids, preconditions, the kinds of API errors.

use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Resource, ResourceExt, core::response::StatusCause};
use serde_json::{Value, json};

/// The owner reference of the controller that manages `object`, if any.
pub fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true))
}

/// Whether deletion of the object has been asked for.
pub fn is_terminating(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// The object's uid; empty only for an object that never was in an API server.
pub fn uid<K: Resource>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

/// The reference that makes `owner` the controller of a dependent, and keeps it until the dependent is gone when it
/// is deleted in the foreground.
pub fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: uid(owner).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A full reference to `object`, for an event about it or an endpoint's `targetRef`.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: object.namespace(),
        name: Some(object.name_any()),
        uid: object.uid(),
        resource_version: object.resource_version(),
        field_path: None,
    }
}

/// A merge patch of `metadata` that applies to exactly the version of the object it was computed from: another uid or
/// a newer version is a conflict.
pub fn guarded_patch(meta: &ObjectMeta, mut metadata: Value) -> Value {
    metadata["uid"] = json!(meta.uid);
    metadata["resourceVersion"] = json!(meta.resource_version);
    json!({ "metadata": metadata })
}

/// Whether the API server said that there is no such object.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

/// Whether the API server said that the object is not the one, or not the version, that was meant.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict() || status.is_invalid())
}

/// Whether the API server said that the object's namespace takes nothing new because it is being deleted: by the cause
/// that clients are meant to look for, or in words alone.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let says_so = |cause: &StatusCause| cause.reason == "NamespaceTerminating";
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.is_forbidden()
        && (causes.into_iter().any(says_so)
            || status.message.ends_with("because it is being terminated"))
}

/// What an API error says to a user, without the wrapping of the client library.
pub fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => crate::drive::chain(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(details: &Value, message: &str) -> kube::Error {
        let status =
            json!({ "code": 403, "reason": "Forbidden", "message": message, "details": details });
        kube::Error::Api(serde_json::from_value(status).unwrap())
    }

    #[test]
    fn a_terminating_namespace_is_told_from_other_refusals() {
        let causes = json!({ "causes": [{ "reason": "NamespaceTerminating" }] });
        assert!(is_namespace_terminating(&refused(&causes, "")));
        let words = "unable to create new content in namespace shop because it is being terminated";
        assert!(is_namespace_terminating(&refused(&json!({}), words)));
        assert!(!is_namespace_terminating(&refused(
            &json!({}),
            "exceeded quota"
        )));
    }
}
