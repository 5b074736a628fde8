//! Which claims are met, by which devices, and what keeps the others waiting.

use serde_json::{Value, json};

use super::*;
use crate::{cluster::tests::key, pod::DeviceClaimName};

const DRIVER: &str = "gpu.example.com";

fn node(name: &str) -> Facts {
    let labels = [("rack".to_owned(), format!("rack-of-{name}"))];
    Facts {
        name: name.to_owned(),
        labels: labels.into_iter().collect(),
        ..Facts::default()
    }
}

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn gpu(name: &str, memory: &str, board: i64) -> Value {
    json!({
        "name": name, "attributes": {"board": {"int": board}},
        "capacity": {"memory": {"value": memory}},
    })
}

/// A slice that is all of its pool, which has the node's name.
#[expect(clippy::needless_pass_by_value, reason = "callers make it in place")]
fn slice(node: &str, devices: Value) -> ResourceSlice {
    of(json!({
        "metadata": {"name": format!("{node}-gpus")},
        "spec": {
            "driver": DRIVER, "nodeName": node, "devices": devices,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
        },
    }))
}

/// Two nodes: one has two small devices on boards 0 and 1, the other a small one and a large one on board 0.
fn two_nodes() -> Devices {
    let mut devices = Devices::default();
    let small = json!([gpu("a0", "8Gi", 0), gpu("a1", "8Gi", 1)]);
    devices.set_slice(&slice("a", small));
    let mixed = json!([gpu("b0", "8Gi", 0), gpu("b1", "40Gi", 0)]);
    devices.set_slice(&slice("b", mixed));
    let selector = json!({"cel": {"expression": format!("device.driver == '{DRIVER}'")}});
    let class = json!({"metadata": {"name": "gpu"}, "spec": {"selectors": [selector]}});
    devices.set_class(&of(class));
    devices
}

fn request(name: &str, more: Value) -> Value {
    let mut exactly = json!({"deviceClassName": "gpu"});
    if let (Value::Object(exactly), Value::Object(more)) = (&mut exactly, more) {
        exactly.extend(more);
    }
    json!({"name": name, "exactly": exactly})
}

fn large() -> Value {
    let expression = format!("device.capacity['{DRIVER}'].memory.compareTo(quantity('10Gi')) > 0");
    json!({"selectors": [{"cel": {"expression": expression}}]})
}

#[expect(clippy::needless_pass_by_value, reason = "callers make it in place")]
fn claim(devices: &mut Devices, name: &str, requests: Value, constraints: Value) -> ResourceClaim {
    let claim: ResourceClaim = of(json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"devices": {"requests": requests, "constraints": constraints}},
    }));
    devices.set_claim(&claim);
    claim
}

fn needs(claims: &[&str]) -> Needs {
    let given = |name: &&str| DeviceClaimName::Given((*name).to_owned());
    Needs {
        device_claims: claims.iter().map(given).collect(),
        ..Needs::default()
    }
}

fn wanted(devices: &Devices, claims: &[&str]) -> Result<Wanted, String> {
    devices.wanted(&key("p"), &needs(claims))
}

/// The devices that the claims get on a node, or why they get none.
fn given(devices: &Devices, claims: &[&str], on: &str) -> Result<Vec<String>, String> {
    let (wanted, node) = (wanted(devices, claims)?, node(on));
    if let Some(refusal) = devices.refusal(&wanted, &node) {
        return Err(refusal.to_string());
    }
    let grants = devices.grants(&wanted, &node).unwrap();
    let allocations = grants.into_iter().filter_map(|grant| grant.allocation);
    let devices = allocations.flat_map(|allocation| devices_of(&allocation));
    Ok(devices.map(|device| device.name.to_string()).collect())
}

const NONE: &str = "cannot allocate all claims";

#[test]
fn a_claim_gets_devices_that_suit() {
    let mut devices = two_nodes();
    claim(
        &mut devices,
        "any",
        json!([request("r", json!({}))]),
        json!([]),
    );
    claim(
        &mut devices,
        "large",
        json!([request("r", large())]),
        json!([]),
    );
    assert_eq!(given(&devices, &["any"], "a").unwrap(), ["a0"]);
    assert_eq!(given(&devices, &["large"], "a").unwrap_err(), NONE);
    assert_eq!(given(&devices, &["large"], "b").unwrap(), ["b1"]);
    assert_eq!(
        given(&devices, &["any", "large"], "b").unwrap(),
        ["b0", "b1"]
    );
    assert_eq!(
        given(&devices, &["large", "any"], "b").unwrap(),
        ["b1", "b0"]
    );
    assert_eq!(given(&devices, &["any"], "elsewhere").unwrap_err(), NONE);
}

