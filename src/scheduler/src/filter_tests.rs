use std::collections::BTreeMap as Map;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::tests::{cluster, info, key, needs, node, node_in, pod},
    profile::Profile,
};

fn default_profile() -> Profile {
    Profile::named(crate::DEFAULT_NAME)
}

/// The names of the nodes that can take the pod.
fn fitting(cluster: &Cluster, pod: &PodInfo) -> Vec<String> {
    let profile = default_profile();
    let plan = Plan::new(cluster, pod, &profile).unwrap();
    let nodes = cluster.nodes().iter();
    nodes
        .filter(|node| fits(&plan, cluster, **node))
        .map(|node| cluster.node(*node).facts.name.clone())
        .collect()
}

fn message(cluster: &Cluster, pod: &PodInfo) -> String {
    let profile = default_profile();
    let plan = Plan::new(cluster, pod, &profile).unwrap();
    diagnose(&plan, cluster).message
}

fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
    Toleration {
        key: Some(key.to_owned()),
        operator: Some(operator.to_owned()),
        value: Some(value.to_owned()),
        effect: Some(effect.to_owned()),
        ..Toleration::default()
    }
}

#[test]
fn the_message_counts_reasons_over_all_nodes() {
    let mut cluster = cluster(&[node("a", 100, 10), node("b", 100, 10), node("c", 4000, 1)]);
    cluster.place(info("other", needs(10)), "c");
    let large = info("large", needs(500));
    assert_eq!(
        message(&cluster, &large),
        "0/3 nodes are available: 1 Too many pods, 2 Insufficient cpu."
    );
    let profile = default_profile();
    let plan = Plan::new(&cluster, &large, &profile).unwrap();
    let hopeful = diagnose(&plan, &cluster).hopeful;
    assert_eq!(
        hopeful,
        [cluster.node_named("c").unwrap()],
        "no pod's leaving makes a node larger"
    );
}

#[test]
fn cordoned_nodes_take_only_who_tolerates_it() {
    let mut cordoned = node("a", 1000, 10);
    cordoned.spec.as_mut().unwrap().unschedulable = Some(true);
    let cluster = cluster(&[cordoned]);
    assert_eq!(
        message(&cluster, &info("p", needs(1))),
        "0/1 nodes are available: 1 node(s) were unschedulable."
    );
    let mut daemon = needs(1);
    daemon.tolerations = vec![toleration(
        "node.kubernetes.io/unschedulable",
        "Exists",
        "",
        "NoSchedule",
    )];
    assert_eq!(fitting(&cluster, &info("d", daemon)), ["a"]);
}

#[test]
fn taints_keep_out_who_does_not_tolerate_them() {
    let mut tainted = node("a", 1000, 10);
    tainted.spec.as_mut().unwrap().taints = serde_json::from_value(json!([
        {"key": "soft", "effect": "PreferNoSchedule"},
        {"key": "gpu", "value": "yes", "effect": "NoSchedule"},
    ]))
    .unwrap();
    let cluster = cluster(&[tainted]);
    assert_eq!(
        message(&cluster, &info("p", needs(1))),
        "0/1 nodes are available: 1 node(s) had untolerated taint(s)."
    );
    let tolerates = |it: Toleration| {
        let mut needs = needs(1);
        needs.tolerations = vec![it];
        !fitting(&cluster, &info("p", needs)).is_empty()
    };
    assert!(tolerates(toleration("gpu", "Equal", "yes", "NoSchedule")));
    assert!(tolerates(toleration("gpu", "Exists", "", "")));
    assert!(tolerates(toleration("", "Exists", "", "")));
    assert!(!tolerates(toleration("gpu", "Equal", "no", "")));
    assert!(!tolerates(toleration("gpu", "Exists", "", "NoExecute")));
    assert!(!tolerates(toleration("", "", "", "")));
}

