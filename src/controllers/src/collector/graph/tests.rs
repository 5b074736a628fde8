use std::collections::BTreeMap;

use kube::discovery::ApiResource;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;
use vaquita_reconcile::served::Served;

fn served(kind: &str, namespaced: bool) -> Arc<Served> {
    let api = ApiResource {
        group: String::new(),
        version: "v1".to_owned(),
        api_version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: format!("{}s", kind.to_lowercase()),
    };
    Arc::new(Served::for_tests(api, namespaced))
}

/// The Thing named `name` in the namespace `shop`, whose uid is its name.
pub(crate) fn object(name: &str) -> Object {
    Object {
        uid: Uid::from(name),
        resource: served("Thing", true),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        version: "1".to_owned(),
        owners: Vec::new(),
        deleting: false,
        cascade: None,
    }
}

fn reference(owner: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Thing".to_owned(),
        name: owner.to_owned(),
        uid: owner.to_owned(),
        controller: None,
        block_owner_deletion: Some(true),
    }
}

/// [`object`] with owners, whose deletion it blocks.
pub(crate) fn owned(name: &str, owners: &[&str]) -> Object {
    Object {
        owners: owners.iter().map(|owner| reference(owner)).collect(),
        ..object(name)
    }
}

fn deleted(object: Object, cascade: Cascade) -> Object {
    Object {
        deleting: true,
        cascade: Some(cascade),
        ..object
    }
}

fn sorted(looks: Looks) -> Vec<String> {
    let mut looks: Vec<_> = looks.into_iter().map(|uid| uid.to_string()).collect();
    looks.sort();
    looks.dedup();
    looks
}

fn knowledge(graph: &Graph, owner: &str) -> Knowledge {
    graph.knowledge(&reference(owner), "shop")
}

#[test]
fn when_an_owner_goes_its_dependents_get_a_look() {
    let mut graph = Graph::default();
    assert!(graph.observe(object("rc")).is_empty());
    assert!(graph.observe(owned("a", &["rc"])).is_empty());
    assert!(graph.observe(owned("b", &["rc"])).is_empty());
    assert_eq!(knowledge(&graph, "rc"), Knowledge::Present);
    assert_eq!(sorted(graph.gone(&Uid::from("rc"))), ["a", "b"]);
    assert_eq!(knowledge(&graph, "rc"), Knowledge::Departed);
    assert!(matches!(
        graph.task(&Uid::from("a")),
        Some(Task::Examine(_))
    ));
    graph.gone(&Uid::from("a"));
    graph.gone(&Uid::from("b"));
    assert!(graph.nodes.is_empty(), "nothing is left of them");
}

#[test]
fn an_owner_that_nobody_has_seen_is_asked_for_until_it_shows() {
    let mut graph = Graph::default();
    assert_eq!(sorted(graph.observe(owned("a", &["rc"]))), ["a"]);
    assert_eq!(knowledge(&graph, "rc"), Knowledge::Unknown);
    assert!(graph.observe(object("rc")).is_empty());
    assert_eq!(knowledge(&graph, "rc"), Knowledge::Present);
    assert_eq!(sorted(graph.gone(&Uid::from("rc"))), ["a"]);
}

#[test]
fn a_change_of_anything_but_owners_and_deletion_costs_no_look() {
    let mut graph = Graph::default();
    graph.observe(object("rc"));
    graph.observe(owned("a", &["rc"]));
    let newer = Object {
        version: "2".to_owned(),
        ..owned("a", &["rc"])
    };
    assert!(graph.observe(newer).is_empty());
}

#[test]
fn foreground_deletion_waits_for_the_dependents_that_block_it() {
    let mut graph = Graph::default();
    graph.observe(object("rc"));
    graph.observe(owned("a", &["rc"]));
    let mut free = owned("b", &["rc"]);
    free.owners[0].block_owner_deletion = None;
    graph.observe(free);
    let going = deleted(object("rc"), Cascade::Foreground);
    assert_eq!(sorted(graph.observe(going)), ["a", "b", "rc"]);
    assert_eq!(knowledge(&graph, "rc"), Knowledge::DeletesDependents);
    let blocking = |graph: &Graph| match graph.task(&Uid::from("rc")) {
        Some(Task::DeleteDependents { blocking, .. }) => blocking,
        other => panic!("{other:?}"),
    };
    assert_eq!(sorted(blocking(&graph)), ["a"]);
    assert_eq!(sorted(graph.gone(&Uid::from("a"))), ["rc"]);
    assert!(blocking(&graph).is_empty());
    // Whoever comes late gets a look at once.
    assert_eq!(sorted(graph.observe(owned("c", &["rc"]))), ["c"]);
    // And who lets go of its owner no longer holds it back.
    assert_eq!(sorted(graph.observe(object("c"))), ["rc"]);
    assert!(blocking(&graph).is_empty());
}

#[test]
fn orphaning_is_told_once_with_all_dependents() {
    let mut graph = Graph::default();
    graph.observe(owned("a", &["rc"]));
    let going = deleted(object("rc"), Cascade::Orphan);
    assert_eq!(sorted(graph.observe(going.clone())), ["rc"]);
    assert!(graph.observe(going).is_empty());
    let Some(Task::Orphan { dependents, .. }) = graph.task(&Uid::from("rc")) else {
        panic!("its dependents are to be orphaned");
    };
    assert_eq!(dependents.len(), 1);
}

