//! Whether some rules give everything that others give.
//!
//! The rules in question are taken apart into pieces of one verb on one thing; a piece is covered if one single rule of
//! the holder includes it. So two rules that only together add up to a wildcard do not cover that wildcard.

use super::rule::{Rule, has, includes_path, includes_resource};

/// What is in `wanted` but not in `held`, in pieces of one verb on one thing each.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted
        .iter()
        .flat_map(pieces)
        .filter(|piece| !held.iter().any(|rule| includes(rule, piece)))
        .collect()
}

/// Puts pieces that differ only in their verb together again.
pub fn compact(pieces: Vec<Rule>) -> Vec<Rule> {
    let mut compacted: Vec<Rule> = Vec::new();
    for mut piece in pieces {
        let same = |rule: &&mut Rule| {
            is_simple(&piece)
                && is_simple(rule)
                && rule.api_groups == piece.api_groups
                && rule.resources == piece.resources
                && rule.resource_names == piece.resource_names
        };
        match compacted.iter_mut().find(same) {
            Some(rule) => {
                piece.verbs.retain(|verb| !rule.verbs.contains(verb));
                rule.verbs.append(&mut piece.verbs);
            }
            None => compacted.push(piece),
        }
    }
    compacted
}

/// About one resource.
fn is_simple(rule: &Rule) -> bool {
    rule.non_resource_urls.is_empty()
        && rule.resource_names.len() <= 1
        && rule.resources.len() == 1
        && rule.api_groups.len() == 1
}

fn pieces(rule: &Rule) -> Vec<Rule> {
    let one = |text: &String| vec![text.clone()];
    let names: Vec<Vec<String>> = match rule.resource_names.as_slice() {
        [] => vec![Vec::new()],
        names => names.iter().map(one).collect(),
    };
    let mut pieces = Vec::new();
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                pieces.extend(names.iter().map(|names| Rule {
                    api_groups: one(group),
                    resources: one(resource),
                    resource_names: names.clone(),
                    verbs: one(verb),
                    ..Rule::default()
                }));
            }
        }
    }
    for url in &rule.non_resource_urls {
        pieces.extend(rule.verbs.iter().map(|verb| Rule {
            non_resource_urls: one(url),
            verbs: one(verb),
            ..Rule::default()
        }));
    }
    pieces
}

/// Whether `rule` gives all of `piece`.
fn includes(rule: &Rule, piece: &Rule) -> bool {
    let all = |held: &[String], wanted: &[String]| wanted.iter().all(|text| has(held, text));
    let resources = piece.resources.iter().all(|wanted| {
        let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
        rule.resources
            .iter()
            .any(|own| own == wanted || includes_resource(own, resource, subresource))
    });
    let paths = piece.non_resource_urls.iter().all(|wanted| {
        rule.non_resource_urls
            .iter()
            .any(|own| includes_path(own, wanted))
    });
    let names = rule.resource_names.is_empty()
        || !piece.resource_names.is_empty()
            && piece
                .resource_names
                .iter()
                .all(|name| rule.resource_names.contains(name));
    all(&rule.verbs, &piece.verbs)
        && all(&rule.api_groups, &piece.api_groups)
        && resources
        && paths
        && names
}
