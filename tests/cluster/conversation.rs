//! Conversations with stock `kubectl`, as people have them.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::mpsc,
    thread,
};

use crate::{
    harness::{PATIENCE, Vaquita, list},
    pods::web,
};

#[test]
fn the_node_describes_itself() {
    let cluster = Vaquita::up();
    let wide = cluster.kubectl(&["get", "nodes", "-o", "wide"]);
    for part in [
        "NAME",
        "STATUS",
        "ROLES",
        "VERSION",
        "INTERNAL-IP",
        "CONTAINER-RUNTIME",
        "test-node",
        "Ready",
    ] {
        assert!(wide.contains(part), "no {part} in\n{wide}");
    }
    let described = cluster.kubectl(&["describe", "node", "test-node"]);
    for part in [
        "Capacity:",
        "cpu:",
        "memory:",
        "pods:",
        "Ready",
        "KubeletReady",
        "Lease:",
        "RenewTime:",
    ] {
        assert!(described.contains(part), "no {part} in\n{described}");
    }
    let node = cluster.get(&["node", "test-node"]);
    assert_ne!(node["status"]["capacity"]["memory"].as_str(), Some("0"));
}

#[test]
fn what_is_served_is_discovered() {
    let cluster = Vaquita::up();
    let resources = cluster.kubectl(&["api-resources", "--no-headers"]);
    for (name, short, kind) in [
        ("pods", "po", "Pod"),
        ("replicationcontrollers", "rc", "ReplicationController"),
        ("services", "svc", "Service"),
        ("endpointslices", "", "EndpointSlice"),
        ("leases", "", "Lease"),
        ("nodes", "no", "Node"),
    ] {
        let found = resources.lines().any(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.first() == Some(&name)
                && words.last() == Some(&kind)
                && (short.is_empty() || words[1] == short)
        });
        assert!(found, "{name} is not in\n{resources}");
    }
    assert!(
        cluster
            .kubectl(&["version"])
            .contains("Server Version: v1.36")
    );
    // What is not there answers as for something that is not there.
    let absent = cluster.try_kubectl(&["get", "unicorns"]);
    assert!(
        absent
            .stderr
            .contains("the server doesn't have a resource type \"unicorns\""),
        "{}",
        absent.stderr
    );
}

#[test]
fn objects_are_made_changed_labelled_patched_and_deleted() {
    let cluster = Vaquita::up();
    cluster.kubectl(&[
        "create",
        "configmap",
        "settings",
        "--from-literal=colour=blue",
    ]);
    let again = cluster.try_kubectl(&["create", "configmap", "settings"]);
    assert!(
        again
            .stderr
            .contains("configmaps \"settings\" already exists"),
        "{}",
        again.stderr
    );

    cluster.kubectl(&["label", "configmap", "settings", "tier=back"]);
    cluster.kubectl(&["annotate", "configmap", "settings", "note=kept"]);
    assert!(
        cluster
            .kubectl(&["get", "cm", "-l", "tier in (back, front)", "-o", "name"])
            .contains("settings")
    );
    assert!(
        cluster
            .kubectl(&["get", "cm", "-l", "!tier", "-o", "name"])
            .lines()
            .all(|name| name != "configmap/settings")
    );

    for (kind, patch, colour) in [
        ("merge", r#"{"data":{"colour":"red"}}"#, "red"),
        ("strategic", r#"{"data":{"colour":"green"}}"#, "green"),
        (
            "json",
            r#"[{"op":"replace","path":"/data/colour","value":"grey"}]"#,
            "grey",
        ),
    ] {
        cluster.kubectl(&[
            "patch",
            "configmap",
            "settings",
            "--type",
            kind,
            "-p",
            patch,
        ]);
        assert_eq!(
            cluster.get(&["configmap", "settings"])["data"]["colour"],
            colour
        );
    }

    let mut old = cluster.get(&["configmap", "settings"]);
    cluster.kubectl(&[
        "patch",
        "configmap",
        "settings",
        "--type=merge",
        "-p",
        r#"{"data":{"colour":"white"}}"#,
    ]);
    old["data"]["colour"] = "stale".into();
    let file = cluster.dir().path().join("stale.json");
    std::fs::write(&file, old.to_string()).expect("writable");
    let stale = cluster.try_kubectl(&["replace", "-f", file.to_str().expect("text")]);
    assert!(
        stale.stderr.contains("the object has been modified"),
        "{}",
        stale.stderr
    );

    cluster.kubectl(&["delete", "configmap", "settings"]);
    let gone = cluster.try_kubectl(&["get", "configmap", "settings"]);
    assert!(
        gone.stderr.contains("configmaps \"settings\" not found"),
        "{}",
        gone.stderr
    );
}

#[test]
fn apply_merges_what_others_set_and_says_unchanged() {
    let cluster = Vaquita::up();
    let map = |colour: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{colour: {colour}}}\n"
        )
    };
    assert!(cluster.apply(&map("blue")).contains("created"));
    assert!(cluster.apply(&map("blue")).contains("unchanged"));
    cluster.kubectl(&[
        "patch",
        "cm",
        "m",
        "--type=merge",
        "-p",
        r#"{"data":{"mine":"1"}}"#,
    ]);
    assert!(cluster.apply(&map("red")).contains("configured"));
    let merged = cluster.get(&["cm", "m"]);
    assert_eq!(
        (
            merged["data"]["colour"].as_str(),
            merged["data"]["mine"].as_str()
        ),
        (Some("red"), Some("1"))
    );
    let dry = cluster.kubectl(&[
        "create",
        "configmap",
        "ghost",
        "--dry-run=server",
        "-o",
        "name",
    ]);
    assert!(dry.contains("ghost"));
    assert!(
        !cluster
            .try_kubectl(&["get", "cm", "ghost"])
            .status
            .success()
    );
}

