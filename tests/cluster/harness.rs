//! A cluster in a process of its own and a directory of its own, and the tools to talk to it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take. Generous: the machines are small and busy, and what passes does not wait for it.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A running `vaquita up`.
pub(crate) struct Vaquita {
    child: Option<Child>,
    dir: Arc<TempDir>,
    /// Base URL of the API, from the line `ready URL`.
    pub(crate) url: String,
    output: Arc<Mutex<String>>,
}

/// What a command printed.
pub(crate) struct Printed {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Vaquita {
    /// A new, empty cluster.
    pub(crate) fn up() -> Self {
        Self::up_with(&[])
    }

    /// A new cluster with more arguments.
    pub(crate) fn up_with(args: &[&str]) -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        Self::start(dir, args)
    }

    /// A cluster over the data of an earlier one.
    pub(crate) fn up_again(dir: Arc<TempDir>) -> Self {
        Self::start(dir, &[])
    }

    /// The same with more arguments.
    pub(crate) fn up_again_with(dir: Arc<TempDir>, args: &[&str]) -> Self {
        Self::start(dir, args)
    }

    fn start(dir: Arc<TempDir>, args: &[&str]) -> Self {
        let mut command = command(dir.path());
        command.args(args);
        Self::started_by(dir, &mut command)
    }

    /// A cluster over `dir` that the caller's own command starts.
    pub(crate) fn started_by(dir: Arc<TempDir>, command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("vaquita starts");
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().expect("a pipe"), &output);
        collect(child.stderr.take().expect("a pipe"), &output);
        let mut vaquita = Self {
            child: Some(child),
            dir,
            url: String::new(),
            output,
        };
        vaquita.url = vaquita.printed_line("ready ");
        vaquita
    }

    /// The rest of the first line that starts with `start`, as soon as it has been printed.
    pub(crate) fn printed_line(&mut self, start: &str) -> String {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let text = self.output.lock().expect("lock").clone();
            if let Some(rest) = text
                .lines()
                .find_map(|line| line.trim_start().strip_prefix(start))
            {
                return rest.trim().to_owned();
            }
            let status = self
                .child
                .as_mut()
                .and_then(|child| child.try_wait().expect("wait"));
            assert!(
                status.is_none(),
                "vaquita ended with {status:?} before {start:?}:\n{text}"
            );
            assert!(
                Instant::now() < give_up,
                "no line {start:?} in time:\n{text}"
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// All that it printed so far.
    pub(crate) fn printed(&self) -> String {
        self.output.lock().expect("lock").clone()
    }

    pub(crate) fn dir(&self) -> Arc<TempDir> {
        self.dir.clone()
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("admin.kubeconfig")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal("-TERM")
    }

    /// SIGINT, as Ctrl-C sends it.
    pub(crate) fn interrupt(mut self) -> ExitStatus {
        self.signal("-INT")
    }

    /// SIGKILL: no chance to say goodbye.
    pub(crate) fn kill(mut self) -> Arc<TempDir> {
        self.signal("-KILL");
        self.dir.clone()
    }

    fn signal(&mut self, signal: &str) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        run(Command::new("kill").args([signal, &child.id().to_string()]));
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("wait") {
                return status;
            }
            if Instant::now() > give_up {
                let _ = child.kill();
                panic!("vaquita did not stop after {signal}:\n{}", self.printed());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs stock `kubectl` with nothing but the kubeconfig.
    pub(crate) fn try_kubectl(&self, args: &[&str]) -> Printed {
        run(self.kubectl_command().args(args))
    }

    /// The same; it must succeed. Returns what it printed.
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        let printed = self.try_kubectl(args);
        assert!(
            printed.status.success(),
            "kubectl {args:?} failed:\n{}{}",
            printed.stdout,
            printed.stderr
        );
        printed.stdout
    }

    /// A `kubectl` to be started by the caller.
    pub(crate) fn kubectl_command(&self) -> Command {
        let mut command = Command::new("kubectl");
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.dir.path());
        command
    }

    /// `kubectl apply -f -`.
    pub(crate) fn try_apply(&self, manifest: &str) -> Printed {
        let mut command = self.kubectl_command();
        command.args(["apply", "-f", "-"]);
        run_with_input(&mut command, manifest)
    }

    pub(crate) fn apply(&self, manifest: &str) -> String {
        let printed = self.try_apply(manifest);
        assert!(
            printed.status.success(),
            "apply failed:\n{}{}\n{manifest}",
            printed.stdout,
            printed.stderr
        );
        printed.stdout
    }

    /// `kubectl get ... -o json`.
    pub(crate) fn get(&self, args: &[&str]) -> Value {
        let mut all = vec!["get", "-o", "json"];
        all.extend_from_slice(args);
        serde_json::from_str(&self.kubectl(&all)).expect("kubectl prints JSON")
    }

    /// Names of the pods that match and are Ready.
    pub(crate) fn ready_pods(&self, selector: &str) -> Vec<String> {
        list(&self.get(&["pods", "-l", selector])["items"])
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .filter(|pod| {
                list(&pod["status"]["conditions"])
                    .iter()
                    .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
            })
            .map(|pod| pod["metadata"]["name"].as_str().expect("a name").to_owned())
            .collect()
    }

    /// Waits until `count` pods that match are Ready, and returns their names.
    pub(crate) fn wait_ready(&self, selector: &str, count: usize) -> Vec<String> {
        eventually(&format!("{count} ready pods with {selector}"), || {
            let ready = self.ready_pods(selector);
            (ready.len() == count)
                .then_some(ready)
                .ok_or_else(|| self.kubectl(&["get", "pods", "-o", "wide"]))
        })
    }

    /// Makes an image of a guest that `wasm-examples` built.
    pub(crate) fn load_guest(&self, guest: &str, reference: &str) {
        self.load_file(&guest_file(guest), reference);
    }

    pub(crate) fn load_file(&self, file: &Path, reference: &str) {
        let printed = self.try_load(file, reference);
        assert!(printed.status.success(), "{}", printed.stderr);
    }

    pub(crate) fn try_load(&self, file: &Path, reference: &str) -> Printed {
        run(Command::new(env!("CARGO_BIN_EXE_vaquita"))
            .args(["image", "load"])
            .arg(file)
            .arg(reference)
            .arg("--data-dir")
            .arg(self.dir.path()))
    }

    /// The node port of a Service's first port.
    pub(crate) fn node_port(&self, service: &str) -> u16 {
        let service = self.get(&["service", service]);
        u16::try_from(
            service["spec"]["ports"][0]["nodePort"]
                .as_u64()
                .expect("a node port"),
        )
        .expect("a port")
    }
}

