//! Strategic merge patch: a merge patch that knows which lists are keyed.
//!
//! Objects merge by key as in a merge patch. Lists whose field says so (see [`Merge`]) merge item by item, paired by
//! the field's key, and lists of single values as sets; all others are replaced. Directives inside the patch steer it:
//!
//! - `$patch: replace | delete` in an object: take the patch's object instead, or empty the object; in an
//!   item of a keyed list, `delete` removes the item that it is paired with, `replace` the whole list's old content;
//! - `$retainKeys: [..]` in an object: all other keys are removed first;
//! - `$deleteFromPrimitiveList/<field>: [..]` removes values from a set;
//! - `$setElementOrder/<field>: [..]` says in which order the merged list stands; items that only the server knows keep
//!   their place relative to the others.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{PatchError, not_a_map};
use crate::go::{self, Printed};
use crate::schema::{Field, Merge, Schema, Type};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Merges `patch` into `target`, both of the schema's root type.
pub(super) fn apply(target: &mut Value, patch: Value, schema: &Schema) -> Result<(), PatchError> {
    let patch = match patch {
        Value::Object(patch) => patch,
        other => return Err(PatchError::Malformed(not_a_map(&other))),
    };
    match target {
        Value::Object(target) => Merger { schema }.object(target, patch, schema.root()),
        other => Err(unmergeable(bad_type("map[string]interface {}", other))),
    }
}

fn malformed(message: &str) -> PatchError {
    PatchError::Malformed(message.to_owned())
}

fn unmergeable(message: impl Into<String>) -> PatchError {
    PatchError::Unmergeable(message.into())
}

fn bad_type(expected: &str, found: &Value) -> String {
    format!(
        "expected a {expected}, but received a {}",
        go::type_name(found)
    )
}

fn list(value: Value) -> Result<Vec<Value>, PatchError> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(unmergeable(bad_type("[]interface {}", &other))),
    }
}

/// What `$patch` says about an object.
enum Directive {
    /// Nothing.
    None,
    Replace,
    Delete,
}

/// Takes `$patch` out of an object.
fn take_directive(patch: &mut Map<String, Value>) -> Result<Directive, PatchError> {
    let unknown = |directive: &Value, patch: &Map<String, Value>| {
        let patch = Value::Object(patch.clone());
        unmergeable(format!(
            "unknown patch type: {} in map: {}",
            Printed(directive),
            Printed(&patch)
        ))
    };
    match patch.get(PATCH) {
        None => return Ok(Directive::None),
        Some(directive) if directive != "replace" && directive != "delete" => {
            return Err(unknown(directive, patch));
        }
        Some(_) => {}
    }
    let replace = patch
        .remove(PATCH)
        .is_some_and(|directive| directive == "replace");
    Ok(if replace {
        Directive::Replace
    } else {
        Directive::Delete
    })
}

struct Merger<'s> {
    schema: &'s Schema,
}

impl<'s> Merger<'s> {
    fn object(
        &self,
        target: &mut Map<String, Value>,
        mut patch: Map<String, Value>,
        ty: &'s Type,
    ) -> Result<(), PatchError> {
        match take_directive(&mut patch)? {
            Directive::None => {}
            Directive::Replace => {
                *target = without_directives(patch);
                return Ok(());
            }
            Directive::Delete => {
                target.clear();
                return Ok(());
            }
        }
        retain_keys(target, &mut patch)?;
        self.ordered_lists(target, &mut patch, ty)?;
        for (key, value) in patch {
            if let Some(field) = key.strip_prefix(DELETE_FROM) {
                delete_from(target, field, &value)?;
            } else if value.is_null() {
                target.remove(&key);
            } else {
                let (inner, merge) = self.inside(ty, &key);
                self.value(target, key, value, inner, merge)?;
            }
        }
        Ok(())
    }

    /// The type of the value at `key`, and how it merges. What the schema does not know merges as plain JSON; decoding
    /// the result will have something to say about it.
    fn inside(&self, ty: &'s Type, key: &str) -> (&'s Type, Merge) {
        match ty {
            Type::Struct(id, _) => match self.schema.get(*id).field(key) {
                Some(Field { ty, merge, .. }) => (ty, *merge),
                None => (&Type::Any, Merge::Usual),
            },
            Type::Map(entry, _) => (entry, Merge::Usual),
            _ => (&Type::Any, Merge::Usual),
        }
    }

    fn value(
        &self,
        target: &mut Map<String, Value>,
        key: String,
        patch: Value,
        ty: &'s Type,
        merge: Merge,
    ) -> Result<(), PatchError> {
        match (target.get_mut(&key), patch) {
            (Some(Value::Object(old)), Value::Object(new)) if merge != Merge::Replace => {
                self.object(old, new, ty)
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let list = std::mem::take(old);
                *old = self.list(list, new, ty, merge)?;
                Ok(())
            }
            (_, patch) => {
                target.insert(key, pruned(patch));
                Ok(())
            }
        }
    }

