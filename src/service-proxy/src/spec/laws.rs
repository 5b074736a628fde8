//! Laws of which endpoints a port gets, whatever slices say.

use std::collections::BTreeSet;

use k8s_openapi::api::discovery::v1::{
    EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const NODES: [&str; 3] = ["n0", "n1", "n2"];
const ZONES: [&str; 2] = ["z0", "z1"];

fn name(names: &'static [&'static str]) -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop::sample::select(names).prop_map(str::to_owned))
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let conditions = any::<(Option<bool>, Option<bool>, Option<bool>)>();
    let hints = (name(&NODES), name(&ZONES));
    (0..12u8, conditions, name(&NODES), hints).prop_map(
        |(number, (ready, serving, terminating), node_name, (node, zone))| Endpoint {
            addresses: vec![format!("10.0.0.{number}")],
            conditions: Some(EndpointConditions {
                ready,
                serving,
                terminating,
            }),
            node_name,
            hints: Some(EndpointHints {
                for_nodes: node.map(|name| vec![ForNode { name }]),
                for_zones: zone.map(|name| vec![ForZone { name }]),
            }),
            ..Endpoint::default()
        },
    )
}

fn slices() -> impl Strategy<Value = Vec<EndpointSlice>> {
    let slice = prop::collection::vec(endpoint(), 0..6).prop_map(|endpoints| EndpointSlice {
        address_type: "IPv4".to_owned(),
        endpoints: Some(endpoints),
        ports: Some(vec![EndpointPort {
            port: Some(80),
            ..EndpointPort::default()
        }]),
        ..EndpointSlice::default()
    });
    prop::collection::vec(slice, 0..4)
}

fn place() -> impl Strategy<Value = Place> {
    (prop::sample::select(&NODES[..]), name(&ZONES)).prop_map(|(node, zone)| Place {
        node: node.to_owned(),
        zone,
    })
}

/// Where a port leads from inside, with or without `internalTrafficPolicy: Local`.
fn chosen(slices: &[EndpointSlice], place: &Place, local: bool) -> BTreeSet<SocketAddr> {
    let policy = if local { "Local" } else { "Cluster" };
    let service: Service = serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": {
        "clusterIP": "10.96.0.1", "ports": [{"port": 80}], "internalTrafficPolicy": policy}}))
    .unwrap();
    let slices: Vec<_> = slices.iter().collect();
    let spec = of(&service, &slices, place).unwrap();
    let endpoints = &spec.ports[0].endpoints;
    let distinct: BTreeSet<_> = endpoints.iter().copied().collect();
    assert_eq!(distinct.len(), endpoints.len(), "each once");
    distinct
}

fn those(slices: &[EndpointSlice], wanted: impl Fn(&Endpoint) -> bool) -> BTreeSet<SocketAddr> {
    let all = slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter().flatten());
    all.filter(|endpoint| wanted(endpoint))
        .map(|endpoint| SocketAddr::new(address(endpoint).unwrap(), 80))
        .collect()
}

proptest! {
    /// If anybody is ready, only those who are get connections; else only those who serve to their end; and nobody is left
    /// out for being far away if that leaves nobody.
    #[test]
    fn only_the_ready_unless_there_are_none(slices in slices(), place in place()) {
        let ready = those(&slices, is_ready);
        let leaving = those(&slices, serves_to_the_end);
        let got = chosen(&slices, &place, false);
        if ready.is_empty() {
            prop_assert_eq!(got, leaving);
        } else {
            prop_assert!(!got.is_empty() && got.is_subset(&ready), "{got:?} of {ready:?}");
        }
    }

    /// What is local is local, whatever hints say.
    #[test]
    fn local_is_local(slices in slices(), place in place()) {
        let here = |endpoint: &Endpoint| is_on(endpoint, &place.node);
        let ready = those(&slices, |endpoint| here(endpoint) && is_ready(endpoint));
        let leaving = those(&slices, |endpoint| here(endpoint) && serves_to_the_end(endpoint));
        let wanted = if ready.is_empty() { leaving } else { ready };
        prop_assert_eq!(chosen(&slices, &place, true), wanted);
    }

    /// Without hints, all who are ready serve every node; with hints of zones by all of them, each zone that has somebody
    /// keeps to its own.
    #[test]
    fn hints_of_zones_divide(mut slices in slices(), place in place()) {
        let hint = |slices: &mut Vec<EndpointSlice>, zone: &dyn Fn(usize) -> Option<EndpointHints>| {
            let all = slices.iter_mut().flat_map(|slice| slice.endpoints.iter_mut().flatten());
            all.enumerate().for_each(|(index, endpoint)| endpoint.hints = zone(index));
        };
        hint(&mut slices, &|_| None);
        let ready = those(&slices, is_ready);
        if !ready.is_empty() {
            prop_assert_eq!(&chosen(&slices, &place, false), &ready);
        }
        hint(&mut slices, &|index| Some(EndpointHints {
            for_zones: Some(vec![ForZone { name: ZONES[index % 2].to_owned() }]),
            for_nodes: None,
        }));
        let near = those(&slices, |endpoint| is_ready(endpoint) && Near::Zone.holds(endpoint, &place));
        let wanted = if near.is_empty() { &ready } else { &near };
        if !ready.is_empty() {
            prop_assert_eq!(&chosen(&slices, &place, false), wanted);
        }
    }
}
