use serde_json::{Value, json};

use super::*;

/// What is wrong with a pod of this specification, which gets its defaults first.
fn wrong(spec: &Value) -> Vec<String> {
    let mut pod: k8s_openapi::api::core::v1::Pod =
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
    let spec = pod.spec.get_or_insert_default();
    apply_defaults(spec);
    default_requests(spec);
    let mut errors = Errors::default();
    validate_pod(&pod, &Path::root("spec"), &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

fn container() -> Value {
    json!({"name": "c", "image": "x"})
}

/// Each change makes exactly one mistake of a good container.
fn container_mistakes(cases: &[(Value, &str)]) {
    for (fields, want) in cases {
        let mut container = container();
        for (field, value) in fields.as_object().unwrap() {
            container[field] = value.clone();
        }
        let volumes = json!([
            {"name": "v"}, {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
        ]);
        let errors = wrong(&json!({"containers": [container], "volumes": volumes}));
        assert_eq!(errors, [format!("spec.containers[0].{want}")], "{fields}");
    }
}

/// Each change makes exactly one mistake of a good pod.
fn pod_mistakes(cases: &[(Value, &str)]) {
    for (fields, want) in cases {
        let mut spec = json!({"containers": [container()]});
        for (field, value) in fields.as_object().unwrap() {
            spec[field] = value.clone();
        }
        assert_eq!(wrong(&spec), [format!("spec.{want}")], "{fields}");
    }
}

#[test]
fn finds_mistakes_in_environments() {
    let from = |source: Value| json!({"env": [{"name": "A", "valueFrom": source}]});
    container_mistakes(&[
        (
            from(json!({})),
            "env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        (
            from(json!({"fieldRef": {"fieldPath": "metadata.labels"}})),
            "env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
        ),
        (
            from(json!({"fieldRef": {"fieldPath": "spec.colour"}})),
            "env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.colour\": error converting fieldPath: field label not supported: spec.colour",
        ),
        (
            from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}})),
            "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
        ),
        (
            from(json!({"secretKeyRef": {"name": "s", "key": "a/b"}})),
            "env[0].valueFrom.secretKeyRef.key: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name', or 'KEY_NAME', or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ),
        (
            json!({"envFrom": [{"prefix": "A"}]}),
            "envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
        ),
    ]);
}

#[test]
fn finds_mistakes_in_mounts_and_devices() {
    let mount = |fields: Value| {
        let mut mount = json!({"name": "v", "mountPath": "/m"});
        for (field, value) in fields.as_object().unwrap() {
            mount[field] = value.clone();
        }
        json!({"volumeMounts": [mount]})
    };
    container_mistakes(&[
        (
            mount(json!({"name": "w"})),
            "volumeMounts[0].name: Not found: \"w\"",
        ),
        (
            mount(json!({"subPath": "../x"})),
            "volumeMounts.subPath: Invalid value: \"../x\": must not contain '..'",
        ),
        (
            mount(json!({"mountPropagation": "Bidirectional"})),
            "volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
        ),
        (
            mount(json!({"recursiveReadOnly": "Enabled"})),
            "volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/m"}, {"name": "v", "mountPath": "/m"}]}),
            "volumeMounts[1].mountPath: Invalid value: \"/m\": must be unique",
        ),
        (
            json!({"volumeDevices": [{"name": "v", "devicePath": "/d"}]}),
            "volumeDevices[0].name: Invalid value: \"v\": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
        ),
        (
            json!({"volumeDevices": [{"name": "claim", "devicePath": "/a/../b"}]}),
            "volumeDevices[0].devicePath: Invalid value: \"/a/../b\": can not contain backsteps ('..')",
        ),
    ]);
}

