//! Which of the nodes that can take a pod should.

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
    let soft: Vec<_> = fitting.iter().map(|node| soft_score(needs, node)).collect();
    let most = soft
        .iter()
        .map(|score| score.preference)
        .max()
        .unwrap_or(0)
        .max(1);
    let scores: Vec<_> = fitting
        .iter()
        .zip(&soft)
        .map(|(node, soft)| {
            least_allocated(needs, node)
                + balanced(needs, node)
                + 2 * (soft.preference * BEST / most)
                + 3 * (BEST / (1 + soft.repelled))
        })
        .collect();
    let top = scores.iter().max()?;
    let winners: Vec<_> = fitting
        .iter()
        .zip(&scores)
        .filter(|(_, score)| *score == top)
        .map(|(node, _)| *node)
        .collect();
    winners.get(turn % winners.len().max(1)).copied()
}

struct Soft {
    /// The weights of the preferred terms that match.
    preference: i64,
    /// How many `PreferNoSchedule` taints the pod does not tolerate.
    repelled: i64,
}

fn soft_score(needs: &Needs, node: &NodeInfo) -> Soft {
    let preference = needs
        .preferred
        .iter()
        .filter(|preferred| term_matches(&preferred.preference, node))
        .map(|preferred| i64::from(preferred.weight))
        .sum();
    let repelled = node
        .taints
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule")
        .filter(|taint| {
            !needs
                .tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
        })
        .count();
    Soft {
        preference,
        repelled: i64::try_from(repelled).unwrap_or(i64::MAX - 1),
    }
}

/// The share that would stay free, of CPU and memory in equal parts: the emptiest node wins.
fn least_allocated(needs: &Needs, node: &NodeInfo) -> i64 {
    let free = |name| BEST - used_percent(needs, node, name);
    i64::midpoint(free("cpu"), free("memory"))
}

/// How alike the used shares of CPU and memory would be: neither should run out long before the other.
fn balanced(needs: &Needs, node: &NodeInfo) -> i64 {
    BEST - (used_percent(needs, node, "cpu") - used_percent(needs, node, "memory")).abs()
}

fn used_percent(needs: &Needs, node: &NodeInfo, name: &str) -> i64 {
    let has = node.allocatable.get(name);
    if has <= 0 {
        return BEST;
    }
    let used = node
        .held
        .weighed
        .get(name)
        .saturating_add(needs.weighed.get(name));
    let percent = i128::from(used) * i128::from(BEST) / i128::from(has);
    i64::try_from(percent.clamp(0, i128::from(BEST))).unwrap_or(BEST)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{
        NodeSelectorRequirement, NodeSelectorTerm, PreferredSchedulingTerm,
    };

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
        cluster.place(key("one"), "a", needs(500));
        cluster.place(key("two"), "c", needs(500));
        assert_eq!(pick(&cluster, &needs(100), 7), "b");
    }

    #[test]
    fn a_preference_outweighs_a_little_load() {
        let mut cluster = Cluster::default();
        for name in ["a", "b"] {
            cluster.set_node(&node(name, 1000, 10));
        }
        cluster.place(key("one"), "b", needs(300));
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
}
