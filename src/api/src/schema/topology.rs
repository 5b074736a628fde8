//! Which parts of the built-in types server-side apply takes as a whole (`x-kubernetes-map-type` upstream), and what
//! tells the items of the other lists apart (`x-kubernetes-list-type`, `x-kubernetes-list-map-keys`).
//!
//! A list that is not named here is atomic; a struct or map that is not named here is granular.

use serde_json::Value;

use super::{Grain, ListKey, ListType, Type};

/// By type: each list that is no atomic one, with its keys. A list without keys is a set.
const LISTS: &[(&str, &str)] = &[
    ("APIServiceStatus", "conditions=type"),
    ("AllocatedDeviceStatus", "conditions=type"),
    ("CSIDriverSpec", "volumeLifecycleModes="),
    ("CSINodeSpec", "drivers=name"),
    ("CertificateSigningRequestStatus", "conditions=type"),
    ("ComponentStatus", "conditions=type"),
    (
        "Container",
        "env=name ports=containerPort,protocol volumeDevices=devicePath volumeMounts=mountPath",
    ),
    ("ContainerRestartRuleOnExitCodes", "values="),
    (
        "ContainerStatus",
        "allocatedResourcesStatus=name volumeMounts=mountPath",
    ),
    ("CustomResourceDefinitionStatus", "conditions=type"),
    ("DaemonSetStatus", "conditions=type"),
    ("DeploymentStatus", "conditions=type"),
    ("Endpoint", "addresses="),
    (
        "EphemeralContainer",
        "env=name ports=containerPort,protocol volumeDevices=devicePath volumeMounts=mountPath",
    ),
    ("FlowSchemaStatus", "conditions=type"),
    ("HorizontalPodAutoscalerStatus", "conditions=type"),
    ("JSONSchemaProps", "x-kubernetes-validations=rule"),
    ("MutatingAdmissionPolicySpec", "matchConditions=name"),
    ("MutatingWebhook", "matchConditions=name"),
    ("MutatingWebhookConfiguration", "webhooks=name"),
    ("NamespaceStatus", "conditions=type"),
    ("NodeAllocatableResourceClaimStatus", "containers="),
    ("NodeSpec", "podCIDRs="),
    ("NodeStatus", "addresses=type conditions=type"),
    ("NonResourcePolicyRule", "nonResourceURLs= verbs="),
    ("ObjectMeta", "finalizers= ownerReferences=uid"),
    ("PersistentVolumeClaimStatus", "conditions=type"),
    ("PodDisruptionBudgetStatus", "conditions=type"),
    ("PodFailurePolicyOnExitCodesRequirement", "values="),
    (
        "PodSpec",
        "containers=name ephemeralContainers=name hostAliases=ip imagePullSecrets=name initContainers=name resourceClaims=name schedulingGates=name topologySpreadConstraints=topologyKey,whenUnsatisfiable volumes=name",
    ),
    (
        "PodStatus",
        "conditions=type podIPs=ip resourceClaimStatuses=name",
    ),
    ("PriorityLevelConfigurationStatus", "conditions=type"),
    ("ReplicaSetStatus", "conditions=type"),
    ("ReplicationControllerStatus", "conditions=type"),
    (
        "ResourceClaimStatus",
        "devices=device,driver,pool,shareID reservedFor=uid",
    ),
    (
        "ResourcePolicyRule",
        "apiGroups= namespaces= resources= verbs=",
    ),
    ("ResourceRequirements", "claims=name"),
    ("ResourceStatus", "resources=resourceID"),
    ("ServiceAccount", "secrets=name"),
    ("ServiceCIDRStatus", "conditions=type"),
    ("ServiceSpec", "ports=port,protocol"),
    ("ServiceStatus", "conditions=type"),
    ("StatefulSetStatus", "conditions=type"),
    ("UncountedTerminatedPods", "failed= succeeded="),
    ("ValidatingAdmissionPolicyBindingSpec", "validationActions="),
    (
        "ValidatingAdmissionPolicySpec",
        "matchConditions=name variables=name",
    ),
    ("ValidatingAdmissionPolicyStatus", "conditions=type"),
    ("ValidatingWebhook", "matchConditions=name"),
    ("ValidatingWebhookConfiguration", "webhooks=name"),
];

/// The structs that have one owner as a whole, wherever they stand.
const ATOMIC: &[&str] = &[
    "ConfigMapKeySelector",
    "EndpointAddress",
    "EndpointPort",
    "FileKeySelector",
    "LabelSelector",
    "LocalObjectReference",
    "MatchResources",
    "NamedRuleWithOperations",
    "NodeSelector",
    "NodeSelectorTerm",
    "ObjectFieldSelector",
    "ObjectReference",
    "OwnerReference",
    "ParamKind",
    "ParamRef",
    "ResourceFieldSelector",
    "RoleRef",
    "ScopeSelector",
    "SecretKeySelector",
    "SecretReference",
    "ServiceBackendPort",
    "TopologySelectorTerm",
    "TypedLocalObjectReference",
    "Variable",
];

