//! `metav1.Status`: what the API answers when it has no object to answer with.
//!
//! Every failure that a client can see is one of the constructors here. Each fixes the HTTP code, the machine-readable
//! `reason` and the wording that client-go, kubectl and other clients match on
//! (k8s.io/apimachinery `pkg/api/errors`).

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use crate::Object;
use crate::field::FieldError;

/// The API's answer in place of an object: `kind: Status, apiVersion: v1`.
///
/// Serializes to the wire form, `kind` and `apiVersion` included.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Status(Box<Body>);

/// Behind a pointer, for it is the error of nearly everything and would make every result as large as itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Body {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: Object,
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    code: u16,
}

/// What a [`Status`] is about. Empty parts are left out of the JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Details {
    /// The object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The API group of `kind`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The plural resource name, or the kind for [`Status::invalid`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One entry for each single problem.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<StatusCause>,
    /// After how many seconds a retry makes sense; 0 says nothing.
    #[serde(rename = "retryAfterSeconds", skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

/// One problem among those of a [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StatusCause {
    /// Machine-readable, such as `FieldValueInvalid`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The field's path, such as `spec.ports[0].port`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A resource's plural and group, as messages name it: `pods`, `deployments.apps`.
fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

impl Status {
    fn failure(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Body {
            kind: "Status",
            api_version: "v1",
            metadata: Object::new(),
            status: "Failure",
            message: message.into(),
            reason,
            details: None,
            code,
        }))
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.0.details.get_or_insert_default();
        group.clone_into(&mut details.group);
        kind.clone_into(&mut details.kind);
        name.clone_into(&mut details.name);
        self
    }

    fn cause(mut self, reason: &str, message: impl Into<String>) -> Self {
        self.0
            .details
            .get_or_insert_default()
            .causes
            .push(StatusCause {
                reason: reason.to_owned(),
                message: message.into(),
                field: String::new(),
            });
        self
    }

    /// The same with a cause more. `field` is the path of a field, "" for none.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let cause = StatusCause {
            reason: reason.to_owned(),
            message: message.to_owned(),
            field: field.to_owned(),
        };
        self.0.details.get_or_insert_default().causes.push(cause);
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.0.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// 200 `Success`, as the answer to a deletion which leaves nothing to show; `plural` and `group` name the resource.
    pub fn success(group: &str, plural: &str, name: &str, uid: &str) -> Self {
        let mut status = Self::failure(200, "", "");
        status.0.status = "Success";
        let mut status = status.about(group, plural, name);
        uid.clone_into(&mut status.0.details.get_or_insert_default().uid);
        status
    }

    /// 404 `NotFound`: `pods "x" not found`.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(group, plural));
        Self::failure(404, "NotFound", message).about(group, plural, name)
    }

    /// 404 for a path that no route serves.
    pub fn no_such_path() -> Self {
        Self::failure(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
        .about("", "", "")
    }

    /// 409 `AlreadyExists`: `pods "x" already exists`.
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(group, plural));
        Self::failure(409, "AlreadyExists", message).about(group, plural, name)
    }

    /// 409 `AlreadyExists` when the name was made from `generateName`: the client may simply try again.
    pub fn generated_name_conflict(group: &str, plural: &str, name: &str) -> Self {
        let message = format!(
            "{} {name:?} already exists, the server was not able to generate a unique name for the object",
            qualified(group, plural)
        );
        Self::failure(409, "AlreadyExists", message)
            .about(group, plural, name)
            .retry_after(1)
    }

    /// 409 `Conflict`: the operation can't be done on the object as it is now; `why` ends the message.
    pub fn conflict(group: &str, plural: &str, name: &str, why: impl fmt::Display) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            qualified(group, plural)
        );
        Self::failure(409, "Conflict", message).about(group, plural, name)
    }

    /// The [`Status::conflict`] of an update whose `resourceVersion` is not the stored one any more.
    pub fn stale(group: &str, plural: &str, name: &str) -> Self {
        const WHY: &str = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, plural, name, WHY)
    }

    /// 409 `Conflict` of a server-side apply, with a cause for each field.
    pub fn apply_conflict(message: impl Into<String>, causes: Vec<StatusCause>) -> Self {
        let mut status = Self::failure(409, "Conflict", message);
        status.0.details.get_or_insert_default().causes = causes;
        status
    }

    /// 422 `Invalid`, with a cause for each error. `kind` is the kind, not the plural.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let mut seen = HashSet::new();
        let texts: Vec<String> = errors
            .iter()
            .map(ToString::to_string)
            .filter(|text| seen.insert(text.clone()))
            .collect();
        let list = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} {name:?} is invalid: {list}", qualified(group, kind));
        let mut status = Self::failure(422, "Invalid", message).about(group, kind, name);
        status.0.details.get_or_insert_default().causes =
            errors.iter().map(FieldError::cause).collect();
        status
    }

    /// 422 `Invalid` without causes: a well-formed request that can't be carried out on this object.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::failure(422, "Invalid", message)
    }

    /// 422 `Invalid` of a patch that can't be applied, without saying why.
    pub fn rejected() -> Self {
        const MESSAGE: &str = "the server rejected our request due to an error in our request";
        Self::unprocessable(MESSAGE).about("", "", "")
    }

    /// 400 `BadRequest`.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 401 `Unauthorized`.
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 403 `Forbidden`: `pods "x" is forbidden: why`. Without a resource in play give empty strings.
    pub fn forbidden(group: &str, plural: &str, name: &str, why: impl fmt::Display) -> Self {
        let message = match (plural, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{} is forbidden: {why}", qualified(group, plural)),
            _ => format!("{} {name:?} is forbidden: {why}", qualified(group, plural)),
        };
        Self::failure(403, "Forbidden", message).about(group, plural, name)
    }

    /// 405 `MethodNotAllowed`: the resource is there but does not know `action`.
    pub fn method_not_allowed(group: &str, plural: &str, action: &str) -> Self {
        let message = format!(
            "{action} is not supported on resources of kind {:?}",
            qualified(group, plural)
        );
        Self::failure(405, "MethodNotAllowed", message).about(group, plural, "")
    }

    /// 405 for a path whose resource is not known well enough to name it.
    pub fn method_not_allowed_here() -> Self {
        const MESSAGE: &str = "the server does not allow this method on the requested resource";
        Self::failure(405, "MethodNotAllowed", MESSAGE)
    }

    /// 406 `NotAcceptable`: no media type that the client accepts can be produced.
    pub fn not_acceptable(supported: &[&str]) -> Self {
        let message = format!(
            "only the following media types are accepted: {}",
            supported.join(", ")
        );
        Self::failure(406, "NotAcceptable", message)
    }

    /// 410 `Expired`: the revision asked for has been compacted away; list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    /// [`Status::expired`] of a watch or list that began too far in the past (both are revisions).
    pub fn too_old_resource_version(requested: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {requested} ({oldest})"))
    }

    /// [`Status::expired`] of a `continue` token: the client should list from the start.
    pub fn expired_continue() -> Self {
        Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You must start a new \
             list without the continue parameter.",
        )
    }

    /// [`Status::expired_continue`] with a token by which the rest can be had as it is now.
    pub fn expired_continue_at(token: &str) -> Self {
        let mut status = Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter, or use the continue token in this response to retrieve the remainder of \
             the results. Continuing with the provided token results in an inconsistent list - objects that were \
             created, modified, or deleted between the time the first chunk was returned and now may show up in the \
             list.",
        );
        let metadata = &mut status.0.metadata;
        metadata.insert("continue".to_owned(), token.into());
        status
    }

    /// 410 `Gone`.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, "Gone", message)
    }

    /// 413 `RequestEntityTooLarge`.
    pub fn too_large(message: impl fmt::Display) -> Self {
        Self::failure(
            413,
            "RequestEntityTooLarge",
            format!("Request entity is too large: {message}"),
        )
    }

    /// 414: the path is longer than any that means something.
    pub fn uri_too_long() -> Self {
        Self::failure(414, "", "the path of the request is too long")
    }

    /// 415 `UnsupportedMediaType`.
    pub fn unsupported_media_type(supported: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            supported.join(", ")
        );
        Self::failure(415, "UnsupportedMediaType", message)
    }

    /// 429 `TooManyRequests`; the client should wait `retry_after_seconds`.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::failure(429, "TooManyRequests", message).retry_after(retry_after_seconds)
    }

    /// 500 `InternalError`: a fault of the server, not of the request.
    pub fn internal(error: impl fmt::Display) -> Self {
        let text = error.to_string();
        Self::failure(
            500,
            "InternalError",
            format!("Internal error occurred: {text}"),
        )
        .cause("", text)
    }

    /// 500 without a reason: how upstream shows errors that it has no kind of answer for.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::failure(500, "", message)
    }

    /// 503 `ServiceUnavailable`: starting, stopping, or a part that is needed is not there.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }

    /// 504 `Timeout`: the time allowed ran out; whether it took effect is unknown.
    pub fn timeout(message: impl fmt::Display, retry_after_seconds: u32) -> Self {
        Self::failure(504, "Timeout", format!("Timeout: {message}"))
            .retry_after(retry_after_seconds)
    }

    /// 504 `Timeout` of a read at a `resourceVersion` which is still in the future.
    pub fn too_large_resource_version(requested: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {requested}, current: {current}");
        Self::timeout(message, 1).cause("ResourceVersionTooLarge", "Too large resource version")
    }

    /// The HTTP code.
    pub fn code(&self) -> u16 {
        self.0.code
    }

    /// The machine-readable reason, such as `NotFound`; empty for success.
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// The message for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What it is about, if it says.
    pub fn details(&self) -> Option<&Details> {
        self.0.details.as_ref()
    }

    /// The wire form as a JSON value.
    pub fn to_value(&self) -> Value {
        // Serializing strings and numbers into memory has no way to fail; the fallback keeps this free of panics.
        serde_json::to_value(self)
            .unwrap_or_else(|_| json!({"kind": "Status", "apiVersion": "v1", "code": self.0.code}))
    }

    /// The wire form as JSON bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|_| self.to_value().to_string().into_bytes())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Path;

    #[test]
    fn says_what_clients_match_on() {
        let status = Status::not_found("apps", "deployments", "web");
        assert_eq!(status.to_string(), r#"deployments.apps "web" not found"#);
        assert_eq!(
            status.to_value(),
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "deployments.apps \"web\" not found", "reason": "NotFound", "code": 404,
                "details": {"name": "web", "group": "apps", "kind": "deployments"},
            })
        );
    }

    #[test]
    fn lists_every_field_error_as_a_cause() {
        let spec = Path::root("spec");
        let errors = [
            FieldError::required(&spec.child("selector"), ""),
            FieldError::invalid(
                &spec.child("replicas"),
                json!(-1),
                "must be greater than or equal to 0",
            ),
        ];
        let status = Status::invalid("", "ReplicationController", "web", &errors);
        assert_eq!(
            status.message(),
            "ReplicationController \"web\" is invalid: [spec.selector: Required value, \
             spec.replicas: Invalid value: -1: must be greater than or equal to 0]"
        );
        let causes = &status.details().unwrap().causes;
        assert_eq!(causes[1].field, "spec.replicas");
        assert_eq!(causes[1].reason, "FieldValueInvalid");
        assert_eq!(
            causes[1].message,
            "Invalid value: -1: must be greater than or equal to 0"
        );
    }
}
