//! Finding what a schema does not allow, in the words that upstream's validation of custom resources has for it.

use serde_json::Value;
use vaquita_api::field::{Errors, FieldError, Path};

use super::{Additional, Constraints, JsonType, ListType, Node, formats, lists};

/// How many places of a schema one validation may look at, over all values. An honest object takes thousands.
const STEPS: u32 = 20_000_000;

/// Finds what is wrong with `value`, which the rules of CEL have no part in.
///
/// With the state before the write in `old`, values that did not change are not looked at: they were good enough once,
/// and a schema that has become stricter does not stand in the way of other changes.
pub fn validate(
    node: &Node,
    value: &Value,
    old: Option<&Value>,
    at: Option<&Path<'_>>,
    errors: &mut Errors,
) {
    let mut walk = Walk { left: STEPS };
    let mut found = Vec::new();
    walk.node(node, value, old, at, &mut found);
    if walk.left == 0 {
        const DETAIL: &str = "the schema takes too many steps to validate the object against";
        found.push(FieldError::invalid(&nowhere(), "", DETAIL));
    }
    errors.extend(found);
}

struct Walk {
    /// How many steps are left. Without any, nothing more is looked at.
    left: u32,
}

/// Upstream's path of what is about no field in particular.
fn nowhere<'a>() -> Path<'a> {
    Path::root("<nil>")
}

/// The path as it stands in the text of messages.
fn named(at: Option<&Path<'_>>) -> String {
    at.map(ToString::to_string).unwrap_or_default()
}

/// The name of a value's type, as messages have it.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if is_whole(number) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_whole(number: &serde_json::Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|n| n.fract() == 0.0)
}

impl Walk {
    fn node(
        &mut self,
        node: &Node,
        value: &Value,
        old: Option<&Value>,
        at: Option<&Path<'_>>,
        errors: &mut Vec<FieldError>,
    ) {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 || errors.len() >= Errors::LIMIT || old == Some(value) {
            return;
        }
        if value.is_null() && node.nullable {
            return;
        }
        if let Some(expected) = wrong_type(node, value) {
            let found = type_name(value);
            let detail = format!(
                "{} in body must be of type {expected}: {found:?}",
                named(at)
            );
            let path = at.copied().unwrap_or_else(nowhere);
            errors.push(FieldError::type_invalid(&path, found, detail));
            return;
        }
        self.constraints(&node.constraints, value, at, errors);
        match value {
            Value::Object(map) => {
                for name in &node.constraints.required {
                    if !map.contains_key(name) {
                        errors.push(FieldError::required(&Path::below(at, name), ""));
                    }
                }
                let correlated = old.filter(|_| !node.atomic_map);
                for (name, value) in map {
                    let path = Path::below(at, name);
                    match (node.property(name), &node.additional) {
                        (Some(property), _) => {
                            let old = correlated.and_then(|old| old.get(name));
                            self.node(property, value, old, Some(&path), errors);
                        }
                        (None, Some(Additional::Nothing)) => {
                            let detail =
                                format!("{}.{name} in body is a forbidden property", named(at));
                            let path = at.copied().unwrap_or_else(nowhere);
                            errors.push(FieldError::invalid(&path, "", detail));
                        }
                        _ => {}
                    }
                }
            }
            Value::Array(items) => {
                let Some(item) = &node.items else {
                    return;
                };
                let before = Before::of(&node.list, old);
                for (index, value) in items.iter().enumerate() {
                    let path = at.map(|at| at.index(index));
                    self.node(item, value, before.find(value), path.as_ref(), errors);
                }
            }
            _ => {}
        }
    }