#[test]
fn images_go_where_their_kind_runs_as_far_as_it_is_known() {
    let labelled = |name: &str, label: &str| {
        let mut node = node(name, 1000, 10);
        let labels = node.metadata.labels.get_or_insert_default();
        labels.insert(label.to_owned(), "true".to_owned());
        node
    };
    let mut cluster = cluster(&[
        node("linux", 1000, 10),
        labelled("wasm", "vaquita.dev/wasm"),
    ]);
    let of = |image: &str, class: Value| {
        pod(
            "p",
            json!({}),
            json!({"runtimeClassName": class, "containers": [{"name": "c", "image": image}]}),
        )
    };
    let unknown = of("nginx", Value::Null);
    assert_eq!(fitting(&cluster, &unknown), ["linux", "wasm"]);
    assert_eq!(fitting(&cluster, &of("a", json!("wasmtime"))), ["wasm"]);
    let mut wasm = labelled("wasm", "vaquita.dev/wasm");
    wasm.metadata.annotations = Some(Map::from([(
        "vaquita.dev/refused-images".to_owned(),
        r#"{"nginx":"linux"}"#.to_owned(),
    )]));
    cluster.set_node(&wasm);
    assert_eq!(fitting(&cluster, &unknown), ["linux"], "the node has told");
    // A pod of both kinds takes a node for both.
    let mixed = of("nginx", json!("wasmtime"));
    assert!(fitting(&cluster, &mixed).is_empty());
    let mut both = labelled("both", "vaquita.dev/wasm");
    let labels = both.metadata.labels.get_or_insert_default();
    labels.insert("vaquita.dev/containers".to_owned(), "true".to_owned());
    cluster.set_node(&both);
    assert_eq!(fitting(&cluster, &mixed), ["both"]);
    cluster.remove_node("both");
    cluster.remove_node("linux");
    assert_eq!(
        message(&cluster, &unknown),
        "0/1 nodes are available: 1 node(s) didn't run the pod's kind of image."
    );
}

fn affinity(kind: &str, app: &str, key: &str) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}},
    ]}}})
}

fn zones() -> Cluster {
    cluster(&[
        node_in("x", "x1", 9000, 100),
        node_in("x", "x2", 9000, 100),
        node_in("y", "y1", 9000, 100),
        node("nowhere", 9000, 100),
    ])
}

#[test]
fn a_pod_goes_where_those_are_whom_it_must_be_with() {
    let mut cluster = zones();
    let follower = pod(
        "f",
        json!({"app": "web"}),
        affinity("podAffinity", "db", "zone"),
    );
    assert_eq!(
        message(&cluster, &follower),
        "0/4 nodes are available: 4 node(s) didn't match pod affinity rules."
    );
    cluster.place(pod("db", json!({"app": "db"}), json!({})), "x2");
    assert_eq!(fitting(&cluster, &follower), ["x1", "x2"]);
}

#[test]
fn the_first_of_a_group_is_let_in_and_the_others_follow() {
    let mut cluster = zones();
    let member = |name: &str| {
        pod(
            name,
            json!({"app": "web"}),
            affinity("podAffinity", "web", "zone"),
        )
    };
    assert_eq!(fitting(&cluster, &member("a")), ["x1", "x2", "y1"]);
    cluster.place(member("a"), "y1");
    assert_eq!(fitting(&cluster, &member("b")), ["y1"]);
}

#[test]
fn anti_affinity_holds_in_both_directions() {
    let mut cluster = zones();
    let loner = pod(
        "l",
        json!({"app": "l"}),
        affinity("podAntiAffinity", "web", "zone"),
    );
    let web = pod("w", json!({"app": "web"}), json!({}));
    cluster.place(Arc::clone(&web), "x1");
    assert_eq!(fitting(&cluster, &loner), ["nowhere", "y1"]);
    cluster.remove(&web.key);
    cluster.place(loner, "y1");
    assert_eq!(fitting(&cluster, &web), ["nowhere", "x1", "x2"]);
    cluster.remove_node("nowhere");
    cluster.remove_node("x1");
    cluster.remove_node("x2");
    assert_eq!(
        message(&cluster, &web),
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
    );
}

#[test]
fn terms_are_about_the_namespaces_that_they_name() {
    let mut cluster = zones();
    cluster.place(pod("w", json!({"app": "web"}), json!({})), "x1");
    let with = |scope: Value| {
        let mut spec = affinity("podAntiAffinity", "web", "zone");
        let term = &mut spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            [0];
        term.as_object_mut()
            .unwrap()
            .extend(scope.as_object().unwrap().clone());
        pod("l", json!({}), spec)
    };
    let elsewhere = with(json!({"namespaces": ["other"]}));
    assert_eq!(fitting(&cluster, &elsewhere).len(), 4);
    let labelled = with(json!({"namespaceSelector": {"matchLabels": {"team": "a"}}}));
    assert_eq!(fitting(&cluster, &labelled).len(), 4);
    let team = Map::from([("team".to_owned(), "a".to_owned())]);
    cluster.census.set_namespace("default".to_owned(), team);
    assert_eq!(fitting(&cluster, &labelled), ["nowhere", "y1"]);
}