#[test]
fn a_choice_that_leaves_nothing_for_others_is_taken_back() {
    let mut devices = Devices::default();
    // The first that suits anybody is the only one that suits the choosy.
    let both = json!([gpu("big", "40Gi", 0), gpu("small", "8Gi", 0)]);
    devices.set_slice(&slice("a", both));
    devices.set_class(&of(json!({"metadata": {"name": "gpu"}, "spec": {}})));
    let requests = json!([request("any", json!({})), request("choosy", large())]);
    claim(&mut devices, "c", requests, json!([]));
    assert_eq!(given(&devices, &["c"], "a").unwrap(), ["small", "big"]);
}

#[test]
fn counts_and_all_of_a_node() {
    let mut devices = two_nodes();
    let claims = [
        ("two", json!({"count": 2})),
        ("three", json!({"count": 3})),
        ("all", json!({"allocationMode": "All"})),
    ];
    for (name, amount) in claims {
        claim(&mut devices, name, json!([request("r", amount)]), json!([]));
    }
    assert_eq!(given(&devices, &["two"], "a").unwrap(), ["a0", "a1"]);
    assert_eq!(given(&devices, &["three"], "a").unwrap_err(), NONE);
    assert_eq!(given(&devices, &["all"], "b").unwrap(), ["b0", "b1"]);
    assert_eq!(given(&devices, &["all", "two"], "b").unwrap_err(), NONE);
    // A slice of the next generation: not all of the pool is known.
    let mut next = slice("b", json!([gpu("b0", "8Gi", 0)]));
    next.metadata.name = Some("next".to_owned());
    next.spec.pool.generation = 2;
    next.spec.pool.resource_slice_count = 2;
    devices.set_slice(&next);
    assert_eq!(given(&devices, &["all"], "b").unwrap_err(), NONE);
    assert_eq!(given(&devices, &["two"], "b").unwrap_err(), NONE);
    devices.remove_slice(&next);
    assert_eq!(given(&devices, &["all"], "b").unwrap(), ["b0", "b1"]);
}

#[test]
fn devices_of_a_claim_may_have_to_be_alike() {
    let mut devices = two_nodes();
    let board = json!([{"matchAttribute": format!("{DRIVER}/board")}]);
    let two = || json!([request("r", json!({"count": 2}))]);
    claim(&mut devices, "pair", two(), board);
    assert_eq!(given(&devices, &["pair"], "a").unwrap_err(), NONE);
    assert_eq!(given(&devices, &["pair"], "b").unwrap(), ["b0", "b1"]);
    let unknown = json!([{"matchAttribute": format!("{DRIVER}/colour")}]);
    claim(&mut devices, "coloured", two(), unknown);
    assert_eq!(given(&devices, &["coloured"], "b").unwrap_err(), NONE);
}

#[test]
fn alternatives_are_taken_in_their_order() {
    let mut devices = two_nodes();
    let sub = |name: &str, more: Value| {
        let mut sub = request(name, more)["exactly"].take();
        sub["name"] = name.into();
        sub
    };
    let large_or_two = json!([sub("large", large()), sub("two", json!({"count": 2}))]);
    let requests = json!([{"name": "r", "firstAvailable": large_or_two}]);
    let same_board = json!([{"requests": ["r/two"], "matchAttribute": format!("{DRIVER}/board")}]);
    claim(&mut devices, "c", requests.clone(), json!([]));
    assert_eq!(given(&devices, &["c"], "b").unwrap(), ["b1"]);
    assert_eq!(given(&devices, &["c"], "a").unwrap(), ["a0", "a1"]);
    let asked = wanted(&devices, &["c"]).unwrap();
    let grants = devices.grants(&asked, &node("a")).unwrap();
    let allocation = grants[0].allocation.clone().unwrap().devices.unwrap();
    assert_eq!(allocation.results.unwrap()[0].request, "r/two");
    claim(&mut devices, "c", requests, same_board);
    assert_eq!(given(&devices, &["c"], "a").unwrap_err(), NONE);
    assert_eq!(given(&devices, &["c"], "b").unwrap(), ["b1"]);
}

