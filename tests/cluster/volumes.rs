//! Volumes, as a container sees them: each kind of source, updates, persistent ones, the token of the account.

use crate::harness::{Vaquita, eventually, run};

/// A pod that sleeps for as long as the test takes, with the toolbox as its image.
fn sleeper(name: &str, mounts: &str, volumes: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: toolbox
    image: localhost/toolbox:v1
    args: [sleep, '3600']
    volumeMounts: {mounts}
  volumes: {volumes}
"
    )
}

fn cluster() -> Vaquita {
    let cluster = Vaquita::up();
    cluster.load_guest("toolbox", "localhost/toolbox:v1");
    cluster
}

/// What a command prints that succeeds in the pod.
fn exec(cluster: &Vaquita, pod: &str, command: &[&str]) -> String {
    let mut args = vec!["exec", pod, "--"];
    args.extend(command);
    cluster.kubectl(&args)
}

#[test]
fn sources_are_files_and_follow_what_they_come_from() {
    let cluster = cluster();
    cluster.kubectl(&[
        "create",
        "configmap",
        "config",
        "--from-literal=key=one",
        "--from-literal=other=x",
    ]);
    cluster.kubectl(&[
        "create",
        "secret",
        "generic",
        "secret",
        "--from-literal=password=hush",
    ]);
    cluster.apply(&sleeper(
        "files",
        "[{name: config, mountPath: /etc/config}, {name: secret, mountPath: /etc/secret}, {name: own, mountPath: /etc/pod},
          {name: config, mountPath: /etc/one/file, subPath: key}, {name: empty, mountPath: /data}, {name: memory, mountPath: /dev/shm}]",
        "[{name: config, configMap: {name: config}}, {name: secret, secret: {secretName: secret, items: [{key: password, path: a/b}]}},
          {name: own, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}},
          {name: empty, emptyDir: {}}, {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]",
    ));
    cluster.wait_ready("app=files", 1);
    let cat = |path: &str| exec(&cluster, "files", &["cat", path]);
    assert_eq!(cat("/etc/config/key"), "one");
    assert_eq!(cat("/etc/one/file"), "one");
    assert_eq!(cat("/etc/secret/a/b"), "hush");
    assert_eq!(cat("/etc/pod/labels"), "app=\"files\"");
    assert_eq!(
        exec(&cluster, "files", &["ls", "/etc/config"]),
        "key\nother\n"
    );
    for dir in ["/data/new", "/dev/shm/new"] {
        exec(&cluster, "files", &["mkdir", dir]);
        exec(&cluster, "files", &["test", "-d", dir]);
    }
    let refused = cluster.try_kubectl(&["exec", "files", "--", "mkdir", "/etc/config/new"]);
    assert!(
        !refused.status.success() && refused.stderr.contains("/etc/config/new"),
        "{}",
        refused.stderr
    );

    cluster.kubectl(&[
        "patch",
        "configmap",
        "config",
        "-p",
        r#"{"data": {"key": "two", "other": null}}"#,
    ]);
    cluster.kubectl(&["label", "pod", "files", "more=1"]);
    eventually("files follow", || {
        let seen = (
            cat("/etc/config/key"),
            exec(&cluster, "files", &["ls", "/etc/config"]),
            cat("/etc/pod/labels"),
        );
        let wanted = (
            "two".to_owned(),
            "key\n".to_owned(),
            "app=\"files\"\nmore=\"1\"".to_owned(),
        );
        (seen == wanted)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    });
}

#[test]
fn a_pod_waits_for_what_its_volumes_need() {
    let cluster = cluster();
    cluster.apply(&sleeper(
        "waits",
        "[{name: config, mountPath: /etc/config}]",
        "[{name: config, configMap: {name: late}}]",
    ));
    let expected = "MountVolume.SetUp failed for volume \"config\" : configmap \"late\" not found";
    eventually("the event", || {
        let events = cluster.kubectl(&["get", "events", "--field-selector=reason=FailedMount"]);
        events.contains(expected).then_some(()).ok_or(events)
    });
    cluster.kubectl(&["create", "configmap", "late", "--from-literal=key=here"]);
    cluster.wait_ready("app=waits", 1);
    assert_eq!(exec(&cluster, "waits", &["cat", "/etc/config/key"]), "here");
}

