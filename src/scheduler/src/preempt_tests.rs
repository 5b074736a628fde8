use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    cluster::tests::{cluster, key, needs, node, pod},
    pod::Stage,
    profile::Profile,
};

fn with(name: &str, priority: i32, cpu: u32) -> Arc<PodInfo> {
    started(name, priority, cpu, 0)
}

fn started(name: &str, priority: i32, cpu: u32, second: i64) -> Arc<PodInfo> {
    let mut needs = needs(cpu);
    needs.priority = priority;
    Arc::new(PodInfo {
        key: key(name),
        stage: Stage::Waiting,
        needs: Arc::new(needs),
        started: Timestamp::from_second(second).ok(),
        nominated: None,
    })
}

fn search_for(cluster: &Cluster, pod: &PodInfo) -> Search {
    let profile = Profile::named(crate::DEFAULT_NAME);
    let plan = Plan::new(cluster, pod, &profile).unwrap();
    let diagnosis = filter::diagnose(&plan, cluster);
    search(&plan, cluster, pod, &diagnosis, 0)
}

/// The node and the victims.
fn found(cluster: &Cluster, pod: &PodInfo) -> (String, Vec<String>) {
    match search_for(cluster, pod) {
        Search::Found(room) => (
            cluster.node(room.node).facts.name.clone(),
            room.victims.iter().map(|it| it.key.name.clone()).collect(),
        ),
        other => panic!("{other:?}"),
    }
}

fn nothing(cluster: &Cluster, pod: &PodInfo) -> String {
    match search_for(cluster, pod) {
        Search::Nothing(why) | Search::BeingMade(why) => why,
        Search::Found(room) => panic!("{room:?}"),
    }
}

#[test]
fn no_more_pods_go_than_must_and_the_least_important_first() {
    let mut cluster = cluster(&[node("a", 1000, 10)]);
    cluster.place(with("low", 1, 300), "a");
    cluster.place(with("lower", 0, 300), "a");
    cluster.place(with("equal", 10, 300), "a");
    let (_, victims) = found(&cluster, &with("p", 10, 300));
    assert_eq!(victims, ["lower"]);
    let (_, victims) = found(&cluster, &with("p", 10, 600));
    assert_eq!(victims, ["low", "lower"]);
    assert_eq!(
        nothing(&cluster, &with("p", 10, 900)),
        "0/1 nodes are available: 1 Insufficient cpu."
    );
    assert_eq!(
        nothing(&cluster, &with("p", 0, 900)),
        "0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    assert_eq!(
        nothing(&cluster, &with("p", 10, 5000)),
        "0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
}

#[test]
fn the_node_is_chosen_where_it_costs_least() {
    let full = |name: &str| node(name, 1000, 10);
    let mut cluster = cluster(&[full("a"), full("b"), full("c"), full("d")]);
    cluster.place(with("a1", 5, 1000), "a");
    cluster.place(with("b1", 3, 500), "b");
    cluster.place(with("b2", 3, 500), "b");
    cluster.place(started("c1", 3, 1000, 100), "c");
    cluster.place(started("d1", 3, 1000, 200), "d");
    let (node, victims) = found(&cluster, &with("p", 10, 1000));
    assert_eq!(
        (node.as_str(), victims),
        ("d", vec!["d1".to_owned()]),
        "the youngest"
    );
}

#[test]
fn budgets_are_respected_where_there_is_a_choice() {
    let mut cluster = cluster(&[node("a", 1000, 10), node("b", 1000, 10)]);
    let labelled = |name: &str, app: &str, priority: i32| {
        let spec = json!({"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": "1"}}},
        ]});
        pod(name, json!({"app": app}), spec)
    };
    cluster.place(labelled("guarded", "db", 1), "a");
    cluster.place(labelled("free", "web", 5), "b");
    let budget = |allowed: i32| {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "db"}}},
            "status": {
                "disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1,
            },
        }))
        .unwrap()
    };
    cluster.budgets.set(&budget(0));
    assert_eq!(found(&cluster, &with("p", 10, 1000)).0, "b");
    cluster.budgets.set(&budget(1));
    assert_eq!(found(&cluster, &with("p", 10, 1000)).0, "a");
    cluster.budgets.set(&budget(0));
    cluster.remove_node("b");
    assert_eq!(
        found(&cluster, &with("p", 10, 1000)).0,
        "a",
        "without a choice, it is overdrawn"
    );
}

