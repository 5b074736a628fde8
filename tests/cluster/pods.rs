//! From `kubectl apply` to a module's answer: replication controllers, Services, two-module pods, the guestbook.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use crate::harness::{Vaquita, eventually, http_get, http_post, list, manifest, run};

/// A replication controller of `replicas` pods of one HTTP component, and a NodePort Service over them.
pub(crate) fn web(name: &str, replicas: usize) -> String {
    format!(
        "apiVersion: v1
kind: ReplicationController
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{app: {name}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - name: web
        image: localhost/hello:v1
        ports: [{{containerPort: 8080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: NodePort
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: 8080}}]
"
    )
}

/// Waits until a Service's node port is answered by exactly these pods.
pub(crate) fn wait_answered_by(port: u16, pods: &[String]) {
    let expected: BTreeSet<_> = pods.iter().cloned().collect();
    eventually("every pod answers", || {
        let mut answered = BTreeSet::new();
        for _ in 0..3 * pods.len() {
            let (status, body) = http_get(port, "/")?;
            if status != 200 {
                return Err(format!("{status}: {body}"));
            }
            match pods.iter().find(|pod| body.contains(*pod)) {
                Some(pod) => answered.insert(pod.clone()),
                None => return Err(format!("answered by a pod that should not: {body}")),
            };
        }
        (answered == expected)
            .then_some(())
            .ok_or_else(|| format!("{answered:?}"))
    });
}

#[test]
fn a_service_is_answered_by_all_replicas_in_turn() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&web("hello", 3));
    let pods = cluster.wait_ready("app=hello", 3);

    let all = cluster.get(&["pods", "-l", "app=hello"]);
    let ips: BTreeSet<_> = list(&all["items"])
        .iter()
        .map(|pod| pod["status"]["podIP"].as_str().expect("an IP").to_owned())
        .collect();
    assert_eq!(ips.len(), 3, "each pod has an IP of its own");
    for pod in list(&all["items"]) {
        assert_eq!(pod["status"]["phase"], "Running");
        assert_eq!(pod["spec"]["nodeName"], "test-node");
    }

    eventually("Endpoints and EndpointSlice list all pods", || {
        let endpoints = cluster.get(&["endpoints", "hello"]);
        let listed: BTreeSet<_> = list(&endpoints["subsets"][0]["addresses"])
            .iter()
            .filter_map(|address| address["ip"].as_str().map(str::to_owned))
            .collect();
        let all_slices = cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=hello"]);
        let in_slices: BTreeSet<_> = list(&all_slices["items"][0]["endpoints"])
            .iter()
            .filter_map(|endpoint| endpoint["addresses"][0].as_str().map(str::to_owned))
            .collect();
        (listed == ips && in_slices == ips)
            .then_some(())
            .ok_or_else(|| format!("{endpoints}\n{all_slices}"))
    });

    let port = cluster.node_port("hello");
    wait_answered_by(port, &pods);
    // In turn: any three requests one after another are three pods.
    let three: BTreeSet<_> = (0..3)
        .map(|_| http_get(port, "/").expect("an answer").1)
        .collect();
    assert_eq!(three.len(), 3, "{three:?}");

    let wide = cluster.kubectl(&["get", "pods", "-o", "wide"]);
    assert!(
        wide.contains("NOMINATED NODE") && wide.contains("1/1"),
        "{wide}"
    );
}

#[test]
fn scaling_deleting_and_cascading() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&web("hello", 2));
    let first = cluster.wait_ready("app=hello", 2);

    cluster.kubectl(&["scale", "rc", "hello", "--replicas=5"]);
    let five = cluster.wait_ready("app=hello", 5);
    assert!(
        first.iter().all(|pod| five.contains(pod)),
        "scaling up keeps what runs"
    );
    cluster.kubectl(&["scale", "rc", "hello", "--replicas=2"]);
    let two = cluster.wait_ready("app=hello", 2);
    eventually("the others are gone", || {
        let all = list(&cluster.get(&["pods", "-l", "app=hello"])["items"]).len();
        (all == 2).then_some(()).ok_or_else(|| all.to_string())
    });

    cluster.kubectl(&["delete", "pod", &two[0]]);
    let replaced = cluster.wait_ready("app=hello", 2);
    assert!(!replaced.contains(&two[0]) && replaced.contains(&two[1]));
    wait_answered_by(cluster.node_port("hello"), &replaced);

    cluster.kubectl(&["delete", "rc", "hello", "--cascade=orphan"]);
    let orphans = cluster.wait_ready("app=hello", 2);
    assert_eq!(orphans, replaced, "orphans go on");
    for pod in list(&cluster.get(&["pods", "-l", "app=hello"])["items"]) {
        assert!(
            list(&pod["metadata"]["ownerReferences"]).is_empty(),
            "{pod}"
        );
    }

    // A new controller adopts them; deleting it in the ordinary way takes them along.
    cluster.apply(&web("hello", 2));
    eventually("the orphans are adopted", || {
        let pods = cluster.get(&["pods", "-l", "app=hello"]);
        let adopted = list(&pods["items"])
            .iter()
            .filter(|pod| pod["metadata"]["ownerReferences"][0]["name"] == "hello")
            .count();
        (adopted == 2 && list(&pods["items"]).len() == 2)
            .then_some(())
            .ok_or_else(|| pods.to_string())
    });
    cluster.kubectl(&["delete", "rc", "hello"]);
    eventually("no pod is left", || {
        let pods = cluster.kubectl(&["get", "pods", "--no-headers", "--ignore-not-found"]);
        pods.trim().is_empty().then_some(()).ok_or(pods)
    });
}

