//! Where volumes come from: what pods and persistent volumes have in common.
//!
//! Most sources belong to storage systems that only a driver would ever reach, so that there is little to check but that what
//! a driver needs is there. [`Sources`] counts them, since a volume has one.

use k8s_openapi::api::core::v1::{
    AWSElasticBlockStoreVolumeSource, AzureDiskVolumeSource, FCVolumeSource, FlockerVolumeSource,
    GCEPersistentDiskVolumeSource, HostPathVolumeSource, NFSVolumeSource,
    PhotonPersistentDiskVolumeSource, PortworxVolumeSource, QuobyteVolumeSource,
    VsphereVirtualDiskVolumeSource,
};

use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;

const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

/// The longest name of a CSI driver, in bytes.
const DRIVER_MAX: usize = 63;

/// Goes through the possible sources of a volume: checks the first that is there, and refuses the others.
pub(crate) struct Sources<'s> {
    path: &'s Path<'s>,
    errors: &'s mut Errors,
    found: usize,
}

impl<'s> Sources<'s> {
    /// The sources of the volume at `path`.
    pub(crate) fn at(path: &'s Path<'s>, errors: &'s mut Errors) -> Self {
        Self {
            path,
            errors,
            found: 0,
        }
    }

    /// The source in `field`.
    pub(crate) fn one<T>(
        &mut self,
        source: Option<&T>,
        field: &str,
        check: impl FnOnce(&T, &Path<'_>, &mut Errors),
    ) {
        self.named(source, [field, field], check);
    }

    /// The same for those that upstream calls differently when there is one too many than when it looks into them.
    pub(crate) fn named<T>(
        &mut self,
        source: Option<&T>,
        [extra, inside]: [&str; 2],
        check: impl FnOnce(&T, &Path<'_>, &mut Errors),
    ) {
        let Some(source) = source else { return };
        self.found += 1;
        if self.found > 1 {
            const DETAIL: &str = "may not specify more than 1 volume type";
            self.errors
                .push(FieldError::forbidden(&self.path.child(extra), DETAIL));
        } else {
            check(source, &self.path.child(inside), self.errors);
        }
    }

    /// After the last one: there must have been one.
    pub(crate) fn end(self) {
        if self.found == 0 {
            self.errors.push(FieldError::required(
                self.path,
                "must specify a volume type",
            ));
        }
    }
}

/// A text that must not be empty.
pub(crate) fn required(text: Option<&str>, path: &Path<'_>, errors: &mut Errors) {
    if text.is_none_or(str::is_empty) {
        errors.push(FieldError::required(path, ""));
    }
}

/// Several texts below `path` that must not be empty.
pub(crate) fn all_required(fields: &[(&str, &str)], path: &Path<'_>, errors: &mut Errors) {
    for (field, text) in fields {
        required(Some(text), &path.child(field), errors);
    }
}

/// A path without `..`.
pub(crate) fn no_backsteps(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, text, "must not contain '..'"));
    }
}

/// A relative path without `..`.
pub(crate) fn local_path(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.starts_with('/') {
        errors.push(FieldError::invalid(path, text, "must be a relative path"));
    }
    no_backsteps(text, path, errors);
}

pub(crate) fn host_path(source: &HostPathVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("path");
    if source.path.is_empty() {
        errors.push(FieldError::required(&at, ""));
        return;
    }
    no_backsteps(&source.path, &at, errors);
    let kind = source.type_.as_deref().unwrap_or_default();
    if !HOST_PATH_TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(
            &path.child("type"),
            kind,
            &HOST_PATH_TYPES,
        ));
    }
}

pub(crate) fn nfs(source: &NFSVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    all_required(
        &[("server", &source.server), ("path", &source.path)],
        path,
        errors,
    );
    if !source.path.starts_with('/') {
        const DETAIL: &str = "must be an absolute path";
        let path = path.child("path");
        errors.push(FieldError::invalid(&path, source.path.as_str(), DETAIL));
    }
}

