//! Sets of paths into an object, and their JSON form `FieldsV1`.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::element;

/// The member that a node of `FieldsV1` is itself, if it has others below.
const SELF: &str = ".";

/// A set of paths, as a tree: each node says whether its own path is a member, and which steps go on from it.
///
/// Steps are in the textual form of `FieldsV1`, see [`element`], and sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    /// Whether the path that ends here is a member.
    pub(super) here: bool,
    below: Vec<(String, Set)>,
}

/// JSON that is no set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed field set")]
pub(super) struct Malformed;

impl Set {
    /// The set of one path and nothing else.
    pub(super) const HERE: Self = Self {
        here: true,
        below: Vec::new(),
    };

    pub(super) fn is_empty(&self) -> bool {
        !self.here && self.below.is_empty()
    }

    fn place(&self, step: &str) -> Result<usize, usize> {
        self.below.binary_search_by(|(at, _)| at.as_str().cmp(step))
    }

    /// What is below a step.
    pub(super) fn get(&self, step: &str) -> Option<&Self> {
        self.place(step).ok().map(|at| &self.below[at].1)
    }

    pub(super) fn steps(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.below.iter().map(|(step, set)| (step.as_str(), set))
    }

    pub(super) fn steps_mut(&mut self) -> impl Iterator<Item = (&str, &mut Self)> {
        self.below
            .iter_mut()
            .map(|(step, set)| (step.as_str(), set))
    }

    /// Whether nothing is below.
    pub(super) fn is_leaf(&self) -> bool {
        self.below.is_empty()
    }

    /// Puts a whole set below a step that has none yet. [`Set::sort`] has to follow.
    pub(super) fn push(&mut self, step: String, set: Self) {
        if !set.is_empty() {
            self.below.push((step, set));
        }
    }

    /// Brings the steps in order after [`Set::push`].
    pub(super) fn sort(&mut self) {
        let sorted = |pair: &[(String, Self)]| pair[0].0 < pair[1].0;
        if !self.below.windows(2).all(sorted) {
            self.below.sort_by(|a, b| a.0.cmp(&b.0));
        }
    }

    /// The set below a step, made if need be.
    pub(super) fn enter(&mut self, step: &str) -> &mut Self {
        let at = self.place(step).unwrap_or_else(|at| {
            self.below.insert(at, (step.to_owned(), Self::default()));
            at
        });
        &mut self.below[at].1
    }

    /// Adds all of `other`.
    pub(super) fn unite(&mut self, other: Self) {
        self.here |= other.here;
        if self.below.is_empty() || other.below.is_empty() {
            self.below.extend(other.below);
            return;
        }
        // A few find their places one by one; many come in by one merge of both lists. Neither is ever dear.
        if other.below.len() < self.below.len() / 16 {
            for (step, set) in other.below {
                match self.place(&step) {
                    Ok(at) => self.below[at].1.unite(set),
                    Err(at) => self.below.insert(at, (step, set)),
                }
            }
            return;
        }
        let room = self.below.len() + other.below.len();
        let ours = std::mem::replace(&mut self.below, Vec::with_capacity(room));
        let mut theirs = other.below.into_iter().peekable();
        for (step, mut set) in ours {
            while let Some(less) = theirs.next_if(|(other, _)| *other < step) {
                self.below.push(less);
            }
            if let Some((_, same)) = theirs.next_if(|(other, _)| *other == step) {
                set.unite(same);
            }
            self.below.push((step, set));
        }
        self.below.extend(theirs);
    }

    /// Removes the paths of `other`.
    pub(super) fn subtract(&mut self, other: &Self) {
        self.here &= !other.here;
        if other.below.is_empty() || self.below.is_empty() {
            return;
        }
        self.below.retain_mut(|(step, set)| match other.get(step) {
            Some(theirs) => {
                set.subtract(theirs);
                !set.is_empty()
            }
            None => true,
        });
    }