/// The fields whose grain is another than their type's.
const FIELDS: &[(&str, &str, Grain)] = &[
    ("PersistentVolumeSpec", "claimRef", Grain::Granular),
    ("PodSpec", "nodeSelector", Grain::Atomic),
    ("ReplicationControllerSpec", "selector", Grain::Atomic),
    ("Scheduling", "nodeSelector", Grain::Atomic),
    ("ServiceSpec", "selector", Grain::Atomic),
];

/// The fields which the API's own types hold by value, and so have even in an empty object. Those of
/// [`always`] come on top.
const ALWAYS: &[(&str, &str)] = &[
    ("AllocationResult", "devices"),
    ("CSINodeSpec", "drivers"),
    ("Container", "resources"),
    ("CronJobSpec", "jobTemplate"),
    ("CustomResourceDefinitionSpec", "names"),
    ("CustomResourceDefinitionStatus", "acceptedNames conditions"),
    ("DaemonSetSpec", "template updateStrategy"),
    ("DeploymentSpec", "strategy template"),
    ("EphemeralContainer", "resources"),
    ("Event", "source"),
    ("FlowSchemaSpec", "priorityLevelConfiguration"),
    ("HorizontalPodAutoscalerSpec", "scaleTargetRef"),
    ("IngressStatus", "loadBalancer"),
    ("JobSpec", "template"),
    ("LimitedPriorityLevelConfiguration", "limitResponse"),
    ("MutatingWebhook", "clientConfig"),
    ("NetworkPolicySpec", "podSelector"),
    ("NodeDaemonEndpoints", "kubeletEndpoint"),
    ("NodeStatus", "daemonEndpoints nodeInfo"),
    ("PersistentVolumeClaimSpec", "resources"),
    ("PodSpec", "containers"),
    ("PodTemplate", "template"),
    ("ReplicaSetSpec", "template"),
    ("ResourceClaimSpec", "devices"),
    ("ResourceSliceSpec", "pool"),
    ("ServiceStatus", "loadBalancer"),
    ("StatefulSetSpec", "template updateStrategy"),
    ("ValidatingWebhook", "clientConfig"),
    ("VolumeAttachmentSpec", "source"),
];

/// See [`Field::always`](super::Field::always). Whatever has metadata holds it, its specification and its status by value.
pub(super) fn always(owner: &str, siblings: &[&str], name: &str) -> bool {
    if siblings.contains(&"metadata") && matches!(name, "metadata" | "spec" | "status") {
        return true;
    }
    // In `autoscaling/v1` the reference is one value (see [`refine`]), and an empty one is not `{}`.
    if name == "scaleTargetRef" && siblings.contains(&"targetCPUUtilizationPercentage") {
        return false;
    }
    let fields = ALWAYS.iter().find(|(of, _)| *of == owner);
    fields.is_some_and(|(_, fields)| fields.split(' ').any(|field| field == name))
}

/// The grain of a struct, unless its field says otherwise.
///
/// Two names stand for a type that is atomic and another one that is not: the `Subject` of RBAC, told from that of flow
/// control by its fields, and `CrossVersionObjectReference`, for which see [`refine`].
pub(super) fn grain(structure: &str, fields: &[&str]) -> Grain {
    let atomic = match structure {
        "Subject" => fields.contains(&"apiGroup"),
        name => ATOMIC.contains(&name),
    };
    if atomic {
        Grain::Atomic
    } else {
        Grain::Granular
    }
}

/// What the field `name` of `owner` adds to its type. `siblings` are all fields of `owner`.
pub(super) fn refine(owner: &str, siblings: &[&str], name: &str, ty: &mut Type) {
    match ty {
        Type::List(_, list) => *list = list_type(owner, name),
        Type::Map(_, grain) | Type::Struct(_, grain) => {
            let own = FIELDS
                .iter()
                .find(|(struct_name, field, _)| (*struct_name, *field) == (owner, name));
            if let Some((.., other)) = own {
                *grain = *other;
            }
            // What `autoscaling/v1` scales is one value; in `autoscaling/v2` the fields of the same reference are apart.
            if (owner, name) == ("HorizontalPodAutoscalerSpec", "scaleTargetRef")
                && siblings.contains(&"targetCPUUtilizationPercentage")
            {
                *grain = Grain::Atomic;
            }
        }
        _ => {}
    }
}

