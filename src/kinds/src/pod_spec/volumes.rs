//! Mistakes in a pod's volumes.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    AzureFileVolumeSource, CSIVolumeSource, EphemeralVolumeSource, ISCSIVolumeSource, KeyToPath,
    Volume,
};

use super::spec::{Known, one_of};
use super::{Holder, projected};
use crate::persistent_volume::claim;
use crate::resource_names::parsed;
use crate::volume_sources::{self, Iscsi, Sources, all_required, local_path, required};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;

/// The longest volume name, colon and target portal together, in bytes.
const PORTAL_MAX: usize = 64;

/// Finds mistakes, and gives the volumes that have none, by their names.
pub(super) fn validate<'v>(
    volumes: &'v [Volume],
    holder: Holder<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) -> Known<'v> {
    let made: BTreeSet<String> = volumes
        .iter()
        .filter(|volume| volume.ephemeral.is_some())
        .filter_map(|volume| claim_name(holder, &volume.name))
        .collect();
    let mut known = Known::new();
    for (at, volume) in volumes.iter().enumerate() {
        let path = path.index(at);
        let at_name = path.child("name");
        let before = errors.len();
        validate_sources(volume, holder, &path, errors);
        let name = volume.name.as_str();
        if name.is_empty() {
            errors.push(FieldError::required(&at_name, ""));
        } else {
            invalid(&at_name, name, names::dns1123_label(name), errors);
        }
        if known.contains_key(name) {
            errors.push(FieldError::duplicate(&at_name, name));
        }
        if errors.len() == before {
            known.insert(name, volume);
        }
        if let Some(claim) = &volume.persistent_volume_claim
            && made.contains(&claim.claim_name)
        {
            const DETAIL: &str =
                "must not reference a PVC that gets created for an ephemeral volume";
            let path = path.child("persistentVolumeClaim");
            errors.push(FieldError::invalid(
                &path.child("claimName"),
                claim.claim_name.as_str(),
                DETAIL,
            ));
        }
    }
    known
}

/// The claim that is made for an ephemeral volume, once the pod has a name.
fn claim_name(holder: Holder<'_>, volume: &str) -> Option<String> {
    match holder {
        Holder::Pod(pod) if !pod.is_empty() && !volume.is_empty() => {
            Some(format!("{pod}-{volume}"))
        }
        _ => None,
    }
}

fn validate_sources(volume: &Volume, holder: Holder<'_>, path: &Path<'_>, errors: &mut Errors) {
    let mut sources = Sources::at(path, errors);
    sources.one(
        volume.empty_dir.as_ref(),
        "emptyDir",
        |source, path, errors| {
            if let Some(limit) = &source.size_limit
                && parsed(limit).is_negative()
            {
                const DETAIL: &str = "SizeLimit field must be a valid resource quantity";
                errors.push(FieldError::forbidden(&path.child("sizeLimit"), DETAIL));
            }
        },
    );
    sources.one(
        volume.host_path.as_ref(),
        "hostPath",
        volume_sources::host_path,
    );
    sources.one(
        volume.git_repo.as_ref(),
        "gitRepo",
        |source, path, errors| {
            required(Some(&source.repository), &path.child("repository"), errors);
            let directory = source.directory.as_deref().unwrap_or_default();
            local_path(directory, &path.child("directory"), errors);
        },
    );
    sources.named(
        volume.gce_persistent_disk.as_ref(),
        ["gcePersistentDisk", "persistentDisk"],
        volume_sources::gce_disk,
    );
    sources.one(
        volume.aws_elastic_block_store.as_ref(),
        "awsElasticBlockStore",
        volume_sources::aws_disk,
    );
    sources.one(volume.secret.as_ref(), "secret", |source, path, errors| {
        let name = source.secret_name.as_deref();
        required(name, &path.child("secretName"), errors);
        validate_mode(source.default_mode, &path.child("defaultMode"), errors);
        validate_items(source.items.as_deref(), &path.child("items"), errors);
    });
    sources.one(volume.nfs.as_ref(), "nfs", volume_sources::nfs);
    sources.one(volume.iscsi.as_ref(), "iscsi", |source, inside, errors| {
        validate_iscsi(source, &volume.name, path, inside, errors);
    });
    sources.one(
        volume.glusterfs.as_ref(),
        "glusterfs",
        |source, path, errors| {
            let fields = [
                ("endpoints", source.endpoints.as_str()),
                ("path", &source.path),
            ];
            all_required(&fields, path, errors);
        },
    );
    sources.one(volume.flocker.as_ref(), "flocker", volume_sources::flocker);
    sources.one(
        volume.persistent_volume_claim.as_ref(),
        "persistentVolumeClaim",
        |source, path, errors| {
            required(Some(&source.claim_name), &path.child("claimName"), errors);
        },
    );
    sources.one(volume.rbd.as_ref(), "rbd", |source, path, errors| {
        volume_sources::rbd(&source.monitors, &source.image, path, errors);
    });
    sources.one(volume.cinder.as_ref(), "cinder", |source, path, errors| {
        required(Some(&source.volume_id), &path.child("volumeID"), errors);
        if let Some(secret) = &source.secret_ref {
            let path = path.child("secretRef");
            required(Some(&secret.name), &path.child("name"), errors);
        }
    });
    sources.named(
        volume.cephfs.as_ref(),
        ["cephFS", "cephfs"],
        |source, path, errors| volume_sources::monitors(&source.monitors, path, errors),
    );
    sources.one(volume.quobyte.as_ref(), "quobyte", volume_sources::quobyte);
    validate_other_sources(volume, holder, path, sources);
}