fn within(number: i32, shown: [i32; 2], path: &Path<'_>, errors: &mut Errors) {
    if !(0..=255).contains(&number) {
        let detail = format!("must be between {} and {}, inclusive", shown[0], shown[1]);
        errors.push(FieldError::invalid(path, number, detail));
    }
}

pub(crate) fn gce_disk(
    source: &GCEPersistentDiskVolumeSource,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    required(Some(&source.pd_name), &path.child("pdName"), errors);
    let partition = source.partition.unwrap_or_default();
    within(partition, [1, 255], &path.child("partition"), errors);
}

pub(crate) fn aws_disk(
    source: &AWSElasticBlockStoreVolumeSource,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    required(Some(&source.volume_id), &path.child("volumeID"), errors);
    let partition = source.partition.unwrap_or_default();
    within(partition, [1, 255], &path.child("partition"), errors);
}

pub(crate) fn azure_disk(source: &AzureDiskVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    const CACHING: [&str; 3] = ["None", "ReadOnly", "ReadWrite"];
    const KINDS: [&str; 3] = ["Dedicated", "Managed", "Shared"];
    const MANAGED: &str = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str =
        "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    all_required(
        &[
            ("diskName", &source.disk_name),
            ("diskURI", &source.disk_uri),
        ],
        path,
        errors,
    );
    for (field, value, allowed) in [
        ("cachingMode", &source.caching_mode, &CACHING),
        ("kind", &source.kind, &KINDS),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !allowed.contains(value)) {
            errors.push(FieldError::not_supported(
                &path.child(field),
                value,
                allowed,
            ));
        }
    }
    let expected = match source.kind.as_deref() {
        Some("Managed") if !source.disk_uri.starts_with("/subscriptions/") => MANAGED,
        Some(kind) if kind != "Managed" && !source.disk_uri.starts_with("https://") => BLOB,
        _ => return,
    };
    errors.push(FieldError::not_supported(
        &path.child("diskURI"),
        source.disk_uri.as_str(),
        &[expected],
    ));
}

pub(crate) fn fibre_channel(source: &FCVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    let names = source.target_wwns.as_deref().unwrap_or_default();
    let ids = source.wwids.as_deref().unwrap_or_default();
    let at = path.child("targetWWNs");
    if names.is_empty() && ids.is_empty() {
        const DETAIL: &str = "must specify either targetWWNs or wwids, but not both";
        errors.push(FieldError::required(&at, DETAIL));
    }
    if !names.is_empty() && !ids.is_empty() {
        const DETAIL: &str = "targetWWNs and wwids can not be specified simultaneously";
        errors.push(FieldError::invalid(&at, serde_json::json!(names), DETAIL));
    }
    match source.lun {
        _ if names.is_empty() => {}
        Some(lun) => within(lun, [0, 255], &path.child("lun"), errors),
        None => errors.push(FieldError::required(
            &path.child("lun"),
            "lun is required if targetWWNs is specified",
        )),
    }
}

pub(crate) fn flocker(source: &FlockerVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    let name = source.dataset_name.as_deref().unwrap_or_default();
    let id = source.dataset_uuid.as_deref().unwrap_or_default();
    match (name.is_empty(), id.is_empty()) {
        (true, true) => errors.push(FieldError::required(
            path,
            "one of datasetName and datasetUUID is required",
        )),
        (false, false) => errors.push(FieldError::invalid(
            path,
            "resource",
            "datasetName and datasetUUID can not be specified simultaneously",
        )),
        _ => {}
    }
    if name.contains('/') {
        const DETAIL: &str = "must not contain '/'";
        errors.push(FieldError::invalid(
            &path.child("datasetName"),
            name,
            DETAIL,
        ));
    }
}

