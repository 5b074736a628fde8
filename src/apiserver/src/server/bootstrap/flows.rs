//! What flow schemas say about the priority levels that they lead to.

use jiff::Timestamp;
use serde_json::{Value, json};
use vaquita_api::{Object, meta};

/// The schema, saying that its priority level is there: it comes from the same file, so nobody has to look.
pub(super) fn connected(schema: &Object) -> Object {
    let level = meta::at(schema, &["spec", "priorityLevelConfiguration", "name"]);
    let level = level.and_then(Value::as_str).unwrap_or_default();
    let message = format!(
        "This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists"
    );
    let condition = json!({
        "type": "Dangling", "status": "False", "reason": "Found", "message": message,
        "lastTransitionTime": meta::time(Timestamp::now()),
    });
    let mut connected = schema.clone();
    connected.insert("status".to_owned(), json!({"conditions": [condition]}));
    connected
}