/// The rest of the sources, in their order.
fn validate_other_sources(
    volume: &Volume,
    holder: Holder<'_>,
    path: &Path<'_>,
    mut sources: Sources<'_>,
) {
    sources.named(
        volume.downward_api.as_ref(),
        ["downwarAPI", "downwardAPI"],
        |source, path, errors| {
            validate_mode(source.default_mode, &path.child("defaultMode"), errors);
            for item in source.items.iter().flatten() {
                projected::validate_downward(item, path, errors);
            }
        },
    );
    sources.one(volume.fc.as_ref(), "fc", volume_sources::fibre_channel);
    sources.one(
        volume.flex_volume.as_ref(),
        "flexVolume",
        |source, path, errors| {
            let options = source.options.iter().flatten().map(|(key, _)| key);
            volume_sources::flex(&source.driver, options, path, errors);
        },
    );
    sources.one(
        volume.config_map.as_ref(),
        "configMap",
        |source, path, errors| {
            required(Some(&source.name), &path.child("name"), errors);
            validate_mode(source.default_mode, &path.child("defaultMode"), errors);
            validate_items(source.items.as_deref(), &path.child("items"), errors);
        },
    );
    sources.one(volume.azure_file.as_ref(), "azureFile", validate_azure_file);
    sources.one(
        volume.vsphere_volume.as_ref(),
        "vsphereVolume",
        volume_sources::vsphere,
    );
    sources.one(
        volume.photon_persistent_disk.as_ref(),
        "photonPersistentDisk",
        volume_sources::photon_disk,
    );
    sources.one(
        volume.portworx_volume.as_ref(),
        "portworxVolume",
        volume_sources::portworx,
    );
    sources.one(
        volume.azure_disk.as_ref(),
        "azureDisk",
        volume_sources::azure_disk,
    );
    sources.one(
        volume.storageos.as_ref(),
        "storageos",
        |source, path, errors| {
            let name = source.volume_name.as_deref();
            volume_sources::storage_os(name, source.volume_namespace.as_deref(), path, errors);
            if let Some(secret) = &source.secret_ref {
                let path = path.child("secretRef");
                required(Some(&secret.name), &path.child("name"), errors);
            }
        },
    );
    sources.one(volume.projected.as_ref(), "projected", projected::validate);
    sources.one(
        volume.scale_io.as_ref(),
        "scaleIO",
        |source, path, errors| {
            let machines = [source.gateway.as_str(), &source.system];
            volume_sources::scale_io(machines, source.volume_name.as_deref(), path, errors);
        },
    );
    sources.one(volume.csi.as_ref(), "csi", validate_csi);
    sources.one(
        volume.ephemeral.as_ref(),
        "ephemeral",
        |source, inside, errors| {
            validate_ephemeral(source, volume, holder, (path, inside), errors);
        },
    );
    sources.one(volume.image.as_ref(), "image", |source, path, errors| {
        if holder != Holder::Template {
            let reference = source.reference.as_deref();
            required(reference, &path.child("reference"), errors);
        }
        one_of(
            source.pull_policy.as_deref(),
            &["Always", "IfNotPresent", "Never"],
            &path.child("pullPolicy"),
            errors,
        );
    });
    sources.end();
}