#[test]
fn a_pods_modules_share_a_loopback_that_is_nobody_elses() {
    let cluster = Vaquita::up_with(&[
        "--ingress-listen",
        "none",
        "--ingress-tls-listen",
        "none",
        "--dns-listen",
        "none",
    ]);
    cluster.load_guest("relay", "localhost/relay:v1");
    cluster.load_guest("greeter", "localhost/greeter:v1");
    cluster.apply(&manifest("sidecar/sidecar.yaml"));
    let pods = cluster.wait_ready("app=sidecar", 2);
    assert!(pods.len() == 2, "two pods on one node use the same port");
    wait_answered_by(cluster.node_port("sidecar"), &pods);

    let listeners = run(Command::new("ss").args(["-ltnpH"])).stdout;
    let ours: Vec<_> = listeners
        .lines()
        .filter(|line| line.contains(&format!("pid={},", cluster.pid())))
        .collect();
    let ports = [
        cluster.url.rsplit(':').next().expect("a port").to_owned(),
        cluster.node_port("sidecar").to_string(),
    ];
    for line in &ours {
        assert!(
            ports.iter().any(|port| line.contains(&format!(":{port} "))),
            "an unexpected listener: {line}"
        );
    }
    assert_eq!(ours.len(), 2, "the API and the node port: {ours:?}");
}

#[test]
fn the_guestbook_keeps_what_is_written() {
    let mut cluster = Vaquita::up_with(&["--demo"]);
    let url = cluster.printed_line("The guestbook is at ");
    let port = url
        .trim_end_matches('/')
        .rsplit(':')
        .next()
        .expect("a port")
        .parse()
        .expect("a port");
    let (status, _) = http_post(port, "/", "entry=written+by+a+test").expect("an answer");
    assert!((200..400).contains(&status), "{status}");
    let (status, page) = http_get(port, "/").expect("an answer");
    assert_eq!(status, 200);
    assert!(page.contains("written by a test"), "{page}");
    assert!(cluster.stop().success());
}

#[test]
fn logs_are_read_whole_by_tail_and_as_they_come() {
    let cluster = Vaquita::up();
    cluster.load_guest("chatty", "localhost/chatty:v1");
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: chatty}\nspec: {containers: [{name: c, image: 'localhost/chatty:v1', args: ['5']}]}\n",
    );
    let log = eventually("five lines", || {
        let log = cluster.try_kubectl(&["logs", "chatty"]).stdout;
        (log.lines().count() >= 5).then(|| log.clone()).ok_or(log)
    });
    let tail = cluster.kubectl(&["logs", "chatty", "--tail=2"]);
    assert_eq!(
        tail.lines().collect::<Vec<_>>(),
        log.lines().collect::<Vec<_>>()[3..]
    );
    let stamped = cluster.kubectl(&["logs", "chatty", "--timestamps"]);
    assert!(
        stamped
            .lines()
            .all(|line| line.starts_with("20") && line.contains('T')),
        "{stamped}"
    );

    let mut follow = cluster.kubectl_command();
    let mut follow = follow
        .args(["logs", "-f", "chatty"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let followed: Vec<_> = BufReader::new(follow.stdout.take().expect("a pipe"))
        .lines()
        .take(5)
        .map(|line| line.expect("text"))
        .collect();
    let _ = follow.kill();
    let _ = follow.wait();
    assert_eq!(followed, log.lines().take(5).collect::<Vec<_>>());
}