    /// Keeps the trees below these first steps only.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.below.retain(|(step, _)| keep(step));
    }

    /// The paths that both have.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        let mut common = Self {
            here: self.here && other.here,
            below: Vec::new(),
        };
        let (mut ours, mut theirs) = (self.below.iter().peekable(), other.below.iter().peekable());
        while let (Some((a, x)), Some((b, y))) = (ours.peek(), theirs.peek()) {
            match a.cmp(b) {
                Ordering::Less => drop(ours.next()),
                Ordering::Greater => drop(theirs.next()),
                Ordering::Equal => {
                    common.push(a.clone(), x.intersection(y));
                    ours.next();
                    theirs.next();
                }
            }
        }
        common
    }

    /// All paths for people, such as `.spec.replicas`; a path comes before what is below it.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, at: &mut String, paths: &mut Vec<String>) {
        if self.here {
            paths.push(at.clone());
        }
        for (step, set) in &self.below {
            let length = at.len();
            element::print(at, step);
            set.collect(at, paths);
            at.truncate(length);
        }
    }

    /// Reads `FieldsV1`. Steps of unknown sorts are left out, for they may be from a newer server.
    pub(super) fn from_json(value: Value) -> Result<Self, Malformed> {
        let mut set = Self::read(value)?;
        // An empty object is the empty set at the root, and a member anywhere else.
        set.here = false;
        Ok(set)
    }

    fn read(value: Value) -> Result<Self, Malformed> {
        let Value::Object(map) = value else {
            return Err(Malformed);
        };
        let mut set = Self {
            here: map.is_empty(),
            below: Vec::with_capacity(map.len()),
        };
        for (step, below) in map {
            if step == SELF {
                set.here = true;
                continue;
            }
            let known = matches!(
                step.as_bytes().first_chunk(),
                Some(b"f:" | b"i:" | b"k:" | b"v:")
            );
            if !step.contains(':') {
                return Err(Malformed);
            }
            if known {
                let step = element::canonical(step).ok_or(Malformed)?;
                set.push(step, Self::read(below)?);
            }
        }
        set.sort();
        set.below.dedup_by(|later, first| {
            let same = later.0 == first.0;
            if same {
                first.1.unite(std::mem::take(&mut later.1));
            }
            same
        });
        Ok(set)
    }

    /// Writes `FieldsV1`.
    pub(super) fn into_json(self) -> Value {
        let own = (self.here && !self.below.is_empty())
            .then(|| (SELF.to_owned(), Value::Object(Map::new())));
        let below = self
            .below
            .into_iter()
            .map(|(step, set)| (step, set.into_json()));
        Value::Object(own.into_iter().chain(below).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn set(json: Value) -> Set {
        Set::from_json(json).unwrap()
    }

    #[test]
    fn reads_and_writes_fields_v1() {
        let json = json!({"f:a": {}, "f:b": {".": {}, "f:c": {}}, "f:d": {"k:{\"name\":\"x\"}": {".": {}, "f:e": {}}}});
        assert_eq!(set(json.clone()).into_json(), json);
        assert_eq!(
            set(json).paths(),
            [".a", ".b", ".b.c", ".d[name=\"x\"]", ".d[name=\"x\"].e"]
        );
        assert!(set(json!({})).is_empty());
        assert_eq!(set(json!({"x:new": {}, "f:a": {}})).paths(), [".a"]);
        for bad in [
            json!([]),
            json!({"f": {}}),
            json!({"f:a": 1}),
            json!({"k:x": {}}),
        ] {
            assert!(Set::from_json(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn removes_paths_but_not_what_is_below() {
        let all = json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}});
        let mut one = set(all);
        one.subtract(&set(json!({"f:a": {}})));
        assert_eq!(one.into_json(), json!({"f:a": {"f:b": {}}, "f:c": {}}));
    }

    fn any_set() -> impl Strategy<Value = Set> {
        let leaf = any::<bool>().prop_map(|here| Set {
            here,
            below: Vec::new(),
        });
        let tree = leaf.prop_recursive(3, 20, 3, |inner| {
            (
                any::<bool>(),
                prop::collection::btree_map("f:[a-c]", inner, 0..3),
            )
                .prop_map(|(here, below)| {
                    let mut set = Set {
                        here,
                        below: Vec::new(),
                    };
                    for (step, inner) in below {
                        set.push(step, inner);
                    }
                    set
                })
        });
        tree.prop_map(|mut set| {
            set.here = false;
            set
        })
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_paths(a in any_set(), b in any_set()) {
            use std::collections::BTreeSet;
            let of = |set: &Set| set.paths().into_iter().collect::<BTreeSet<_>>();
            let (x, y) = (of(&a), of(&b));
            let mut united = a.clone();
            united.unite(b.clone());
            prop_assert_eq!(of(&united), x.union(&y).cloned().collect::<BTreeSet<_>>());
            prop_assert_eq!(of(&a.intersection(&b)), x.intersection(&y).cloned().collect::<BTreeSet<_>>());
            let mut left = a.clone();
            left.subtract(&b);
            prop_assert_eq!(of(&left), x.difference(&y).cloned().collect::<BTreeSet<_>>());
            prop_assert_eq!(Set::from_json(a.clone().into_json()).unwrap(), a);
        }
    }
}
