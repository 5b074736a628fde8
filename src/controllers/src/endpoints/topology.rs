//! Endpoints shared out over zones, for Services that ask for it by the annotation `service.kubernetes.io/topology-mode`:
//! each zone gets as large a part of them as it has of the cluster's CPU, its own before others.
//!
//! There are no hints at all where sharing out would overload somebody, or where too little is known. The conditions and
//! the arithmetic are upstream's; which endpoint of a zone is lent to another is not.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Service};
use kube::ResourceExt as _;
use vaquita_api::quantity::Quantity;

use super::{backend::Backend, zone};
use crate::nodes::is_ready;

const MODE: &str = "service.kubernetes.io/topology-mode";
/// The annotation's older name.
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
/// Nodes with one of these run nobody's pods, so they need no endpoints.
const EXCLUDED: [&str; 2] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
];
/// By how much the endpoints of a zone may have more to do than the average.
const OVERLOAD: f64 = 0.2;

/// Whether the Service wants its endpoints shared out.
pub(super) fn is_wanted(service: &Service) -> bool {
    let annotations = service.annotations();
    let mode = annotations.get(MODE).or_else(|| annotations.get(HINTS));
    mode.is_some_and(|mode| matches!(mode.as_str(), "Auto" | "auto"))
}

/// What of a node matters here; nothing for one that does not count.
pub(super) fn share(node: &Node) -> Option<(Option<&str>, i64)> {
    let labels = node.labels();
    let counts = is_ready(node) && !EXCLUDED.iter().any(|label| labels.contains_key(*label));
    let cpu = || {
        let status = node.status.as_ref()?;
        let amount = status.allocatable.as_ref()?.get("cpu")?;
        let amount: Quantity = amount.0.parse().ok()?;
        Some(amount.milli_value())
    };
    counts.then(|| (zone(node), cpu().unwrap_or(0)))
}

/// The part of the cluster's CPU that each zone has; nothing if that cannot be told of some node, or there is but one zone.
pub(super) fn zones<'n>(nodes: impl Iterator<Item = &'n Node>) -> Option<BTreeMap<String, f64>> {
    let mut cpus = BTreeMap::<String, i64>::new();
    for (zone, cpu) in nodes.filter_map(share) {
        let zone = zone.filter(|_| cpu > 0)?;
        *cpus.entry(zone.to_owned()).or_default() += cpu;
    }
    let all: i64 = cpus.values().sum();
    let parts = cpus.into_iter().map(|(zone, cpu)| (zone, part(cpu, all)));
    Some(parts.collect()).filter(|parts: &BTreeMap<_, _>| parts.len() > 1)
}

#[expect(clippy::cast_precision_loss, reason = "a ratio, to be rounded anyway")]
fn part(of: i64, all: i64) -> f64 {
    of as f64 / all as f64
}

/// For which zone each of the backends is meant that are ready, in the order of the backends; nothing if they cannot be
/// shared out.
pub(super) fn assign(
    backends: &[Backend],
    parts: &BTreeMap<String, f64>,
) -> Option<Vec<Option<String>>> {
    let ready = backends.iter().filter(|backend| backend.ready);
    let mut homes = BTreeMap::<&str, i64>::new();
    for backend in ready {
        let home = backend.zone.as_deref()?;
        *homes.entry(home).or_default() += 1;
    }
    let total: i64 = homes.values().sum();
    let mut lent = loans(&homes, &desired(total, parts)?);
    let zone_of = |backend: &Backend| {
        let home = backend.zone.as_deref().filter(|_| backend.ready)?;
        let borrower = lent.get_mut(home).and_then(Vec::pop);
        Some(borrower.unwrap_or_else(|| home.to_owned()))
    };
    Some(backends.iter().map(zone_of).collect())
}

/// How many of so many endpoints each zone should have; nothing if there are too few to give every zone enough.
fn desired(total: i64, parts: &BTreeMap<String, f64>) -> Option<BTreeMap<String, f64>> {
    let mut left = total;
    let mut desired = BTreeMap::new();
    for (zone, part) in parts {
        #[expect(
            clippy::cast_precision_loss,
            reason = "of endpoints there are far fewer"
        )]
        let wanted = part * total as f64;
        let least = (wanted / (1.0 + OVERLOAD)).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a part of what was an integer"
        )]
        let taken = least as i64;
        left -= taken;
        if left < 0 {
            return None;
        }
        desired.insert(zone.clone(), wanted.max(least));
    }
    i64::try_from(parts.len())
        .is_ok_and(|zones| zones <= total)
        .then_some(desired)
}

