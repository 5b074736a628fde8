//! Where a persistent volume is kept.

use k8s_openapi::api::core::v1::{
    AzureFilePersistentVolumeSource, CSIPersistentVolumeSource, GlusterfsPersistentVolumeSource,
    ISCSIPersistentVolumeSource, PersistentVolumeSpec, SecretReference,
    StorageOSPersistentVolumeSource,
};

use crate::volume_sources::{self, Iscsi, Sources, all_required, required};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;

/// The longest volume name, colon and target portal together, in bytes.
const PORTAL_MAX: usize = 64;

/// What a source leaves out.
pub(super) fn apply_defaults(spec: &mut PersistentVolumeSpec) {
    let fill = |field: &mut Option<String>, value: &str| {
        field.get_or_insert_with(|| value.to_owned());
    };
    if let Some(source) = &mut spec.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut spec.iscsi {
        fill(&mut source.iscsi_interface, "default");
    }
    if let Some(source) = &mut spec.rbd {
        fill(&mut source.pool, "rbd");
        fill(&mut source.user, "admin");
        fill(&mut source.keyring, "/etc/ceph/keyring");
    }
    if let Some(source) = &mut spec.scale_io {
        fill(&mut source.storage_mode, "ThinProvisioned");
        fill(&mut source.fs_type, "xfs");
    }
    if let Some(source) = &mut spec.azure_disk {
        fill(&mut source.caching_mode, "ReadWrite");
        fill(&mut source.kind, "Shared");
        fill(&mut source.fs_type, "ext4");
        source.read_only.get_or_insert(false);
    }
}

/// There is one source; `name` is the volume's.
pub(super) fn validate(
    spec: &PersistentVolumeSpec,
    name: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut sources = Sources::at(path, errors);
    sources.one(
        spec.host_path.as_ref(),
        "hostPath",
        volume_sources::host_path,
    );
    sources.named(
        spec.gce_persistent_disk.as_ref(),
        ["gcePersistentDisk", "persistentDisk"],
        volume_sources::gce_disk,
    );
    sources.one(
        spec.aws_elastic_block_store.as_ref(),
        "awsElasticBlockStore",
        volume_sources::aws_disk,
    );
    sources.one(spec.glusterfs.as_ref(), "glusterfs", validate_glusterfs);
    sources.one(spec.flocker.as_ref(), "flocker", volume_sources::flocker);
    sources.one(spec.nfs.as_ref(), "nfs", volume_sources::nfs);
    sources.one(spec.rbd.as_ref(), "rbd", |source, path, errors| {
        volume_sources::rbd(&source.monitors, &source.image, path, errors);
    });
    sources.one(spec.quobyte.as_ref(), "quobyte", volume_sources::quobyte);
    sources.named(
        spec.cephfs.as_ref(),
        ["cephFS", "cephfs"],
        |source, path, errors| volume_sources::monitors(&source.monitors, path, errors),
    );
    sources.one(spec.iscsi.as_ref(), "iscsi", |source, path, errors| {
        validate_iscsi(source, name, path, errors);
    });
    sources.one(spec.cinder.as_ref(), "cinder", |source, path, errors| {
        required(Some(&source.volume_id), &path.child("volumeID"), errors);
        secret(source.secret_ref.as_ref(), &path.child("secretRef"), errors);
    });
    sources.one(spec.fc.as_ref(), "fc", volume_sources::fibre_channel);
    validate_others(spec, path, sources);
}

/// The rest of the sources, in their order.
fn validate_others(spec: &PersistentVolumeSpec, path: &Path<'_>, mut sources: Sources<'_>) {
    sources.one(
        spec.flex_volume.as_ref(),
        "flexVolume",
        |source, path, errors| {
            let options = source.options.iter().flatten().map(|(key, _)| key);
            volume_sources::flex(&source.driver, options, path, errors);
        },
    );
    sources.one(spec.azure_file.as_ref(), "azureFile", validate_azure_file);
    sources.one(
        spec.vsphere_volume.as_ref(),
        "vsphereVolume",
        volume_sources::vsphere,
    );
    sources.one(
        spec.photon_persistent_disk.as_ref(),
        "photonPersistentDisk",
        volume_sources::photon_disk,
    );
    sources.one(
        spec.portworx_volume.as_ref(),
        "portworxVolume",
        volume_sources::portworx,
    );
    sources.one(
        spec.azure_disk.as_ref(),
        "azureDisk",
        volume_sources::azure_disk,
    );
    sources.one(spec.scale_io.as_ref(), "scaleIO", |source, path, errors| {
        let machines = [source.gateway.as_str(), &source.system];
        volume_sources::scale_io(machines, source.volume_name.as_deref(), path, errors);
    });
    sources.one(spec.local.as_ref(), "local", |source, inside, errors| {
        required(Some(&source.path), &inside.child("path"), errors);
        volume_sources::no_backsteps(&source.path, &inside.child("path"), errors);
        if spec.node_affinity.is_none() {
            const DETAIL: &str = "Local volume requires node affinity";
            errors.push(FieldError::required(&path.child("nodeAffinity"), DETAIL));
        }
    });
    sources.one(spec.storageos.as_ref(), "storageos", validate_storage_os);
    sources.one(spec.csi.as_ref(), "csi", validate_csi);
    sources.end();
}