#[test]
fn a_device_is_given_once() {
    let mut devices = two_nodes();
    let one = || json!([request("r", json!({}))]);
    let mut first = claim(&mut devices, "first", one(), json!([]));
    claim(&mut devices, "second", one(), json!([]));
    let grants = {
        let wanted = wanted(&devices, &["first"]).unwrap();
        devices.grants(&wanted, &node("a")).unwrap()
    };
    devices.assume(&grants);
    assert_eq!(given(&devices, &["second"], "a").unwrap(), ["a1"]);
    assert_eq!(
        wanted(&devices, &["first"]).unwrap_err(),
        "resource claim default/first is in the process of being allocated"
    );
    devices.forget(&grants);
    assert_eq!(given(&devices, &["second"], "a").unwrap(), ["a0"]);
    devices.assume(&grants);
    // Now the API server says so, too.
    first.status.get_or_insert_default().allocation = grants[0].allocation.clone();
    devices.set_claim(&first);
    devices.forget(&grants);
    assert_eq!(given(&devices, &["second"], "a").unwrap(), ["a1"]);
    assert!(given(&devices, &["first"], "a").is_ok());
    assert_eq!(
        given(&devices, &["first"], "b").unwrap_err(),
        "resourceclaim not available on the node"
    );
    devices.remove_claim(&first);
    assert!(devices.taken.is_empty() && devices.assumed.is_empty());
}

#[test]
fn a_pod_waits_until_its_claims_can_be_met() {
    let mut devices = two_nodes();
    assert_eq!(
        wanted(&devices, &["c"]).unwrap_err(),
        "resourceclaim.resource.k8s.io \"c\" not found"
    );
    let not_made = Needs {
        device_claims: vec![DeviceClaimName::NotMade],
        ..Needs::default()
    };
    assert_eq!(
        devices.wanted(&key("p"), &not_made).unwrap_err(),
        "pod \"default/p\": ResourceClaim not created yet"
    );
    let mut waits = |exactly: Value, why: &str| {
        claim(&mut devices, "c", json!([request("r", exactly)]), json!([]));
        assert_eq!(wanted(&devices, &["c"]).unwrap_err(), why);
    };
    waits(
        json!({"deviceClassName": "fpga"}),
        "request r: device class fpga does not exist",
    );
    waits(
        json!({"adminAccess": true}),
        "claim default/c, request r: admin access is not supported",
    );
    let mut deleted = claim(&mut devices, "c", json!([]), json!([]));
    deleted.metadata.deletion_timestamp = of(json!("2026-01-01T00:00:00Z"));
    devices.set_claim(&deleted);
    assert_eq!(
        wanted(&devices, &["c"]).unwrap_err(),
        "resourceclaim \"c\" is being deleted"
    );
}

#[test]
fn selectors_that_fail_say_so() {
    let mut devices = two_nodes();
    let with = |expression: &str| {
        let selectors = json!([{"cel": {"expression": expression}}]);
        json!([request("r", json!({"selectors": selectors}))])
    };
    let missing = format!("device.attributes['{DRIVER}'].colour == 'red'");
    claim(&mut devices, "c", with(&missing), json!([]));
    assert_eq!(
        given(&devices, &["c"], "a").unwrap_err(),
        "request r: device a0: CEL runtime error: no such key: colour"
    );
    claim(&mut devices, "c", with("device.driver"), json!([]));
    let why = wanted(&devices, &["c"]).unwrap_err();
    assert!(
        why.contains("must evaluate to bool, not to string"),
        "{why}"
    );
    // Each level takes ten times as long as the one below.
    let slow = "[0,1,2,3,4,5,6,7,8,9].all(a, [0,1,2,3,4,5,6,7,8,9].all(b, [0,1,2,3,4,5,6,7,8,9].all(c, \
                [0,1,2,3,4,5,6,7,8,9].all(d, [0,1,2,3,4,5,6,7,8,9].all(e, a + b + c + d + e >= 0)))))";
    claim(&mut devices, "c", with(slow), json!([]));
    let why = given(&devices, &["c"], "a").unwrap_err();
    assert!(why.contains("cost limit exceeded"), "{why}");
}

#[test]
fn tainted_devices_are_for_those_who_tolerate_them() {
    let mut devices = two_nodes();
    let mut hot = gpu("hot", "8Gi", 0);
    hot["taints"] = json!([{"key": "hot", "value": "yes", "effect": "NoSchedule"}]);
    devices.set_slice(&slice("a", json!([hot])));
    claim(
        &mut devices,
        "c",
        json!([request("r", json!({}))]),
        json!([]),
    );
    assert_eq!(given(&devices, &["c"], "a").unwrap_err(), NONE);
    let toleration = json!({"tolerations": [{"key": "hot", "operator": "Exists"}]});
    claim(
        &mut devices,
        "c",
        json!([request("r", toleration)]),
        json!([]),
    );
    assert_eq!(given(&devices, &["c"], "a").unwrap(), ["hot"]);
}

