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
    docker::{BUSYBOX, Engine, cluster},
    harness::{Vaquita, eventually, http_get, http_post, manifest},
};

/// The back end on Redis, as the examples have it, under a name of its own; the image is made of Debian's Redis.
fn redis() -> String {
    manifest("guestbook/redis-linux.yaml")
        .replace("name: redis\n  labels", "name: real\n  labels")
        .replace("docker.io/library/redis:7", "localhost/redis:v1")
        .replace("[redis-server", "[/usr/bin/redis-server")
}

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
    cluster.apply(&redis());
    cluster.apply(&manifest("guestbook/redis.yaml"));
    for (name, back_end) in [("by-redis", "real:6379"), ("by-wasm", "redis:6379")] {
        cluster.apply(&front_end(name, back_end));
    }
    cluster.wait_ready("app=redis-linux", 1);
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
    let kept = cluster.kubectl(&["logs", "-l", "app=redis-linux"]);
    assert!(kept.contains("Ready to accept connections"), "{kept}");
}

/// The example on a Linux image, which the engine has here.
fn by_linux() -> String {
    manifest("moving/linux.yaml").replace("docker.io/library/busybox:stable", BUSYBOX)
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
    cluster.kubectl(&["rollout", "status", "deployment/moving", "--timeout=60s"]);
    eventually("only the new pods are left", || {
        let pods = cluster.kubectl(&[
            "get",
            "pods",
            "-l",
            "app=moving",
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
    cluster.wait_ready("app=moving", 3);
    let port = cluster.node_port("moving");
    eventually("an answer", || http_get(port, "/"));

    let load = Load::start(port);
    load.go_on(100);
    cluster.apply(&manifest("moving/wasm.yaml"));
    has_moved(&cluster, "localhost/hello:v1");
    load.go_on(100);
    engine.is_empty();
    cluster.kubectl(&["rollout", "undo", "deployment/moving"]);
    has_moved(&cluster, BUSYBOX);
    load.go_on(100);
    load.end();
}
