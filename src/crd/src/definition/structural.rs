//! What makes a schema structural: each place has one type, and what is nested in `allOf` and its like only narrows what
//! the schema proper has said already.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrBool,
};
use serde_json::Value;
use vaquita_api::field::{FieldError, Path};

use crate::structural::{compile_pattern, items};

/// Where a place is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

impl Level {
    fn detail(self) -> &'static str {
        match self {
            Self::Root => "must not be empty at the root",
            Self::Item => "must not be empty for specified array items",
            Self::Field => "must not be empty for specified object fields",
        }
    }
}

fn is(flag: Option<bool>) -> bool {
    flag.unwrap_or_default()
}

fn ty(schema: &JSONSchemaProps) -> &str {
    schema.type_.as_deref().unwrap_or_default()
}

fn additional(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match &schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(schema)) => Some(schema),
        _ => None,
    }
}

/// Finds what keeps a schema from being structural, sorted by text as upstream has it.
pub(super) fn validate(schema: &JSONSchemaProps, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    invariants(schema, Level::Root, path, &mut errors);
    completeness(schema, path, &mut errors);
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

fn invariants(
    schema: &JSONSchemaProps,
    level: Level,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    match items(schema) {
        Some(items) => invariants(items, Level::Item, &path.child("items"), errors),
        None if ty(schema) == "array" && schema.items.is_none() => {
            errors.push(FieldError::required(
                &path.child("items"),
                "must be specified",
            ));
        }
        None => {}
    }
    let properties = path.child("properties");
    for (name, property) in schema.properties.iter().flatten() {
        invariants(property, Level::Field, &properties.key(name), errors);
    }
    if schema.additional_properties.is_some() {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(&at, "must not be used at the root"));
        }
        if let Some(additional) = additional(schema) {
            invariants(additional, Level::Field, &at, errors);
        }
    }
    extensions(schema, level, path, errors);
    let either = int_or_string(schema.any_of.as_deref());
    let first = schema.all_of.as_ref().and_then(|all| all.first());
    let either_in_all = first.is_some_and(|first| int_or_string(first.any_of.as_deref()));
    values(schema, either, either_in_all, path, errors);
    resource_fields(schema, level, path, errors);
}

/// Whether this is the one pattern by which `anyOf` may speak of types: a whole number or a string.
fn int_or_string(any_of: Option<&[JSONSchemaProps]>) -> bool {
    let of = |name: &str| JSONSchemaProps {
        type_: Some(name.to_owned()),
        ..JSONSchemaProps::default()
    };
    matches!(any_of, Some([a, b]) if *a == of("integer") && *b == of("string"))
}

/// The type, and Kubernetes' own extensions.
fn extensions(
    schema: &JSONSchemaProps,
    level: Level,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    const EMBEDDED: &str = "must be object if x-kubernetes-embedded-resource is true";
    let either = is(schema.x_kubernetes_int_or_string);
    let preserve = is(schema.x_kubernetes_preserve_unknown_fields);
    let embedded = is(schema.x_kubernetes_embedded_resource);
    let type_path = path.child("type");
    for (name, set) in [
        ("x-kubernetes-preserve-unknown-fields", preserve),
        ("x-kubernetes-embedded-resource", embedded),
    ] {
        if either && set {
            const DETAIL: &str = "must be false if x-kubernetes-int-or-string is true";
            errors.push(FieldError::invalid(&path.child(name), true, DETAIL));
        }
    }
    match ty(schema) {
        "" if embedded => errors.push(FieldError::required(&type_path, EMBEDDED)),
        other if embedded && other != "object" => {
            errors.push(FieldError::invalid(&type_path, other, EMBEDDED));
        }
        "" if !either && !preserve => {
            errors.push(FieldError::required(&type_path, level.detail()));
        }
        other if level == Level::Root && !matches!(other, "" | "object") => {
            errors.push(FieldError::invalid(
                &type_path,
                other,
                "must be object at the root",
            ));
        }
        _ => {}
    }
    if embedded && schema.additional_properties.is_some() {
        const DETAIL: &str = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(
            &path.child("additionalProperties"),
            DETAIL,
        ));
    }
    let bare = schema.properties.as_ref().is_none_or(BTreeMap::is_empty);
    if embedded && !preserve && bare {
        const DETAIL: &str = "must not be empty if x-kubernetes-embedded-resource is true without \
                              x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(&path.child("properties"), DETAIL));
    }
}