fn validate_iscsi(
    source: &ISCSIVolumeSource,
    name: &str,
    volume: &Path<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let chap = [source.chap_auth_discovery, source.chap_auth_session];
    let common = Iscsi {
        portal: &source.target_portal,
        iqn: &source.iqn,
        lun: source.lun,
        initiator: source.initiator_name.as_deref(),
        lacks_secret: chap.contains(&Some(true)) && source.secret_ref.is_none(),
        unknown_sort: "must be valid format starting with iqn, eui, or naa",
    };
    common.validate(path, errors);
    let length = name.len() + 1 + source.target_portal.len();
    if source.initiator_name.is_some() && length > PORTAL_MAX {
        const DETAIL: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
            iscsi.initiatorName is specified.";
        errors.push(FieldError::invalid(&volume.child("name"), name, DETAIL));
    }
}

fn validate_azure_file(source: &AzureFileVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    let fields = [
        ("secretName", source.secret_name.as_str()),
        ("shareName", &source.share_name),
    ];
    all_required(&fields, path, errors);
}

fn validate_csi(source: &CSIVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    volume_sources::csi_driver(&source.driver, &path.child("driver"), errors);
    let Some(secret) = &source.node_publish_secret_ref else {
        return;
    };
    if secret.name.is_empty() {
        let path = path.child("nodePublishSecretRef");
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        let problems = names::dns1123_subdomain(&secret.name);
        invalid(&path.child("name"), &secret.name, problems, errors);
    }
}

fn validate_ephemeral(
    source: &EphemeralVolumeSource,
    volume: &Volume,
    holder: Holder<'_>,
    (outside, path): (&Path<'_>, &Path<'_>),
    errors: &mut Errors,
) {
    let at = path.child("volumeClaimTemplate");
    match &source.volume_claim_template {
        Some(template) => claim::validate_template(template, &at, errors),
        None => errors.push(FieldError::required(&at, "")),
    }
    let Some(claim) = claim_name(holder, &volume.name) else {
        return;
    };
    for problem in names::dns1123_subdomain(&claim) {
        let detail = format!("PVC name {claim:?}: {problem}");
        let at = outside.child("name");
        errors.push(FieldError::invalid(&at, volume.name.as_str(), detail));
    }
}

/// The permissions of a file.
pub(super) fn validate_mode(mode: Option<i32>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        const DETAIL: &str = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(path, mode, DETAIL));
    }
}

pub(super) fn validate_items(items: Option<&[KeyToPath]>, path: &Path<'_>, errors: &mut Errors) {
    for (at, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(at);
        required(Some(&item.key), &path.child("key"), errors);
        validate_file(&item.path, &path.child("path"), errors);
        validate_mode(item.mode, &path.child("mode"), errors);
    }
}

/// The path of a file inside its volume. Names that start with `..` are what updates are done with.
pub(super) fn validate_file(file: &str, path: &Path<'_>, errors: &mut Errors) {
    if file.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    unreserved_path(file, path, errors);
}

/// A path inside a volume, which may be empty.
pub(super) fn unreserved_path(file: &str, path: &Path<'_>, errors: &mut Errors) {
    local_path(file, path, errors);
    if file.starts_with("..") && !file.starts_with("../") {
        errors.push(FieldError::invalid(path, file, "must not start with '..'"));
    }
}
