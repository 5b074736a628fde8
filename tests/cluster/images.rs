//! Images between a registry and pods: pushed by the command line, pulled by the node as pull policies and pull secrets
//! say. The registry is Debian's.

use std::{
    fs::{self, File, Permissions},
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{PATIENCE, Printed, Vaquita, eventually, guest_file, list, run};

/// `tester` with the password `secret`, as the registry keeps it.
const PASSWORDS: &str = "tester:$2y$05$/kLfuCpqG6GftbvE1uZZCeDc57xJMBUX7adhtT57ZbinaDme4pMgi\n";

/// A running registry.
pub(crate) struct Registry {
    child: Child,
    _dir: TempDir,
    pub(crate) address: String,
}

impl Registry {
    /// One that wants the password.
    pub(crate) fn start() -> Self {
        Self::with(true)
    }

    /// One that lets everybody do everything.
    pub(crate) fn open() -> Self {
        Self::with(false)
    }

    fn with(password: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        fs::write(path("passwords"), PASSWORDS).expect("a file");
        let mut config = json!({
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": path("data")}},
            "http": {"addr": format!("127.0.0.1:{port}"), "secret": "a test's"},
        });
        if password {
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": path("passwords")}});
        }
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

    /// Writes that into somebody's home.
    pub(crate) fn log_in(&self, home: &Path) {
        fs::create_dir(home.join(".docker")).expect("a directory");
        fs::write(home.join(".docker/config.json"), self.docker_config()).expect("a file");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `vaquita image ...` in a data directory, as somebody with this home.
pub(crate) fn image(dir: &Path, home: &Path, args: &[&str]) -> Printed {
    run(&mut image_command(dir, home, args))
}

fn image_command(dir: &Path, home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vaquita"));
    command
        .arg("image")
        .args(args)
        .arg("--data-dir")
        .arg(dir)
        .env("HOME", home)
        .env_remove("DOCKER_CONFIG");
    command
}

pub(crate) fn succeeded(printed: Printed) -> String {
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
    registry.log_in(home.path());
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

/// A program in `dir` that keeps the credentials of one registry, and a configuration in `home` that names it for all.
fn keeper(dir: &Path, home: &Path, registry: &Registry) {
    let script = format!(
        r#"#!/bin/sh
if [ "$1 $(cat)" = "get {}" ]; then
  echo '{{"Username": "tester", "Secret": "secret"}}'
else
  echo 'credentials not found in native keychain'
  exit 1
fi
"#,
        registry.address
    );
    let program = dir.join("docker-credential-keeper");
    fs::write(&program, script).expect("a file");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("a program");
    fs::create_dir(home.join(".docker")).expect("a directory");
    let config = json!({"credsStore": "keeper"}).to_string();
    fs::write(home.join(".docker/config.json"), config).expect("a file");
}

#[test]
fn a_program_that_keeps_credentials_is_asked() {
    let (closed, open) = (Registry::start(), Registry::open());
    let (store, home) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    keeper(store.path(), home.path(), &closed);
    let path = std::env::var("PATH").expect("a path");
    let path = format!("{}:{path}", store.path().display());
    let image = |args: &[&str]| {
        let printed = run(image_command(store.path(), home.path(), args).env("PATH", &path));
        assert!(printed.status.success(), "{args:?}: {}", printed.stderr);
        assert_eq!(printed.stderr, "", "a log has no progress");
    };
    let file = guest_file("hello").display().to_string();
    // What it keeps opens one registry; that it keeps nothing for the other is no reason to fail.
    for registry in [&closed, &open] {
        let name = format!("{}/team/hello:v1", registry.address);
        image(&["load", &file, &name]);
        image(&["push", &name]);
        image(&["rm", &name]);
        image(&["pull", &name]);
    }
}

/// Stands before a registry, counts what comes from it, and holds back all beyond a bound.
struct Gate {
    address: String,
    passed: Arc<AtomicU64>,
    bound: Arc<AtomicU64>,
}

impl Gate {
    fn before(registry: &Registry) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let gate = Self {
            address,
            passed: Arc::default(),
            bound: Arc::new(AtomicU64::new(u64::MAX)),
        };
        let (passed, bound) = (gate.passed.clone(), gate.bound.clone());
        let to = registry.address.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&to) else {
                    return;
                };
                let (passed, bound) = (passed.clone(), bound.clone());
                let (mut asks, mut answers) = (
                    client.try_clone().expect("a socket"),
                    server.try_clone().expect("a socket"),
                );
                let mut asked = server;
                thread::spawn(move || std::io::copy(&mut asks, &mut asked));
                thread::spawn(move || hold_back(&mut answers, client, &passed, &bound));
            }
        });
        gate
    }

    /// How much comes through from now on; what has come through before is forgotten.
    fn open_for(&self, bytes: u64) {
        self.passed.store(0, Ordering::SeqCst);
        self.bound.store(bytes, Ordering::SeqCst);
    }
}