#[expect(clippy::needless_pass_by_value, reason = "callers make it in place")]
fn spreading(name: &str, constraint: Value) -> Arc<PodInfo> {
    let mut all = json!({
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    });
    all.as_object_mut()
        .unwrap()
        .extend(constraint.as_object().unwrap().clone());
    pod(
        name,
        json!({"app": "web"}),
        json!({"topologySpreadConstraints": [all]}),
    )
}

#[test]
fn pods_spread_over_domains() {
    let mut cluster = zones();
    let web = |name: &str| spreading(name, json!({}));
    assert_eq!(fitting(&cluster, &web("a")), ["x1", "x2", "y1"]);
    cluster.place(web("a"), "x1");
    assert_eq!(fitting(&cluster, &web("b")), ["y1"]);
    assert_eq!(
        message(&cluster, &web("b")),
        "0/4 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label), \
         2 node(s) didn't match pod topology spread constraints."
    );
    cluster.place(web("b"), "y1");
    assert_eq!(fitting(&cluster, &web("c")), ["x1", "x2", "y1"]);
}

#[test]
fn too_few_domains_count_as_empty_ones() {
    let mut cluster = zones();
    let web = |name: &str| spreading(name, json!({"minDomains": 3}));
    cluster.place(web("a"), "x1");
    cluster.place(web("b"), "y1");
    assert!(fitting(&cluster, &web("c")).is_empty());
    cluster.set_node(&node_in("z", "z1", 1000, 10));
    assert_eq!(fitting(&cluster, &web("c")), ["z1"]);
}

#[test]
fn nodes_that_the_pod_cannot_go_to_do_not_count_if_so_wished() {
    let mut cluster = zones();
    let mut tainted = node_in("z", "z1", 1000, 10);
    tainted.spec.as_mut().unwrap().taints =
        serde_json::from_value(json!([{"key": "k", "effect": "NoSchedule"}])).unwrap();
    cluster.set_node(&tainted);
    let blind = |name: &str| spreading(name, json!({}));
    cluster.place(blind("a"), "x1");
    cluster.place(blind("b"), "y1");
    assert!(
        fitting(&cluster, &blind("c")).is_empty(),
        "z is empty, and closed"
    );
    let seeing = spreading("c", json!({"nodeTaintsPolicy": "Honor"}));
    assert_eq!(fitting(&cluster, &seeing), ["x1", "x2", "y1"]);
}

#[test]
fn revisions_spread_apart_by_match_label_keys() {
    let mut cluster = zones();
    let web = |name: &str, hash: &str| {
        let constraint = json!({
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}, "matchLabelKeys": ["hash"],
        });
        pod(
            name,
            json!({"app": "web", "hash": hash}),
            json!({"topologySpreadConstraints": [constraint]}),
        )
    };
    cluster.place(web("a", "1"), "x1");
    assert_eq!(fitting(&cluster, &web("b", "1")), ["y1"]);
    assert_eq!(fitting(&cluster, &web("b", "2")), ["x1", "x2", "y1"]);
}

#[test]
fn room_that_is_being_made_is_kept_from_the_less_important() {
    let mut cluster = cluster(&[node("a", 1000, 10)]);
    let with = |name: &str, priority| {
        let mut needs = needs(600);
        needs.priority = priority;
        info(name, needs)
    };
    cluster.nominate(with("important", 10), "a");
    assert!(fitting(&cluster, &with("lesser", 5)).is_empty());
    assert_eq!(
        message(&cluster, &with("lesser", 5)),
        "0/1 nodes are available: 1 Insufficient cpu."
    );
    assert_eq!(fitting(&cluster, &with("more", 20)), ["a"]);
    assert_eq!(fitting(&cluster, &with("important", 10)), ["a"], "itself");
}

#[test]
fn profiles_leave_plugins_out() {
    let cluster = cluster(&[node("a", 100, 10)]);
    let mut profile = default_profile();
    profile.filters.remove(Plugin::NodeResourcesFit);
    let large = info("p", needs(5000));
    let plan = Plan::new(&cluster, &large, &profile).unwrap();
    assert!(fits(&plan, &cluster, cluster.nodes()[0]));
}

