//! Tokens of service accounts: `POST serviceaccounts/NAME/token`, and the documents by which others verify them.

use std::sync::Arc;

use axum::response::Response;
use http::{HeaderValue, StatusCode, header, request::Parts};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequestSpec};
use serde_json::{Value, json};
use vaquita_api::{
    Object, body,
    field::{FieldError, Path},
    meta,
    status::Status,
};
use vaquita_auth::tokens::{
    Bound, BoundObject, Claims, MAX_SECONDS, MIN_SECONDS, Reference, Request,
};

use super::{
    Server,
    answer::{self, Answer},
    call::Call,
};
use crate::{negotiation::Encoding, query::Writing};

/// How long a token is good for which nobody says how long.
const DEFAULT_SECONDS: i64 = 3600;
/// Where the keys are.
const JWKS: &str = "/openid/v1/jwks";

/// Issues a token for the account that the path names.
pub(crate) async fn create(call: &mut Call<'_>) -> Answer {
    call.write_options(Writing::Create)?;
    let account = call.entry()?.value().map_err(Status::internal)?;
    let parsed = call
        .parse_body_as(|bytes| body::TOKEN_REQUEST.parse_protobuf(bytes))
        .await?;
    let (request, _) = body::TOKEN_REQUEST.decode(parsed.value)?;
    let named = request.metadata.name.as_deref().unwrap_or_default();
    if !named.is_empty() && named != call.name() {
        return Err(Status::bad_request(format!(
            "the name of the object ({named}) does not match the name on the URL ({})",
            call.name()
        )));
    }
    let mut spec = request.spec.unwrap_or_default();
    let seconds = *spec.expiration_seconds.get_or_insert(DEFAULT_SECONDS);
    validate(seconds)?;
    let named = spec.audiences.take().filter(|named| !named.is_empty());
    let audiences = named.unwrap_or_else(|| call.server.access.audiences().to_vec());
    spec.audiences = Some(audiences.clone());
    let claims = Request {
        issuer: &call.server.config.service_account_issuer,
        namespace: call.namespace(),
        account: reference(&account),
        audiences,
        seconds,
        bound: bound(call, spec.bound_object_ref.as_ref())?,
        now: Timestamp::now().as_second(),
        id: uuid::Uuid::new_v4().to_string(),
    }
    .claims();
    let key = call.server.access.key();
    let key = key.ok_or_else(|| Status::internal("there is no key to sign tokens with"))?;
    let token = key.sign(&claims).map_err(Status::internal)?;
    let answer = answered(call, &spec, &claims, &token);
    let code = StatusCode::CREATED;
    Ok(answer::value(code, &answer, call.accepted.encoding))
}

fn validate(seconds: i64) -> Result<(), Status> {
    let why = if seconds < MIN_SECONDS {
        "may not specify a duration less than 10 minutes"
    } else if seconds > MAX_SECONDS {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let spec = Path::root("spec");
    let error = FieldError::invalid(&spec.child("expirationSeconds"), json!(seconds), why);
    let of = &body::TOKEN_REQUEST;
    Err(Status::invalid(of.group(), of.kind(), "", &[error]))
}

/// What the token is to be bound to, if it is there and may be.
fn bound(
    call: &Call<'_>,
    wanted: Option<&BoundObjectReference>,
) -> Result<Option<BoundObject>, Status> {
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    let text = |text: Option<&String>| text.cloned().unwrap_or_default();
    let (version, kind) = (
        text(wanted.api_version.as_ref()),
        text(wanted.kind.as_ref()),
    );
    let (name, uid) = (text(wanted.name.as_ref()), text(wanted.uid.as_ref()));
    let Some(bound) = Bound::of(&version, &kind) else {
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        return Err(Status::bad_request(format!(
            "cannot bind token to object of type {group}/{version}, Kind={kind}"
        )));
    };
    let namespace = match bound {
        Bound::Node => "",
        _ => call.namespace(),
    };
    let object = call
        .server
        .core_object(bound.plural(), namespace, &name)
        .ok_or_else(|| Status::not_found("", bound.plural(), &name))?;
    let node = match bound {
        Bound::Pod => node_of(call, &object)?,
        _ => None,
    };
    if !uid.is_empty() && uid != meta::uid(&object) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        );
        return Err(Status::conflict("", &kind, &name, why));
    }
    Ok(Some(BoundObject {
        kind: bound,
        reference: reference(&object),
        node,
    }))
}

/// The node of a pod that runs as the account, if it has one.
fn node_of(call: &Call<'_>, pod: &Object) -> Result<Option<Reference>, Status> {
    let spec = |field: &str| {
        meta::at(pod, &["spec", field])
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    if spec("serviceAccountName") != call.name() {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            call.name()
        )));
    }
    let name = spec("nodeName");
    if name.is_empty() {
        return Ok(None);
    }
    let node = call.server.core_object("nodes", "", name);
    Ok(Some(Reference {
        name: name.to_owned(),
        uid: node.map_or_else(String::new, |node| meta::uid(&node).to_owned()),
    }))
}

fn reference(object: &Object) -> Reference {
    Reference {
        name: meta::name(object).to_owned(),
        uid: meta::uid(object).to_owned(),
    }
}

fn answered(call: &Call<'_>, spec: &TokenRequestSpec, claims: &Claims, token: &str) -> Value {
    // The holder is to think that the token lasts as long as was asked for, and to come again by then.
    let expires = claims.kubernetes.warnafter.or(claims.exp);
    let expires = expires.and_then(|second| Timestamp::from_second(second).ok());
    let now = claims
        .iat
        .and_then(|second| Timestamp::from_second(second).ok());
    json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {
            "name": call.name(),
            "namespace": call.namespace(),
            "creationTimestamp": now.map(meta::time),
        },
        "spec": spec,
        "status": {"token": token, "expirationTimestamp": expires.map(meta::time)},
    })
}

/// `OpenID` Connect discovery: where the keys are that verify tokens, and the keys.
pub(crate) fn documents(server: &Arc<Server>, parts: &Parts) -> Option<Response> {
    let (document, kind) = match parts.uri.path() {
        "/.well-known/openid-configuration" => (configuration(server), "application/json"),
        JWKS => (server.access.key()?.jwks(), "application/jwk-set+json"),
        _ => return None,
    };
    let mut response = answer::value(StatusCode::OK, &document, Encoding::Json);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let an_hour = HeaderValue::from_static("public, max-age=3600");
    headers.insert(header::CACHE_CONTROL, an_hour);
    Some(response)
}

fn configuration(server: &Server) -> Value {
    let issuer = &server.config.service_account_issuer;
    json!({
        "issuer": issuer,
        "jwks_uri": format!("{}{JWKS}", issuer.trim_end_matches('/')),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}