fn hold_back(from: &mut TcpStream, mut to: TcpStream, passed: &AtomicU64, bound: &AtomicU64) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        while passed.load(Ordering::SeqCst) > bound.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(10));
        }
        passed.fetch_add(read as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// A module of so many bytes and a few more, which cannot be packed.
fn large_module(bytes: u32) -> Vec<u8> {
    let mut module = b"\0asm\x01\0\0\0\0".to_vec();
    let mut size = bytes + 2;
    while size >= 0x80 {
        module.push(size.to_le_bytes()[0] | 0x80);
        size /= 0x80;
    }
    module.extend([size.to_le_bytes()[0], 1, b'x']);
    let mut state = 1_u32;
    module.extend((0..bytes).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()[3]
    }));
    module
}

#[test]
fn a_pull_that_was_killed_goes_on_where_it_was() {
    const SIZE: u32 = 8 << 20;
    let registry = Registry::open();
    let gate = Gate::before(&registry);
    let (store, home) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let name = format!("{}/team/large:v1", gate.address);
    let file = home.path().join("large.wasm");
    fs::write(&file, large_module(SIZE)).expect("a file");
    let here = tempfile::tempdir().expect("a directory");
    for args in [
        &["load", &file.display().to_string(), &name][..],
        &["push", &name],
    ] {
        succeeded(image(here.path(), home.path(), args));
    }

    gate.open_for(u64::from(SIZE / 2));
    let mut pull = image_command(store.path(), home.path(), &["pull", &name])
        .stdout(Stdio::null())
        .spawn()
        .expect("a process");
    let ingest = store.path().join("images/ingest");
    eventually("a part of it to be there", || {
        let files = fs::read_dir(&ingest).map_err(|error| error.to_string())?;
        let sizes = files.flatten().filter_map(|file| file.metadata().ok());
        let there = sizes.map(|file| file.len()).max().unwrap_or(0);
        if there > u64::from(SIZE / 4) {
            Ok(())
        } else {
            Err(format!("{there} bytes"))
        }
    });
    pull.kill().expect("it runs");
    pull.wait().expect("it ends");

    gate.open_for(u64::MAX);
    succeeded(image(store.path(), home.path(), &["pull", &name]));
    let fetched = gate.passed.load(Ordering::SeqCst);
    assert!(fetched < u64::from(SIZE / 4 * 3 + SIZE / 8), "{fetched}");
}

/// An archive as `docker save` writes it, with an image for Wasm of two layers: a module and a file, and the file anew.
fn archive(dir: &Path) -> String {
    let file = |name: &str, content: &str| {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, content).expect("a file");
    };
    file("one/etc/greeting", "from the first layer");
    fs::create_dir_all(dir.join("one/bin")).expect("a directory");
    fs::copy(guest_file("toolbox"), dir.join("one/bin/toolbox.wasm")).expect("a guest");
    file("two/etc/greeting", "from the second layer");
    let config = json!({"os": "wasi", "architecture": "wasm",
        "config": {"Entrypoint": ["/bin/toolbox.wasm"]}, "rootfs": {"type": "layers", "diff_ids": []}});
    file("config.json", &config.to_string());
    let list = json!([{"Config": "config.json", "RepoTags": ["localhost/files:v1"], "Layers": ["one.tar", "two.tar"]}]);
    file("manifest.json", &list.to_string());
    let tar = |args: &[&str]| {
        succeeded(run(Command::new("tar").current_dir(dir).args(args)));
    };
    tar(&["-cf", "one.tar", "-C", "one", "."]);
    tar(&["-cf", "two.tar", "-C", "two", "."]);
    tar(&[
        "-czf",
        "image.tar.gz",
        "manifest.json",
        "config.json",
        "one.tar",
        "two.tar",
    ]);
    dir.join("image.tar.gz").display().to_string()
}