#[test]
fn devices_that_several_nodes_reach_bind_their_claims_to_those() {
    let mut devices = two_nodes();
    let rack =
        json!([{"matchExpressions": [{"key": "rack", "operator": "In", "values": ["rack-of-c"]}]}]);
    let slice = json!({
        "metadata": {"name": "fabric"},
        "spec": {
            "driver": DRIVER, "nodeSelector": {"nodeSelectorTerms": rack}, "devices": [gpu("f", "8Gi", 0)],
            "pool": {"name": "fabric", "generation": 1, "resourceSliceCount": 1},
        },
    });
    devices.set_slice(&of(slice));
    claim(
        &mut devices,
        "c",
        json!([request("r", json!({}))]),
        json!([]),
    );
    let wanted = wanted(&devices, &["c"]).unwrap();
    let grants = devices.grants(&wanted, &node("c")).unwrap();
    let allocation = grants[0].allocation.clone().unwrap();
    assert_eq!(
        json!(allocation.node_selector.unwrap().node_selector_terms),
        rack
    );
    assert_eq!(devices.grants(&wanted, &node("d")), None);
    assert_eq!(
        given(&devices, &["c"], "a").unwrap(),
        ["a0"],
        "a node's own come first"
    );
}

#[test]
fn parts_of_devices_are_passed_over() {
    let mut devices = two_nodes();
    let mut part = gpu("part", "8Gi", 0);
    part["consumesCounters"] = json!([{"counterSet": "all", "counters": {"x": {"value": "1"}}}]);
    devices.set_slice(&slice("a", json!([part])));
    claim(
        &mut devices,
        "c",
        json!([request("r", json!({}))]),
        json!([]),
    );
    assert_eq!(given(&devices, &["c"], "a").unwrap_err(), NONE);
}

/// Whether there is any way to meet these requests (for large devices only, or for any; and how many), tried one by one.
fn can_be_met(
    devices: &[(bool, i64)],
    requests: &[(bool, usize)],
    alike: bool,
    taken: &mut Vec<usize>,
) -> bool {
    let Some(((large, count), rest)) = requests.split_first() else {
        let mut boards = taken.iter().map(|at| devices[*at].1);
        let first = boards.next();
        return !alike || boards.all(|board| Some(board) == first);
    };
    if *count == 0 {
        return can_be_met(devices, rest, alike, taken);
    }
    let left: Vec<_> = [(*large, count - 1)]
        .into_iter()
        .chain(rest.iter().copied())
        .collect();
    (0..devices.len()).any(|at| {
        if taken.contains(&at) || (*large && !devices[at].0) {
            return false;
        }
        taken.push(at);
        let met = can_be_met(devices, &left, alike, taken);
        taken.pop();
        met
    })
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(200))]

    #[test]
    fn claims_are_met_if_there_is_any_way(
        there in proptest::collection::vec((proptest::bool::ANY, 0..3_i64), 0..6),
        asked in proptest::collection::vec((proptest::bool::ANY, 1..3_usize), 1..4),
        alike in proptest::bool::ANY,
    ) {
        let mut devices = two_nodes();
        let size = |large| if large { "40Gi" } else { "8Gi" };
        let gpus = there.iter().enumerate();
        let gpus: Vec<_> = gpus.map(|(n, (large, board))| gpu(&format!("g{n}"), size(*large), *board)).collect();
        devices.set_slice(&slice("a", json!(gpus)));
        let requests = asked.iter().enumerate().map(|(n, (is_large, count))| {
            let mut more = if *is_large { large() } else { json!({}) };
            more["count"] = (*count).into();
            request(&format!("r{n}"), more)
        });
        let requests: Vec<_> = requests.collect();
        let constraints = if alike {
            json!([{"matchAttribute": format!("{DRIVER}/board")}])
        } else {
            json!([])
        };
        claim(&mut devices, "c", json!(requests), constraints);
        let found = given(&devices, &["c"], "a");
        proptest::prop_assert_eq!(found.is_ok(), can_be_met(&there, &asked, alike, &mut Vec::new()));
        if let Ok(names) = found {
            let different: std::collections::BTreeSet<_> = names.iter().collect();
            let wanted: usize = asked.iter().map(|(_, count)| count).sum();
            proptest::prop_assert_eq!((names.len(), different.len()), (wanted, wanted));
        }
    }
}
