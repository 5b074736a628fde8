//! Structural schemas: the shape of a custom kind, and everything that is done along it.
//!
//! A [`Node`] is compiled once from the `openAPIV3Schema` of a version. A body then takes this way through it:
//! [`Node::prune`] drops what the schema does not know, [`Node::drop_nulls`] and [`Node::fill_defaults`] complete it, and
//! [`validate::validate`] with [`lists::validate`] finds what is wrong. The rules written in CEL run last; see
//! [`crate::rules`].
//!
//! All of this walks an object and a schema side by side. Both come from clients, so every walk is bounded: the depth by
//! what the JSON parser lets through, the time by a number of steps, what defaults add by a number of bytes.

mod defaults;
mod formats;
pub mod lists;
mod pattern;
mod prune;
#[cfg(test)]
mod tests;
pub mod validate;

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use serde_json::Value;

pub use defaults::TooLarge;
pub(crate) use formats::check as has_format;
pub use pattern::Pattern;
pub(crate) use pattern::compile as compile_pattern;

/// The `type` of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonType {
    /// A JSON object.
    Object,
    /// A JSON array.
    Array,
    /// A string.
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// `true` or `false`.
    Boolean,
}

impl JsonType {
    /// All types, sorted by their names.
    pub const NAMES: [&'static str; 6] =
        ["array", "boolean", "integer", "number", "object", "string"];

    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    /// The name in schemas.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// `x-kubernetes-list-type`: how the items of a list are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// The list is one value.
    #[default]
    Atomic,
    /// By their value, of which there is one each.
    Set,
    /// By the values of these fields.
    Map(Vec<String>),
}

/// `additionalProperties`.
#[derive(Clone, Debug)]
pub enum Additional {
    /// Any value at all.
    Any,
    /// Nothing.
    Nothing,
    /// Values of this shape.
    Of(Box<Node>),
}

/// A bound of a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// The bound itself.
    pub value: f64,
    /// Whether the bound is outside of what is allowed.
    pub exclusive: bool,
}

/// What is asked of a value beyond its type.
#[derive(Clone, Debug, Default)]
pub struct Constraints {
    /// `format`; one that is not known asks for nothing.
    pub format: Option<String>,
    /// `minimum`.
    pub minimum: Option<Bound>,
    /// `maximum`.
    pub maximum: Option<Bound>,
    /// `multipleOf`.
    pub multiple_of: Option<f64>,
    /// `minLength`, in characters.
    pub min_length: Option<usize>,
    /// `maxLength`, in characters.
    pub max_length: Option<usize>,
    /// `pattern`.
    pub pattern: Option<Pattern>,
    /// `minItems`.
    pub min_items: Option<usize>,
    /// `maxItems`.
    pub max_items: Option<usize>,
    /// `uniqueItems`.
    pub unique_items: bool,
    /// `minProperties`.
    pub min_properties: Option<usize>,
    /// `maxProperties`.
    pub max_properties: Option<usize>,
    /// `required`.
    pub required: Vec<String>,
    /// `enum`; empty where there is none.
    pub values: Vec<Value>,
    /// `allOf`.
    pub all_of: Vec<Node>,
    /// `anyOf`.
    pub any_of: Vec<Node>,
    /// `oneOf`.
    pub one_of: Vec<Node>,
    /// `not`.
    pub not: Option<Box<Node>>,
}

/// One place of a schema.
#[allow(
    clippy::struct_excessive_bools,
    reason = "a schema has as many switches"
)]
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// `type`.
    pub ty: Option<JsonType>,
    /// `nullable`.
    pub nullable: bool,
    /// `x-kubernetes-int-or-string`.
    pub int_or_string: bool,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve: bool,
    /// `x-kubernetes-embedded-resource`: an object with `apiVersion`, `kind` and `metadata`.
    pub embedded: bool,
    /// `x-kubernetes-list-type`.
    pub list: ListType,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic_map: bool,
    /// `default`.
    pub default: Option<Value>,
    /// `properties`.
    pub properties: BTreeMap<String, Node>,
    /// `additionalProperties`.
    pub additional: Option<Additional>,
    /// `items`.
    pub items: Option<Box<Node>>,
    /// Everything else that is asked of the value.
    pub constraints: Constraints,
    /// `x-kubernetes-validations`, as written.
    pub rules: Vec<ValidationRule>,
    /// Whether this place or one below it has a default.
    has_defaults: bool,
    /// Whether this place or one below it has rules.
    has_rules: bool,
}

