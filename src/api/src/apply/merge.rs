//! Merging a configuration into the live object, and taking out of the result what nobody wants any more.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::{Map, Value};

use super::element;
use super::set::Set;
use super::walk::{self, Shape, shape};
use crate::Object;
use crate::schema::{Grain, ListType, Schema, Type};

/// The live object with the configuration over it.
pub(super) fn merge(schema: &Schema, live: &Object, configuration: &Object) -> Object {
    Merger { schema }.objects(schema.root(), live, configuration)
}

struct Merger<'s> {
    schema: &'s Schema,
}

impl<'s> Merger<'s> {
    fn values(&self, ty: &'s Type, live: Option<&Value>, wanted: Option<&Value>) -> Option<Value> {
        let (Some(old), Some(new)) = (live, wanted) else {
            return wanted.or(live).cloned();
        };
        match shape(ty, [live, wanted]) {
            Shape::Leaf => Some(new.clone()),
            Shape::Object => {
                let none = Map::new();
                let old = old.as_object().unwrap_or(&none);
                let new = new.as_object().unwrap_or(&none);
                Some(Value::Object(self.objects(ty, old, new)))
            }
            Shape::List(item, list) => {
                let old = old.as_array().map_or(&[][..], Vec::as_slice);
                let new = new.as_array().map_or(&[][..], Vec::as_slice);
                Some(Value::Array(self.lists(item, list, old, new)))
            }
        }
    }

    fn objects(&self, ty: &'s Type, live: &Object, wanted: &Object) -> Object {
        let mut merged = live.clone();
        for (name, value) in wanted {
            let part = walk::part(self.schema, ty, name);
            if let Some(value) = self.values(part, live.get(name), Some(value)) {
                merged.insert(name.clone(), value);
            }
        }
        merged
    }

    /// The configuration's items in their order. Those that only the live list has keep their place among the items that
    /// both have; where that leaves a choice, they come first.
    fn lists(
        &self,
        item: &'s Type,
        list: &ListType,
        live: &[Value],
        wanted: &[Value],
    ) -> Vec<Value> {
        let steps = |values: &[Value]| -> Vec<String> {
            let step = |value| element::item(list, value).unwrap_or_default();
            values.iter().map(step).collect()
        };
        let (live_steps, wanted_steps) = (steps(live), steps(wanted));
        // Of items that share their keys, which the live list may have, none is merged with; they give way together.
        let mut places: HashMap<&str, Option<usize>> = HashMap::new();
        for (place, step) in live_steps.iter().enumerate() {
            places
                .entry(step)
                .and_modify(|found| *found = None)
                .or_insert(Some(place));
        }
        let asked: HashSet<&str> = wanted_steps.iter().map(String::as_str).collect();
        let mut shared: VecDeque<&str> = wanted_steps
            .iter()
            .map(String::as_str)
            .filter(|step| places.contains_key(step))
            .collect();
        let mut merged = Vec::with_capacity(live.len().max(wanted.len()));
        let mut left = live_steps.iter().map(String::as_str).zip(live).peekable();
        for (step, new) in wanted_steps.iter().map(String::as_str).zip(wanted) {
            // Whatever stands before the next common item goes before it; others' common items come in their own turn.
            while let Some((live_step, value)) = left.peek().copied()
                && live_step != step
                && (!asked.contains(live_step) || shared.front() != Some(&live_step))
            {
                left.next();
                if !asked.contains(live_step) {
                    merged.push(value.clone());
                }
            }
            if left.peek().is_some_and(|(live_step, _)| *live_step == step) {
                left.next();
            }
            if shared.front() == Some(&step) {
                shared.pop_front();
            }
            let old = places.get(step).copied().flatten().map(|at| &live[at]);
            merged.extend(self.values(item, old, Some(new)));
        }
        merged.extend(
            left.filter(|(step, _)| !asked.contains(step))
                .map(|(_, value)| value.clone()),
        );
        merged
    }
}

/// The object without the parts whose paths are in `gone`, and without what is empty after that.
pub(super) fn remove(schema: &Schema, object: &Object, gone: &Set) -> Object {
    remove_parts(schema, schema.root(), object, gone)
}

fn remove_from(schema: &Schema, ty: &Type, value: &Value, gone: &Set) -> Option<Value> {
    match (shape(ty, [Some(value), None]), value) {
        (Shape::Object, Value::Object(map)) => {
            let left = remove_parts(schema, ty, map, gone);
            (!left.is_empty()).then_some(Value::Object(left))
        }
        (Shape::List(item, list), Value::Array(items)) => {
            let left: Vec<Value> = items
                .iter()
                .filter_map(|value| {
                    let step = element::item(list, value).ok();
                    match step.and_then(|step| gone.get(&step)) {
                        None => Some(value.clone()),
                        Some(gone) if gone.here => None,
                        Some(gone) => remove_from(schema, item, value, gone),
                    }
                })
                .collect();
            (!left.is_empty()).then_some(Value::Array(left))
        }
        _ => Some(value.clone()),
    }
}

fn remove_parts(schema: &Schema, ty: &Type, map: &Object, gone: &Set) -> Object {
    let keep = |(name, value): (&String, &Value)| {
        let value = match gone.get(&element::field(name)) {
            None => value.clone(),
            Some(gone) if gone.here => return None,
            Some(gone) => remove_from(schema, walk::part(schema, ty, name), value, gone)?,
        };
        Some((name.clone(), value))
    };
    map.iter().filter_map(keep).collect()
}

/// Makes members of all fields of structs that have members below them.
pub(super) fn with_fields(schema: &Schema, set: &Set) -> Set {
    name_fields(schema, Some(schema.root()), set)
}

fn name_fields(schema: &Schema, ty: Option<&Type>, set: &Set) -> Set {
    let mut named = Set::default();
    named.here = set.here;
    for (step, below) in set.steps() {
        let (inner, declared) = match (ty, step.split_once(':')) {
            (Some(ty @ Type::Struct(_, Grain::Granular)), Some(("f", name))) => {
                match walk::field(schema, ty, name) {
                    Some(field) => (Some(&field.ty), true),
                    None => (None, false),
                }
            }
            (Some(Type::Map(entry, _)), Some(("f", _))) => (Some(&**entry), false),
            (Some(Type::List(item, ListType::Map(_))), Some(("k", _))) => (Some(&**item), false),
            _ => (None, false),
        };
        let mut below = name_fields(schema, inner, below);
        below.here |= declared;
        named.push(step.to_owned(), below);
    }
    named
}