pub(crate) fn quobyte(source: &QuobyteVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let at = path.child("registry");
    if source.registry.is_empty() {
        errors.push(FieldError::required(&at, PAIRS));
    } else if source.tenant.as_ref().is_some_and(|id| id.len() >= 65) {
        const DETAIL: &str = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(FieldError::required(&path.child("tenant"), DETAIL));
    } else {
        let bad = |pair: &&str| {
            pair.rsplit_once(':')
                .is_none_or(|(host, _)| host.contains(':') && !host.starts_with('['))
        };
        for _ in source.registry.split(',').filter(bad) {
            errors.push(FieldError::invalid(&at, source.registry.as_str(), PAIRS));
        }
    }
    required(Some(&source.volume), &path.child("volume"), errors);
}

/// The options of a flex volume; those of Kubernetes' own prefixes are reserved.
pub(crate) fn flex<'o>(
    driver: &str,
    options: impl Iterator<Item = &'o String>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    required(Some(driver), &path.child("driver"), errors);
    let at = path.child("options");
    for key in options {
        let prefix = key.split('/').next().unwrap_or_default().to_lowercase();
        let prefix = format!(".{prefix}");
        if prefix.ends_with(".kubernetes.io") || prefix.ends_with(".k8s.io") {
            const DETAIL: &str = "kubernetes.io and k8s.io namespaces are reserved";
            errors.push(FieldError::invalid(&at.key(key), key.as_str(), DETAIL));
        }
    }
}

/// What the two types of iSCSI sources have in common.
pub(crate) struct Iscsi<'i> {
    pub(crate) portal: &'i str,
    pub(crate) iqn: &'i str,
    pub(crate) lun: i32,
    pub(crate) initiator: Option<&'i str>,
    /// Whether CHAP is asked for without a secret to do it with.
    pub(crate) lacks_secret: bool,
    /// What is said of names that are of none of the three sorts; the two types differ.
    pub(crate) unknown_sort: &'static str,
}

impl Iscsi<'_> {
    pub(crate) fn validate(&self, path: &Path<'_>, errors: &mut Errors) {
        all_required(&[("targetPortal", self.portal)], path, errors);
        if self.iqn.is_empty() {
            errors.push(FieldError::required(&path.child("iqn"), ""));
        } else {
            self.validate_name(self.iqn, &path.child("iqn"), errors);
        }
        within(self.lun, [0, 255], &path.child("lun"), errors);
        if self.lacks_secret {
            errors.push(FieldError::required(&path.child("secretRef"), ""));
        }
        if let Some(initiator) = self.initiator {
            self.validate_name(initiator, &path.child("initiatorname"), errors);
        }
    }

    /// `iqn.1996-04.com.example:disk`, or `eui.` and `naa.` with so many hexadecimal digits.
    fn validate_name(&self, name: &str, path: &Path<'_>, errors: &mut Errors) {
        let plain = |rest: &str, length| {
            rest.len() == length && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        let detail = match (name.get(..3), name.get(4..)) {
            (Some("iqn"), _) if is_qualified(name) => return,
            (Some("eui"), Some(rest)) if plain(rest, 16) => return,
            (Some("naa"), Some(rest)) if plain(rest, 32) => return,
            (Some("iqn" | "eui" | "naa"), _) => "must be valid format",
            _ => self.unknown_sort,
        };
        errors.push(FieldError::invalid(path, name, detail));
    }
}