    /// Merges two lists without an order given: what the patch names comes in the patch's order, the rest in its old.
    fn list(
        &self,
        old: Vec<Value>,
        patch: Vec<Value>,
        ty: &'s Type,
        merge: Merge,
    ) -> Result<Vec<Value>, PatchError> {
        if merge.key().is_none() && merge != Merge::Set {
            return Ok(pruned_list(patch));
        }
        let identity = Identity(merge.key());
        let order = Order::of(&patch, &identity)?;
        let old_order = Order::of(&old, &identity)?;
        let merged = self.items(old, patch, ty, merge)?;
        arrange(merged, &order, &old_order, &identity)
    }

    /// The items of both lists, those of the old one first.
    fn items(
        &self,
        mut old: Vec<Value>,
        patch: Vec<Value>,
        ty: &'s Type,
        merge: Merge,
    ) -> Result<Vec<Value>, PatchError> {
        let identity = Identity(merge.key());
        let item_type = if let Type::List(item, _) = ty {
            item
        } else {
            &Type::Any
        };
        let mut replace = false;
        let mut deleted = HashSet::new();
        let mut kept = Vec::with_capacity(patch.len());
        for item in patch {
            let Value::Object(mut item) = item else {
                kept.push(item);
                continue;
            };
            if item
                .get(PATCH)
                .is_some_and(|directive| directive == "merge")
            {
                const MESSAGE: &str = "merging lists cannot yet be specified in the patch";
                return Err(unmergeable(MESSAGE));
            }
            match take_directive(&mut item)? {
                Directive::None => kept.push(Value::Object(item)),
                Directive::Delete => {
                    deleted.insert(identity.of(&Value::Object(item))?);
                }
                // The item only carries the directive; if there is more in it, that is dropped, too.
                Directive::Replace => replace = true,
            }
        }
        if replace {
            return Ok(pruned_list(kept));
        }
        if !deleted.is_empty() {
            let mut remaining = Vec::with_capacity(old.len());
            for item in old {
                if !deleted.contains(&identity.of(&item)?) {
                    remaining.push(item);
                }
            }
            old = remaining;
        }
        let mut places = HashMap::with_capacity(old.len());
        for (place, item) in old.iter().enumerate() {
            places.entry(identity.of(item)?).or_insert(place);
        }
        for item in kept {
            let id = identity.of(&item)?;
            match (places.get(&id).and_then(|place| old.get_mut(*place)), item) {
                (Some(Value::Object(existing)), Value::Object(item)) => {
                    self.object(existing, item, item_type)?;
                }
                (Some(existing), item) => *existing = item,
                (None, item) => {
                    places.insert(id, old.len());
                    old.push(pruned(item));
                }
            }
        }
        Ok(old)
    }

    /// Carries out the `$setElementOrder/...` directives, together with the patches of the lists that they order.
    fn ordered_lists(
        &self,
        target: &mut Map<String, Value>,
        patch: &mut Map<String, Value>,
        ty: &'s Type,
    ) -> Result<(), PatchError> {
        let directives: Vec<String> = patch
            .keys()
            .filter(|key| key.starts_with(SET_ORDER))
            .cloned()
            .collect();
        for directive in directives {
            let field = &directive[SET_ORDER.len()..];
            let order = list(patch.remove(&directive).unwrap_or_default())?;
            let (list_type, merge) = self.inside(ty, field);
            if merge.key().is_none() && merge != Merge::Set {
                // There is no way to say who stands where in a list that is replaced.
                return Err(malformed("invalid patch format of setElementOrder list"));
            }
            let old = target.get(field).cloned().map(list).transpose()?;
            let change = patch.remove(field).map(list).transpose()?;
            if old.is_none() && change.is_none() {
                continue;
            }
            let (old, change) = (old.unwrap_or_default(), change.unwrap_or_default());
            let identity = Identity(merge.key());
            let wanted = Order::of(&order, &identity)?;
            check_order(&change, &order, &wanted, &identity)?;
            let old_order = Order::of(&old, &identity)?;
            let merged = self.items(old, change, list_type, merge)?;
            let arranged = arrange(merged, &wanted, &old_order, &identity)?;
            target.insert(field.to_owned(), Value::Array(arranged));
        }
        Ok(())
    }
}

/// Carries out `$retainKeys`.
fn retain_keys(
    target: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
) -> Result<(), PatchError> {
    const BAD: &str = "invalid patch format of retainKeys";
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return Err(malformed(BAD));
    };
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let stray = |key: &String| !key.starts_with('$') && !keys.contains(key.as_str());
    if patch
        .iter()
        .any(|(key, value)| stray(key) && !value.is_null())
    {
        return Err(malformed(BAD));
    }
    target.retain(|key, _| keys.contains(key.as_str()));
    Ok(())
}