#[test]
fn a_long_list_comes_in_pages_and_is_whole() {
    let cluster = Vaquita::up();
    let manifest: Vec<_> = (0..60)
        .map(|index| {
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: page-{index:02}, labels: {{page: 'yes'}}}}\n"
            )
        })
        .collect();
    cluster.apply(&manifest.join("---\n"));
    let names = cluster.kubectl(&[
        "get",
        "cm",
        "-l",
        "page=yes",
        "-o",
        "name",
        "--chunk-size=7",
    ]);
    assert_eq!(names.lines().count(), 60);
    let page: serde_json::Value = serde_json::from_str(&cluster.kubectl(&[
        "get",
        "--raw",
        "/api/v1/namespaces/default/configmaps?labelSelector=page%3Dyes&limit=7",
    ]))
    .expect("JSON");
    assert_eq!(list(&page["items"]).len(), 7);
    assert!(
        page["metadata"]["continue"]
            .as_str()
            .is_some_and(|token| !token.is_empty())
    );
}

#[test]
fn a_watch_sees_pods_come_and_go() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    let mut watch = cluster.kubectl_command();
    let mut watch = watch
        .args(["get", "pods", "-w"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let (seen, watched) = mpsc::channel();
    thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| seen.send(line))
    });

    cluster.apply(&web("hello", 1));
    let wait_for = |parts: [&str; 2]| {
        let mut all = Vec::new();
        loop {
            let line = watched
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("no line with {parts:?}: {all:?}"));
            let found = parts.iter().all(|part| line.contains(part));
            all.push(line);
            if found {
                return;
            }
        }
    };
    wait_for(["0/1", "Pending"]);
    wait_for(["1/1", "Running"]);
    cluster.kubectl(&["delete", "rc", "hello"]);
    wait_for(["", "Terminating"]);
    let _ = watch.kill();
    let _ = watch.wait();
}

#[test]
fn a_namespace_takes_what_is_in_it_along() {
    let cluster = Vaquita::up();
    cluster.kubectl(&["create", "namespace", "short-lived"]);
    cluster.kubectl(&["create", "configmap", "inside", "-n", "short-lived"]);
    cluster.kubectl(&["delete", "namespace", "short-lived"]);
    assert!(
        !cluster
            .try_kubectl(&["get", "namespace", "short-lived"])
            .status
            .success()
    );
    let into = cluster.try_kubectl(&["create", "configmap", "late", "-n", "short-lived"]);
    assert!(
        into.stderr.contains("namespaces \"short-lived\" not found"),
        "{}",
        into.stderr
    );
}
