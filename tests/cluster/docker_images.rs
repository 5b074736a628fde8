//! Linux images on their way from a registry, by the node's own store, to the Docker engine; and those that only the
//! engine has.

use crate::{
    docker::{BUSYBOX, Engine, cluster},
    harness::{Vaquita, eventually, list},
    images::{Registry, image, succeeded},
};

/// Puts the engine's busybox into a registry, and returns its name there.
fn pushed(engine: &Engine, registry: &Registry) -> String {
    let (store, home) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let archive = store.path().join("busybox.tar");
    let archive = archive.to_str().expect("a path");
    let saved = engine.request(&[&format!("/images/{BUSYBOX}/get"), "--output", archive]);
    assert!(saved.status.success(), "{}", saved.stderr);
    let name = format!("{}/team/busybox:v2", registry.address);
    registry.log_in(home.path());
    for args in [
        &["load", archive][..],
        &["tag", BUSYBOX, &name],
        &["push", &name],
    ] {
        succeeded(image(store.path(), home.path(), args));
    }
    name
}

fn pod(name: &str, image: &str, policy: &str, secret: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
  imagePullSecrets: [{secret}]
  containers: [{{name: main, image: '{image}', imagePullPolicy: {policy}, command: [sleep, '3600']}}]
"
    )
}

/// What the container waits for, as soon as it waits for that.
fn waits_with(cluster: &Vaquita, pod: &str, reason: &str) -> String {
    eventually(&format!("{pod} waits with {reason}"), || {
        let found = cluster.get(&["pod", pod]);
        let waiting = &found["status"]["containerStatuses"][0]["state"]["waiting"];
        let message = waiting["message"].as_str().unwrap_or_default().to_owned();
        let is_right = waiting["reason"] == reason;
        is_right
            .then_some(message)
            .ok_or_else(|| found["status"].to_string())
    })
}

#[test]
fn linux_images_come_by_the_nodes_own_store() {
    let (engine, registry) = (Engine::start(), Registry::start());
    let name = pushed(&engine, &registry);
    let cluster = cluster(&engine);

    // The pod's own secrets count, not what the engine may know.
    cluster.apply(&pod("secret", &name, "Always", ""));
    let message = waits_with(&cluster, "secret", "ImagePullBackOff");
    assert!(message.contains("refused access"), "{message}");
    cluster.kubectl(&["delete", "pod", "secret", "--now"]);
    cluster.kubectl(&[
        "create",
        "secret",
        "docker-registry",
        "key",
        "--docker-username=tester",
        "--docker-password=secret",
        &format!("--docker-server={}", registry.address),
    ]);
    for pod_name in ["one", "two"] {
        cluster.apply(&pod(pod_name, &name, "Always", "{name: key}"));
    }
    for pod_name in ["one", "two"] {
        cluster.wait_ready(&format!("app={pod_name}"), 1);
    }
    let status = cluster.get(&["pod", "one"])["status"]["containerStatuses"][0].clone();
    let (repository, _) = name.rsplit_once(':').expect("a tag");
    let id = status["imageID"].as_str().unwrap_or_default();
    assert!(id.starts_with(&format!("{repository}@sha256:")), "{id}");
    assert_eq!(
        cluster.kubectl(&["exec", "one", "--", "echo", "here"]),
        "here\n"
    );
    eventually("the node to report the image", || {
        let node = cluster.get(&["node", "test-node"]);
        let images = list(&node["status"]["images"]);
        let is_listed = images
            .iter()
            .any(|image| list(&image["names"]).contains(&name.clone().into()));
        is_listed.then_some(()).ok_or_else(|| format!("{images:?}"))
    });

    // What the node gives up, the engine gives up.
    assert_eq!(copies(&engine), 1);
    cluster.kubectl(&["delete", "pod", "one", "two", "--now"]);
    engine.is_empty();
    let home = tempfile::tempdir().expect("a directory");
    succeeded(image(cluster.dir().path(), home.path(), &["rm", &name]));
    eventually("the engine's copy is gone", || {
        let left = copies(&engine);
        (left == 0).then_some(()).ok_or(left.to_string())
    });
}

/// How many images of the engine are copies of the node's.
fn copies(engine: &Engine) -> usize {
    let images = engine.request(&["/images/json"]).stdout;
    images.matches("\"vaquita.local/").count() - images.matches("\"vaquita.local/pause:").count()
}

#[test]
fn images_that_only_the_engine_has_run_as_well() {
    let engine = Engine::start();
    let cluster = cluster(&engine);
    for (name, policy) in [
        ("never", "Never"),
        ("once", "IfNotPresent"),
        ("always", "Always"),
    ] {
        cluster.apply(&pod(name, BUSYBOX, policy, ""));
        cluster.wait_ready(&format!("app={name}"), 1);
    }
    cluster.apply(&pod("absent", "localhost/absent:v1", "Never", ""));
    waits_with(&cluster, "absent", "ErrImageNeverPull");
}
