//! Mistakes in volumes whose files are made of what the API knows: projected ones, and the downward API.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, DownwardAPIVolumeFile, PodCertificateProjection,
    ProjectedVolumeSource, ServiceAccountTokenProjection, VolumeProjection,
};
use serde_json::json;

use super::env::{validate_field_ref, validate_resource_ref};
use super::volumes::{unreserved_path, validate_file, validate_items, validate_mode};
use crate::volume_sources::required;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::selectors;

/// What a file may hold of its pod.
const DOWNWARD_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// How long a token may be valid, in seconds.
const TOKEN_MIN: i64 = 600;
const TOKEN_MAX: i64 = 1 << 32;

/// How long a certificate may be valid, in seconds: an hour to 91 days.
const CERTIFICATE_SECONDS: std::ops::RangeInclusive<i32> = 3600..=7_862_400;

const KEY_TYPES: [&str; 6] = [
    "ECDSAP256",
    "ECDSAP384",
    "ECDSAP521",
    "ED25519",
    "RSA3072",
    "RSA4096",
];

pub(super) fn validate(source: &ProjectedVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    validate_mode(source.default_mode, &path.child("defaultMode"), errors);
    let at = path.child("sources");
    let mut files = Files {
        seen: BTreeSet::new(),
        path,
    };
    for (index, source) in source.sources.iter().flatten().enumerate() {
        validate_source(source, &mut files, &at.index(index), errors);
    }
}

/// The files that the sources before have made; each can be made once.
struct Files<'f> {
    seen: BTreeSet<String>,
    /// The volume, of which a conflict is reported.
    path: &'f Path<'f>,
}

impl Files<'_> {
    /// `shown` is what the conflict is blamed on: the object that the file comes from, or the file itself.
    fn add(&mut self, file: &str, shown: &str, errors: &mut Errors) {
        if !file.is_empty() && !self.seen.insert(file.to_owned()) {
            const DETAIL: &str = "conflicting duplicate paths";
            errors.push(FieldError::invalid(self.path, shown, DETAIL));
        }
    }
}

fn validate_source(
    source: &VolumeProjection,
    files: &mut Files<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let secret = source
        .secret
        .as_ref()
        .map(|secret| ("secret", &secret.name, &secret.items));
    let map = source
        .config_map
        .as_ref()
        .map(|map| ("configMap", &map.name, &map.items));
    for (field, name, items) in [secret, map].into_iter().flatten() {
        let path = path.child(field);
        required(Some(name), &path.child("name"), errors);
        validate_items(items.as_deref(), &path.child("items"), errors);
        for item in items.iter().flatten() {
            files.add(&item.path, name, errors);
        }
    }
    if let Some(downward) = &source.downward_api {
        let path = path.child("downwardAPI");
        for item in downward.items.iter().flatten() {
            validate_downward(item, &path, errors);
            files.add(&item.path, &item.path, errors);
        }
    }
    if let Some(token) = &source.service_account_token {
        let path = path.child("serviceAccountToken");
        validate_token(token, files.path, &path, errors);
    }
    if let Some(bundle) = &source.cluster_trust_bundle {
        validate_bundle(bundle, &path.child("clusterTrustBundle"), errors);
        files.add(&bundle.path, &bundle.path, errors);
    }
    if let Some(certificate) = &source.pod_certificate {
        validate_certificate(certificate, files, &path.child("podCertificate"), errors);
    }
    let given = [
        source.secret.is_some(),
        source.config_map.is_some(),
        source.downward_api.is_some(),
        source.service_account_token.is_some(),
        source.cluster_trust_bundle.is_some(),
        source.pod_certificate.is_some(),
    ];
    if given.iter().filter(|given| **given).count() > 1 {
        const DETAIL: &str = "may not specify more than 1 volume type per source";
        errors.push(FieldError::forbidden(path, DETAIL));
    }
}

fn validate_token(
    token: &ServiceAccountTokenProjection,
    volume: &Path<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let at = path.child("expirationSeconds");
    let detail = match token.expiration_seconds {
        Some(seconds) if seconds < TOKEN_MIN => "may not specify a duration less than 10 minutes",
        Some(seconds) if seconds > TOKEN_MAX => {
            "may not specify a duration larger than 2^32 seconds"
        }
        _ => "",
    };
    if !detail.is_empty() {
        errors.push(FieldError::invalid(
            &at,
            token.expiration_seconds.unwrap_or_default(),
            detail,
        ));
    }
    // Of the volume rather than of the token, as upstream has it.
    let at = volume.child("path");
    if token.path.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        unreserved_path(&token.path, &at, errors);
    }
}