/// `iqn.`, a year and month, the name of an authority, a colon and whatever that authority likes.
fn is_qualified(name: &str) -> bool {
    let parts = name
        .strip_prefix("iqn.")
        .and_then(|rest| rest.split_once('.'))
        .and_then(|(date, rest)| Some((date, rest.split_once(':')?)));
    let Some((date, (authority, own))) = parts else {
        return false;
    };
    let date_fits = date.len() == 7
        && date.bytes().enumerate().all(|(at, byte)| match at {
            4 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    let in_authority = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let reserved = |byte: u8| matches!(byte, b',' | b';' | b'*' | b'&' | b'$' | b'|');
    date_fits
        && !authority.is_empty()
        && authority.bytes().all(in_authority)
        && !own.is_empty()
        && !own
            .bytes()
            .any(|byte| reserved(byte) || byte.is_ascii_whitespace())
}

/// The machines of a Ceph cluster that are asked first.
pub(crate) fn monitors(monitors: &[String], path: &Path<'_>, errors: &mut Errors) {
    if monitors.is_empty() {
        errors.push(FieldError::required(&path.child("monitors"), ""));
    }
}

pub(crate) fn rbd(addresses: &[String], image: &str, path: &Path<'_>, errors: &mut Errors) {
    monitors(addresses, path, errors);
    required(Some(image), &path.child("image"), errors);
}

pub(crate) fn vsphere(
    source: &VsphereVirtualDiskVolumeSource,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    required(Some(&source.volume_path), &path.child("volumePath"), errors);
}

pub(crate) fn photon_disk(
    source: &PhotonPersistentDiskVolumeSource,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    required(Some(&source.pd_id), &path.child("pdID"), errors);
}

pub(crate) fn portworx(source: &PortworxVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    required(Some(&source.volume_id), &path.child("volumeID"), errors);
}

/// What pods and volumes say about `ScaleIO`.
pub(crate) fn scale_io(
    [gateway, system]: [&str; 2],
    volume: Option<&str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let volume = volume.unwrap_or_default();
    let fields = [
        ("gateway", gateway),
        ("system", system),
        ("volumeName", volume),
    ];
    all_required(&fields, path, errors);
}

/// What pods and volumes say about `StorageOS`.
pub(crate) fn storage_os(
    volume: Option<&str>,
    namespace: Option<&str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let at = path.child("volumeName");
    match volume.unwrap_or_default() {
        "" => errors.push(FieldError::required(&at, "")),
        name => invalid(&at, name, names::dns1123_label(name), errors),
    }
    if let Some(name) = namespace.filter(|name| !name.is_empty()) {
        let problems = names::dns1123_label(name);
        invalid(&path.child("volumeNamespace"), name, problems, errors);
    }
}

/// The name of a CSI driver.
pub(crate) fn csi_driver(name: &str, path: &Path<'_>, errors: &mut Errors) {
    required(Some(name), path, errors);
    if name.len() > DRIVER_MAX {
        errors.push(FieldError::too_long(path, DRIVER_MAX));
    }
    let problems = names::dns1123_subdomain(&name.to_lowercase());
    invalid(path, name, problems, errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_names_of_iscsi() {
        let problems = |iqn: &str| {
            let mut errors = Errors::default();
            let source = Iscsi {
                portal: "p",
                iqn,
                lun: 0,
                initiator: None,
                lacks_secret: false,
                unknown_sort: "of no sort",
            };
            source.validate(&Path::root("iscsi"), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for good in [
            "iqn.1996-04.com.example:disk",
            "eui.0123456789ABCDEF",
            "naa.60004567BA64678D0123456789ABCDEF",
        ] {
            assert_eq!(problems(good), [""; 0], "{good}");
        }
        for bad in ["iqn.1996.com:a", "eui.0123", "naa.", "iqn.1996-04.com:a|b"] {
            let want = format!("iscsi.iqn: Invalid value: {bad:?}: must be valid format");
            assert_eq!(problems(bad), [want]);
        }
        assert_eq!(
            problems("disk"),
            ["iscsi.iqn: Invalid value: \"disk\": of no sort"]
        );
        assert_eq!(
            problems("ä"),
            ["iscsi.iqn: Invalid value: \"ä\": of no sort"]
        );
    }

    #[test]
    fn reserves_prefixes_of_flex_options() {
        let mut errors = Errors::default();
        let options = ["fine".to_owned(), "Mine.K8s.io/x".to_owned()];
        flex("d", options.iter(), &Path::root("f"), &mut errors);
        assert_eq!(errors.len(), 1);
    }
}
