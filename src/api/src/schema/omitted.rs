//! Which optional strings, numbers and booleans lose their empty value.
//!
//! The API's own types hold these fields by value and leave `""`, `0` and `false` out of the JSON, so that an object
//! reads back without them. Fields which tell an empty value from an absent one are not listed.

/// By type, the fields separated by blanks.
const FIELDS: &[(&str, &str)] = &[
    ("Container", CONTAINER),
    ("ContainerPort", "hostIP hostPort name protocol"),
    (
        "ContainerStateTerminated",
        "containerID message reason signal",
    ),
    ("ContainerStateWaiting", "message reason"),
    ("ContainerStatus", "containerID"),
    ("ConfigMapEnvSource", "name"),
    ("ConfigMapKeySelector", "name"),
    ("ConfigMapProjection", "name"),
    ("ConfigMapVolumeSource", "name"),
    ("EmptyDirVolumeSource", "medium"),
    ("EndpointAddress", "hostname"),
    ("EndpointPort", "name protocol"),
    ("EnvFromSource", "prefix"),
    ("EnvVar", "value"),
    ("EphemeralContainer", CONTAINER),
    ("Event", "action count message reason type"),
    ("EventSeries", "count"),
    ("EventSource", "component host"),
    ("HTTPGetAction", "host path scheme"),
    ("ImageVolumeSource", "pullPolicy reference"),
    ("LoadBalancerIngress", "hostname ip"),
    ("LocalObjectReference", "name"),
    ("NFSVolumeSource", "readOnly"),
    ("NamespaceCondition", "message reason"),
    ("NamespaceStatus", "phase"),
    ("NodeCondition", "message reason"),
    ("NodeConfigStatus", "error"),
    ("NodeRuntimeHandler", "name"),
    ("NodeSpec", "externalID podCIDR providerID unschedulable"),
    ("NodeStatus", "phase"),
    (
        "ObjectMeta",
        "generateName generation name namespace resourceVersion selfLink uid",
    ),
    (
        "ObjectReference",
        "fieldPath name namespace resourceVersion uid",
    ),
    ("PersistentVolumeClaimCondition", "message reason"),
    ("PersistentVolumeClaimSpec", "volumeName"),
    ("PersistentVolumeClaimStatus", "phase"),
    ("PersistentVolumeClaimVolumeSource", "readOnly"),
    (
        "PersistentVolumeSpec",
        "persistentVolumeReclaimPolicy storageClassName",
    ),
    ("PersistentVolumeStatus", "message phase reason"),
    ("PodCondition", "message observedGeneration reason"),
    ("PodDNSConfigOption", "name"),
    (
        "PodSpec",
        "dnsPolicy hostIPC hostNetwork hostPID hostname nodeName priorityClassName restartPolicy schedulerName \
         serviceAccount serviceAccountName subdomain",
    ),
    (
        "PodStatus",
        "hostIP message nominatedNodeName observedGeneration phase podIP qosClass reason resize",
    ),
    (
        "Probe",
        "failureThreshold initialDelaySeconds periodSeconds successThreshold timeoutSeconds",
    ),
    ("ReplicationControllerCondition", "message reason"),
    ("ReplicationControllerSpec", "minReadySeconds"),
    (
        "ReplicationControllerStatus",
        "availableReplicas fullyLabeledReplicas observedGeneration readyReplicas",
    ),
    ("ResourceClaim", "request"),
    ("ResourceFieldSelector", "containerName"),
    ("ResourceHealth", "health"),
    ("SELinuxOptions", "level role type user"),
    ("Secret", "type"),
    ("SecretEnvSource", "name"),
    ("SecretKeySelector", "name"),
    ("SecretProjection", "name"),
    ("SecretReference", "name namespace"),
    ("SecretVolumeSource", "secretName"),
    ("ServiceAccountTokenProjection", "audience"),
    ("ServicePort", "name nodePort protocol"),
    (
        "ServiceSpec",
        "clusterIP externalName externalTrafficPolicy healthCheckNodePort loadBalancerIP publishNotReadyAddresses \
         sessionAffinity type",
    ),
    ("TCPSocketAction", "host"),
    ("Taint", "value"),
    ("Toleration", "effect key operator value"),
    ("VolumeMount", "readOnly subPath subPathExpr"),
    ("VolumeMountStatus", "readOnly"),
    // meta/v1
    ("Condition", "observedGeneration"),
    ("ListMeta", "continue resourceVersion selfLink"),
    (
        "ManagedFieldsEntry",
        "fieldsType manager operation subresource",
    ),
    // apps
    ("DaemonSetCondition", "message reason"),
    ("DaemonSetSpec", "minReadySeconds"),
    (
        "DaemonSetStatus",
        "numberAvailable numberUnavailable observedGeneration updatedNumberScheduled",
    ),
    ("DaemonSetUpdateStrategy", "type"),
    ("DeploymentCondition", "message reason"),
    ("DeploymentSpec", "minReadySeconds paused"),
    (
        "DeploymentStatus",
        "availableReplicas observedGeneration readyReplicas replicas unavailableReplicas updatedReplicas",
    ),
    ("DeploymentStrategy", "type"),
    ("ReplicaSetCondition", "message reason"),
    ("ReplicaSetSpec", "minReadySeconds"),
    (
        "ReplicaSetStatus",
        "availableReplicas fullyLabeledReplicas observedGeneration readyReplicas",
    ),
    ("StatefulSetCondition", "message reason"),
    (
        "StatefulSetPersistentVolumeClaimRetentionPolicy",
        "whenDeleted whenScaled",
    ),
    (
        "StatefulSetSpec",
        "minReadySeconds podManagementPolicy serviceName",
    ),
    (
        "StatefulSetStatus",
        "currentReplicas currentRevision observedGeneration readyReplicas updateRevision updatedReplicas",
    ),
    ("StatefulSetUpdateStrategy", "type"),
    // autoscaling, batch, policy
    ("CronJobSpec", "concurrencyPolicy"),
    ("CrossVersionObjectReference", "apiVersion"),
    ("HorizontalPodAutoscalerCondition", "message reason"),
    ("HorizontalPodAutoscalerStatus", "currentReplicas"),
    ("JobCondition", "message reason"),
    ("JobStatus", "active completedIndexes failed succeeded"),
    ("PodDisruptionBudgetStatus", "observedGeneration"),
    ("PodFailurePolicyOnPodConditionsPattern", "status"),
    ("ScaleSpec", "replicas"),
    ("ScaleStatus", "selector"),
    // admissionregistration, apiregistration, certificates, flowcontrol
    ("APIServiceCondition", "message reason"),
    ("APIServiceSpec", "group insecureSkipTLSVerify version"),
    ("ApplyConfiguration", "expression"),
    ("CertificateSigningRequestCondition", "message reason"),
    ("CertificateSigningRequestSpec", "uid username"),
    ("FlowSchemaCondition", "message reason status type"),
    ("FlowSchemaSpec", "matchingPrecedence"),
    ("JSONPatch", "expression"),
    ("MutatingAdmissionPolicyBindingSpec", "policyName"),
    ("MutatingAdmissionPolicySpec", "reinvocationPolicy"),
    ("ParamKind", "apiVersion kind"),
    ("ParamRef", "name namespace"),
    (
        "PriorityLevelConfigurationCondition",
        "message reason status type",
    ),
    ("QueuingConfiguration", "handSize queueLengthLimit queues"),
    ("ResourcePolicyRule", "clusterScope"),
    ("ValidatingAdmissionPolicyStatus", "observedGeneration"),
    ("Validation", "message messageExpression"),
    // authentication, authorization
    ("BoundObjectReference", "apiVersion kind name uid"),
    ("FieldSelectorAttributes", "rawSelector"),
    ("LabelSelectorAttributes", "rawSelector"),
    ("NonResourceAttributes", "path verb"),
    (
        "ResourceAttributes",
        "group name namespace resource subresource verb version",
    ),
    ("SelfSubjectRulesReviewSpec", "namespace"),
    ("SubjectAccessReviewSpec", "uid user"),
    ("SubjectAccessReviewStatus", "denied evaluationError reason"),
    ("SubjectRulesReviewStatus", "evaluationError"),
    ("TokenReviewStatus", "authenticated error"),
    ("UserInfo", "uid username"),
    // networking
    ("HTTPIngressPath", "path"),
    ("IngressClassSpec", "controller"),
    ("IngressLoadBalancerIngress", "hostname ip"),
    ("IngressRule", "host"),
    ("IngressTLS", "secretName"),
    ("ParentReference", "group namespace"),
    ("ServiceBackendPort", "name number"),
    // resource
    ("DeviceSubRequest", "allocationMode count"),
    ("DeviceTaint", "value"),
    ("DeviceToleration", "effect key operator value"),
    ("ExactDeviceRequest", "allocationMode count"),
    ("NetworkDeviceData", "hardwareAddress interfaceName"),
    ("ResourceClaimConsumerReference", "apiGroup"),
    // rbac, scheduling, storage
    ("PriorityClass", "description globalDefault"),
    ("Subject", "apiGroup namespace"),
    ("VolumeError", "message"),
];

const CONTAINER: &str = "image imagePullPolicy stdin stdinOnce targetContainerName terminationMessagePath \
                         terminationMessagePolicy tty workingDir";

pub(super) fn when_zero(owner: &str, field: &str) -> bool {
    FIELDS
        .iter()
        .filter(|(name, _)| *name == owner)
        .any(|(_, fields)| fields.split(' ').any(|name| name == field))
}
