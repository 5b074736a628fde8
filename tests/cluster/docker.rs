//! A Docker engine for a test, images in it, and clusters that use it.
//!
//! The engine is Debian's, started here by root with data and socket of its own; `cargo task test` installs what that needs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tempfile::TempDir;

use crate::harness::{Printed, Vaquita, eventually, run};

/// An image of Debian's static busybox, in every engine. Nothing but the engine has it.
pub(crate) const BUSYBOX: &str = "localhost/busybox:v1";
/// How many engines this process has started.
static STARTED: AtomicU32 = AtomicU32::new(0);
/// The programs in it.
const PROGRAMS: &[&str] = &[
    "cat", "chmod", "date", "dd", "echo", "env", "false", "grep", "head", "hostname", "httpd",
    "id", "ip", "kill", "ls", "mkdir", "nc", "ps", "rm", "sh", "sleep", "stat", "tail", "tar",
    "touch", "true", "wc", "wget",
];

/// A Docker engine of this test's own.
pub(crate) struct Engine {
    child: Child,
    dir: TempDir,
    number: u32,
}

impl Engine {
    pub(crate) fn start() -> Self {
        // Engines at the same time, of other processes too, need networks of their own.
        let count = STARTED.fetch_add(1, Ordering::Relaxed);
        let number = (std::process::id() * 8 + count) % 4096;
        // Its own file system must be a real one: layers do not go over every kind.
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let log = fs::File::create(at("log")).expect("a log");
        let child = Command::new("dockerd")
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg("--host")
            .arg(format!("unix://{}", at("socket").display()))
            .args(["--bridge", "none", "--iptables=false", "--ip-masq=false"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd is installed, and this is root: `cargo task test` says how");
        let engine = Self { child, dir, number };
        eventually("the Docker engine answers", || {
            let printed = engine.request(&["/_ping"]);
            let log = || fs::read_to_string(engine.dir.path().join("log")).unwrap_or_default();
            printed.status.success().then_some(()).ok_or_else(log)
        });
        engine.import_busybox();
        engine
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Asks the engine itself: a path, and options of curl.
    pub(crate) fn request(&self, args: &[&str]) -> Printed {
        let (path, options) = args.split_first().expect("a path");
        run(Command::new("curl")
            .args(["--silent", "--fail", "--unix-socket"])
            .arg(self.socket())
            .args(options)
            .arg(format!("http://docker{path}")))
    }

    /// Makes an image of a root file system in a directory: of nothing but its files.
    pub(crate) fn import(&self, root: &Path, name: &str) {
        let archive = self.dir.path().join("root.tar");
        let packed = run(Command::new("tar")
            .arg("-C")
            .arg(root)
            .arg("-cf")
            .arg(&archive)
            .arg("."));
        assert!(packed.status.success(), "{}", packed.stderr);
        let (repository, tag) = name.rsplit_once(':').expect("a name with a tag");
        let imported = self.request(&[
            &format!("/images/create?fromSrc=-&repo={repository}&tag={tag}"),
            "--request",
            "POST",
            "--header",
            "Content-Type: application/x-tar",
            "--data-binary",
            &format!("@{}", archive.display()),
        ]);
        assert!(imported.status.success(), "{}", imported.stderr);
    }

    /// Makes an image of a program of this machine and the libraries that it is linked with.
    pub(crate) fn import_program(&self, program: &str, name: &str) {
        let root = self.dir.path().join("program");
        let found = run(Command::new("which").arg(program));
        assert!(
            found.status.success(),
            "{program} is installed: `cargo task test` does that"
        );
        let program = found.stdout.trim();
        let libraries = run(Command::new("ldd").arg(program)).stdout;
        let libraries = libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        for file in libraries.chain([program]) {
            let place = root.join(file.trim_start_matches('/'));
            fs::create_dir_all(place.parent().expect("a directory")).expect("a directory");
            fs::copy(file, place).expect("a copy");
        }
        for dir in ["tmp", "data"] {
            fs::create_dir_all(root.join(dir)).expect("a directory");
        }
        self.import(&root, name);
        fs::remove_dir_all(root).expect("it goes");
    }

    fn import_busybox(&self) {
        let root = self.dir.path().join("root");
        for dir in ["bin", "etc", "tmp", "www"] {
            fs::create_dir_all(root.join(dir)).expect("a directory");
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").expect("a file");
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
        for name in PROGRAMS {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("a link");
        }
        self.import(&root, BUSYBOX);
    }

    /// The names of all containers that there are, running or not.
    pub(crate) fn containers(&self) -> String {
        self.request(&["/containers/json?all=1"]).stdout
    }

    /// Waits until there are none: objects may be gone before.
    pub(crate) fn is_empty(&self) {
        eventually("no container is left", || {
            let left = self.containers();
            (left.trim() == "[]").then_some(()).ok_or(left)
        });
    }

    /// The name of the network that clusters make on it, and of that network's device.
    pub(crate) fn network(&self) -> String {
        format!("vqtest{}", self.number)
    }

    /// What a cluster is started with to use the engine.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let (high, low) = (224 + self.number / 256, self.number % 256);
        vec![
            "--docker".to_owned(),
            format!("unix://{}", self.socket().display()),
            "--docker-network".to_owned(),
            self.network(),
            "--docker-subnet".to_owned(),
            format!("10.{high}.{low}.0/24"),
        ]
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        run(Command::new("kill").arg(self.child.id().to_string()));
        let _ = self.child.wait();
        // What its file systems are mounted over is gone with it; the directory removes the rest.
    }
}

/// A cluster that uses the engine, with the guest `toolbox` in it.
pub(crate) fn cluster(engine: &Engine) -> Vaquita {
    cluster_with(engine, &[])
}

/// The same with more arguments.
pub(crate) fn cluster_with(engine: &Engine, more: &[&str]) -> Vaquita {
    let arguments = engine.arguments();
    let arguments: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect();
    let cluster = Vaquita::up_with(&arguments);
    cluster.load_guest("toolbox", "localhost/toolbox:v1");
    cluster
}

/// The cluster that was over `dir`, once more.
pub(crate) fn cluster_again(engine: &Engine, dir: Arc<TempDir>) -> Vaquita {
    let arguments = engine.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Vaquita::up_again_with(dir, &arguments)
}