/// Carries out `$deleteFromPrimitiveList/<field>`.
fn delete_from(
    target: &mut Map<String, Value>,
    field: &str,
    values: &Value,
) -> Result<(), PatchError> {
    let Value::Array(values) = values else {
        return Err(malformed("invalid patch format of primitive list"));
    };
    if let Some(Value::Array(list)) = target.get_mut(field) {
        let gone: HashSet<String> = values.iter().map(Value::to_string).collect();
        list.retain(|value| !gone.contains(&value.to_string()));
    }
    Ok(())
}

/// What makes two items of a list the same one: the value of their key, or with no key the whole.
struct Identity(Option<&'static str>);

impl Identity {
    fn of(&self, item: &Value) -> Result<String, PatchError> {
        match (self.0, item) {
            (_, Value::Array(_)) => Err(PatchError::Inapplicable(
                "lists of lists are not supported".to_owned(),
            )),
            (None, Value::Object(_)) => Err(unmergeable(
                "cannot merge lists without merge key for type struct",
            )),
            (None, single) => Ok(single.to_string()),
            (Some(key), Value::Object(object)) => match object.get(key) {
                Some(value) => Ok(value.to_string()),
                // A patch's item which holds nothing but `$patch: replace` speaks for the list.
                None if object.contains_key(PATCH) => Ok(String::new()),
                None => Err(unmergeable(format!(
                    "map: {} does not contain declared merge key: {key}",
                    Printed(item)
                ))),
            },
            (Some(_), other) => Err(unmergeable(bad_type("map[string]interface {}", other))),
        }
    }
}

/// The place of each item in a list.
struct Order(HashMap<String, usize>);

impl Order {
    fn of(list: &[Value], identity: &Identity) -> Result<Self, PatchError> {
        let mut places = HashMap::with_capacity(list.len());
        for (place, item) in list.iter().enumerate() {
            places.entry(identity.of(item)?).or_insert(place);
        }
        Ok(Self(places))
    }

    fn place(&self, id: &str) -> Option<usize> {
        self.0.get(id).copied()
    }
}

/// The items that a patch changes must stand in the order which it sets, in the same order.
fn check_order(
    change: &[Value],
    order: &[Value],
    wanted: &Order,
    identity: &Identity,
) -> Result<(), PatchError> {
    let mut last = None;
    for item in change.iter().filter(|item| item.get(PATCH).is_none()) {
        let place = wanted.place(&identity.of(item)?);
        if place.is_none() || place < last {
            return Err(unmergeable(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                Printed(&Value::from(change)),
                Printed(&Value::from(order)),
            )));
        }
        last = place;
    }
    Ok(())
}

/// Brings items into `wanted` order. Those that it does not name keep their old order among each other, and each stands
/// before the first named item that it stood before.
fn arrange(
    items: Vec<Value>,
    wanted: &Order,
    old: &Order,
    identity: &Identity,
) -> Result<Vec<Value>, PatchError> {
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for item in items {
        let id = identity.of(&item)?;
        let old_place = old.place(&id);
        match wanted.place(&id) {
            Some(place) => named.push((place, old_place, item)),
            None => others.push((old_place, item)),
        }
    }
    named.sort_by_key(|(place, ..)| *place);
    others.sort_by_key(|(old_place, _)| *old_place);
    let mut others = others.into_iter().peekable();
    let mut arranged = Vec::with_capacity(named.len() + others.len());
    for (_, old_place, item) in named {
        while let (Some((Some(other), _)), Some(place)) = (others.peek(), old_place)
            && *other < place
            && let Some((_, other)) = others.next()
        {
            arranged.push(other);
        }
        arranged.push(item);
    }
    arranged.extend(others.map(|(_, item)| item));
    Ok(arranged)
}

/// A value of a patch that has nothing to merge with: without directives, and without the nulls that remove.
fn pruned(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        Value::Array(items) => Value::Array(pruned_list(items)),
        single => single,
    }
}

fn pruned_list(items: Vec<Value>) -> Vec<Value> {
    let speaks = |item: &Value| {
        matches!(
            item.get(PATCH).and_then(Value::as_str),
            Some("delete" | "replace")
        )
    };
    items
        .into_iter()
        .filter(|item| !speaks(item))
        .map(pruned)
        .collect()
}

fn without_directives(map: Map<String, Value>) -> Map<String, Value> {
    let directive = |key: &str| {
        key == PATCH
            || key == RETAIN_KEYS
            || key.starts_with(DELETE_FROM)
            || key.starts_with(SET_ORDER)
    };
    map.into_iter()
        .filter(|(key, value)| !directive(key) && !value.is_null())
        .map(|(key, value)| (key, pruned(value)))
        .collect()
}

#[cfg(test)]
mod tests;
