//! The process is killed at any moment of what the cluster does, and finishes it afterwards: nothing is forgotten, nothing is
//! left over.
//!
//! The moments are random, from a seed that is printed; `VAQUITA_TEST_SEED` sets another.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    harness::{Vaquita, command, eventually, http_get, list},
    pods::{wait_answered_by, web},
    workloads::version,
};

/// Draws numbers: xorshift, good enough to choose moments.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let given = std::env::var("VAQUITA_TEST_SEED").ok();
        let seed = given
            .and_then(|seed| seed.parse().ok())
            .unwrap_or(20_260_401);
        println!("VAQUITA_TEST_SEED={seed}");
        Self(seed | 1)
    }

    /// Lets some of the next `milliseconds` pass.
    fn wait(&mut self, milliseconds: u64) {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let wait = self.0 % milliseconds;
        println!("killed after {wait} ms");
        thread::sleep(Duration::from_millis(wait));
    }

    /// Kills the cluster within the next `milliseconds`, and starts it again.
    fn strike(&mut self, cluster: Vaquita, milliseconds: u64) -> Vaquita {
        self.wait(milliseconds);
        Vaquita::up_again(cluster.kill())
    }
}

fn all_pods(cluster: &Vaquita) -> Vec<Value> {
    list(&cluster.get(&["pods", "-A"])["items"])
}

/// A Service that insists on an address and a port: it can be had only if they are free.
fn insisting(ip: &str, port: u16) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: successor, namespace: default}}
spec:
  type: NodePort
  clusterIP: {ip}
  ports: [{{port: 80, nodePort: {port}}}]
"
    )
}

#[test]
fn a_namespace_is_deleted_to_its_end() {
    let mut moments = Moments::new();
    let mut cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    for _ in 0..3 {
        cluster.kubectl(&["create", "namespace", "shop"]);
        let manifest = web("hello", 3).replace(
            "metadata: {name: hello}",
            "metadata: {name: hello, namespace: shop}",
        );
        cluster.apply(&manifest);
        let service = cluster.get(&["service", "hello", "-n", "shop"]);
        let ip = service["spec"]["clusterIP"].as_str().expect("an address");
        let port = service["spec"]["ports"][0]["nodePort"]
            .as_u64()
            .expect("a port");
        let port = u16::try_from(port).expect("a port");
        cluster.kubectl(&["delete", "namespace", "shop", "--wait=false"]);
        cluster = moments.strike(cluster, 300);
        eventually("no namespace", || {
            let there = cluster.kubectl(&["get", "namespace", "shop", "--ignore-not-found"]);
            if there.is_empty() { Ok(()) } else { Err(there) }
        });
        let left = cluster.kubectl(&[
            "get",
            "pods,services,rc,endpoints,endpointslices",
            "-n",
            "shop",
            "-o",
            "name",
        ]);
        assert_eq!(left, "", "nothing outlives its namespace");
        cluster.apply(&insisting(ip, port));
        cluster.kubectl(&["delete", "service", "successor"]);
    }
}

#[test]
fn a_workload_has_as_many_pods_as_it_was_told_last() {
    let mut moments = Moments::new();
    let mut cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&web("hello", 2));
    for replicas in [6, 1, 5] {
        cluster.kubectl(&["scale", "rc", "hello", &format!("--replicas={replicas}")]);
        cluster = moments.strike(cluster, 200);
        cluster.wait_ready("app=hello", replicas);
        eventually("no pod too many", || {
            let pods = all_pods(&cluster);
            let names: Vec<_> = pods
                .iter()
                .map(|pod| pod["metadata"]["name"].clone())
                .collect();
            if names.len() == replicas {
                Ok(())
            } else {
                Err(format!("{names:?}"))
            }
        });
        let slices = cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=hello"]);
        eventually("one slice", || {
            let count = list(&slices["items"]).len();
            if count == 1 {
                Ok(())
            } else {
                Err(count.to_string())
            }
        });
    }
}

#[test]
fn pods_of_a_node_that_is_gone_are_not_forgotten() {
    let mut moments = Moments::new();
    let cluster = Vaquita::up();
    cluster.apply("apiVersion: v1\nkind: Node\nmetadata: {name: ghost}\n");
    cluster.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: lost, namespace: default}
