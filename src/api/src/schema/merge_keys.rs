//! How strategic merges combine the fields of the built-in types (`patchStrategy` and `patchMergeKey` upstream).
//!
//! A field that is not listed merges in its type's usual way.

use super::Merge::{self, ByKey, ByKeyRetainKeys, Replace, RetainKeys, Set};

/// By type and field. Types are told apart by name alone: no two types which share a name disagree here.
const RULES: &[(&str, &[(&str, Merge)])] = &[
    ("APIServiceStatus", &[("conditions", ByKey("type"))]),
    ("CSINodeSpec", &[("drivers", ByKey("name"))]),
    ("ComponentStatus", &[("conditions", ByKey("type"))]),
    ("Container", CONTAINER),
    (
        "ContainerStatus",
        &[
            ("allocatedResourcesStatus", ByKey("name")),
            ("volumeMounts", ByKey("mountPath")),
        ],
    ),
    ("DaemonSetStatus", &[("conditions", ByKey("type"))]),
    ("DeploymentSpec", &[("strategy", RetainKeys)]),
    ("DeploymentStatus", &[("conditions", ByKey("type"))]),
    ("EphemeralContainer", CONTAINER),
    ("FlowSchemaStatus", &[("conditions", ByKey("type"))]),
    (
        "HorizontalPodAutoscalerStatus",
        &[("conditions", ByKey("type"))],
    ),
    (
        "JSONSchemaProps",
        &[("x-kubernetes-validations", ByKey("rule"))],
    ),
    ("JobStatus", &[("conditions", ByKey("type"))]),
    (
        "MutatingAdmissionPolicySpec",
        &[("matchConditions", ByKey("name"))],
    ),
    ("MutatingWebhook", &[("matchConditions", ByKey("name"))]),
    (
        "MutatingWebhookConfiguration",
        &[("webhooks", ByKey("name"))],
    ),
    ("NamespaceStatus", &[("conditions", ByKey("type"))]),
    ("NodeSpec", &[("podCIDRs", Set)]),
    (
        "NodeStatus",
        &[("addresses", ByKey("type")), ("conditions", ByKey("type"))],
    ),
    (
        "ObjectMeta",
        &[("finalizers", Set), ("ownerReferences", ByKey("uid"))],
    ),
    (
        "PersistentVolumeClaimStatus",
        &[("conditions", ByKey("type"))],
    ),
    ("PodDisruptionBudgetSpec", &[("selector", Replace)]),
    (
        "PodDisruptionBudgetStatus",
        &[("conditions", ByKey("type"))],
    ),
    (
        "PodSpec",
        &[
            ("containers", ByKey("name")),
            ("ephemeralContainers", ByKey("name")),
            ("hostAliases", ByKey("ip")),
            ("imagePullSecrets", ByKey("name")),
            ("initContainers", ByKey("name")),
            ("resourceClaims", ByKeyRetainKeys("name")),
            ("schedulingGates", ByKey("name")),
            ("topologySpreadConstraints", ByKey("topologyKey")),
            ("volumes", ByKeyRetainKeys("name")),
        ],
    ),
    (
        "PodStatus",
        &[
            ("conditions", ByKey("type")),
            ("hostIPs", ByKey("ip")),
            ("podIPs", ByKey("ip")),
            ("resourceClaimStatuses", ByKeyRetainKeys("name")),
        ],
    ),
    (
        "PriorityLevelConfigurationStatus",
        &[("conditions", ByKey("type"))],
    ),
    ("ReplicaSetStatus", &[("conditions", ByKey("type"))]),
    (
        "ReplicationControllerStatus",
        &[("conditions", ByKey("type"))],
    ),
    ("ResourceClaimStatus", &[("reservedFor", ByKey("uid"))]),
    ("ServiceAccount", &[("secrets", ByKey("name"))]),
    ("ServiceCIDRStatus", &[("conditions", ByKey("type"))]),
    ("ServiceSpec", &[("ports", ByKey("port"))]),
    ("ServiceStatus", &[("conditions", ByKey("type"))]),
    ("StatefulSetStatus", &[("conditions", ByKey("type"))]),
    (
        "ValidatingAdmissionPolicySpec",
        &[
            ("matchConditions", ByKey("name")),
            ("variables", ByKey("name")),
        ],
    ),
    ("ValidatingWebhook", &[("matchConditions", ByKey("name"))]),
    (
        "ValidatingWebhookConfiguration",
        &[("webhooks", ByKey("name"))],
    ),
];

const CONTAINER: &[(&str, Merge)] = &[
    ("env", ByKey("name")),
    ("ports", ByKey("containerPort")),
    ("volumeDevices", ByKey("devicePath")),
    ("volumeMounts", ByKey("mountPath")),
];

pub(super) fn find(owner: &str, field: &str) -> Merge {
    let rules = RULES
        .iter()
        .find(|(name, _)| *name == owner)
        .map_or(&[][..], |(_, rules)| rules);
    rules
        .iter()
        .find(|(name, _)| *name == field)
        .map(|(_, merge)| *merge)
        .unwrap_or_default()
}