/// What a schema may say about the fields that every resource has.
fn resource_fields(
    schema: &JSONSchemaProps,
    level: Level,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let is_resource = level == Level::Root || is(schema.x_kubernetes_embedded_resource);
    let property = |name: &str| schema.properties.as_ref().and_then(|map| map.get(name));
    let properties = path.child("properties");
    for name in ["kind", "apiVersion"] {
        if let Some(field) = property(name).filter(|field| is_resource && ty(field) != "string") {
            let at = properties.key(name);
            errors.push(FieldError::invalid(
                &at.child("type"),
                ty(field),
                "must be string",
            ));
        }
    }
    let Some(metadata) = property("metadata") else {
        return;
    };
    let at = properties.key("metadata");
    if is_resource && ty(metadata) != "object" {
        errors.push(FieldError::invalid(
            &at.child("type"),
            ty(metadata),
            "must be object",
        ));
    }
    if level == Level::Root && !restricts_names_only(metadata) {
        const DETAIL: &str = "must not specify anything other than name and generateName, but metadata is implicitly \
                              specified";
        errors.push(FieldError::forbidden(&at, DETAIL));
    }
}

/// Whether nothing but the name is restricted.
fn restricts_names_only(metadata: &JSONSchemaProps) -> bool {
    let names = metadata.properties.iter().flatten();
    let rest = JSONSchemaProps {
        type_: None,
        default: None,
        description: None,
        properties: None,
        ..metadata.clone()
    };
    names
        .into_iter()
        .all(|(name, _)| matches!(name.as_str(), "name" | "generateName"))
        && rest == JSONSchemaProps::default()
        && metadata.description.is_none()
}

/// What is asked of values; `skip_any` and `skip_first_all` leave out the pattern of whole numbers and strings.
fn values(
    schema: &JSONSchemaProps,
    skip_any: bool,
    skip_first_all: bool,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let lists = [
        ("anyOf", &schema.any_of),
        ("allOf", &schema.all_of),
        ("oneOf", &schema.one_of),
    ];
    for (name, list) in lists {
        if skip_any && name == "anyOf" {
            continue;
        }
        let at = path.child(name);
        for (index, branch) in list.iter().flatten().enumerate() {
            let skip = skip_first_all && name == "allOf" && index == 0;
            nested(branch, skip, &at.index(index), errors);
        }
    }
    if let Some(not) = &schema.not {
        nested(not, false, &path.child("not"), errors);
    }
    if let Some(pattern) = schema
        .pattern
        .as_deref()
        .filter(|pattern| !pattern.is_empty())
        && let Err(error) = compile_pattern(pattern)
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(&path.child("pattern"), pattern, detail));
    }
}