#[test]
fn finds_mistakes_in_what_containers_may_do() {
    let security = |context: Value| json!({"securityContext": context});
    container_mistakes(&[
        (
            security(json!({"runAsUser": -1})),
            "securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            security(json!({"procMount": "Unmasked"})),
            "securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
        ),
        (
            security(json!({"seccompProfile": {"type": "Localhost"}})),
            "securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
        ),
        (
            security(json!({"appArmorProfile": {"type": "Half"}})),
            "securityContext.appArmorProfile.type: Unsupported value: \"Half\": supported values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\"",
        ),
        (
            json!({"resizePolicy": [{"resourceName": "disk", "restartPolicy": "NotRequired"}]}),
            "resizePolicy: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
        ),
        (
            json!({"restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}]}),
            "restartPolicy: Required value: must specify restartPolicy when restart rules are used",
        ),
        (
            json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart"}]}),
            "restartPolicyRules[0].exitCodes: Required value: must be specified",
        ),
        (
            json!({"resources": {"claims": [{"name": "gpu"}]}}),
            "resources.claims[0]: Not found: \"gpu\": must be one of the names in pod.spec.resourceClaims which is empty",
        ),
        (
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}),
            "lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
        ),
        (
            json!({"livenessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 0}}}),
            "livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
    ]);
}

#[test]
fn finds_mistakes_in_volumes() {
    let volume = |source: Value| {
        let mut volume = json!({"name": "v"});
        for (field, value) in source.as_object().unwrap() {
            volume[field] = value.clone();
        }
        json!({"volumes": [volume]})
    };
    let projected = |sources: Value| volume(json!({"projected": {"sources": sources}}));
    pod_mistakes(&[
        (
            volume(json!({"emptyDir": {}, "hostPath": {"path": "/"}})),
            "volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            volume(json!({"secret": {"secretName": "s", "defaultMode": 512}})),
            "volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
        ),
        (
            volume(json!({"nfs": {"server": "s", "path": "a"}})),
            "volumes[0].nfs.path: Invalid value: \"a\": must be an absolute path",
        ),
        (
            volume(json!({"csi": {"driver": "d.example.com", "nodePublishSecretRef": {}}})),
            "volumes[0].csi.nodePublishSecretRef.name: Required value",
        ),
        (
            volume(json!({"image": {}})),
            "volumes[0].image.reference: Required value",
        ),
        (
            volume(json!({"ephemeral": {}})),
            "volumes[0].ephemeral.volumeClaimTemplate: Required value",
        ),
        (
            volume(json!({"downwardAPI": {"items": [{"path": "a"}]}})),
            "volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
        ),
        (
            projected(json!([{"secret": {"name": "s"}, "configMap": {"name": "m"}}])),
            "volumes[0].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
        ),
        (
            projected(json!([
                {"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}},
                {"configMap": {"name": "m", "items": [{"key": "k", "path": "p"}]}},
            ])),
            "volumes[0].projected: Invalid value: \"m\": conflicting duplicate paths",
        ),
        (
            projected(json!([{"clusterTrustBundle": {"path": "p"}}])),
            "volumes[0].projected.sources[0].clusterTrustBundle: Required value: either name or signerName must be specified",
        ),
        (
            projected(json!([{"serviceAccountToken": {"path": "p"}}])),
            "volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set",
        ),
    ]);
}

#[test]
fn accepts_a_claim_that_is_made_for_the_pod() {
    let template = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let volume = json!({"name": "v", "ephemeral": {"volumeClaimTemplate": template}});
    assert_eq!(
        wrong(&json!({"containers": [container()], "volumes": [volume]})),
        [""; 0]
    );
    let borrowed = json!({"name": "w", "persistentVolumeClaim": {"claimName": "p-v"}});
    assert_eq!(
        wrong(&json!({"containers": [container()], "volumes": [volume, borrowed]})),
        [
            "spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: \"p-v\": must not reference a PVC that gets created for an ephemeral volume"
        ]
    );
}

#[test]
fn finds_mistakes_in_where_pods_run() {
    let spread = |fields: Value| {
        let mut constraint = json!({"maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}});
        for (field, value) in fields.as_object().unwrap() {
            constraint[field] = value.clone();
        }
        json!({"topologySpreadConstraints": [constraint]})
    };
    let term = |term: Value| json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    pod_mistakes(&[
        (
            spread(json!({"minDomains": 1})),
            "topologySpreadConstraints[0].minDomains: Invalid value: 1: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
        ),
        (
            spread(json!({"nodeTaintsPolicy": "Obey"})),
            "topologySpreadConstraints[0].nodeTaintsPolicy: Unsupported value: \"Obey\": supported values: \"Honor\", \"Ignore\"",
        ),
        (
            spread(json!({"matchLabelKeys": ["a"], "labelSelector": null})),
            "topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
        ),
        (
            term(
                json!({"topologyKey": "k", "labelSelector": {}, "matchLabelKeys": ["a"], "mismatchLabelKeys": ["a"]}),
            ),
            "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys[0]: Invalid value: \"a\": exists in both matchLabelKeys and mismatchLabelKeys",
        ),
        (
            json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}),
            "tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'",
        ),
        (
            json!({"schedulingGates": [{"name": "a"}, {"name": "a"}]}),
            "schedulingGates[1]: Duplicate value: \"a\"",
        ),
        (
            json!({"resourceClaims": [{"name": "a"}]}),
            "resourceClaims[0]: Invalid value: {\"name\":\"a\"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
        ),
        (
            json!({"overhead": {"cpu": "-1"}}),
            "overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
    ]);
}

#[test]
fn finds_mistakes_in_names_and_systems() {
    pod_mistakes(&[
        (
            json!({"dnsPolicy": "None"}),
            "dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            json!({"dnsConfig": {"searches": ["_x._tcp.example.com.", ".", "a b"]}}),
            "dnsConfig.searches[2]: Invalid value: \"a b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ),
        (
            json!({"hostAliases": [{"ip": "x"}]}),
            "hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            json!({"os": {"name": "plan9"}}),
            "os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"",
        ),
        (
            json!({"os": {"name": "windows"}, "hostPID": true}),
            "hostPID: Forbidden: cannot be set for a windows pod",
        ),
        (
            json!({"os": {"name": "linux"}, "securityContext": {"windowsOptions": {}}}),
            "securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
        ),
        (
            json!({"hostUsers": false, "hostIPC": true}),
            "HostIPC: Forbidden: when `pod.Spec.HostUsers` is false",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "Net", "value": "1"}]}}),
            r#"securityContext.sysctls[0].name: Invalid value: "Net": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"#,
        ),
        (
            json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "net/core/somaxconn", "value": "1"}]}}),
            "securityContext.sysctls[0].name: Invalid value: \"net/core/somaxconn\": may not be specified when 'hostNetwork' is true",
        ),
        (
            json!({"shareProcessNamespace": true, "hostPID": true}),
            "securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
        ),
        (
            json!({"resources": {"limits": {"storage": "1"}}}),
            "resources.limits[storage]: Unsupported value: \"storage\": supported values: \"cpu\", \"hugepages-\", \"memory\"",
        ),
    ]);
}

#[test]
fn matches_ports_in_the_hosts_network() {
    let port = json!([{"containerPort": 80, "hostPort": 81}]);
    let spec =
        json!({"hostNetwork": true, "containers": [{"name": "c", "image": "x", "ports": port}]});
    assert_eq!(
        wrong(&spec),
        [
            "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"
        ]
    );
}