fn validate_bundle(bundle: &ClusterTrustBundleProjection, path: &Path<'_>, errors: &mut Errors) {
    match (bundle.name.as_deref(), bundle.signer_name.as_deref()) {
        (Some(_), Some(_)) => errors.push(FieldError::invalid(
            path,
            json!(bundle),
            "only one of name and signerName may be used",
        )),
        (Some(name), None) => {
            let at = path.child("name");
            if name.is_empty() {
                errors.push(FieldError::required(&at, "must be a valid object name"));
            }
            // The bundles of a signer carry its name in front.
            let own = name.rsplit(':').next().unwrap_or_default();
            for problem in names::dns1123_subdomain(own) {
                let detail = format!("not a valid clustertrustbundlename: {problem}");
                errors.push(FieldError::invalid(&at, name, detail));
            }
            if bundle.label_selector.is_some() {
                const DETAIL: &str = "labelSelector must be unset if name is specified";
                let at = path.child("labelSelector");
                errors.push(FieldError::invalid(
                    &at,
                    json!(bundle.label_selector),
                    DETAIL,
                ));
            }
        }
        (None, Some(signer)) => {
            let at = path.child("signerName");
            if signer.is_empty() {
                errors.push(FieldError::required(&at, "must be a valid signer name"));
            }
            validate_signer(signer, &at, errors);
            let selector = bundle.label_selector.as_ref();
            selectors::label_selector(selector, &path.child("labelSelector"), errors);
        }
        (None, None) => errors.push(FieldError::required(
            path,
            "either name or signerName must be specified",
        )),
    }
    validate_file(&bundle.path, &path.child("path"), errors);
}

/// The name of a signer: `domain/path`.
fn validate_signer(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.is_empty()) else {
        const DETAIL: &str =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(path, name, DETAIL));
        return;
    };
    invalid(path, name, names::dns1123_subdomain(domain), errors);
    invalid(path, name, names::dns1123_subdomain(rest), errors);
}

fn validate_certificate(
    certificate: &PodCertificateProjection,
    files: &mut Files<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    validate_signer(&certificate.signer_name, &path.child("signerName"), errors);
    if !KEY_TYPES.contains(&certificate.key_type.as_str()) {
        errors.push(FieldError::not_supported(
            &path.child("keyType"),
            certificate.key_type.as_str(),
            &KEY_TYPES,
        ));
    }
    if let Some(seconds) = certificate
        .max_expiration_seconds
        .filter(|seconds| !CERTIFICATE_SECONDS.contains(seconds))
    {
        let detail = if seconds < *CERTIFICATE_SECONDS.start() {
            format!(
                "must be greater than or equal to {}",
                CERTIFICATE_SECONDS.start()
            )
        } else {
            format!(
                "must be less than or equal to {}",
                CERTIFICATE_SECONDS.end()
            )
        };
        let at = path.child("maxExpirationSeconds");
        errors.push(FieldError::invalid(&at, seconds, detail));
    }
    let mut any = false;
    for (field, file) in [
        ("credentialBundlePath", &certificate.credential_bundle_path),
        ("keyPath", &certificate.key_path),
        ("certificateChainPath", &certificate.certificate_chain_path),
    ] {
        if let Some(file) = file.as_deref().filter(|file| !file.is_empty()) {
            any = true;
            unreserved_path(file, &path.child(field), errors);
            files.add(file, file, errors);
        }
    }
    if !any {
        const DETAIL: &str =
            "specify at least one of credentialBundlePath, keyPath, or certificateChainPath";
        errors.push(FieldError::required(path, DETAIL));
    }
}

/// One file of the downward API; `path` is that of all of them.
pub(super) fn validate_downward(
    item: &DownwardAPIVolumeFile,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    validate_file(&item.path, &path.child("path"), errors);
    match (&item.field_ref, &item.resource_field_ref) {
        (Some(field), other) => {
            validate_field_ref(field, &DOWNWARD_FIELDS, &path.child("fieldRef"), errors);
            if other.is_some() {
                const DETAIL: &str =
                    "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path, "resource", DETAIL));
            }
        }
        (None, Some(resource)) => {
            validate_resource_ref(resource, true, &path.child("resourceFieldRef"), errors);
        }
        (None, None) => errors.push(FieldError::required(
            path,
            "one of fieldRef and resourceFieldRef is required",
        )),
    }
    validate_mode(item.mode, &path.child("mode"), errors);
}
