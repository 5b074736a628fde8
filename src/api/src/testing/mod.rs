//! What the tests of kinds share, in this crate and in others (feature `testing`).

pub mod laws;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::registry::{NewObject, Part, Resource};
use crate::status::Status;

/// The object that `value` is.
pub fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}

fn fresh() -> NewObject<'static> {
    NewObject {
        namespace: "default",
        now: Timestamp::UNIX_EPOCH,
        uid: "the-uid".to_owned(),
        entropy: 7,
    }
}

fn create(resource: &Resource, value: Value) -> Result<Object, Status> {
    let mut object = resource.decode(value)?.object;
    resource.prepare_create(&mut object, &fresh())?;
    resource.validate_create(&object)?;
    Ok(object)
}

/// The object as it is stored when a client creates it.
pub fn created(resource: &Resource, value: Value) -> Object {
    create(resource, value).unwrap_or_else(|status| panic!("{status}"))
}

/// What is wrong with an object that a client tries to create: each cause as `field: message`.
pub fn refused(resource: &Resource, value: Value) -> Vec<String> {
    causes(create(resource, value))
}

/// The object as it is stored when a client replaces `old` by it.
pub fn updated(
    resource: &Resource,
    old: &Object,
    value: Value,
    part: Part,
) -> Result<Object, Status> {
    let mut new = resource.decode(value)?.object;
    resource.prepare_update(&mut new, old, part, Timestamp::UNIX_EPOCH)?;
    resource.validate_update(&new, old, part)?;
    Ok(new)
}

/// Each cause of a failure as `field: message`; none for a success.
pub fn causes(outcome: Result<Object, Status>) -> Vec<String> {
    let Err(status) = outcome else {
        return Vec::new();
    };
    match status.details() {
        Some(details) => details
            .causes
            .iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect(),
        None => vec![status.message().to_owned()],
    }
}

/// The object with a change made to it, as a client would send it back.
pub fn changed(object: &Object, change: impl FnOnce(&mut Value)) -> Value {
    let mut value = Value::Object(object.clone());
    change(&mut value);
    value
}

/// Asserts that what the server stores reads back as it is.
pub fn assert_stable(resource: &Resource, object: &Object) {
    let decoded = resource.decode(Value::Object(object.clone())).unwrap();
    assert_eq!(Value::Object(decoded.object), json!(object));
    assert_eq!(decoded.unknown, [""; 0]);
}