    fn constraints(
        &mut self,
        constraints: &Constraints,
        value: &Value,
        at: Option<&Path<'_>>,
        errors: &mut Vec<FieldError>,
    ) {
        let path = at.copied().unwrap_or_else(nowhere);
        let values = &constraints.values;
        if !values.is_empty() && !values.iter().any(|allowed| same(allowed, value)) {
            let texts: Vec<String> = values
                .iter()
                .map(|allowed| match allowed {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                })
                .collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            errors.push(FieldError::not_listed(&path, value.clone(), &texts));
        }
        match value {
            Value::String(text) => string(constraints, text, &path, at, errors),
            Value::Number(number) => {
                if let Some(number) = number.as_f64() {
                    numeric(constraints, number, value, &path, at, errors);
                }
            }
            Value::Array(items) => array(constraints, items, value, &path, at, errors),
            Value::Object(map) => {
                if let Some(min) = constraints.min_properties.filter(|min| map.len() < *min) {
                    let detail = format!(
                        "{} in body should have at least {min} properties",
                        named(at)
                    );
                    errors.push(FieldError::invalid(&path, value.clone(), detail));
                }
                if let Some(max) = constraints.max_properties.filter(|max| map.len() > *max) {
                    errors.push(FieldError::too_many(&path, map.len(), max));
                }
            }
            _ => {}
        }
        self.junctors(constraints, value, at, errors);
    }

    /// `allOf`, `anyOf`, `oneOf` and `not`.
    fn junctors(
        &mut self,
        constraints: &Constraints,
        value: &Value,
        at: Option<&Path<'_>>,
        errors: &mut Vec<FieldError>,
    ) {
        let must = |what: &str, errors: &mut Vec<FieldError>| {
            let detail = format!("{:?} must {what}", named(at));
            errors.push(FieldError::invalid(&nowhere(), "", detail));
        };
        if !constraints.any_of.is_empty() {
            let mut best: Option<Vec<FieldError>> = None;
            let mut passed = false;
            for branch in &constraints.any_of {
                let found = self.branch(branch, value, at);
                passed |= found.is_empty();
                if best.as_ref().is_none_or(|best| found.len() < best.len()) {
                    best = Some(found);
                }
                if passed {
                    break;
                }
            }
            if !passed {
                must("validate at least one schema (anyOf)", errors);
                errors.extend(best.unwrap_or_default());
            }
        }
        if !constraints.one_of.is_empty() {
            let mut best: Option<Vec<FieldError>> = None;
            let mut passed = 0_usize;
            for branch in &constraints.one_of {
                let found = self.branch(branch, value, at);
                passed += usize::from(found.is_empty());
                if best.as_ref().is_none_or(|best| found.len() < best.len()) {
                    best = Some(found);
                }
            }
            match passed {
                1 => {}
                0 => {
                    let what = "validate one and only one schema (oneOf). Found none valid";
                    must(what, errors);
                    errors.extend(best.unwrap_or_default());
                }
                many => {
                    let what = format!(
                        "validate one and only one schema (oneOf). Found {many} valid alternatives"
                    );
                    must(&what, errors);
                }
            }
        }
        if !constraints.all_of.is_empty() {
            let mut found = Vec::new();
            for branch in &constraints.all_of {
                found.extend(self.branch(branch, value, at));
            }
            if !found.is_empty() {
                let none = constraints.all_of.len() == found.len();
                let tail = if none { ". None validated" } else { "" };
                must(&format!("validate all the schemas (allOf){tail}"), errors);
                errors.extend(found);
            }
        }
        if let Some(not) = &constraints.not
            && self.branch(not, value, at).is_empty()
        {
            must("not validate the schema (not)", errors);
        }
    }

    fn branch(&mut self, branch: &Node, value: &Value, at: Option<&Path<'_>>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.node(branch, value, None, at, &mut errors);
        errors
    }
}

/// The type that the value should have and has not.
fn wrong_type(node: &Node, value: &Value) -> Option<&'static str> {
    if node.int_or_string {
        let fits = value.is_string() || matches!(value, Value::Number(number) if is_whole(number));
        return (!fits && !value.is_null()).then_some("integer,string");
    }
    let expected = node.ty?;
    let fits = match (expected, value) {
        (JsonType::Object, Value::Object(_))
        | (JsonType::Array, Value::Array(_))
        | (JsonType::String, Value::String(_))
        | (JsonType::Boolean, Value::Bool(_))
        | (JsonType::Number, Value::Number(_)) => true,
        (JsonType::Integer, Value::Number(number)) => is_whole(number),
        _ => false,
    };
    (!fits).then_some(expected.as_str())
}

