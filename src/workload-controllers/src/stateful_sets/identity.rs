//! Who a pod of a stateful set is: its number, and all that follows from it.

use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec},
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Resource, ResourceExt as _};

use crate::replicas;
use vaquita_reconcile::meta;

/// The label with the pod's own name, so that a Service can select a single one.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// The label with the pod's number.
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// The label with the name of the revision that the pod is of.
pub(super) const REVISION: &str = "controller-revision-hash";

/// The name of the pod with this number.
pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name_any())
}

/// The number of a pod, if its name is one of the set's.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = pod.metadata.name.as_deref()?;
    let number = name.strip_prefix(&set.name_any())?.strip_prefix('-')?;
    // `web-01` and `web-+1` are nobody's.
    let ordinal: i32 = number.parse().ok()?;
    (ordinal >= 0 && ordinal.to_string() == number).then_some(ordinal)
}

/// The revision that a pod is of.
pub(super) fn revision(pod: &Pod) -> &str {
    pod.labels().get(REVISION).map_or("", String::as_str)
}

/// The labels that say who the pod is.
pub(super) fn labels(pod_name: &str, ordinal: i32) -> [(String, String); 2] {
    [
        (POD_NAME.to_owned(), pod_name.to_owned()),
        (POD_INDEX.to_owned(), ordinal.to_string()),
    ]
}

/// Whether a pod says who it is.
pub(super) fn is_labelled(pod: &Pod, ordinal: i32) -> bool {
    let labels = labels(&pod.name_any(), ordinal);
    labels
        .iter()
        .all(|(key, value)| pod.labels().get(key) == Some(value))
}

/// A new pod with this number, of the template of `spec` and in the name of `revision`.
pub(super) fn model(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    ordinal: i32,
    revision: &str,
) -> Pod {
    let mut pod = replicas::pod_from_template(set, &spec.template);
    let name = pod_name(set, ordinal);
    pod.metadata.generate_name = None;
    pod.labels_mut().extend(labels(&name, ordinal));
    pod.labels_mut()
        .insert(REVISION.to_owned(), revision.to_owned());
    let inner = pod.spec.get_or_insert_default();
    inner.hostname = Some(name.clone());
    inner.subdomain = spec.service_name.clone().filter(|name| !name.is_empty());
    for template in spec.volume_claim_templates.iter().flatten() {
        let volumes = inner.volumes.get_or_insert_default();
        let of_claim = Volume {
            name: template.name_any(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(set, template, ordinal),
                read_only: Some(false),
            }),
            ..Volume::default()
        };
        volumes.retain(|volume| volume.name != of_claim.name);
        volumes.push(of_claim);
    }
    pod.metadata.name = Some(name);
    pod
}

/// The name of the claim that a pod has for a claim template.
pub(super) fn claim_name(
    set: &StatefulSet,
    template: &PersistentVolumeClaim,
    ordinal: i32,
) -> String {
    format!("{}-{}", template.name_any(), pod_name(set, ordinal))
}

/// A new claim for the pod with this number.
pub(super) fn claim(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    template: &PersistentVolumeClaim,
    ordinal: i32,
) -> PersistentVolumeClaim {
    let mut labels = template.labels().clone();
    labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim_name(set, template, ordinal)),
            namespace: set.namespace(),
            labels: Some(labels),
            annotations: template.metadata.annotations.clone(),
            finalizers: template.metadata.finalizers.clone(),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The owners that a claim should have: whose end is the claim's.
pub(super) fn claim_owners(
    spec: &StatefulSetSpec,
    set: &StatefulSet,
    pod: Option<&Pod>,
    is_condemned: bool,
    known: &[OwnerReference],
) -> Vec<OwnerReference> {
    let policy = spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |what: Option<&String>| what.is_some_and(|what| what == "Delete");
    let when_deleted = deletes(policy.and_then(|policy| policy.when_deleted.as_ref()));
    let when_scaled = deletes(policy.and_then(|policy| policy.when_scaled.as_ref()));
    let goes_with_pod = when_scaled && is_condemned;
    let mut owners = known.to_vec();
    if let Some(pod) = pod {
        settle(&mut owners, pod, goes_with_pod);
    }
    settle(&mut owners, set, when_deleted && !goes_with_pod);
    owners
}

