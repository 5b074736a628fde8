//! Mistakes in a `StatefulSet`.

use std::collections::HashSet;

use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSetSpec, StatefulSetStatus, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume,
};
use serde_json::json;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;
use vaquita_kinds::pod_spec;

use crate::{rules, template};

/// The service must have a name that the pods' names can end in. An update does not mind the name that is there.
pub(super) fn service_name(spec: &StatefulSetSpec, path: &Path<'_>, errors: &mut Errors) {
    let name = spec.service_name.as_deref().unwrap_or_default();
    if !name.is_empty() {
        let path = path.child("serviceName");
        invalid(&path, name, names::dns1123_label(name), errors);
    }
}

pub(super) fn spec(spec: &StatefulSetSpec, path: &Path<'_>, errors: &mut Errors) {
    validate_management(spec, path, errors);
    if let Some(strategy) = &spec.update_strategy {
        validate_strategy(strategy, &path.child("updateStrategy"), errors);
    }
    validate_retention(spec, path, errors);
    let numbers = [
        ("replicas", spec.replicas),
        ("minReadySeconds", spec.min_ready_seconds),
        ("revisionHistoryLimit", spec.revision_history_limit),
        (
            "ordinals.start",
            spec.ordinals.as_ref().and_then(|ordinals| ordinals.start),
        ),
    ];
    rules::none_negative(&numbers, path, errors);
    let at = path.child("selector");
    if let Some(selector) = template::required_selector(&spec.selector, "", &at, errors) {
        let path = path.child("template");
        template::must_match(&spec.template, &selector, &path, errors);
        pod_spec::validate_template(&with_claims(spec), &path, errors);
    }
    template::must_last(
        &spec.template,
        "StatefulSet",
        &path.child("template"),
        errors,
    );
    let path = path.child("volumeClaimTemplates");
    for (at, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
        validate_claim(claim, &path.index(at), errors);
    }
}

fn validate_management(spec: &StatefulSetSpec, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("podManagementPolicy");
    match spec.pod_management_policy.as_deref().unwrap_or_default() {
        "" => errors.push(FieldError::required(&path, "")),
        "OrderedReady" | "Parallel" => {}
        other => errors.push(FieldError::invalid(
            &path,
            other,
            "must be 'OrderedReady' or 'Parallel'",
        )),
    }
}

fn validate_strategy(strategy: &StatefulSetUpdateStrategy, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("rollingUpdate");
    match (
        strategy.type_.as_deref().unwrap_or_default(),
        &strategy.rolling_update,
    ) {
        ("", _) => errors.push(FieldError::required(path, "")),
        ("OnDelete", Some(update)) => {
            const DETAIL: &str = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(FieldError::invalid(&at, json!(update), DETAIL));
        }
        ("RollingUpdate", Some(update)) => validate_rolling(update, &at, errors),
        ("OnDelete" | "RollingUpdate", None) => {}
        _ => errors.push(FieldError::invalid(
            path,
            json!(strategy),
            "must be 'RollingUpdate' or 'OnDelete'",
        )),
    }
}

fn validate_rolling(
    update: &RollingUpdateStatefulSetStrategy,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    rules::none_negative(&[("partition", update.partition)], path, errors);
    let path = path.child("maxUnavailable");
    if let Some(unavailable) = &update.max_unavailable {
        rules::int_or_percent(unavailable, &path, errors);
        if rules::amount(unavailable) == 0 {
            rules::conflicting(unavailable, "cannot be 0", &path, errors);
        }
        rules::at_most_all(unavailable, &path, errors);
    }
}

fn validate_retention(spec: &StatefulSetSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(policy) = &spec.persistent_volume_claim_retention_policy else {
        return;
    };
    let path = path.child("persistentVolumeClaimRetentionPolicy");
    for (field, what) in [
        ("whenDeleted", &policy.when_deleted),
        ("whenScaled", &policy.when_scaled),
    ] {
        rules::supported(
            what.as_deref().unwrap_or_default(),
            &["Delete", "Retain"],
            &path.child(field),
            errors,
        );
    }
}

/// The template as its pods will have it: with a volume for each claim, which containers may mount.
fn with_claims(spec: &StatefulSetSpec) -> PodTemplateSpec {
    let mut template = spec.template.clone();
    let Some(pod) = &mut template.spec else {
        return template;
    };
    let claims = spec.volume_claim_templates.as_deref().unwrap_or_default();
    if claims.is_empty() {
        return template;
    }
    let volumes = pod.volumes.get_or_insert_default();
    let mut taken: HashSet<String> = volumes.iter().map(|volume| volume.name.clone()).collect();
    for claim in claims {
        let Some(name) = claim
            .metadata
            .name
            .clone()
            .filter(|name| !name.is_empty() && taken.insert(name.clone()))
        else {
            continue;
        };
        let source = PersistentVolumeClaimVolumeSource {
            claim_name: name.clone(),
            read_only: None,
        };
        volumes.push(Volume {
            name,
            persistent_volume_claim: Some(source),
            ..Volume::default()
        });
    }
    template
}

fn validate_claim(claim: &PersistentVolumeClaim, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("spec");
    let spec = claim.spec.as_ref();
    if spec
        .and_then(|spec| spec.access_modes.as_ref())
        .is_none_or(Vec::is_empty)
    {
        const DETAIL: &str = "at least 1 access mode is required";
        errors.push(FieldError::required(&path.child("accessModes"), DETAIL));
    }
    let requests = spec
        .and_then(|spec| spec.resources.as_ref())
        .and_then(|resources| resources.requests.as_ref());
    if requests.is_none_or(|requests| !requests.contains_key("storage")) {
        let path = path.child("resources");
        errors.push(FieldError::required(&path.key("storage"), ""));
    }
}

/// What may change is taken from the old specification; the rest must not differ.
pub(super) fn update(
    new: &StatefulSetSpec,
    old: &StatefulSetSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    const DETAIL: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                          'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                          'minReadySeconds' are forbidden";
    let fixed = StatefulSetSpec {
        pod_management_policy: new.pod_management_policy.clone(),
        selector: new.selector.clone(),
        service_name: new.service_name.clone(),
        volume_claim_templates: new.volume_claim_templates.clone(),
        ..old.clone()
    };
    if fixed != *old {
        errors.push(FieldError::forbidden(path, DETAIL));
    }
}

pub(super) fn status(status: &StatefulSetStatus, path: &Path<'_>, errors: &mut Errors) {
    const TOTAL: &str = "cannot be greater than status.replicas";
    const READY: &str = "cannot be greater than status.readyReplicas";
    let parts = [
        ("readyReplicas", status.ready_replicas),
        ("currentReplicas", status.current_replicas),
        ("updatedReplicas", status.updated_replicas),
        ("availableReplicas", status.available_replicas),
    ];
    rules::not_negative(status.replicas, &path.child("replicas"), errors);
    rules::none_negative(&parts, path, errors);
    let generation = [("observedGeneration", status.observed_generation)];
    rules::none_negative(&generation, path, errors);
    rules::none_negative(&[("collisionCount", status.collision_count)], path, errors);
    rules::at_most(status.replicas, &parts, TOTAL, path, errors);
    let ready = status.ready_replicas.unwrap_or_default();
    rules::at_most(ready, &parts[3..], READY, path, errors);
}