/// A reference to a secret in any namespace, both parts of which must be there.
fn secret(reference: Option<&SecretReference>, path: &Path<'_>, errors: &mut Errors) {
    let Some(reference) = reference else { return };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (name, namespace) = (text(&reference.name), text(&reference.namespace));
    all_required(&[("name", &name), ("namespace", &namespace)], path, errors);
}

/// The same, and both parts must be well-formed.
fn strict_secret(reference: Option<&SecretReference>, path: &Path<'_>, errors: &mut Errors) {
    secret(reference, path, errors);
    let Some(reference) = reference else { return };
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(name) = given(&reference.name) {
        let problems = names::dns1123_subdomain(&name);
        invalid(&path.child("name"), &name, problems, errors);
    }
    if let Some(name) = given(&reference.namespace) {
        let problems = names::dns1123_label(&name);
        invalid(&path.child("namespace"), &name, problems, errors);
    }
}

fn validate_glusterfs(
    source: &GlusterfsPersistentVolumeSource,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let fields = [
        ("endpoints", source.endpoints.as_str()),
        ("path", &source.path),
    ];
    all_required(&fields, path, errors);
    let at = path.child("endpointsNamespace");
    match source.endpoints_namespace.as_deref() {
        Some("") => {
            const DETAIL: &str =
                "if the endpointnamespace is set, it must be a valid namespace name";
            errors.push(FieldError::invalid(&at, "", DETAIL));
        }
        Some(name) => invalid(&at, name, names::dns1123_label(name), errors),
        None => {}
    }
}

fn validate_azure_file(
    source: &AzureFilePersistentVolumeSource,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let fields = [
        ("secretName", source.secret_name.as_str()),
        ("shareName", &source.share_name),
    ];
    all_required(&fields, path, errors);
    if source.secret_namespace.as_deref() == Some("") {
        errors.push(FieldError::required(&path.child("secretNamespace"), ""));
    }
}

fn validate_storage_os(
    source: &StorageOSPersistentVolumeSource,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let volume = source.volume_name.as_deref();
    volume_sources::storage_os(volume, source.volume_namespace.as_deref(), path, errors);
    if let Some(reference) = &source.secret_ref {
        let path = path.child("secretRef");
        required(reference.name.as_deref(), &path.child("name"), errors);
        let namespace = reference.namespace.as_deref();
        required(namespace, &path.child("namespace"), errors);
    }
}

fn validate_csi(source: &CSIPersistentVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    volume_sources::csi_driver(&source.driver, &path.child("driver"), errors);
    let handle = path.child("volumeHandle");
    required(Some(&source.volume_handle), &handle, errors);
    for (field, reference) in [
        (
            "controllerPublishSecretRef",
            &source.controller_publish_secret_ref,
        ),
        (
            "controllerExpandSecretRef",
            &source.controller_expand_secret_ref,
        ),
        ("nodePublishSecretRef", &source.node_publish_secret_ref),
        ("nodeExpandSecretRef", &source.node_expand_secret_ref),
    ] {
        strict_secret(reference.as_ref(), &path.child(field), errors);
    }
}

fn validate_iscsi(
    source: &ISCSIPersistentVolumeSource,
    name: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let portal = source.target_portal.as_str();
    if source.initiator_name.is_some() && name.len() + 1 + portal.len() > PORTAL_MAX {
        const DETAIL: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
            iscsi.initiatorName is specified.";
        let at = path.child("targetportal");
        errors.push(FieldError::invalid(&at, portal, DETAIL));
    }
    let chap = [source.chap_auth_discovery, source.chap_auth_session];
    let common = Iscsi {
        portal,
        iqn: &source.iqn,
        lun: source.lun,
        initiator: source.initiator_name.as_deref(),
        lacks_secret: chap.contains(&Some(true)) && source.secret_ref.is_none(),
        unknown_sort: "must be valid format",
    };
    common.validate(path, errors);
    if let Some(reference) = &source.secret_ref {
        let path = path.child("secretRef");
        required(reference.name.as_deref(), &path.child("name"), errors);
    }
}