#[test]
fn a_reference_must_be_right_in_everything_not_in_the_uid_alone() {
    let mut graph = Graph::default();
    graph.observe(object("rc"));
    let elsewhere = Object {
        namespace: "office".to_owned(),
        ..owned("a", &["rc"])
    };
    assert_eq!(sorted(graph.observe(elsewhere)), ["a"]);
    assert_eq!(
        graph.knowledge(&reference("rc"), "office"),
        Knowledge::Unknown
    );
    let mut misnamed = owned("b", &["rc"]);
    misnamed.owners[0].kind = "Other".to_owned();
    assert_eq!(sorted(graph.observe(misnamed)), ["b"]);
    assert!(
        graph.gone(&Uid::from("rc")).is_empty(),
        "it was neither's owner"
    );
    assert_eq!(
        graph.knowledge(&reference("rc"), "office"),
        Knowledge::Unknown
    );
    assert_eq!(knowledge(&graph, "rc"), Knowledge::Departed);
}

#[test]
fn a_claim_on_an_unseen_owner_is_settled_when_the_owner_shows() {
    let mut graph = Graph::default();
    graph.observe(owned("a", &["rc"]));
    let elsewhere = Object {
        namespace: "office".to_owned(),
        ..owned("b", &["rc"])
    };
    graph.observe(elsewhere);
    assert_eq!(sorted(graph.observe(object("rc"))), ["b"]);
    assert_eq!(sorted(graph.gone(&Uid::from("rc"))), ["a"]);
}

#[test]
fn a_cluster_scoped_object_may_own_in_any_namespace() {
    let mut graph = Graph::default();
    let node = Object {
        resource: served("Thing", false),
        namespace: String::new(),
        ..object("node")
    };
    graph.observe(node);
    assert!(graph.observe(owned("a", &["node"])).is_empty());
    assert_eq!(sorted(graph.gone(&Uid::from("node"))), ["a"]);
}

#[test]
fn a_resource_that_is_served_no_longer_is_forgotten_not_mourned() {
    let mut graph = Graph::default();
    graph.observe(Object {
        resource: served("Custom", true),
        ..object("c")
    });
    let mut dependent = owned("a", &["c"]);
    dependent.owners[0].kind = "Custom".to_owned();
    let owner = dependent.owners[0].clone();
    graph.observe(dependent);
    assert!(
        graph
            .forget(&ResourceKey::of(&served("Custom", true)))
            .is_empty()
    );
    assert_eq!(graph.knowledge(&owner, "shop"), Knowledge::Unknown);
    assert!(graph.has_dependents(&Uid::from("c")));
}

#[test]
fn those_who_wait_for_each_other_are_told_apart() {
    let mut graph = Graph::default();
    graph.observe(owned("a", &["b"]));
    graph.observe(owned("b", &["a"]));
    assert!(!graph.may_be_in_a_circle(&Uid::from("b")));
    let looks = graph.observe(deleted(owned("a", &["b"]), Cascade::Foreground));
    assert_eq!(sorted(looks), ["a", "b"]);
    assert!(graph.may_be_in_a_circle(&Uid::from("b")));
}

#[test]
fn memory_of_the_departed_is_bounded() {
    let mut graph = Graph::default();
    for n in 0..10_000 {
        let name = n.to_string();
        graph.observe(object(&name));
        graph.gone(&Uid::from(&*name));
    }
    assert_eq!(graph.departed.len(), 4096);
    assert!(graph.nodes.is_empty());
}

/// What must hold after any events: who is meant has a link, who is there and not meant has none, and nothing is kept
/// for nobody.
fn check(graph: &Graph, objects: &BTreeMap<String, Object>) {
    for object in objects.values() {
        for owner in object
            .owners
            .iter()
            .filter(|owner| owner.uid != object.name)
        {
            let linked = graph
                .dependents(&Uid::from(&*owner.uid))
                .any(|dependent| **dependent == *object.name);
            match objects.get(&owner.uid) {
                Some(known) => assert_eq!(linked, known.is_meant_by(owner, "shop")),
                // A wrong claim on an owner that isn't there may have been refuted earlier.
                None => assert!(linked || owner.kind == "Other"),
            }
        }
    }
    for (uid, node) in &graph.nodes {
        assert_eq!(node.object.is_some(), objects.contains_key(&**uid), "{uid}");
        assert!(
            node.object.is_some() || !node.dependents.is_empty(),
            "{uid}"
        );
        for dependent in &node.dependents {
            let dependent = &objects[&**dependent];
            assert!(dependent.owners.iter().any(|owner| owner.uid == **uid));
        }
    }
}

#[test]
fn links_follow_references_through_any_history() {
    let names = ["a", "b", "c", "d", "e", "f"];
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut graph = Graph::default();
        let mut objects = BTreeMap::new();
        for _ in 0..100 {
            let name = names[random.random_range(0..names.len())];
            if random.random_ratio(1, 4) {
                graph.gone(&Uid::from(name));
                objects.remove(name);
            } else {
                let mut owners: Vec<&str> = names.to_vec();
                owners.retain(|_| random.random_ratio(1, 3));
                let mut object = owned(name, &owners);
                for owner in &mut object.owners {
                    if random.random_ratio(1, 5) {
                        owner.kind = "Other".to_owned();
                    }
                }
                object.deleting = random.random_ratio(1, 3);
                object.cascade = random.random_ratio(1, 2).then_some(Cascade::Foreground);
                graph.observe(object.clone());
                objects.insert(name.to_owned(), object);
            }
            check(&graph, &objects);
        }
    }
}
