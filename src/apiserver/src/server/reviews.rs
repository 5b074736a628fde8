//! Questions about users and permissions, which are created, answered and forgotten: `authentication.k8s.io` and
//! `authorization.k8s.io`.

use std::{collections::BTreeMap, sync::Arc};

use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReviewSpec,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vaquita_api::{Object, meta, registry::NewObject, status::Status};
use vaquita_auth::{
    User,
    rbac::{Attributes, Decision, MissingRole, Resource, Rule},
};

use super::{
    answer::{self, Answer},
    call::{Call, object_of},
    write::incoming_body,
};
use crate::query::Writing;

/// Answers the review in the body.
pub(crate) async fn create(call: &mut Call<'_>) -> Answer {
    let options = call.write_options(Writing::Create)?;
    let parsed = call.parse_body().await?;
    let mut review = incoming_body(call, parsed, &options)?;
    prepare(call, &mut review)?;
    let status = match call.resource.kind.as_str() {
        "SelfSubjectReview" => {
            let now = meta::time(Timestamp::now());
            meta::metadata_mut(&mut review).insert("creationTimestamp".to_owned(), now.into());
            json!({"userInfo": user_info(call.user)})
        }
        "TokenReview" => token(call, &review)?,
        "SelfSubjectRulesReview" => rules(call, &review)?,
        "SelfSubjectAccessReview" => own_access(call, &review)?,
        "SubjectAccessReview" | "LocalSubjectAccessReview" => access(call, &review)?,
        _ => return Err(Status::no_such_path()),
    };
    review.insert("status".to_owned(), status);
    let code = StatusCode::CREATED;
    let review = Value::Object(review);
    Ok(answer::value(code, &review, call.accepted.encoding))
}

/// Finds what is wrong with the question.
fn prepare(call: &Call<'_>, review: &mut Object) -> Result<(), Status> {
    call.resource.place(review, call.namespace())?;
    let new = NewObject {
        namespace: call.namespace(),
        now: Timestamp::now(),
        uid: String::new(),
        entropy: 0,
    };
    call.resource.prepare_create(review, &new)?;
    let warnings = call.resource.validate_create(review)?;
    for text in warnings {
        call.warn(text);
    }
    Ok(())
}

fn spec<T: DeserializeOwned>(review: &Object) -> Result<T, Status> {
    let spec = review.get("spec").cloned().unwrap_or_else(|| json!({}));
    serde_json::from_value(spec).map_err(|error| Status::bad_request(error.to_string()))
}

/// A user as answers show it.
fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = (&*user.uid).into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// Whose a token is.
fn token(call: &Call<'_>, review: &Object) -> Result<Value, Status> {
    let spec: Object = object_of(spec(review)?)?;
    let token = spec.get("token").and_then(Value::as_str);
    let token = token.unwrap_or_default();
    if token.is_empty() {
        let why = "token is required for TokenReview in authentication";
        return Err(Status::bad_request(why));
    }
    let wanted: Vec<String> = spec
        .get("audiences")
        .and_then(|audiences| serde_json::from_value(audiences.clone()).ok())
        .unwrap_or_default();
    let wanted = if wanted.is_empty() {
        call.server.access.audiences().to_vec()
    } else {
        wanted
    };
    if let Some(user) = call.server.authenticator.by_token(token.as_bytes()) {
        let own = call.server.own_of(&wanted);
        return Ok(authenticated(&user, &own));
    }
    Ok(match call.server.review_token(token, &wanted) {
        Ok(Some(known)) => authenticated(&known.user, &known.audiences),
        Ok(None) => json!({"user": {}, "error": "invalid bearer token"}),
        Err(error) => json!({"user": {}, "error": format!("[invalid bearer token, {error}]")}),
    })
}

fn authenticated(user: &User, audiences: &[String]) -> Value {
    if audiences.is_empty() {
        return json!({"user": {}, "error": "token is not for any of the wanted audiences"});
    }
    json!({"authenticated": true, "user": user_info(user), "audiences": audiences})
}

/// Everything that the caller may do in a namespace.
fn rules(call: &Call<'_>, review: &Object) -> Result<Value, Status> {
    let spec: Object = object_of(spec(review)?)?;
    let namespace = spec.get("namespace").and_then(Value::as_str);
    let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) else {
        return Err(Status::bad_request("no namespace on request"));
    };
    let (rules, missing) = call.server.policy().rules(call.user, namespace);
    let of_resources: Vec<&Rule> = rules
        .iter()
        .filter(|rule| !rule.resources.is_empty())
        .collect();
    let of_paths: Vec<&Rule> = rules
        .iter()
        .filter(|rule| !rule.non_resource_urls.is_empty())
        .collect();
    let mut status = json!({
        "resourceRules": of_resources, "nonResourceRules": of_paths, "incomplete": false,
    });
    if !missing.is_empty() {
        let errors: Vec<String> = missing.iter().map(MissingRole::to_string).collect();
        status["evaluationError"] = errors.join(", ").into();
    }
    Ok(status)
}

/// Whether the caller may do something.
fn own_access(call: &Call<'_>, review: &Object) -> Result<Value, Status> {
    let spec: SubjectAccessReviewSpec = spec(review)?;
    Ok(decide(call, call.user, &spec))
}

/// Whether somebody may do something; in this namespace, if the review is a local one.
fn access(call: &Call<'_>, review: &Object) -> Result<Value, Status> {
    let spec: SubjectAccessReviewSpec = spec(review)?;
    Ok(decide(call, &subject(&spec), &spec))
}

/// Whom a review asks about. Nothing is added: they are in the groups that the review names.
fn subject(spec: &SubjectAccessReviewSpec) -> User {
    let extra: BTreeMap<_, _> = spec.extra.clone().unwrap_or_default();
    User {
        name: spec.user.as_deref().unwrap_or_default().into(),
        uid: spec.uid.as_deref().unwrap_or_default().into(),
        groups: spec.groups.clone().unwrap_or_default().into(),
        extra: Arc::new(extra),
    }
}

fn decide(call: &Call<'_>, user: &User, spec: &SubjectAccessReviewSpec) -> Value {
    let decision = match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(asked), _) => call.server.authorize(user, &resource(asked)),
        (None, Some(NonResourceAttributes { path, verb })) => {
            let wanted = Attributes::path(text(verb.as_ref()), text(path.as_ref()));
            call.server.authorize(user, &wanted)
        }
        (None, None) => Decision::Refused(Vec::new()),
    };
    let mut status = json!({"allowed": decision.is_allowed()});
    let reason = decision.reason();
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}

fn text(text: Option<&String>) -> &str {
    text.map_or("", String::as_str)
}

fn resource(asked: &ResourceAttributes) -> Attributes<'_> {
    let resource = Resource {
        group: text(asked.group.as_ref()),
        resource: text(asked.resource.as_ref()),
        subresource: text(asked.subresource.as_ref()),
        namespace: text(asked.namespace.as_ref()),
        name: text(asked.name.as_ref()),
    };
    Attributes::resource(text(asked.verb.as_ref()), resource)
}