/// A pod that runs a small command once.
fn command(name: &str, args: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  containers: [{{name: main, image: 'localhost/files:v1', command: {args}}}]
"
    )
}

fn phase(cluster: &Vaquita, name: &str, wanted: &str) {
    eventually(&format!("{name} to be {wanted}"), || {
        let pod = cluster.get(&["pod", name]);
        if pod["status"]["phase"] == wanted {
            Ok(())
        } else {
            Err(pod["status"].to_string())
        }
    });
}

#[test]
fn an_archives_image_brings_its_files_along() {
    let (made, home) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let cluster = Vaquita::up();
    let dir = cluster.dir();
    let loaded = succeeded(image(
        dir.path(),
        home.path(),
        &["load", &archive(made.path())],
    ));
    assert!(loaded.starts_with("localhost/files:v1 sha256:"), "{loaded}");
    // Each container has the files as they are in the image, whatever others do to theirs.
    cluster.apply(&command("remove", "[rm, /etc/greeting]"));
    phase(&cluster, "remove", "Succeeded");
    cluster.apply(&command("read", "[cat, /etc/greeting]"));
    phase(&cluster, "read", "Succeeded");
    assert_eq!(cluster.kubectl(&["logs", "read"]), "from the second layer");

    // They can be a volume of another container, too.
    cluster.load_guest("toolbox", "localhost/toolbox:v1");
    cluster.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: mounts}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: localhost/toolbox:v1
    command: [cat, /files/etc/greeting, /greeting]
    volumeMounts:
    - {name: files, mountPath: /files}
    - {name: files, mountPath: /greeting, subPath: etc/greeting}
  - name: spoil
    image: localhost/toolbox:v1
    command: [rm, /files/etc/greeting]
    volumeMounts: [{name: files, mountPath: /files}]
  volumes: [{name: files, image: {reference: 'localhost/files:v1'}}]
",
    );
    phase(&cluster, "mounts", "Failed");
    let read = cluster.kubectl(&["logs", "mounts", "-c", "main"]);
    assert_eq!(read, "from the second layerfrom the second layer");
    let refused = cluster.kubectl(&["logs", "mounts", "-c", "spoil"]);
    assert!(refused.contains("/files/etc/greeting"), "{refused}");

    let saved = made.path().join("saved.tar").display().to_string();
    let save = ["save", "localhost/files:v1", "--output", &saved];
    succeeded(image(dir.path(), home.path(), &save));
    let other = tempfile::tempdir().expect("a directory");
    let again = succeeded(image(other.path(), home.path(), &["load", &saved]));
    assert_eq!(again, loaded, "the same name and digest");
}

#[test]
fn a_policy_wants_signatures() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&crate::harness::manifest("../policies/image-policy.yaml"));
    let policy = "apiVersion: vaquita.dev/v1alpha1
kind: ImagePolicy
metadata: {name: ours}
spec:
  images: ['localhost/*']
  keys:
  - |
    -----BEGIN PUBLIC KEY-----
    MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
    -----END PUBLIC KEY-----
";
    eventually("the kind to be there", || {
        let applied = cluster.try_apply(policy);
        if applied.status.success() {
            Ok(())
        } else {
            Err(applied.stderr)
        }
    });
    cluster.apply(&pod("localhost/hello:v1", ""));
    eventually("the pod to be told why it waits", || {
        let failed = messages(&cluster, "Failed");
        if failed
            .iter()
            .any(|it| it == "Error: SignatureValidationFailed")
        {
            Ok(())
        } else {
            Err(format!("{failed:?}"))
        }
    });
    // Running without it is a matter of the namespace's rules.
    cluster.kubectl(&["delete", "imagepolicy", "ours"]);
    cluster.kubectl(&["delete", "pod", "hello", "--now"]);
    cluster.apply(&pod("localhost/hello:v1", ""));
    cluster.wait_ready("app=hello", 1);
}
