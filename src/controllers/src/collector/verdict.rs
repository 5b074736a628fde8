//! What becomes of an object, given how its owners stand: a pure decision.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PropagationPolicy;

use super::graph::{Cascade, Object};

pub(super) const FOREGROUND: PropagationPolicy = PropagationPolicy::Foreground;

/// How an owner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is there, and its watch will tell when it goes.
    Watched,
    /// It is there, but only the API server could tell: nobody has seen it.
    Asked,
    /// It can't be told whether it is there: its kind is not served, for instance.
    Unknowable,
    /// It is there and waits for its dependents to be deleted.
    Waiting,
    /// It is not there.
    Gone,
}

/// What becomes of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// It stays, and events will tell when to look again.
    Keep,
    /// It stays, but nothing will tell when that changes.
    AskAgain,
    /// It stays with these owners; the others are gone or going.
    Release {
        /// Its owner references from now on.
        keep: Vec<OwnerReference>,
    },
    /// It goes.
    Delete(PropagationPolicy),
    /// It goes in the foreground: an owner waits for it, so it waits for its own dependents.
    DeleteAfterDependents,
}

/// Decides about an object that is not being deleted. `standings` are those of its owners, in their order.
pub(super) fn decide(object: &Object, standings: &[Standing], has_dependents: bool) -> Verdict {
    let any = |wanted: Standing| standings.contains(&wanted);
    if standings.is_empty() {
        return Verdict::Keep;
    }
    if any(Standing::Unknowable) {
        return Verdict::AskAgain;
    }
    if any(Standing::Watched) || any(Standing::Asked) {
        if any(Standing::Gone) || any(Standing::Waiting) {
            return Verdict::Release {
                keep: staying(object, standings),
            };
        }
        return if any(Standing::Asked) {
            Verdict::AskAgain
        } else {
            Verdict::Keep
        };
    }
    if any(Standing::Waiting) && has_dependents {
        return Verdict::DeleteAfterDependents;
    }
    Verdict::Delete(match object.cascade {
        // The object says itself what is to become of its dependents.
        Some(Cascade::Orphan) => PropagationPolicy::Orphan,
        Some(Cascade::Foreground) => PropagationPolicy::Foreground,
        None => PropagationPolicy::Background,
    })
}

fn staying(object: &Object, standings: &[Standing]) -> Vec<OwnerReference> {
    let owners = object.owners.iter().zip(standings);
    owners
        .filter(|(_, standing)| matches!(standing, Standing::Watched | Standing::Asked))
        .map(|(owner, _)| owner.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::graph::tests::{object, owned};

    fn verdict(standings: &[Standing], has_dependents: bool) -> Verdict {
        let owners: Vec<_> = (0..standings.len()).map(|n| format!("o{n}")).collect();
        let owners: Vec<_> = owners.iter().map(String::as_str).collect();
        decide(&owned("x", &owners), standings, has_dependents)
    }

    #[test]
    fn an_object_goes_only_when_nobody_is_left_to_hold_it() {
        use Standing::{Asked, Gone, Unknowable, Waiting, Watched};
        let background = Verdict::Delete(PropagationPolicy::Background);
        assert_eq!(verdict(&[], false), Verdict::Keep);
        assert_eq!(verdict(&[Watched], false), Verdict::Keep);
        assert_eq!(verdict(&[Asked], false), Verdict::AskAgain);
        assert_eq!(verdict(&[Gone], true), background);
        assert_eq!(verdict(&[Gone, Gone], false), background);
        assert_eq!(verdict(&[Gone, Unknowable], false), Verdict::AskAgain);
        assert_eq!(verdict(&[Waiting], false), background);
        assert_eq!(
            verdict(&[Waiting, Gone], true),
            Verdict::DeleteAfterDependents
        );
        for gone in [Gone, Waiting] {
            let Verdict::Release { keep } = verdict(&[gone, Watched, Asked], true) else {
                panic!("two owners hold it");
            };
            assert_eq!(keep.len(), 2);
            assert_eq!((keep[0].uid.as_str(), keep[1].uid.as_str()), ("o1", "o2"));
        }
    }

    #[test]
    fn an_object_may_have_said_what_becomes_of_its_dependents() {
        let mut held = object("x");
        held.cascade = Some(Cascade::Orphan);
        let orphan = Verdict::Delete(PropagationPolicy::Orphan);
        assert_eq!(decide(&held, &[Standing::Gone], true), orphan);
    }
}
