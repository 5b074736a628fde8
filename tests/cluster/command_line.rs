//! What scripts may rely on: files, the `ready` line, exit codes, one-line reasons.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, process::Command};

use crate::harness::{Vaquita, command, guest_file, http_get, run};

#[test]
fn up_writes_credentials_prints_ready_and_stops_cleanly() {
    let cluster = Vaquita::up();
    assert!(
        cluster.url.starts_with("https://127.0.0.1:"),
        "{}",
        cluster.url
    );
    for file in ["admin.kubeconfig", "admin.token"] {
        let path = cluster.dir().path().join(file);
        let mode = fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }
    // Ready means that a client finds everything at once.
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]), "ok");
    let node = cluster.kubectl(&["get", "node", "test-node", "--no-headers"]);
    assert!(node.contains(" Ready "), "{node}");
    assert!(cluster.interrupt().success());
}

#[test]
fn sigterm_is_a_clean_stop_too() {
    assert!(Vaquita::up().stop().success());
}

#[test]
fn two_clusters_run_side_by_side() {
    let (one, two) = (Vaquita::up(), Vaquita::up());
    assert_ne!(one.url, two.url);
    one.kubectl(&["create", "configmap", "only-here"]);
    assert!(
        !two.try_kubectl(&["get", "configmap", "only-here"])
            .status
            .success()
    );
    assert!(one.stop().success());
    assert!(two.try_kubectl(&["get", "nodes"]).status.success());
}

#[test]
fn the_insecure_port_serves_the_same_api_in_plain_http() {
    let mut cluster = Vaquita::up_with(&["--insecure-port", "0"]);
    let url = cluster.printed_line("insecure");
    let url = url.split_whitespace().next().expect("a URL");
    let port = url
        .rsplit(':')
        .next()
        .expect("a port")
        .trim_end_matches('/')
        .parse()
        .expect("a port");
    let (status, body) = http_get(port, "/api/v1/nodes").expect("an answer");
    assert_eq!(status, 200);
    assert!(body.contains("test-node"), "{body}");
    let nodes = run(Command::new("kubectl")
        .args(["--server", url, "get", "nodes"])
        .env("KUBECONFIG", "/dev/null"));
    assert!(
        nodes.stdout.contains("test-node"),
        "{}{}",
        nodes.stdout,
        nodes.stderr
    );
}

#[test]
fn a_token_is_as_good_as_the_certificate_and_a_wrong_one_is_refused() {
    let cluster = Vaquita::up();
    let token = fs::read_to_string(cluster.dir().path().join("admin.token")).expect("the token");
    let get = |token: &str| {
        run(Command::new("kubectl")
            .env("KUBECONFIG", "/dev/null")
            .args([
                "--server",
                &cluster.url,
                "--insecure-skip-tls-verify",
                "--token",
                token,
                "get",
                "namespaces",
            ]))
    };
    assert!(get(token.trim()).stdout.contains("kube-system"));
    let refused = get("no-such-token");
    assert!(!refused.status.success());
    assert!(
        refused.stderr.contains("Unauthorized") || refused.stderr.contains("must be logged in"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_taken_port_is_a_one_line_reason() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let refused = run(Command::new(env!("CARGO_BIN_EXE_vaquita"))
        .args(["up", "--listen", &address, "--data-dir"])
        .arg(dir.path()));
    assert_one_line(&refused.stderr, &["cannot listen on", &address, "--listen"]);
    assert!(!refused.status.success());
}

#[test]
fn a_data_directory_in_use_is_a_one_line_reason() {
    let cluster = Vaquita::up();
    let refused = run(&mut command(cluster.dir().path()));
    assert!(!refused.status.success());
    assert_one_line(
        &refused.stderr,
        &["in use by another process", "--data-dir"],
    );
    // The one that runs did not notice.
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]), "ok");
}

#[test]
fn a_damaged_database_is_a_one_line_reason() {
    let cluster = Vaquita::up();
    let dir = cluster.dir();
    assert!(cluster.stop().success());
    let database = fs::read_dir(dir.path())
        .expect("a directory")
        .filter_map(Result::ok)
        .find(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "redb")
        })
        .expect("a database")
        .path();
    fs::write(&database, vec![0x5a; 64 * 1024]).expect("writable");
    let refused = run(&mut command(dir.path()));
    assert!(!refused.status.success());
    assert_one_line(&refused.stderr, &["cannot open the database"]);
}

#[test]
fn an_image_is_loaded_whether_the_cluster_runs_or_not() {
    let first = Vaquita::up();
    let dir = first.dir();
    assert!(first.stop().success());
    let image = |arguments: &[&str]| {
        run(Command::new(env!("CARGO_BIN_EXE_vaquita"))
            .arg("image")
            .args(arguments)
            .arg("--data-dir")
            .arg(dir.path()))
    };
    let file = guest_file("hello");
    let file = file.to_str().expect("a path of text");
    assert!(
        image(&["load", file, "localhost/offline:v1"])
            .status
            .success()
    );
    let cluster = Vaquita::up_again(dir.clone());
    assert!(
        image(&["load", file, "localhost/online:v1"])
            .status
            .success()
    );
    let listed = image(&["list"]).stdout;
    assert!(
        listed.contains("localhost/offline:v1") && listed.contains("localhost/online:v1"),
        "{listed}"
    );
    for name in ["offline", "online"] {
        cluster.kubectl(&["run", name, &format!("--image=localhost/{name}:v1")]);
    }
    cluster.wait_ready("run in (offline, online)", 2);
    assert!(image(&["remove", "localhost/online:v1"]).status.success());
    assert!(!image(&["remove", "localhost/online:v1"]).status.success());
}

#[test]
fn wrong_arguments_fail_before_anything_is_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let refused = run(Command::new(env!("CARGO_BIN_EXE_vaquita"))
        .args(["up", "--listen", "nowhere", "--data-dir"])
        .arg(&data));
    assert!(!refused.status.success());
    assert!(!data.exists());
}

fn assert_one_line(text: &str, parts: &[&str]) {
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 1, "not one line:\n{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}
