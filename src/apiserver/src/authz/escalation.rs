//! The check before a role or binding is written: nobody gives away more than they have.

use serde_json::Value;
use vaquita_api::{Object, meta, registry::Resource, status::Status};
use vaquita_auth::{
    User,
    escalation::{BindError, GROUP, Writer},
    rbac::{Role, RoleKind, RoleRef, Rule},
};

use crate::server::Server;

/// Metadata by which the garbage collector lets an object go, and what the server itself keeps there.
const OF_COLLECTION: [&str; 5] = [
    "ownerReferences",
    "finalizers",
    "managedFields",
    "resourceVersion",
    "generation",
];

/// Refuses `new` if it is a role or binding that gives what `user` does not have. `old` is what it replaces.
pub(crate) fn check(
    server: &Server,
    user: &User,
    resource: &Resource,
    new: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    if resource.group != GROUP || user.is_master() {
        return Ok(());
    }
    if old.is_some_and(|old| is_only_let_go(new, old)) {
        return Ok(());
    }
    let policy = server.policy();
    let writer = Writer {
        policy: &policy,
        user,
        namespace: meta::namespace(new),
    };
    let name = meta::name(new);
    let forbidden =
        |why: &dyn std::error::Error| Status::forbidden(GROUP, &resource.plural, name, why);
    match resource.plural.as_str() {
        "roles" | "clusterroles" => {
            let aggregates = new.contains_key("aggregationRule")
                || old.is_some_and(|old| old.contains_key("aggregationRule"));
            let role = Role {
                namespace: writer.namespace.to_owned(),
                name: name.to_owned(),
                rules: read::<Option<Vec<Rule>>>(new, "rules")?.unwrap_or_default(),
            };
            writer
                .may_write_role(&role, aggregates)
                .map_err(|error| forbidden(&error))
        }
        "rolebindings" | "clusterrolebindings" => {
            let role: RoleRef = read(new, "roleRef")?;
            writer.may_bind(&role).map_err(|error| match error {
                BindError::Escalation(error) => forbidden(&error),
                BindError::Missing(missing) => {
                    let kind = RoleKind::of(&role.kind).unwrap_or(RoleKind::Namespaced);
                    Status::not_found(GROUP, kind.plural(), &missing.name)
                }
            })
        }
        _ => Ok(()),
    }
}

fn read<T: serde::de::DeserializeOwned>(object: &Object, field: &str) -> Result<T, Status> {
    let value = object.get(field).cloned().unwrap_or(Value::Null);
    serde_json::from_value(value).map_err(Status::internal)
}

/// Whether nothing changes but what lets the object be collected.
fn is_only_let_go(new: &Object, old: &Object) -> bool {
    let rest = |object: &Object| {
        let mut object = object.clone();
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.retain(|field, _| !OF_COLLECTION.contains(&field.as_str()));
        }
        object
    };
    let metadata = |object: &Object, field: &str| {
        object
            .get("metadata")
            .and_then(|metadata| metadata.get(field))
            .cloned()
    };
    let lets_go = ["ownerReferences", "finalizers"]
        .iter()
        .any(|field| metadata(new, field) != metadata(old, field));
    lets_go && rest(new) == rest(old)
}