impl Node {
    /// Compiles a schema. What a structural schema may not say is left out; [`crate::definition`] refuses it before.
    pub fn compile(schema: &JSONSchemaProps) -> Self {
        let nested = |list: &Option<Vec<JSONSchemaProps>>| -> Vec<Self> {
            list.iter().flatten().map(Self::compile).collect()
        };
        let constraints = Constraints {
            all_of: nested(&schema.all_of),
            any_of: nested(&schema.any_of),
            one_of: nested(&schema.one_of),
            not: schema
                .not
                .as_deref()
                .map(|not| Box::new(Self::compile(not))),
            ..Constraints::flat(schema)
        };
        let properties = schema.properties.iter().flatten();
        let mut node = Self {
            ty: schema.type_.as_deref().and_then(JsonType::parse),
            nullable: schema.nullable.unwrap_or_default(),
            int_or_string: schema.x_kubernetes_int_or_string.unwrap_or_default(),
            preserve: schema
                .x_kubernetes_preserve_unknown_fields
                .unwrap_or_default(),
            embedded: schema.x_kubernetes_embedded_resource.unwrap_or_default(),
            list: list_type(schema),
            atomic_map: schema.x_kubernetes_map_type.as_deref() == Some("atomic"),
            default: schema.default.as_ref().map(|default| default.0.clone()),
            properties: properties
                .map(|(name, property)| (name.clone(), Self::compile(property)))
                .collect(),
            additional: schema
                .additional_properties
                .as_ref()
                .map(|additional| match additional {
                    JSONSchemaPropsOrBool::Bool(true) => Additional::Any,
                    JSONSchemaPropsOrBool::Bool(false) => Additional::Nothing,
                    JSONSchemaPropsOrBool::Schema(of) => {
                        Additional::Of(Box::new(Self::compile(of)))
                    }
                }),
            items: items(schema).map(|items| Box::new(Self::compile(items))),
            constraints,
            rules: schema.x_kubernetes_validations.clone().unwrap_or_default(),
            has_defaults: false,
            has_rules: false,
        };
        node.has_defaults =
            node.default.is_some() || node.children().any(|child| child.has_defaults);
        node.has_rules = !node.rules.is_empty()
            || node.children().any(|child| child.has_rules)
            || node.constraints.all_of.iter().any(|all| all.has_rules);
        node
    }

    /// The places below: properties, additional properties, items.
    pub fn children(&self) -> impl Iterator<Item = &Self> {
        let additional = match &self.additional {
            Some(Additional::Of(node)) => Some(&**node),
            _ => None,
        };
        self.properties
            .values()
            .chain(additional)
            .chain(self.items.as_deref())
    }

    /// The place of a property, be it named or additional.
    pub fn property(&self, name: &str) -> Option<&Self> {
        match (self.properties.get(name), &self.additional) {
            (Some(property), _) => Some(property),
            (None, Some(Additional::Of(node))) => Some(node),
            _ => None,
        }
    }

    /// Whether this place or one below it has a default.
    pub fn has_defaults(&self) -> bool {
        self.has_defaults
    }

    /// Whether this place or one below it has rules written in CEL.
    pub fn has_rules(&self) -> bool {
        self.has_rules
    }
}

impl Constraints {
    /// What a schema asks for by itself, without what is nested in `allOf` and its like.
    fn flat(schema: &JSONSchemaProps) -> Self {
        let size = |size: Option<i64>| size.map(|size| usize::try_from(size).unwrap_or(0));
        let bound = |value: Option<f64>, exclusive: Option<bool>| {
            value.map(|value| Bound {
                value,
                exclusive: exclusive.unwrap_or_default(),
            })
        };
        Self {
            format: schema.format.clone().filter(|format| !format.is_empty()),
            minimum: bound(schema.minimum, schema.exclusive_minimum),
            maximum: bound(schema.maximum, schema.exclusive_maximum),
            multiple_of: schema.multiple_of.filter(|of| *of > 0.0),
            min_length: size(schema.min_length),
            max_length: size(schema.max_length),
            pattern: schema
                .pattern
                .as_deref()
                .filter(|pattern| !pattern.is_empty())
                .map(Pattern::new),
            min_items: size(schema.min_items),
            max_items: size(schema.max_items),
            unique_items: schema.unique_items.unwrap_or_default(),
            min_properties: size(schema.min_properties),
            max_properties: size(schema.max_properties),
            required: schema.required.clone().unwrap_or_default(),
            values: schema
                .enum_
                .iter()
                .flatten()
                .map(|value| value.0.clone())
                .collect(),
            ..Self::default()
        }
    }
}

/// The one schema of all items.
pub(crate) fn items(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(items),
        _ => None,
    }
}

fn list_type(schema: &JSONSchemaProps) -> ListType {
    match schema.x_kubernetes_list_type.as_deref() {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map(
            schema
                .x_kubernetes_list_map_keys
                .clone()
                .unwrap_or_default(),
        ),
        _ => ListType::Atomic,
    }
}
