//! Field sets from before a kind's schema changed: what was owned part by part may be one value now, and the other way
//! round. Built-in kinds don't change so; custom ones may.

use super::set::Set;
use super::{owned, walk};
use crate::Object;
use crate::schema::{Grain, ListType, Schema, Type};

/// Brings the set of a manager of `live` in line with the schema as it is now.
pub(super) fn reconcile(schema: &Schema, live: &Object, set: &mut Set) {
    if !schema.may_change() {
        return;
    }
    let mut walk = Walk {
        schema,
        live,
        all: None,
        at: Vec::new(),
    };
    walk.node(schema.root(), set);
}

struct Walk<'s> {
    schema: &'s Schema,
    live: &'s Object,
    /// The paths of the live object, once they are asked for.
    all: Option<Set>,
    at: Vec<String>,
}

impl<'s> Walk<'s> {
    fn node(&mut self, ty: &'s Type, set: &mut Set) {
        let leaf = set.here && set.is_leaf();
        match ty {
            Type::Struct(_, Grain::Atomic)
            | Type::Map(_, Grain::Atomic)
            | Type::List(_, ListType::Atomic) => {
                if !leaf {
                    *set = Set::HERE;
                }
                return;
            }
            Type::Struct(..) | Type::Map(..) | Type::List(..) if leaf => {
                if let Some(below) = self.live_below() {
                    set.unite(below);
                }
                return;
            }
            Type::Struct(..) | Type::Map(..) | Type::List(..) => {}
            _ => return,
        }
        for (step, below) in set.steps_mut() {
            let inner = match (ty, step.split_once(':')) {
                (Type::List(item, _), _) => item,
                (_, Some(("f", name))) => walk::part(self.schema, ty, name),
                _ => continue,
            };
            self.at.push(step.to_owned());
            self.node(inner, below);
            self.at.pop();
        }
    }

    /// What there is at this place of the live object, as parts that can be owned.
    fn live_below(&mut self) -> Option<Set> {
        let all = self
            .all
            .get_or_insert_with(|| owned::paths(self.schema, self.live));
        let mut found = &*all;
        for step in &self.at {
            found = found.get(step)?;
        }
        Some(found.clone())
    }
}
