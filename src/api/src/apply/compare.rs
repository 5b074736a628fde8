//! What differs between two objects, as sets of paths.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::element;
use super::set::Set;
use super::walk::{self, Shape, shape};
use crate::Object;
use crate::schema::{ListType, Schema, Type};

/// The difference between an old and a new object.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// What is new or has another value. An object or list that is new is in it besides its parts.
    pub(super) changed: Set,
    /// What is not there any more.
    pub(super) removed: Set,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }

    /// Puts the changes of a part among those of the whole.
    fn push(&mut self, step: impl Fn() -> String, inner: Self) {
        if !inner.changed.is_empty() {
            self.changed.push(step(), inner.changed);
        }
        if !inner.removed.is_empty() {
            self.removed.push(step(), inner.removed);
        }
    }

    fn sort(&mut self) {
        self.changed.sort();
        self.removed.sort();
    }
}

/// Compares two objects of the schema's root type.
pub(super) fn compare(schema: &Schema, old: &Object, new: &Object) -> Changes {
    let mut changes = Changes::default();
    Walk { schema }.objects(schema.root(), Some(old), Some(new), &mut changes);
    changes.sort();
    changes
}

struct Walk<'s> {
    schema: &'s Schema,
}

impl<'s> Walk<'s> {
    /// The changes of one part. At least one of the values is there.
    fn values(&self, ty: &'s Type, old: Option<&Value>, new: Option<&Value>) -> Changes {
        let mut changes = Changes::default();
        if let (Some(old), Some(new)) = (old, new)
            && old == new
        {
            return changes;
        }
        match shape(ty, [old, new]) {
            Shape::Leaf => self.leaf(ty, old, new, &mut changes),
            Shape::Object => {
                // `null` is there, though with nothing inside.
                let none = Map::new();
                let old = old.map(|value| value.as_object().unwrap_or(&none));
                let new = new.map(|value| value.as_object().unwrap_or(&none));
                self.objects(ty, old, new, &mut changes);
            }
            Shape::List(item, list) => {
                let old = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                let new = new.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                self.lists(item, list, old, new, &mut changes);
            }
        }
        changes.changed.here |= old.is_none();
        changes.removed.here |= new.is_none();
        changes.sort();
        changes
    }

    fn leaf(&self, ty: &'s Type, old: Option<&Value>, new: Option<&Value>, changes: &mut Changes) {
        let (Some(old), Some(new)) = (old, new) else {
            return;
        };
        // A list or object that becomes something else takes its parts along, and the other way round.
        if shape(ty, [Some(old), None]) != Shape::Leaf {
            changes.removed = self.values(ty, Some(old), None).removed;
            changes.removed.here = false;
        }
        if shape(ty, [Some(new), None]) != Shape::Leaf {
            changes.changed = self.values(ty, None, Some(new)).changed;
        }
        changes.changed.here = true;
    }

    fn objects(
        &self,
        ty: &'s Type,
        old: Option<&Object>,
        new: Option<&Object>,
        changes: &mut Changes,
    ) {
        let (before, after) = (old.into_iter().flatten(), new.into_iter().flatten());
        let left = before.filter(|(name, _)| new.is_none_or(|new| !new.contains_key(*name)));
        for (name, _) in after.chain(left) {
            let mut values = [old, new].map(|object| object.and_then(|object| object.get(name)));
            let inner = match walk::field(self.schema, ty, name) {
                Some(field) => {
                    if field.always {
                        let empty = walk::empty(&field.ty);
                        values[0] = values[0].or(old.map(|_| empty));
                        values[1] = values[1].or(new.map(|_| empty));
                    }
                    &field.ty
                }
                None => walk::part(self.schema, ty, name),
            };
            let inner = self.values(inner, values[0], values[1]);
            changes.push(|| element::field(name), inner);
        }
    }

    /// Compares the items that have the same keys. Items that share their keys with others are one value together.
    fn lists(
        &self,
        item: &'s Type,
        list: &ListType,
        old: &[Value],
        new: &[Value],
        changes: &mut Changes,
    ) {
        let mut pairs: BTreeMap<String, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        for value in old {
            if let Ok(step) = element::item(list, value) {
                pairs.entry(step).or_default().0.push(value);
            }
        }
        for value in new {
            if let Ok(step) = element::item(list, value) {
                pairs.entry(step).or_default().1.push(value);
            }
        }
        for (step, (old, new)) in pairs {
            let mut inner = Changes::default();
            match (old.as_slice(), new.as_slice()) {
                ([] | [_], [] | [_]) => {
                    inner = self.values(item, old.first().copied(), new.first().copied());
                }
                ([] | [_], _) => {
                    if let Some(old) = old.first() {
                        inner = self.values(item, Some(old), None);
                    }
                    inner.changed.here = true;
                }
                (_, [] | [_]) => {
                    if let Some(new) = new.first() {
                        inner = self.values(item, None, Some(new));
                    }
                    inner.removed.here = true;
                }
                _ => inner.changed.here = old != new,
            }
            changes.push(|| step.clone(), inner);
        }
    }
}