proptest! {
    /// A node takes pods as long as they fit, and only then; and what goes makes room again.
    #[test]
    fn a_node_is_filled_but_never_overfilled(
        cpu in 0..2000u32,
        pods in 0..6u32,
        wanted in prop::collection::vec(0..900u32, 0..10),
    ) {
        let mut cluster = cluster(&[node("a", cpu, pods)]);
        let mut placed = Vec::new();
        for (number, wants) in wanted.into_iter().enumerate() {
            let name = number.to_string();
            let pod = info(&name, needs(wants));
            let used: u32 = placed.iter().map(|(_, wants)| *wants).sum();
            let room = placed.len() < pods as usize && (wants == 0 || used + wants <= cpu);
            prop_assert_eq!(!fitting(&cluster, &pod).is_empty(), room);
            if room {
                cluster.place(pod, "a");
                placed.push((name, wants));
            }
        }
        for (name, wants) in placed {
            cluster.remove(&key(&name));
            prop_assert!(!fitting(&cluster, &info("again", needs(wants))).is_empty());
        }
    }

    /// Pods placed one by one where they fit never spread more unevenly than they allow.
    #[test]
    fn spreading_pods_keep_within_their_skew(
        skew in 1..4i64,
        zones in prop::collection::vec(0..4u8, 1..8),
        picks in prop::collection::vec(0..16usize, 0..24),
    ) {
        let zone = |at: usize| format!("z{}", zones[at]);
        let nodes: Vec<_> = (0..zones.len())
            .map(|at| node_in(&zone(at), &format!("n{at}"), 100_000, 100))
            .collect();
        let mut cluster = cluster(&nodes);
        let mut counts: Map<String, i64> = zones.iter().map(|it| (format!("z{it}"), 0)).collect();
        for (number, pick) in picks.into_iter().enumerate() {
            let web = spreading(&number.to_string(), json!({"maxSkew": skew}));
            let fitting = fitting(&cluster, &web);
            prop_assert!(!fitting.is_empty(), "the emptiest domain always fits");
            let node = &fitting[pick % fitting.len()];
            cluster.place(web, node);
            let at: usize = node[1..].parse().unwrap();
            *counts.get_mut(&zone(at)).unwrap() += 1;
            let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
            prop_assert!(most - least <= skew, "{counts:?}");
        }
    }

    /// What a plan reckons with a pod more or less is what a new plan finds once it is so.
    #[test]
    fn what_if_is_what_is(
        there in prop::collection::vec((0..4u8, 0..3u8, 0..4u8), 0..8),
        moved in (0..4u8, 0..3u8, 0..4u8),
    ) {
        let node_name = |at: u8| ["x1", "x2", "y1", "nowhere"][usize::from(at)];
        let make = |name: &str, app: u8, kind: u8| {
            let spec = match kind {
                0 => json!({}),
                1 => affinity("podAntiAffinity", "app-0", "zone"),
                2 => affinity("podAffinity", "app-1", "zone"),
                _ => affinity("podAntiAffinity", "app-2", "kubernetes.io/hostname"),
            };
            pod(name, json!({"app": format!("app-{app}")}), spec)
        };
        let mut cluster = zones();
        for (number, (at, app, kind)) in there.iter().enumerate() {
            cluster.place(make(&number.to_string(), *app, *kind), node_name(*at));
        }
        let (at, app, kind) = moved;
        let other = make("moved", app, kind);
        let here = cluster.node_named(node_name(at)).unwrap();
        let mut spec = affinity("podAntiAffinity", "app-0", "zone");
        spec["affinity"]["podAffinity"] = affinity("podAffinity", "app-1", "zone")["affinity"]["podAffinity"].clone();
        spec["topologySpreadConstraints"] = json!([{
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "app-2"}},
        }]);
        let incoming = pod("incoming", json!({"app": "app-2"}), spec);
        let profile = default_profile();
        let verdicts = |plan: &Plan<'_>, cluster: &Cluster| -> Vec<bool> {
            let nodes = cluster.nodes().iter();
            nodes.map(|node| after_resources(plan, cluster, Site::of(cluster, *node)).is_none()).collect()
        };
        let mut plan = Plan::new(&cluster, &incoming, &profile).unwrap();
        let before = verdicts(&plan, &cluster);
        plan.shift(&cluster, &other.needs, here, 1);
        let reckoned = verdicts(&plan, &cluster);
        plan.shift(&cluster, &other.needs, here, -1);
        prop_assert_eq!(verdicts(&plan, &cluster), before);
        cluster.place(Arc::clone(&other), node_name(at));
        let after = Plan::new(&cluster, &incoming, &profile).unwrap();
        prop_assert_eq!(reckoned, verdicts(&after, &cluster));
    }
}