/// To whom zones with too many endpoints lend them: one by one, from whoever has most to spare to whoever lacks most. A zone
/// without nodes has no use for its own.
fn loans(
    homes: &BTreeMap<&str, i64>,
    desired: &BTreeMap<String, f64>,
) -> BTreeMap<String, Vec<String>> {
    let names = homes
        .keys()
        .copied()
        .chain(desired.keys().map(String::as_str));
    let mut spare: BTreeMap<&str, f64> = names
        .map(|zone| {
            let count = homes.get(zone).copied().unwrap_or(0);
            #[expect(
                clippy::cast_precision_loss,
                reason = "of endpoints there are far fewer"
            )]
            let spare = count as f64 - desired.get(zone).copied().unwrap_or(0.0);
            (zone, spare)
        })
        .collect();
    let mut loans = BTreeMap::<String, Vec<String>>::new();
    loop {
        let most = spare.iter().max_by(|a, b| a.1.total_cmp(b.1));
        let least = spare.iter().min_by(|a, b| a.1.total_cmp(b.1));
        let (Some((giver, spared)), Some((taker, lacking))) = (most, least) else {
            return loans;
        };
        if *spared < 1.0 || *lacking > -1.0 {
            return loans;
        }
        let (giver, taker) = (*giver, *taker);
        loans
            .entry(giver.to_owned())
            .or_default()
            .push(taker.to_owned());
        for (zone, change) in [(giver, -1.0), (taker, 1.0)] {
            if let Some(spare) = spare.get_mut(zone) {
                *spare += change;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, zone: &str, cpu: &str, ready: &str) -> Node {
        let node = json!({
            "metadata": { "name": name, "labels": { "topology.kubernetes.io/zone": zone } },
            "status": { "allocatable": { "cpu": cpu }, "conditions": [{ "type": "Ready", "status": ready }] },
        });
        serde_json::from_value(node).unwrap()
    }

    fn parts(list: &[(&str, f64)]) -> BTreeMap<String, f64> {
        let parts = list.iter().map(|(zone, part)| ((*zone).to_owned(), *part));
        parts.collect()
    }

    /// How many endpoints are lent from where to where.
    fn lent(homes: &[(&str, i64)], list: &[(&str, f64)]) -> Option<Vec<(String, String)>> {
        let total = homes.iter().map(|(_, count)| count).sum();
        let loans = loans(
            &homes.iter().copied().collect(),
            &desired(total, &parts(list))?,
        );
        let pairs = loans.into_iter().flat_map(|(giver, takers)| {
            takers.into_iter().map(move |taker| (giver.clone(), taker))
        });
        Some(pairs.collect())
    }

    #[test]
    fn zones_count_by_what_their_nodes_have() {
        let mut nodes = vec![
            node("a1", "a", "1", "True"),
            node("a2", "a", "2", "True"),
            node("b1", "b", "1", "True"),
            node("b2", "b", "8", "False"),
        ];
        let found = zones(nodes.iter()).unwrap();
        assert_eq!(found, parts(&[("a", 0.75), ("b", 0.25)]));
        nodes.push(node("c1", "", "1", "True"));
        assert_eq!(zones(nodes.iter()), None, "nobody knows where it is");
        let one = [node("a1", "a", "1", "True")];
        assert_eq!(zones(one.iter()), None);
    }

    #[test]
    fn what_a_zone_lacks_is_lent_by_who_has_most() {
        let half = [("a", 0.5), ("b", 0.5)];
        assert_eq!(lent(&[("a", 3), ("b", 3)], &half), Some(Vec::new()));
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let two = vec![pair("a", "b"), pair("a", "b")];
        assert_eq!(lent(&[("a", 5), ("b", 1)], &half), Some(two));
        let all = vec![pair("c", "a"), pair("c", "b")];
        assert_eq!(lent(&[("c", 2)], &half), Some(all), "nobody calls from c");
        assert_eq!(lent(&[("a", 1)], &half), None, "not one for each zone");
        // Four for three zones: two zones would have one where 1.33 are needed.
        let thirds = [("a", 1.0 / 3.0), ("b", 1.0 / 3.0), ("c", 1.0 / 3.0)];
        assert_eq!(lent(&[("a", 4)], &thirds), None);
        assert!(lent(&[("a", 6)], &thirds).is_some_and(|lent| lent.len() == 4));
    }

    proptest::proptest! {
        #[test]
        fn nobody_has_to_do_much_more_than_others(
            homes in proptest::collection::vec(0..40_i64, 2..5),
            cpus in proptest::collection::vec(1..20_i64, 2..5),
        ) {
            let names = ["a", "b", "c", "d"];
            let homes: Vec<_> = names.into_iter().zip(homes).collect();
            let all: i64 = cpus.iter().sum();
            let parts: Vec<_> = names.into_iter().zip(cpus.iter().map(|cpu| part(*cpu, all))).collect();
            let total: i64 = homes.iter().map(|(_, count)| count).sum();
            if let Some(lent) = lent(&homes, &parts) {
                for (zone, wanted) in parts {
                    let own: i64 = homes.iter().filter(|home| home.0 == zone).map(|home| home.1).sum();
                    let given = lent.iter().filter(|pair| pair.0 == zone).count();
                    let taken = lent.iter().filter(|pair| pair.1 == zone).count();
                    #[expect(clippy::cast_precision_loss, reason = "the numbers of this test are small")]
                    let has = own as f64 - given as f64 + taken as f64;
                    #[expect(clippy::cast_precision_loss, reason = "the numbers of this test are small")]
                    let fair = wanted * total as f64;
                    // What is less than one in each of the others adds up in one.
                    proptest::prop_assert!((has - fair).abs() < 4.0, "{zone}: {has} of {fair}");
                }
            }
        }
    }
}
