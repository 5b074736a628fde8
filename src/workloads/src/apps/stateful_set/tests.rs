use vaquita_api::registry::Part;
use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

use super::super::testing::{after, web};
use super::*;

fn database() -> Value {
    let mut set = web();
    let spec = &mut set["spec"];
    spec["serviceName"] = json!("db");
    spec["volumeClaimTemplates"] = json!([{
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }]);
    spec["template"]["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "data", "mountPath": "/data"}]);
    set
}

#[test]
fn fills_in_and_prints() {
    let set = created(&resource(), database());
    let spec = &set["spec"];
    assert_eq!(
        spec["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "partition": 0}})
    );
    assert_eq!(
        spec["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
    assert_eq!(spec["podManagementPolicy"], "OrderedReady");
    assert_eq!(
        spec["volumeClaimTemplates"][0],
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
                "volumeMode": "Filesystem",
            },
            "status": {"phase": "Pending"},
        })
    );
    assert_eq!(
        set["status"],
        json!({"availableReplicas": 0, "replicas": 0})
    );
    assert!(
        spec["template"]["spec"].get("volumes").is_none(),
        "claims are not volumes yet"
    );
    assert_stable(&resource(), &set);
    let row = resource().row(&set, Timestamp::UNIX_EPOCH);
    assert_eq!(Value::from(row), json!(["web", "0/1", "0s", "c", "x"]));
}

#[test]
fn refuses_what_could_never_work() {
    let with = |change: fn(&mut Value)| after(change, |set| refused(&resource(), set));
    assert_eq!(
        with(|spec| spec["podManagementPolicy"] = json!("Chaos")),
        [
            "spec.podManagementPolicy: Invalid value: \"Chaos\": must be 'OrderedReady' or 'Parallel'"
        ]
    );
    assert_eq!(
        with(|spec| spec["updateStrategy"] =
            json!({"type": "OnDelete", "rollingUpdate": {"partition": 1}})),
        [
            "spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for updateStrategy 'RollingUpdate'"
        ]
    );
    assert_eq!(
        with(|spec| spec["updateStrategy"] = json!({"rollingUpdate": {"maxUnavailable": 0}})),
        ["spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0"]
    );
    assert_eq!(
        with(|spec| spec["persistentVolumeClaimRetentionPolicy"] = json!({"whenScaled": "Recycle"})),
        [
            "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\""
        ]
    );
    assert_eq!(
        with(|spec| spec["ordinals"] = json!({"start": -1})),
        ["spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0"]
    );
    assert_eq!(
        with(
            |spec| spec["template"]["spec"]["containers"][0]["volumeMounts"] =
                json!([{"name": "data", "mountPath": "/data"}])
        ),
        ["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\""]
    );
    assert_eq!(
        with(|spec| spec["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}}])),
        [
            "spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required",
            "spec.volumeClaimTemplates[0].spec.resources[storage]: Required value",
        ]
    );
    let mut dotted = database();
    dotted["metadata"]["name"] = json!("a.b");
    dotted["spec"]["serviceName"] = json!("no.label");
    let found = refused(&resource(), dotted);
    assert_eq!(found.len(), 2);
    assert!(found[0].starts_with("metadata.name: Invalid value: \"a.b\": must not contain dots"));
    assert!(
        found[1]
            .starts_with("spec.serviceName: Invalid value: \"no.label\": must not contain dots")
    );
}

#[test]
fn keeps_most_of_its_specification() {
    let old = created(&resource(), database());
    let allowed = changed(&old, |set| {
        let spec = &mut set["spec"];
        spec["replicas"] = json!(3);
        spec["ordinals"] = json!({"start": 2});
        spec["minReadySeconds"] = json!(1);
        spec["revisionHistoryLimit"] = json!(1);
        spec["updateStrategy"]["rollingUpdate"]["partition"] = json!(1);
        spec["persistentVolumeClaimRetentionPolicy"]["whenScaled"] = json!("Delete");
        spec["template"]["spec"]["containers"][0]["image"] = json!("y");
    });
    let new = updated(&resource(), &old, allowed, Part::Main).unwrap();
    for (field, value) in [
        ("serviceName", json!("other")),
        ("podManagementPolicy", json!("Parallel")),
        ("volumeClaimTemplates", json!([])),
    ] {
        let forbidden = changed(&new, |set| {
            set["spec"][field] = value;
            set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = json!([]);
        });
        assert_eq!(
            causes(updated(&resource(), &new, forbidden, Part::Main)),
            [
                "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                 'minReadySeconds' are forbidden"
            ],
            "{field}"
        );
    }
}

#[test]
fn counts_add_up() {
    let old = created(&resource(), database());
    let wrong = changed(&old, |set| {
        set["status"] = json!({"replicas": 1, "availableReplicas": 1, "currentReplicas": 2});
    });
    assert_eq!(
        causes(updated(&resource(), &old, wrong, Part::Status)),
        [
            "status.currentReplicas: Invalid value: 2: cannot be greater than status.replicas",
            "status.availableReplicas: Invalid value: 1: cannot be greater than status.readyReplicas",
        ]
    );
}
