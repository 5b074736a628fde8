//! Which of the nodes that can take a pod should.

use k8s_openapi::api::core::v1::{PreferredSchedulingTerm, Taint};

use crate::{
    cluster::NodeInfo,
    filter::{term_matches, tolerates},
    pod::Needs,
};

/// The best score that one criterion gives.
const BEST: i64 = 100;

/// The node to take, among those that fit. Equal ones take turns by `turn`, so that equal pods spread.
pub(crate) fn best<'n>(
    needs: &Needs,
    fitting: &[&'n NodeInfo],
    turn: usize,
) -> Option<&'n NodeInfo> {
    let soft: Vec<_> = fitting.iter().map(|node| Soft::of(needs, node)).collect();
    let most = |of: fn(&Soft) -> i64| soft.iter().map(of).max().unwrap_or(0).max(1);
    let (preference, repelled, siblings) = (
        most(|soft| soft.preference),
        most(|soft| soft.repelled),
        most(|soft| soft.siblings),
    );
    let total = |(node, soft): (&&NodeInfo, &Soft)| {
        least_allocated(needs, node)
            + balanced(needs, node)
            + 2 * (BEST * soft.preference / preference)
            + 2 * (BEST - BEST * soft.siblings / siblings)
            + 3 * (BEST - BEST * soft.repelled / repelled)
    };
    let scores: Vec<_> = fitting.iter().zip(&soft).map(total).collect();
    let top = scores.iter().max()?;
    let winners: Vec<_> = fitting
        .iter()
        .zip(&scores)
        .filter(|(_, score)| *score == top)
        .collect();
    winners
        .get(turn % winners.len().max(1))
        .map(|(node, _)| **node)
}

/// What speaks for or against a node without forbidding it. Each is compared with the most that any node has of it.
struct Soft {
    /// The weights of the preferred terms that match.
    preference: i64,
    /// How many `PreferNoSchedule` taints the pod does not tolerate.
    repelled: i64,
    /// How many pods of the same controller are there already.
    siblings: i64,
}

impl Soft {
    fn of(needs: &Needs, node: &NodeInfo) -> Self {
        let matches =
            |preferred: &&PreferredSchedulingTerm| term_matches(&preferred.preference, node);
        let repels = |taint: &&Taint| {
            taint.effect == "PreferNoSchedule"
                && !needs
                    .tolerations
                    .iter()
                    .any(|toleration| tolerates(toleration, taint))
        };
        let repelled = node.taints.iter().filter(repels).count();
        Self {
            preference: needs
                .preferred
                .iter()
                .filter(matches)
                .map(|preferred| i64::from(preferred.weight))
                .sum(),
            repelled: i64::try_from(repelled).unwrap_or(i64::from(u32::MAX)),
            siblings: node.held.siblings_of(needs),
        }
    }
}

/// The share that would stay free, of CPU and memory in equal parts: the emptiest node wins.
fn least_allocated(needs: &Needs, node: &NodeInfo) -> i64 {
    let (cpu, memory) = used_percents(needs, node);
    BEST - i64::midpoint(cpu, memory)
}

/// How alike the used shares of CPU and memory would be: neither should run out long before the other.
fn balanced(needs: &Needs, node: &NodeInfo) -> i64 {
    let (cpu, memory) = used_percents(needs, node);
    BEST - (cpu - memory).abs()
}

/// The shares of CPU and memory that would be used.
fn used_percents(needs: &Needs, node: &NodeInfo) -> (i64, i64) {
    let (has, held, wanted) = (&node.allocatable, &node.held.weighed, &needs.weighed);
    (
        percent(held.cpu, wanted.cpu, has.cpu),
        percent(held.memory, wanted.memory, has.memory),
    )
}

fn percent(held: i64, wanted: i64, has: i64) -> i64 {
    if has <= 0 {
        return BEST;
    }
    let percent = i128::from(held.saturating_add(wanted)) * i128::from(BEST) / i128::from(has);
    i64::try_from(percent.clamp(0, i128::from(BEST))).unwrap_or(BEST)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

    use super::*;
    use crate::cluster::{
        Cluster,
        tests::{key, needs, node},
    };

    fn pick(cluster: &Cluster, needs: &Needs, turn: usize) -> String {
        let nodes: Vec<_> = cluster.nodes().collect();
        best(needs, &nodes, turn).unwrap().name.clone()
    }

    #[test]
    fn the_emptiest_node_wins_and_equal_ones_take_turns() {
        let mut cluster = Cluster::default();
        for name in ["a", "b", "c"] {
            cluster.set_node(&node(name, 1000, 10));
        }
        let turns: Vec<_> = (0..3)
            .map(|turn| pick(&cluster, &needs(100), turn))
            .collect();
        assert_eq!(turns, ["a", "b", "c"]);
        cluster.place(key("one"), "a", Arc::new(needs(500)));
        cluster.place(key("two"), "c", Arc::new(needs(500)));
        assert_eq!(pick(&cluster, &needs(100), 7), "b");
    }

    #[test]
    fn a_preference_outweighs_a_little_load() {
        let mut cluster = Cluster::default();
        for name in ["a", "b"] {
            cluster.set_node(&node(name, 1000, 10));
        }
        cluster.place(key("one"), "b", Arc::new(needs(300)));
        let likes_b = Needs {
            preferred: vec![PreferredSchedulingTerm {
                weight: 10,
                preference: NodeSelectorTerm {
                    match_fields: Some(vec![NodeSelectorRequirement {
                        key: "metadata.name".to_owned(),
                        operator: "In".to_owned(),
                        values: Some(vec!["b".to_owned()]),
                    }]),
                    ..NodeSelectorTerm::default()
                },
            }],
            ..needs(100)
        };
        assert_eq!(pick(&cluster, &likes_b, 0), "b");
    }

    #[test]
    fn siblings_keep_apart() {
        let mut cluster = Cluster::default();
        for name in ["a", "b"] {
            cluster.set_node(&node(name, 1000, 10));
        }
        let sibling = Needs {
            siblings: Some("rc".to_owned()),
            ..needs(10)
        };
        cluster.place(key("one"), "a", Arc::new(sibling.clone()));
        cluster.place(key("loaded"), "b", Arc::new(needs(300)));
        assert_eq!(pick(&cluster, &sibling, 0), "b");
        assert_eq!(pick(&cluster, &needs(10), 0), "a");
        cluster.remove(&key("one"));
        assert_eq!(
            pick(&cluster, &sibling, 0),
            "a",
            "it is forgotten with the pod"
        );
    }
}