spec:
  nodeName: ghost
  tolerations: [{operator: Exists}]
  containers: [{name: c, image: localhost/none:v1}]
",
    );
    cluster.kubectl(&["delete", "node", "ghost"]);
    let cluster = moments.strike(cluster, 500);
    // Its node may be registering again: that is waited for.
    thread::sleep(Duration::from_secs(40));
    eventually("no pod", || {
        let pods = all_pods(&cluster);
        if pods.is_empty() {
            Ok(())
        } else {
            Err(format!("{pods:?}"))
        }
    });
}

/// A node that somebody declared and that never says anything again, and pods that would rather be there.
const SILENT: &str = r#"{"status": {
  "capacity": {"cpu": "4", "memory": "4Gi", "pods": "10"},
  "allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"},
  "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]
}}"#;

fn restless(replicas: usize) -> String {
    let wanted = "    spec:
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 3}
      affinity:
        nodeAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - {weight: 100, preference: {matchExpressions: [{key: shiny, operator: Exists}]}}
";
    web("hello", replicas).replace("    spec:\n", wanted)
}

#[test]
fn pods_of_a_node_that_falls_silent_are_replaced_elsewhere() {
    let mut moments = Moments::new();
    // Long enough for the node that is well, and no longer than it must be.
    let soon = ["--node-monitor-grace-period=25s"];
    let mut cluster = Vaquita::up_with(&soon);
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(
        "apiVersion: v1
kind: Node
metadata: {name: silent, labels: {shiny: 'yes', vaquita.dev/wasm: 'true'}}
",
    );
    cluster.kubectl(&[
        "patch",
        "node",
        "silent",
        "--subresource=status",
        "--type=merge",
        "-p",
        SILENT,
    ]);
    eventually("no taints", || {
        let spec = cluster.get(&["node", "silent"])["spec"].take();
        if list(&spec["taints"]).is_empty() {
            Ok(())
        } else {
            Err(spec.to_string())
        }
    });
    cluster.apply(&restless(2));
    let on = |cluster: &Vaquita, node: &str| {
        let pods = all_pods(cluster).into_iter();
        pods.filter(|pod| pod["spec"]["nodeName"] == node).count()
    };
    eventually("two pods there", || match on(&cluster, "silent") {
        2 => Ok(()),
        other => Err(other.to_string()),
    });
    // It is given up after 25 s of silence, and the pods' patience lasts for three: somewhere around there.
    thread::sleep(Duration::from_secs(23));
    moments.wait(8000);
    cluster = Vaquita::up_again_with(cluster.kill(), &soon);
    let lost = || {
        let node = cluster.get(&["node", "silent"]);
        let mut conditions = list(&node["status"]["conditions"]).into_iter();
        let ready = conditions.find(|condition| condition["type"] == "Ready");
        match ready {
            Some(ready) if ready["status"] == "Unknown" => {
                assert_eq!(ready["reason"], "NodeStatusUnknown");
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    };
    eventually("given up", lost);
    let pods = cluster.wait_ready("app=hello", 2);
    wait_answered_by(cluster.node_port("hello"), &pods);
    let events = cluster.kubectl(&["get", "events"]);
    for reason in ["NodeNotReady", "TaintManagerEviction"] {
        assert!(events.contains(reason), "{events}");
    }
    // They are said to end until somebody vouches that their node is gone.
    assert_eq!(on(&cluster, "silent"), 2);
    cluster.kubectl(&["delete", "node", "silent"]);
    thread::sleep(Duration::from_secs(40));
    eventually("none there", || match on(&cluster, "silent") {
        0 => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(cluster.ready_pods("app=hello").len(), 2);
}

#[test]
fn a_rolling_update_goes_on_where_it_was_stopped() {
    let mut moments = Moments::new();
    let cluster = Vaquita::up();
    for name in ["v1", "v2"] {
        cluster.load_guest("hello", &format!("localhost/hello:{name}"));
    }
    cluster.apply(&version("v1", 4));
    cluster.wait_ready("app=web", 4);
    let file = cluster.dir().path().join("v2.yaml");
    fs::write(&file, version("v2", 4)).expect("a file");
    let give_up = Instant::now() + Duration::from_mins(2);
    loop {
        let mut update = Command::new(env!("CARGO_BIN_EXE_vaquita"))
            .env("KUBECONFIG", cluster.kubeconfig())
            .args([
                "rolling-update",
                "web-v1",
                "--update-period=0s",
                "--poll-interval=50ms",
                "-f",
            ])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        moments.wait(1500);
        let _ = update.kill();
        update.wait().expect("it ends");
        assert!(
            cluster.ready_pods("app=web").len() >= 3,
            "they were four, and one at a time is replaced"
        );
        let left = cluster.kubectl(&["get", "rc", "-o", "name"]);
        if left.trim() == "replicationcontroller/web-v2" {
            break;
        }
        assert!(Instant::now() < give_up, "no end in sight:\n{left}");
    }
    cluster.wait_ready("version=v2", 4);
    eventually("no pod too many", || match all_pods(&cluster).len() {
        4 => Ok(()),
        other => Err(other.to_string()),
    });
}

/// A cluster whose database is on a disk of its own, a small one.
struct Cramped {
    cluster: Vaquita,
    /// The disk, as seen from here: only the cluster has it mounted.
    disk: PathBuf,
}

impl Cramped {
    /// Needs the right to mount a file system in a namespace of its own, as users of Linux ordinarily have it.
    fn up() -> Self {
        let first = Vaquita::up();
        let dir = first.dir();
        assert!(first.stop().success());
        let (disk, database) = (dir.path().join("disk"), dir.path().join("store.redb"));
        fs::create_dir(&disk).expect("a directory");
        let kept = dir.path().join("kept.redb");
        fs::rename(&database, &kept).expect("it moves");
        symlink(disk.join("store.redb"), &database).expect("a link");
        let script = "mount -t tmpfs -o size=48m none \"$1\" && mv \"$2\" \"$1/store.redb\" && shift 2 && exec \"$@\"";
        let up = command(dir.path());
        let mut command = Command::new("unshare");
        command
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .args([&disk, &kept])
            .arg(up.get_program())
            .args(up.get_args())
            .stdin(Stdio::null());
        let cluster = Vaquita::started_by(dir, &mut command);
        let seen = disk.strip_prefix("/").expect("it is absolute");
        Self {
            disk: PathBuf::from(format!("/proc/{}/root", cluster.pid())).join(seen),
            cluster,
        }
    }

    fn filler(&self) -> PathBuf {
        self.disk.join("filler")
    }

    /// Fills the disk to the last byte.
    fn fill(&self) {
        let mut filler = File::create(self.filler()).expect("a file");
        while filler.write_all(&[1; 4096]).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.filler()).expect("it was there");
    }
}

#[test]
fn a_full_disk_refuses_writes_alone_and_needs_no_restart() {
    let cramped = Cramped::up();
    let cluster = &cramped.cluster;
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&web("hello", 1));
    let pods = cluster.wait_ready("app=hello", 1);
    let port = cluster.node_port("hello");
    wait_answered_by(port, &pods);
    let large = cluster.dir().path().join("large");
    fs::write(&large, vec![b'x'; 400_000]).expect("a file");
    let put = |name: &str| {
        let from = format!("--from-file={}", large.display());
        cluster.try_kubectl(&["create", "configmap", name, &from])
    };
    cramped.fill();
    let mut kept = Vec::new();
    let refused = loop {
        let name = format!("map-{}", kept.len());
        let printed = put(&name);
        if !printed.status.success() {
            break printed.stderr;
        }
        kept.push(name);
        assert!(kept.len() < 1000, "it never gets full");
    };
    assert!(refused.contains("No space left on device"), "{refused}");
    // What is there is there, and what runs goes on.
    let names = cluster.kubectl(&["get", "configmaps", "-o", "name"]);
    for name in &kept {
        assert!(names.contains(name), "{name} is lost:\n{names}");
    }
    assert_eq!(cluster.ready_pods("app=hello"), pods);
    assert_eq!(http_get(port, "/").expect("an answer").0, 200);
    assert!(!put("one-more").status.success());

    cramped.empty();
    eventually("writes again", || {
        let printed = put("after");
        if printed.status.success() {
            Ok(())
        } else {
            Err(printed.stderr)
        }
    });
    cluster.kubectl(&["scale", "rc", "hello", "--replicas=2"]);
    cluster.wait_ready("app=hello", 2);
}
