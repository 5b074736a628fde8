//! The process is killed at any moment of what the cluster does, and finishes it afterwards: nothing is forgotten, nothing is
//! left over.
//!
//! The moments are random, from a seed that is printed; `VAQUITA_TEST_SEED` sets another.

use std::{thread, time::Duration};

use serde_json::Value;

use crate::{
    harness::{Vaquita, eventually, list},
    pods::web,
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

    /// Kills the cluster within the next `milliseconds`, and starts it again.
    fn strike(&mut self, cluster: Vaquita, milliseconds: u64) -> Vaquita {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let wait = self.0 % milliseconds;
        println!("killed after {wait} ms");
        thread::sleep(Duration::from_millis(wait));
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
