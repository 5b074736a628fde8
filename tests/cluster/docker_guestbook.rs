//! The guestbook with a real Redis on a Docker engine behind one Service and the key-value server of Wasm behind another;
//! and an application that moves from a Linux image to a Wasm one while it is used.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    docker::{Engine, cluster},
    harness::{Vaquita, eventually, http_get, http_post, manifest},
};

/// The back end of the guestbook on Debian's Redis.
const REDIS: &str = "apiVersion: v1
kind: Service
metadata: {name: real}
spec: {selector: {app: real}, ports: [{port: 6379}]}
---
apiVersion: v1
kind: Pod
metadata: {name: real, labels: {app: real}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: redis
    image: localhost/redis:v1
    command: [/usr/bin/redis-server, --protected-mode, 'no', --save, '']
    readinessProbe: {tcpSocket: {port: 6379}, periodSeconds: 1}
";

/// The guestbook's front end over another back end.
fn front_end(name: &str, back_end: &str) -> String {
    manifest("guestbook/guestbook.yaml")
        .replace("guestbook\n", &format!("{name}\n"))
        .replace("redis:6379", back_end)
        .replace("replicas: 3", "replicas: 1")
}

#[test]
fn the_guestbook_cannot_tell_redis_from_a_module() {
    let engine = Engine::start();
    engine.import_program("redis-server", "localhost/redis:v1");
    let cluster = cluster(&engine);
    cluster.load_guest("guestbook", "localhost/guestbook:v1");
    cluster.load_guest("kv", "localhost/kv:v1");
    cluster.apply(REDIS);
    cluster.apply(&manifest("guestbook/redis.yaml"));
    for (name, back_end) in [("by-redis", "real:6379"), ("by-wasm", "redis:6379")] {
        cluster.apply(&front_end(name, back_end));
    }
    cluster.wait_ready("app=real", 1);
    cluster.wait_ready("app=redis", 1);
    for name in ["by-redis", "by-wasm"] {
        cluster.wait_ready(&format!("app={name}"), 1);
        let port = cluster.node_port(name);
        let (status, said) =
            http_post(port, "/", &format!("entry=written+to+{name}")).expect("an answer");
        assert!((200..400).contains(&status), "{status} {said}");
        let (_, entries) = http_get(port, "/lrange/guestbook").expect("an answer");
        assert_eq!(entries.trim(), format!("[\"written to {name}\"]"));
    }
    // It is Redis itself that has it.
    let kept = cluster.kubectl(&["logs", "real"]);
    assert!(kept.contains("Ready to accept connections"), "{kept}");
}

/// An application of three pods, by a Linux image at first.
const SHOP: &str = "apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {type: NodePort, selector: {app: shop}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: shop}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: shop
        image: IMAGE
        command: COMMAND
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}
";

/// It by Linux: a page, served by busybox.
fn by_linux() -> String {
    SHOP.replace("IMAGE", "localhost/busybox:v1").replace(
        "COMMAND",
        "[sh, -c, 'echo hello from Linux >/www/index.html; exec httpd -f -p 8080 -h /www']",
    )
}

fn by_wasm() -> String {
    SHOP.replace("IMAGE", "localhost/hello:v1")
        .replace("        command: COMMAND\n", "")
}

/// Clients that never stop asking.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(port: u16) -> Self {
        let (stop, asked, failures) = (Arc::default(), Arc::default(), Arc::default());
        let client = |_| {
            let (stop, asked, failures): (
                Arc<AtomicBool>,
                Arc<AtomicUsize>,
                Arc<Mutex<Vec<String>>>,
            ) = (Arc::clone(&stop), Arc::clone(&asked), Arc::clone(&failures));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match http_get(port, "/") {
                        Ok((200, body)) if body.contains("hello from") => {}
                        other => failures.lock().expect("lock").push(format!("{other:?}")),
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(2));
                }
            })
        };
        let clients = (0..4).map(client).collect();
        Self {
            stop,
            asked,
            failures,
            clients,
        }
    }

    /// Waits until so many more requests were answered.
    fn go_on(&self, count: usize) {
        let goal = self.asked.load(Ordering::Relaxed) + count;
        eventually("requests are answered", || {
            let asked = self.asked.load(Ordering::Relaxed);
            (asked >= goal).then_some(()).ok_or(asked.to_string())
        });
    }

    /// Ends it; all must have been answered.
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("it ends");
        }
        let failures = self.failures.lock().expect("lock");
        let asked = self.asked.load(Ordering::Relaxed);
        assert!(
            failures.is_empty(),
            "{} of {asked}: {failures:?}",
            failures.len()
        );
    }
}

/// Waits until all of the application's pods are of this kind, and none of the other is left.
fn has_moved(cluster: &Vaquita, expected: &str) {
    cluster.kubectl(&["rollout", "status", "deployment/shop", "--timeout=60s"]);
    eventually("only the new pods are left", || {
        let pods = cluster.kubectl(&[
            "get",
            "pods",
            "-l",
            "app=shop",
            "-o",
            "jsonpath={.items[*].spec.containers[0].image}",
        ]);
        let images: Vec<&str> = pods.split_whitespace().collect();
        let is_done = images.len() == 3 && images.iter().all(|image| *image == expected);
        is_done.then_some(()).ok_or(pods)
    });
}

#[test]
fn an_application_moves_to_wasm_and_back_without_one_failed_request() {
    let engine = Engine::start();
    let cluster = cluster(&engine);
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&by_linux());
    cluster.wait_ready("app=shop", 3);
    let port = cluster.node_port("shop");
    eventually("an answer", || http_get(port, "/"));

    let load = Load::start(port);
    load.go_on(100);
    cluster.apply(&by_wasm());
    has_moved(&cluster, "localhost/hello:v1");
    load.go_on(100);
    engine.is_empty();
    cluster.kubectl(&["rollout", "undo", "deployment/shop"]);
    has_moved(&cluster, "localhost/busybox:v1");
    load.go_on(100);
    load.end();
}