/// A schema below a junctor. It may narrow values, and say nothing about what there is.
fn nested(schema: &JSONSchemaProps, skip_any: bool, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    const EMPTY: &str = "must be empty to be structural";
    const UNDEFINED: &str = "must be undefined to be structural";
    const FALSE: &str = "must be false to be structural";
    values(schema, skip_any, false, path, errors);
    if let Some(items) = items(schema) {
        nested(items, false, &path.child("items"), errors);
    }
    let properties = path.child("properties");
    for (name, property) in schema.properties.iter().flatten() {
        nested(property, false, &properties.key(name), errors);
    }
    let text = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let keys = schema.x_kubernetes_list_map_keys.as_ref();
    let forbidden = [
        ("type", text(&schema.type_), EMPTY),
        (
            "additionalProperties",
            schema.additional_properties.is_some(),
            UNDEFINED,
        ),
        ("default", schema.default.is_some(), UNDEFINED),
        ("title", text(&schema.title), EMPTY),
        ("description", text(&schema.description), EMPTY),
        ("nullable", is(schema.nullable), FALSE),
        ("externalDocs", schema.external_docs.is_some(), UNDEFINED),
        (
            "x-kubernetes-preserve-unknown-fields",
            is(schema.x_kubernetes_preserve_unknown_fields),
            FALSE,
        ),
        (
            "x-kubernetes-embedded-resource",
            is(schema.x_kubernetes_embedded_resource),
            FALSE,
        ),
        (
            "x-kubernetes-int-or-string",
            is(schema.x_kubernetes_int_or_string),
            FALSE,
        ),
        (
            "x-kubernetes-list-map-keys",
            keys.is_some_and(|keys| !keys.is_empty()),
            EMPTY,
        ),
        (
            "x-kubernetes-list-type",
            schema.x_kubernetes_list_type.is_some(),
            UNDEFINED,
        ),
        (
            "x-kubernetes-map-type",
            schema.x_kubernetes_map_type.is_some(),
            UNDEFINED,
        ),
        (
            "x-kubernetes-validations",
            schema
                .x_kubernetes_validations
                .as_ref()
                .is_some_and(|rules| !rules.is_empty()),
            EMPTY,
        ),
    ];
    for (name, set, detail) in forbidden {
        if set {
            errors.push(FieldError::forbidden(&path.child(name), detail));
        }
    }
    if schema
        .properties
        .as_ref()
        .is_some_and(|map| map.contains_key("metadata"))
    {
        const DETAIL: &str = "must not be specified in a nested context";
        errors.push(FieldError::forbidden(&properties.key("metadata"), DETAIL));
    }
}

/// Whatever is spoken of below a junctor must be there in the schema proper.
fn completeness(schema: &JSONSchemaProps, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    junctors(schema, schema, path, path, errors);
    let properties = path.child("properties");
    for (name, property) in schema.properties.iter().flatten() {
        completeness(property, &properties.key(name), errors);
    }
    if let Some(additional) = additional(schema) {
        completeness(additional, &path.child("additionalProperties"), errors);
    }
    if let Some(items) = items(schema) {
        completeness(items, &path.child("items"), errors);
    }
}

/// Compares what is below the junctors of `said` with `proper`, the place that they are about.
fn junctors(
    said: &JSONSchemaProps,
    proper: &JSONSchemaProps,
    said_at: &Path<'_>,
    proper_at: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    for (name, list) in [
        ("allOf", &said.all_of),
        ("anyOf", &said.any_of),
        ("oneOf", &said.one_of),
    ] {
        let at = said_at.child(name);
        for (index, branch) in list.iter().flatten().enumerate() {
            complete(branch, proper, &at.index(index), proper_at, errors);
        }
    }
    if let Some(not) = &said.not {
        complete(not, proper, &said_at.child("not"), proper_at, errors);
    }
}

fn complete(
    said: &JSONSchemaProps,
    proper: &JSONSchemaProps,
    said_at: &Path<'_>,
    proper_at: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    junctors(said, proper, said_at, proper_at, errors);
    let (said_properties, proper_properties) =
        (said_at.child("properties"), proper_at.child("properties"));
    for (name, property) in said.properties.iter().flatten() {
        let (said_at, proper_at) = (said_properties.key(name), proper_properties.key(name));
        match proper.properties.as_ref().and_then(|map| map.get(name)) {
            Some(proper) => complete(property, proper, &said_at, &proper_at, errors),
            None => missing(&said_at, &proper_at, errors),
        }
    }
    if let Some(said_items) = items(said) {
        let (said_at, proper_at) = (said_at.child("items"), proper_at.child("items"));
        match items(proper) {
            Some(proper) => complete(said_items, proper, &said_at, &proper_at, errors),
            None => missing(&said_at, &proper_at, errors),
        }
    }
}

fn missing(said_at: &Path<'_>, proper_at: &Path<'_>, errors: &mut Vec<FieldError>) {
    let detail = format!("because it is defined in {said_at}");
    errors.push(FieldError::required(proper_at, detail));
}

/// The value of a schema as messages show it.
pub(super) fn shown(schema: &JSONSchemaProps) -> Value {
    serde_json::to_value(schema).unwrap_or(Value::Null)
}
