//! Nothing acknowledged is lost: not by a clean stop, not by SIGKILL.

use std::collections::BTreeMap;

use crate::{
    harness::{Vaquita, list},
    pods::{wait_answered_by, web},
};

#[test]
fn after_sigkill_all_objects_are_there_and_pods_answer_again() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&web("hello", 3));
    let pods = cluster.wait_ready("app=hello", 3);
    wait_answered_by(cluster.node_port("hello"), &pods);
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"]);
    let before = uids(&cluster);

    let again = Vaquita::up_again(cluster.kill());
    let kept = again.wait_ready("app=hello", 3);
    assert_eq!(
        uids(&again),
        before,
        "the same objects, none new, none lost"
    );
    assert_eq!(again.get(&["configmap", "kept"])["data"]["a"], "b");
    wait_answered_by(again.node_port("hello"), &kept);

    let dir = again.dir();
    assert!(again.stop().success());
    let third = Vaquita::up_again(dir);
    let kept = third.wait_ready("app=hello", 3);
    assert_eq!(uids(&third), before);
    wait_answered_by(third.node_port("hello"), &kept);
}

#[test]
fn what_was_acknowledged_just_before_sigkill_is_there() {
    let cluster = Vaquita::up();
    for index in 0..20 {
        cluster.kubectl(&["create", "configmap", &format!("map-{index}")]);
    }
    let again = Vaquita::up_again(cluster.kill());
    let names = again.kubectl(&["get", "configmaps", "-o", "name"]);
    for index in 0..20 {
        assert!(
            names
                .lines()
                .any(|name| name == format!("configmap/map-{index}")),
            "map-{index} is lost:\n{names}"
        );
    }
}

/// Name to uid of everything that users made.
fn uids(cluster: &Vaquita) -> BTreeMap<String, String> {
    list(&cluster.get(&["pods,services,replicationcontrollers,configmaps"])["items"])
        .iter()
        .map(|object| {
            let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
            let name = format!(
                "{}/{}",
                text(&object["kind"]),
                text(&object["metadata"]["name"])
            );
            (name, text(&object["metadata"]["uid"]))
        })
        .collect()
}