/// Puts `owner` among the owners, or takes it out.
fn settle<K: Resource<DynamicType = ()>>(
    owners: &mut Vec<OwnerReference>,
    owner: &K,
    wanted: bool,
) {
    let is_this = |known: &OwnerReference| known.uid == meta::uid(owner);
    if !wanted {
        owners.retain(|known| !is_this(known));
    } else if !owners.iter().any(is_this) {
        owners.push(OwnerReference {
            controller: None,
            block_owner_deletion: None,
            ..meta::controller_reference(owner)
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use vaquita_reconcile::testing::objects::{named, pod};

    fn set() -> StatefulSet {
        let spec = json!({
            "serviceName": "db",
            "selector": { "matchLabels": { "app": "db" } },
            "template": {
                "metadata": { "labels": { "app": "db" } },
                "spec": { "containers": [], "volumes": [{ "name": "data" }, { "name": "other" }] },
            },
            "volumeClaimTemplates": [
                { "metadata": { "name": "data", "labels": { "tier": "slow" } }, "spec": {} },
            ],
        });
        StatefulSet {
            metadata: named("shop", "db"),
            spec: Some(serde_json::from_value(spec).unwrap()),
            status: None,
        }
    }

    #[test]
    fn numbers_are_read_from_names() {
        let number = |name: &str| ordinal(&set(), &pod("shop", name));
        assert_eq!((number("db-0"), number("db-17")), (Some(0), Some(17)));
        for other in ["db", "db-", "db-01", "db-+1", "db--1", "dbx-1", "db-x-1"] {
            assert_eq!(number(other), None, "{other}");
        }
    }

    #[test]
    fn a_pod_knows_who_it_is_and_which_claims_are_its_own() {
        let set = set();
        let spec = set.spec.clone().unwrap();
        let pod = model(&set, &spec, 2, "db-abc");
        assert_eq!(pod.name_any(), "db-2");
        assert!(is_labelled(&pod, 2) && revision(&pod) == "db-abc");
        let inner = pod.spec.unwrap();
        assert_eq!(
            (inner.hostname.as_deref(), inner.subdomain.as_deref()),
            (Some("db-2"), Some("db"))
        );
        let volumes = inner.volumes.unwrap();
        assert_eq!(volumes.len(), 2);
        let source = volumes[1].persistent_volume_claim.as_ref().unwrap();
        assert_eq!(source.claim_name, "data-db-2");
        let template = &spec.volume_claim_templates.as_ref().unwrap()[0];
        let claim = claim(&set, &spec, template, 2);
        assert_eq!(claim.name_any(), "data-db-2");
        assert_eq!(claim.labels().len(), 2);
    }

    #[test]
    fn a_claim_ends_with_whom_the_policy_says() {
        let set = set();
        let pod = pod("shop", "db-2");
        let owners = |deleted: &str, scaled: &str, condemned: bool| {
            let mut spec = set.spec.clone().unwrap();
            let policy = json!({ "whenDeleted": deleted, "whenScaled": scaled });
            spec.persistent_volume_claim_retention_policy =
                Some(serde_json::from_value(policy).unwrap());
            let owners = claim_owners(&spec, &set, Some(&pod), condemned, &[]);
            owners
                .into_iter()
                .map(|owner| owner.kind)
                .collect::<Vec<_>>()
        };
        assert_eq!(owners("Retain", "Retain", true), [""; 0]);
        assert_eq!(owners("Delete", "Retain", true), ["StatefulSet"]);
        assert_eq!(owners("Retain", "Delete", false), [""; 0]);
        assert_eq!(owners("Retain", "Delete", true), ["Pod"]);
        assert_eq!(owners("Delete", "Delete", false), ["StatefulSet"]);
        assert_eq!(owners("Delete", "Delete", true), ["Pod"]);
    }
}