/// Whether two values are the same; `1` and `1.0` are.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn string(
    constraints: &Constraints,
    text: &str,
    path: &Path<'_>,
    at: Option<&Path<'_>>,
    errors: &mut Vec<FieldError>,
) {
    if let Some(min) = constraints.min_length
        && text.chars().take(min).count() < min
    {
        let detail = format!("{} in body should be at least {min} chars long", named(at));
        errors.push(FieldError::invalid(path, text, detail));
    }
    if let Some(max) = constraints.max_length
        && text.len() > max
        && text.chars().count() > max
    {
        errors.push(FieldError::too_long(path, max));
        // A pattern is not tried on what may be endless.
        return;
    }
    if let Some(pattern) = &constraints.pattern
        && !pattern.is_match(text)
    {
        let detail = format!("{} in body should match '{}'", named(at), pattern.as_str());
        errors.push(FieldError::invalid(path, text, detail));
    }
    if let Some(format) = &constraints.format
        && !formats::check(format, text)
    {
        let detail = format!("{} in body must be of type {format}: {text:?}", named(at));
        errors.push(FieldError::type_invalid(path, text, detail));
    }
}

fn numeric(
    constraints: &Constraints,
    number: f64,
    value: &Value,
    path: &Path<'_>,
    at: Option<&Path<'_>>,
    errors: &mut Vec<FieldError>,
) {
    let mut should = |what: String| {
        let detail = format!("{} in body should be {what}", named(at));
        errors.push(FieldError::invalid(path, value.clone(), detail));
    };
    if let Some(max) = constraints.maximum {
        if max.exclusive && number >= max.value {
            should(format!("less than {}", max.value));
        } else if number > max.value {
            should(format!("less than or equal to {}", max.value));
        }
    }
    if let Some(min) = constraints.minimum {
        if min.exclusive && number <= min.value {
            should(format!("greater than {}", min.value));
        } else if number < min.value {
            should(format!("greater than or equal to {}", min.value));
        }
    }
    if let Some(of) = constraints.multiple_of {
        let times = number / of;
        if (times - times.round()).abs() > 1e-9 * times.abs().max(1.0) {
            should(format!("a multiple of {of}"));
        }
    }
}

fn array(
    constraints: &Constraints,
    items: &[Value],
    value: &Value,
    path: &Path<'_>,
    at: Option<&Path<'_>>,
    errors: &mut Vec<FieldError>,
) {
    if let Some(min) = constraints.min_items.filter(|min| items.len() < *min) {
        let detail = format!("{} in body should have at least {min} items", named(at));
        errors.push(FieldError::invalid(path, value.clone(), detail));
    }
    if let Some(max) = constraints.max_items.filter(|max| items.len() > *max) {
        errors.push(FieldError::too_many(path, items.len(), max));
    }
    if constraints.unique_items {
        let mut texts: Vec<String> = items.iter().map(lists::canonical).collect();
        texts.sort_unstable();
        if texts.windows(2).any(|pair| pair[0] == pair[1]) {
            let detail = format!("{} in body shouldn't contain duplicates", named(at));
            errors.push(FieldError::invalid(path, value.clone(), detail));
        }
    }
}

/// The items of a list as they were, by their keys. Only those of maps can be told apart.
pub(crate) struct Before<'v> {
    keys: &'v [String],
    items: std::collections::HashMap<String, &'v Value>,
}

impl<'v> Before<'v> {
    pub(crate) fn of(ty: &'v ListType, old: Option<&'v Value>) -> Self {
        let (ListType::Map(keys), Some(Value::Array(items))) = (ty, old) else {
            return Self {
                keys: &[],
                items: std::collections::HashMap::new(),
            };
        };
        let keyed = |item: &'v Value| (lists::canonical(&lists::key(item, keys)), item);
        Self {
            keys,
            items: items.iter().map(keyed).collect(),
        }
    }

    /// The item with the keys of `item`, as it was.
    pub(crate) fn find(&self, item: &Value) -> Option<&'v Value> {
        if self.items.is_empty() {
            return None;
        }
        let key = lists::canonical(&lists::key(item, self.keys));
        self.items.get(&key).copied()
    }
}
