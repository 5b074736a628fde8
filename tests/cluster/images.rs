//! Images between a registry and pods: pushed by the command line, pulled by the node as pull policies and pull secrets
//! say. The registry is Debian's.

use std::{
    fs::{self, File},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{PATIENCE, Printed, Vaquita, eventually, guest_file, list, run};

/// `tester` with the password `secret`, as the registry keeps it.
const PASSWORDS: &str = "tester:$2y$05$/kLfuCpqG6GftbvE1uZZCeDc57xJMBUX7adhtT57ZbinaDme4pMgi\n";

/// A running registry, which wants the password.
struct Registry {
    child: Child,
    _dir: TempDir,
    address: String,
}

impl Registry {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        fs::write(path("passwords"), PASSWORDS).expect("a file");
        let config = json!({
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": path("data")}},
            "http": {"addr": format!("127.0.0.1:{port}"), "secret": "a test's"},
            "auth": {"htpasswd": {"realm": "test", "path": path("passwords")}},
        });
        fs::write(path("config"), config.to_string()).expect("a file");
        let log = File::create(path("log")).expect("a file");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(path("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("docker-registry is installed: `cargo task test` does that");
        let registry = Self {
            child,
            _dir: dir,
            address: format!("127.0.0.1:{port}"),
        };
        let give_up = Instant::now() + PATIENCE;
        while TcpStream::connect(&registry.address).is_err() {
            assert!(Instant::now() < give_up, "no registry in time");
            thread::sleep(Duration::from_millis(10));
        }
        registry
    }

    /// Docker's configuration of somebody who may use it.
    fn docker_config(&self) -> String {
        let entry = json!({"username": "tester", "password": "secret"});
        json!({"auths": {self.address.as_str(): entry}}).to_string()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `vaquita image ...` in a data directory, as somebody with this home.
fn image(dir: &Path, home: &Path, args: &[&str]) -> Printed {
    run(Command::new(env!("CARGO_BIN_EXE_vaquita"))
        .arg("image")
        .args(args)
        .arg("--data-dir")
        .arg(dir)
        .env("HOME", home)
        .env_remove("DOCKER_CONFIG"))
}

fn succeeded(printed: Printed) -> String {
    assert!(
        printed.status.success(),
        "{}{}",
        printed.stdout,
        printed.stderr
    );
    printed.stdout
}

/// A registry in which the guest `hello` is, and its name there.
fn with_hello() -> (Registry, String) {
    let registry = Registry::start();
    let name = format!("{}/team/hello:v1", registry.address);
    let (store, home) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let file = guest_file("hello").display().to_string();
    succeeded(image(
        store.path(),
        home.path(),
        &["load", &file, "localhost/hello:v1"],
    ));
    succeeded(image(
        store.path(),
        home.path(),
        &["tag", "localhost/hello:v1", &name],
    ));

    let refused = image(store.path(), home.path(), &["push", &name]);
    assert!(!refused.status.success());
    assert!(
        refused.stderr.contains("refused access"),
        "{}",
        refused.stderr
    );
    fs::create_dir(home.path().join(".docker")).expect("a directory");
    fs::write(
        home.path().join(".docker/config.json"),
        registry.docker_config(),
    )
    .expect("a file");
    let pushed = succeeded(image(store.path(), home.path(), &["push", &name]));

    let other = tempfile::tempdir().expect("a directory");
    let pulled = succeeded(image(other.path(), home.path(), &["pull", &name]));
    assert_eq!(pulled, pushed, "the same name and digest");
    assert!(
        succeeded(image(other.path(), home.path(), &["inspect", &name])).contains("wasm component")
    );
    (registry, name)
}

fn pod(image: &str, secrets: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: hello, labels: {{app: hello}}}}
spec:
  imagePullSecrets: [{secrets}]
  containers:
  - {{name: hello, image: '{image}', imagePullPolicy: Always, ports: [{{containerPort: 8080}}]}}
"
    )
}

/// The messages of the pod's events with that reason.
fn messages(cluster: &Vaquita, reason: &str) -> Vec<String> {
    let selector = format!("involvedObject.name=hello,reason={reason}");
    let events = cluster.get(&["events", "--field-selector", &selector]);
    let message =
        |event: &serde_json::Value| event["message"].as_str().unwrap_or_default().to_owned();
    list(&events["items"]).iter().map(message).collect()
}

#[test]
fn a_pod_pulls_what_its_secret_opens() {
    let (registry, name) = with_hello();
    let cluster = Vaquita::up();
    cluster.apply(&pod(&name, ""));
    let reason = |wanted: &str| {
        eventually(&format!("the pod to wait with {wanted}"), || {
            let pod = cluster.get(&["pod", "hello"]);
            let waiting = pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
            if waiting["reason"] == wanted {
                Ok(waiting)
            } else {
                Err(pod["status"].to_string())
            }
        })
    };
    let waiting = reason("ImagePullBackOff");
    let message = waiting["message"].as_str().expect("a message");
    assert!(message.contains("refused access"), "{message}");
    let failed = messages(&cluster, "Failed");
    assert!(
        failed
            .iter()
            .any(|message| message.starts_with("Failed to pull image")),
        "{failed:?}"
    );
    cluster.kubectl(&["delete", "pod", "hello", "--now"]);

    cluster.kubectl(&[
        "create",
        "secret",
        "docker-registry",
        "key",
        "--docker-username=tester",
        "--docker-password=secret",
        &format!("--docker-server={}", registry.address),
    ]);
    cluster.apply(&pod(&name, "{name: missing}, {name: key}"));
    cluster.wait_ready("app=hello", 1);
    let pulled = messages(&cluster, "Pulled");
    assert!(
        pulled.iter().any(
            |message| message.starts_with(&format!("Successfully pulled image \"{name}\" in "))
        ),
        "{pulled:?}"
    );
    let missing = messages(&cluster, "FailedToRetrieveImagePullSecret");
    assert!(
        missing.iter().any(|message| message.contains("(missing)")),
        "{missing:?}"
    );

    // `Always` asks the registry each time, even for what is here.
    cluster.kubectl(&["delete", "pod", "hello", "--now"]);
    drop(registry);
    cluster.apply(&pod(&name, "{name: key}"));
    reason("ImagePullBackOff");
    cluster.kubectl(&["delete", "pod", "hello", "--now"]);
    cluster.apply(&pod(&name, "").replace("Always", "IfNotPresent"));
    cluster.wait_ready("app=hello", 1);
}
