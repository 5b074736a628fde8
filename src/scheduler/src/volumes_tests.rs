use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::cluster::tests::pod;

fn node(name: &str, zone: &str) -> Facts {
    Facts {
        name: name.to_owned(),
        labels: Labels::from([("topology.kubernetes.io/zone".to_owned(), zone.to_owned())]),
        ..Facts::default()
    }
}

fn class(volumes: &mut Volumes, name: &str, provisioner: &str, mode: &str) {
    volumes.set_class(
        &serde_json::from_value(json!({
            "metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode,
        }))
        .unwrap(),
    );
}

#[expect(clippy::needless_pass_by_value, reason = "callers make it in place")]
fn claim(volumes: &mut Volumes, name: &str, class: &str, rest: Value) {
    let mut claim = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {
            "storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    });
    for (field, value) in rest.as_object().unwrap() {
        let target = if field == "metadata" {
            &mut claim["metadata"]
        } else {
            &mut claim["spec"]
        };
        target
            .as_object_mut()
            .unwrap()
            .extend(value.as_object().unwrap().clone());
    }
    volumes.set_claim(&serde_json::from_value(claim).unwrap());
}

fn volume(volumes: &mut Volumes, name: &str, size: &str, node: &str) {
    volumes.set_volume(
        &serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "x"}},
            "spec": {
                "storageClassName": "local", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]},
                ]}},
            },
            "status": {"phase": "Available"},
        }))
        .unwrap(),
    );
}

fn using(claim: &str) -> Arc<PodInfo> {
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": claim}});
    pod("p", json!({}), json!({"volumes": [volume]}))
}

fn wanted(volumes: &Volumes, claim: &str) -> Result<Wanted, String> {
    volumes.wanted(&using(claim).needs)
}

#[test]
fn a_pod_waits_for_its_claims() {
    let mut volumes = Volumes::default();
    assert_eq!(
        wanted(&volumes, "data").unwrap_err(),
        "persistentvolumeclaim \"data\" not found"
    );
    class(&mut volumes, "fast", "example.com/disk", "Immediate");
    claim(&mut volumes, "data", "fast", json!({}));
    assert_eq!(
        wanted(&volumes, "data").unwrap_err(),
        "pod has unbound immediate PersistentVolumeClaims"
    );
    claim(
        &mut volumes,
        "data",
        "fast",
        json!({"spec": {"volumeName": "gone"}}),
    );
    let bound = wanted(&volumes, "data").unwrap();
    assert_eq!(
        volumes.refusal(&bound, &node("a", "x")),
        Some(Refusal::VolumeGone)
    );
}

#[test]
fn bound_volumes_say_where_they_can_be_reached() {
    let mut volumes = Volumes::default();
    volume(&mut volumes, "disk", "1Gi", "a");
    claim(
        &mut volumes,
        "data",
        "local",
        json!({"spec": {"volumeName": "disk"}}),
    );
    let bound = wanted(&volumes, "data").unwrap();
    assert_eq!(volumes.refusal(&bound, &node("a", "x")), None);
    assert_eq!(
        volumes.refusal(&bound, &node("b", "x")),
        Some(Refusal::VolumeElsewhere)
    );
    assert!(volumes.in_other_zone(&bound, &node("a", "y")));
    assert!(!volumes.in_other_zone(&bound, &node("a", "x")));
}

#[test]
fn a_claim_that_waits_for_its_consumer_takes_the_smallest_volume_there() {
    let mut volumes = Volumes::default();
    class(
        &mut volumes,
        "local",
        NO_PROVISIONER,
        "WaitForFirstConsumer",
    );
    volume(&mut volumes, "large", "9Gi", "a");
    volume(&mut volumes, "fits", "2Gi", "a");
    volume(&mut volumes, "small", "1Mi", "a");
    claim(&mut volumes, "data", "local", json!({}));
    let open = wanted(&volumes, "data").unwrap();
    assert_eq!(volumes.steps(&open, &node("b", "x")), None);
    assert_eq!(
        volumes.refusal(&open, &node("b", "x")),
        Some(Refusal::NoVolume)
    );
    let steps = volumes.steps(&open, &node("a", "x")).unwrap();
    let keep = |volume: &str| Step::Keep {
        volume: volume.to_owned(),
        claim: ("default".to_owned(), "data".to_owned()),
        uid: "uid-data".to_owned(),
    };
    assert_eq!(steps, [keep("fits")]);
    volumes.assume(&steps);
    claim(&mut volumes, "other", "local", json!({}));
    let other = wanted(&volumes, "other").unwrap();
    let steps = volumes.steps(&other, &node("a", "x")).unwrap();
    assert!(matches!(&steps[..], [Step::Keep { volume, .. }] if volume == "large"));
}

#[test]
fn volumes_are_made_where_the_pod_goes() {
    let mut volumes = Volumes::default();
    class(
        &mut volumes,
        "disk",
        "example.com/disk",
        "WaitForFirstConsumer",
    );
    claim(&mut volumes, "data", "disk", json!({}));
    let open = wanted(&volumes, "data").unwrap();
    let steps = volumes.steps(&open, &node("a", "x")).unwrap();
    assert!(matches!(&steps[..], [Step::Provision { node, .. }] if node == "a"));
    let selected = json!({"metadata": {"annotations": {SELECTED_NODE: "b"}}});
    claim(&mut volumes, "data", "disk", selected);
    let open = wanted(&volumes, "data").unwrap();
    assert_eq!(
        volumes.refusal(&open, &node("a", "x")),
        Some(Refusal::NoVolume)
    );
    assert_eq!(volumes.refusal(&open, &node("b", "x")), None);
}

#[test]
fn claims_for_one_pod_are_for_one_pod() {
    let mut volumes = Volumes::default();
    volume(&mut volumes, "disk", "1Gi", "a");
    let exclusive = json!({"spec": {"volumeName": "disk", "accessModes": ["ReadWriteOncePod"]}});
    claim(&mut volumes, "data", "local", exclusive);
    assert!(!wanted(&volumes, "data").unwrap().taken);
    let user = using("data");
    volumes.use_claims(&user);
    let second = wanted(&volumes, "data").unwrap();
    assert!(second.taken);
    assert!(!volumes.are_taken(&second, &BTreeSet::from([user.key.clone()])));
    volumes.leave_claims(&user);
    assert!(!wanted(&volumes, "data").unwrap().taken);
}