impl Drop for Vaquita {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            if thread::panicking() {
                eprintln!("--- vaquita printed:\n{}", self.printed());
            }
        }
    }
}

/// `vaquita up` over `dir`, on a free port.
pub(crate) fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vaquita"));
    command
        .args([
            "up",
            "--listen",
            "127.0.0.1:0",
            "--node-name",
            "test-node",
            // However full the machine is that the tests run on.
            "--eviction-hard",
            "",
            "--data-dir",
        ])
        .arg(dir)
        // Nobody's engine is used unless a test says so.
        .env("VAQUITA_DOCKER", "none")
        // The machine has one network for all tests: only who has made one of its own joins it.
        .env("VAQUITA_KERNEL_NETWORK", "off")
        .stdin(Stdio::null());
    command
}

/// Where the build of `wasm-examples` puts a guest.
pub(crate) fn guest_file(guest: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("wasm-examples/target");
    ["wasm32-wasip2", "wasm32-wasip1"]
        .iter()
        .map(|target| {
            root.join(target)
                .join("release")
                .join(format!("{guest}.wasm"))
        })
        .find(|file| file.exists())
        .unwrap_or_else(|| panic!("the guest {guest} is not built: run `cargo task guests`"))
}

/// A manifest of `wasm-examples`.
pub(crate) fn manifest(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("wasm-examples")
        .join(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Tries until it gives a value, and says what it saw last if it never does.
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(seen) => assert!(
                Instant::now() < give_up,
                "{what}: not in time. Last seen:\n{seen}"
            ),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// One HTTP/1.1 request on a connection of its own. Returns status and body.
pub(crate) fn http_get(port: u16, path: &str) -> Result<(u16, String), String> {
    http_request(
        port,
        &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"),
    )
}

/// The same with a form as the body.
pub(crate) fn http_post(port: u16, path: &str, body: &str) -> Result<(u16, String), String> {
    http_request(
        port,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
}

fn http_request(port: u16, request: &str) -> Result<(u16, String), String> {
    let attempt = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = attempt().map_err(|error| error.to_string())?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("no HTTP answer: {answer:?}"))?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| head.to_owned())?;
    Ok((status, body.to_owned()))
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Printed {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Printed {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The same, with something on its standard input.
pub(crate) fn run_with_input(command: &mut Command, input: &str) -> Printed {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    // A command that has failed already does not read; its message says more than ours would.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    Printed {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The elements of a JSON list; none if it is absent.
pub(crate) fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn collect(pipe: impl std::io::Read + Send + 'static, into: &Arc<Mutex<String>>) {
    let into = into.clone();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { return };
            let mut text = into.lock().expect("lock");
            text.push_str(&line);
            text.push('\n');
        }
    });
}
