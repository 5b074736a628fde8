use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ObjectReference, ServicePort, ServiceSpec};
use proptest::prelude::*;

use super::*;
use vaquita_reconcile::testing::objects::named;

fn service() -> Service {
    Service {
        metadata: named("shop", "front"),
        spec: Some(ServiceSpec {
            ports: Some(vec![ServicePort {
                port: 80,
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// The pod with this number, serving the Service's port at `port`.
fn backend(number: u16, port: i32, ready: bool) -> Backend {
    let [high, low] = number.to_be_bytes();
    Backend {
        ips: vec![[10, 0, high, low].into()],
        target: ObjectReference {
            uid: Some(format!("pod-{number}")),
            ..ObjectReference::default()
        },
        node: None,
        zone: None,
        hostname: None,
        ready,
        serving: ready,
        terminating: false,
        ports: vec![Port {
            name: String::new(),
            protocol: "TCP".to_owned(),
            number: port,
            app_protocol: None,
        }],
    }
}

fn backends(numbers: impl IntoIterator<Item = u16>) -> Vec<Backend> {
    numbers
        .into_iter()
        .map(|number| backend(number, 8080, true))
        .collect()
}

/// The slices after a plan was carried out, each new one with a uid.
fn carried_out(known: &[Arc<EndpointSlice>], plan: Plan) -> Vec<Arc<EndpointSlice>> {
    let mut slices: BTreeMap<String, Arc<EndpointSlice>> = known
        .iter()
        .map(|slice| (meta::uid(&**slice).to_owned(), Arc::clone(slice)))
        .collect();
    for slice in plan.update {
        slices.insert(meta::uid(&slice).to_owned(), Arc::new(slice));
    }
    for slice in plan.delete {
        slices.remove(meta::uid(&*slice));
    }
    for mut slice in plan.create {
        let uid = (0..1000)
            .map(|number| format!("slice-{number}"))
            .find(|uid| !slices.contains_key(uid))
            .unwrap();
        slice.metadata.uid = Some(uid.clone());
        slices.insert(uid, Arc::new(slice));
    }
    slices.into_values().collect()
}

fn reconciled(known: &[Arc<EndpointSlice>], backends: &[Backend]) -> Vec<Arc<EndpointSlice>> {
    let plan = plan(&service(), backends, None, known.to_vec());
    carried_out(known, plan)
}

fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
    let mut sizes: Vec<_> = slices
        .iter()
        .map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len))
        .collect();
    sizes.sort_unstable();
    sizes
}

#[test]
fn a_slice_says_whose_it_is() {
    let slices = reconciled(&[], &backends([1]));
    let [slice] = slices.as_slice() else {
        panic!("one slice")
    };
    assert_eq!(slice.metadata.generate_name.as_deref(), Some("front-"));
    assert_eq!(service_of(slice), Some(ObjectKey::new("shop", "front")));
    assert_eq!(slice.owner_references()[0].uid, "shop-front-uid");
    assert_eq!(slice.address_type, "IPv4");
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
}

#[test]
fn hints_follow_the_wanted_distribution() {
    let hints = |distribution: Option<&str>, ready: bool| {
        let mut service = service();
        let spec = service.spec.as_mut().unwrap();
        spec.traffic_distribution = distribution.map(str::to_owned);
        let backend = Backend {
            node: Some("n1".to_owned()),
            zone: Some("z1".to_owned()),
            ..backend(1, 8080, ready)
        };
        let plan = plan(&service, &[backend], None, Vec::new());
        let endpoint = plan.create[0].endpoints.as_ref().unwrap()[0].clone();
        assert_eq!(endpoint.zone.as_deref(), Some("z1"));
        let hints = endpoint.hints?;
        let names = hints.for_nodes.into_iter().flatten().map(|node| node.name);
        let zones = hints.for_zones.into_iter().flatten().map(|zone| zone.name);
        Some(names.chain(zones).collect::<Vec<_>>())
    };
    let strings = |all: &[&str]| Some(all.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(hints(None, true), None);
    assert_eq!(hints(Some("PreferClose"), true), strings(&["z1"]));
    assert_eq!(hints(Some("PreferSameZone"), true), strings(&["z1"]));
    assert_eq!(hints(Some("PreferSameNode"), true), strings(&["n1", "z1"]));
    assert_eq!(hints(Some("PreferSameNode"), false), None);
}

#[test]
fn no_backends_make_one_empty_slice() {
    let slices = reconciled(&[], &[]);
    assert_eq!(sizes(&slices), [0]);
    let some = reconciled(&slices, &backends(0..3));
    assert_eq!(sizes(&some), [3], "the empty one is gone");
    assert_eq!(sizes(&reconciled(&some, &[])), [0]);
}

#[test]
fn a_change_of_one_endpoint_writes_one_slice() {
    let slices = reconciled(&[], &backends(0..250));
    assert_eq!(sizes(&slices), [50, 100, 100]);
    let mut changed = backends(0..250);
    changed[120].ready = false;
    let one = plan(&service(), &changed, None, slices.clone());
    assert_eq!(
        (one.create.len(), one.update.len(), one.delete.len()),
        (0, 1, 0)
    );
    let added = plan(&service(), &backends(0..251), None, slices.clone());
    assert_eq!(
        (added.create.len(), added.update.len(), added.delete.len()),
        (0, 1, 0)
    );
    let replaced = plan(
        &service(),
        &backends((0..250).map(|number| if number == 7 { 999 } else { number })),
        None,
        slices,
    );
    assert_eq!(
        (
            replaced.create.len(),
            replaced.update.len(),
            replaced.delete.len()
        ),
        (0, 1, 0)
    );
}

#[test]
fn pods_with_other_ports_get_another_slice() {
    let mixed = [
        backend(1, 8080, true),
        backend(2, 9090, true),
        backend(3, 8080, true),
    ];
    assert_eq!(sizes(&reconciled(&[], &mixed)), [1, 2]);
}

#[test]
fn each_family_has_slices_of_its_own() {
    let mut service = service();
    service.spec.as_mut().unwrap().ip_families = Some(vec!["IPv6".to_owned(), "IPv4".to_owned()]);
    let mut dual = backend(1, 8080, true);
    dual.ips.push("fd00::1".parse().unwrap());
    let plan = plan(&service, &[dual], None, Vec::new());
    let families: Vec<_> = plan
        .create
        .iter()
        .map(|slice| slice.address_type.as_str())
        .collect();
    assert_eq!(families, ["IPv6", "IPv4"]);
}

proptest! {
    /// From any state to any other: every endpoint is shown once and as it is, no slice is overfull, none is empty
    /// beside others of its kind, and there is nothing left to do.
    #[test]
    fn slices_show_exactly_the_backends(
        rounds in prop::collection::vec(
            prop::collection::btree_map(0..400u16, (0..2i32, any::<bool>()), 0..300),
            1..5,
        ),
    ) {
        let mut slices = Vec::new();
        for round in rounds {
            let backends: Vec<_> =
                round.iter().map(|(number, (port, ready))| backend(*number, 8080 + port, *ready)).collect();
            slices = reconciled(&slices, &backends);
            let shown: Vec<_> = slices
                .iter()
                .flat_map(|slice| slice.endpoints.iter().flatten().map(|endpoint| (ports_of(slice), endpoint.clone())))
                .collect();
            let wanted: Vec<_> = backends
                .iter()
                .map(|backend| (backend.ports.clone(), endpoint(backend, hints(&service(), backend), Family::V4).unwrap()))
                .collect();
            let ids = |all: &[(Vec<Port>, Endpoint)]| -> BTreeSet<_> {
                all.iter()
                    .map(|(ports, endpoint)| (ports.clone(), identity(endpoint), endpoint.conditions.clone().unwrap().ready))
                    .collect()
            };
            prop_assert_eq!(shown.len(), wanted.len());
            prop_assert_eq!(ids(&shown), ids(&wanted));
            prop_assert!(sizes(&slices).iter().all(|size| *size <= CAPACITY));
            prop_assert_eq!(sizes(&slices).iter().filter(|size| **size == 0).count(), usize::from(wanted.is_empty()));
            let again = plan(&service(), &backends, None, slices.clone());
            prop_assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
        }
    }
}

#[test]
fn endpoints_that_are_shared_out_are_for_the_zones_that_they_are_given_to() {
    let both = backends(0..2);
    let hinted = |shares: &Shares| {
        let made = plan(&service(), &both, Some(shares), Vec::new());
        let slices = made.create.into_iter();
        let endpoints = slices.flat_map(|slice| slice.endpoints.unwrap_or_default());
        let zones = endpoints.map(|endpoint| {
            let zones = endpoint.hints.and_then(|hints| hints.for_zones);
            zones.map(|zones| zones.into_iter().map(|zone| zone.name).collect::<String>())
        });
        zones.collect::<Vec<_>>()
    };
    let shares = Some(vec![Some("a".to_owned()), Some("b".to_owned())]);
    assert_eq!(
        hinted(&shares),
        [Some("a".to_owned()), Some("b".to_owned())]
    );
    assert_eq!(hinted(&None), [None, None], "not to be shared out");
}