#[test]
fn a_pod_that_is_kept_away_by_another_may_send_it_away() {
    let mut cluster = cluster(&[node("a", 9000, 10)]);
    let apart = json!({"priority": 10, "affinity": {"podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "w"}}},
        ],
    }}});
    cluster.place(pod("w", json!({"app": "w"}), json!({})), "a");
    cluster.place(pod("v", json!({"app": "v"}), json!({})), "a");
    assert_eq!(found(&cluster, &pod("p", json!({}), apart)).1, ["w"]);
}

#[test]
fn some_pods_wait_rather_than_to_take() {
    let mut cluster = cluster(&[node("a", 1000, 10)]);
    cluster.place(with("low", 1, 1000), "a");
    let mut patient = PodInfo::clone(&with("p", 10, 500));
    Arc::make_mut(&mut patient.needs).never_preempts = true;
    assert_eq!(
        nothing(&cluster, &patient),
        "not eligible due to preemptionPolicy=Never."
    );
}

#[test]
fn nobody_else_goes_while_somebody_is_going() {
    let mut cluster = cluster(&[node("a", 1000, 10)]);
    let mut going = PodInfo::clone(&with("going", 1, 500));
    let needs = Arc::make_mut(&mut going.needs);
    Arc::make_mut(&mut needs.identity).terminating = true;
    cluster.place(Arc::new(going), "a");
    cluster.place(with("low", 1, 500), "a");
    let waiting = with("p", 10, 500);
    cluster.nominate(Arc::clone(&waiting), "a");
    assert_eq!(
        nothing(&cluster, &waiting),
        "not eligible due to terminating pod on the nominated node."
    );
}

proptest! {
    /// Victims are always less important, their leaving lets the pod in, and no single one of them could stay.
    #[test]
    fn victims_are_few_and_enough(
        pods in prop::collection::vec((0..12i32, 1..400u32, 0..3usize), 0..20),
        priority in 0..14i32,
        cpu in 1..1000u32,
    ) {
        let names = ["a", "b", "c"];
        let all: Vec<_> = names.iter().map(|name| node(name, 1000, 6)).collect();
        let mut cluster = cluster(&all);
        for (number, (priority, cpu, at)) in pods.into_iter().enumerate() {
            cluster.place(with(&number.to_string(), priority, cpu), names[at]);
        }
        let incoming = with("incoming", priority, cpu);
        let profile = Profile::named(crate::DEFAULT_NAME);
        let fits_somewhere = |cluster: &Cluster, node: NodeIx| {
            filter::fits(&Plan::new(cluster, &incoming, &profile).unwrap(), cluster, node)
        };
        if cluster.nodes().iter().any(|node| fits_somewhere(&cluster, *node)) {
            return Ok(());
        }
        let possible = cluster.nodes().iter().any(|node| {
            let kept = cluster.pods_of(*node).filter(|pod| pod.needs.priority >= priority);
            let kept: Vec<_> = kept.map(|pod| pod.needs.requested.cpu).collect();
            kept.len() < 6 && kept.iter().sum::<i64>() + i64::from(cpu) <= 1000
        });
        match search_for(&cluster, &incoming) {
            Search::Found(room) => {
                prop_assert!(possible);
                let node = cluster.node(room.node).facts.name.clone();
                for victim in &room.victims {
                    prop_assert!(victim.needs.priority < priority);
                    cluster.remove(&victim.key);
                }
                prop_assert!(fits_somewhere(&cluster, room.node));
                for victim in &room.victims {
                    cluster.place(Arc::clone(victim), &node);
                    prop_assert!(!fits_somewhere(&cluster, room.node), "{} could stay", victim.key.name);
                    cluster.remove(&victim.key);
                }
            }
            _ => prop_assert!(!possible),
        }
    }
}