fn list_type(owner: &str, name: &str) -> ListType {
    let lists = LISTS
        .iter()
        .find(|(of, _)| *of == owner)
        .map_or("", |(_, lists)| lists);
    let keys = lists
        .split(' ')
        .filter_map(|list| list.split_once('='))
        .find(|(list, _)| *list == name);
    match keys {
        None => ListType::Atomic,
        Some((_, "")) => ListType::Set,
        Some((_, keys)) => {
            let keys = keys.split(',').map(|key| ListKey {
                name: key.to_owned(),
                default: default(owner, key),
            });
            ListType::Map(keys.collect())
        }
    }
}

/// What stands for a key that an item leaves out: the server's default, or the empty value of a required field. Only the
/// share of a device may be absent.
fn default(owner: &str, key: &str) -> Option<Value> {
    match (owner, key) {
        ("ResourceClaimStatus", "shareID") => None,
        (_, "protocol") => Some("TCP".into()),
        (_, "port" | "containerPort") => Some(0.into()),
        _ => Some("".into()),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{
        autoscaling, core::v1 as core, flowcontrol::v1 as flowcontrol, rbac::v1 as rbac,
    };

    use crate::schema::{Grain, ListType, Schema, Type};

    /// The type of a field behind a chain of names; lists stand for their items.
    fn at(schema: &Schema, path: &str) -> Type {
        let mut ty = schema.root().clone();
        for name in path.split('.') {
            while let Type::List(item, _) = ty {
                ty = *item;
            }
            ty = schema
                .structure(&ty)
                .and_then(|owner| owner.field(name))
                .unwrap_or_else(|| panic!("{path}"))
                .ty
                .clone();
        }
        ty
    }

    fn grain(schema: &Schema, path: &str) -> Grain {
        match at(schema, path) {
            Type::Struct(_, grain) | Type::Map(_, grain) => grain,
            other => panic!("{other:?}"),
        }
    }

    fn list(schema: &Schema, path: &str) -> String {
        match at(schema, path) {
            Type::List(_, ListType::Atomic) => "atomic".to_owned(),
            Type::List(_, ListType::Set) => "set".to_owned(),
            Type::List(_, ListType::Map(keys)) => {
                let keys = keys.iter().map(|key| match &key.default {
                    Some(default) => format!("{}={default}", key.name),
                    None => key.name.clone(),
                });
                keys.collect::<Vec<_>>().join(" ")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tells_list_types_apart() {
        let pod = Schema::of::<core::Pod>();
        for (path, want) in [
            ("metadata.finalizers", "set"),
            ("metadata.ownerReferences", "uid=\"\""),
            ("spec.tolerations", "atomic"),
            ("spec.containers", "name=\"\""),
            ("spec.containers.args", "atomic"),
            ("spec.containers.ports", "containerPort=0 protocol=\"TCP\""),
            (
                "spec.topologySpreadConstraints",
                "topologyKey=\"\" whenUnsatisfiable=\"\"",
            ),
            ("status.hostIPs", "atomic"),
            ("status.podIPs", "ip=\"\""),
        ] {
            assert_eq!(list(&pod, path), want, "{path}");
        }
    }

    #[test]
    fn tells_atomic_from_granular() {
        let pod = Schema::of::<core::Pod>();
        assert_eq!(grain(&pod, "spec.nodeSelector"), Grain::Atomic);
        assert_eq!(grain(&pod, "metadata.labels"), Grain::Granular);
        assert_eq!(grain(&pod, "spec.securityContext"), Grain::Granular);
        assert_eq!(
            grain(&pod, "spec.containers.env.valueFrom.fieldRef"),
            Grain::Atomic
        );
        let volume = Schema::of::<core::PersistentVolume>();
        assert_eq!(grain(&volume, "spec.claimRef"), Grain::Granular);
    }

    #[test]
    fn tells_types_of_one_name_apart() {
        let of = |schema: &Schema, path: &str| match at(schema, path) {
            Type::List(item, _) => match *item {
                Type::Struct(_, grain) => grain,
                other => panic!("{other:?}"),
            },
            Type::Struct(_, grain) => grain,
            other => panic!("{other:?}"),
        };
        let binding = Schema::of::<rbac::RoleBinding>();
        assert_eq!(of(&binding, "subjects"), Grain::Atomic);
        let flow = Schema::of::<flowcontrol::FlowSchema>();
        assert_eq!(of(&flow, "spec.rules.subjects"), Grain::Granular);
        let v1 = Schema::of::<autoscaling::v1::HorizontalPodAutoscaler>();
        assert_eq!(of(&v1, "spec.scaleTargetRef"), Grain::Atomic);
        let v2 = Schema::of::<autoscaling::v2::HorizontalPodAutoscaler>();
        assert_eq!(of(&v2, "spec.scaleTargetRef"), Grain::Granular);
    }
}