#[test]
fn the_accounts_token_is_good() {
    let cluster = cluster();
    cluster.apply(&sleeper("account", "[]", "[]"));
    cluster.wait_ready("app=account", 1);
    let dir = "/var/run/secrets/kubernetes.io/serviceaccount";
    assert_eq!(
        exec(&cluster, "account", &["cat", &format!("{dir}/namespace")]),
        "default"
    );
    let ca = exec(&cluster, "account", &["cat", &format!("{dir}/ca.crt")]);
    assert!(ca.starts_with("-----BEGIN CERTIFICATE-----"), "{ca}");
    let token = exec(&cluster, "account", &["cat", &format!("{dir}/token")]);
    let mut kubectl = cluster.kubectl_command();
    // The administrator's certificate would go first.
    let who = run(kubectl
        .args([
            "--kubeconfig=/dev/null",
            "--insecure-skip-tls-verify",
            "auth",
            "whoami",
            "-o",
            "yaml",
        ])
        .args([
            format!("--server={}", cluster.url),
            format!("--token={}", token.trim()),
        ]));
    assert!(who.status.success(), "{}", who.stderr);
    assert!(
        who.stdout
            .contains("username: system:serviceaccount:default:default"),
        "{}",
        who.stdout
    );
    assert!(
        who.stdout.contains("authentication.kubernetes.io/pod-name"),
        "{}",
        who.stdout
    );
}

#[test]
fn a_claim_gets_a_volume_that_outlives_its_pods() {
    let cluster = cluster();
    let claim = "apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
";
    cluster.apply(claim);
    let mounts = "[{name: data, mountPath: /data}]";
    let volumes = "[{name: data, persistentVolumeClaim: {claimName: data}}]";
    cluster.apply(&sleeper("first", mounts, volumes));
    cluster.wait_ready("app=first", 1);
    exec(&cluster, "first", &["mkdir", "/data/kept"]);
    let bound = cluster.get(&["pvc", "data"]);
    assert_eq!(bound["status"]["phase"], "Bound", "{bound}");
    let volume = bound["spec"]["volumeName"]
        .as_str()
        .expect("a name")
        .to_owned();
    cluster.kubectl(&["delete", "pod", "first", "--wait"]);
    cluster.apply(&sleeper("second", mounts, volumes));
    cluster.wait_ready("app=second", 1);
    exec(&cluster, "second", &["test", "-d", "/data/kept"]);
    let dir = cluster.dir().path().join("storage").join(&volume);
    assert!(dir.join("kept").is_dir());
    // A claim that is in use stays until it no longer is.
    cluster.kubectl(&["delete", "pvc", "data", "--wait=false"]);
    let going = cluster.get(&["pvc", "data"]);
    assert!(
        going["metadata"]["deletionTimestamp"].is_string(),
        "{going}"
    );
    exec(&cluster, "second", &["test", "-d", "/data/kept"]);
    cluster.kubectl(&["delete", "pod", "second", "--wait"]);
    eventually("the volume goes with its claim", || {
        let left = cluster.kubectl(&["get", "pvc,pv"]);
        (!left.contains(&volume) && !dir.exists())
            .then_some(())
            .ok_or(left)
    });
}

#[test]
fn what_belongs_to_no_pod_is_removed_when_the_node_starts() {
    let cluster = cluster();
    cluster.apply(&sleeper(
        "stays",
        "[{name: data, mountPath: /data}]",
        "[{name: data, emptyDir: {}}]",
    ));
    cluster.wait_ready("app=stays", 1);
    exec(&cluster, "stays", &["mkdir", "/data/kept"]);
    let dir = cluster.kill();
    let orphan = dir
        .path()
        .join("pods/orphan/volumes/kubernetes.io~empty-dir/v");
    std::fs::create_dir_all(&orphan).expect("a directory");
    let cluster = Vaquita::up_again(dir);
    cluster.wait_ready("app=stays", 1);
    eventually("the volume is as it was", || {
        let found = cluster.try_kubectl(&["exec", "stays", "--", "test", "-d", "/data/kept"]);
        found.status.success().then_some(()).ok_or(found.stderr)
    });
    eventually("the orphan goes", || {
        (!orphan.exists())
            .then_some(())
            .ok_or_else(|| "it is there".to_owned())
    });
}
