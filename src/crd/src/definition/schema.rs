//! What the schema of a version may say.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use vaquita_api::field::{Errors, FieldError, Path};

use super::structural::{self, shown};
use super::{defaults, rules};
use crate::structural::{JsonType, Node, items};

/// What may be said at the root of a schema whose status is a subresource, as upstream lists it.
const AT_ROOT: &str = "only [Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength \
                       MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs \
                       Example XPreserveUnknownFields XValidations] fields are allowed at the root of the schema if the \
                       status subresource is enabled";

/// Finds mistakes in the schema of a version; `status` says whether the status is a subresource.
pub(super) fn validate(
    schema: &JSONSchemaProps,
    status: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let before = errors.len();
    let at = path.child("openAPIV3Schema");
    if status && says_more_than_allowed(schema) {
        errors.push(FieldError::invalid(&at, shown(schema), AT_ROOT));
    }
    if schema.nullable == Some(true) {
        errors.push(FieldError::forbidden(
            &path.child("openAPIV3Schema.nullable"),
            "nullable cannot be true at the root",
        ));
    }
    let not_structural = structural::validate(schema, &at);
    let is_structural = not_structural.is_empty();
    errors.extend(not_structural);
    let context = Context {
        is_root: true,
        inside_meta: false,
        no_defaults: None,
        uncorrelated: None,
    };
    let node = is_structural.then(|| Node::compile(schema));
    if let Some(node) = &node {
        defaults::validate(node, &at, errors);
    }
    place(schema, &at, &context, errors);
    if let Some(node) = node.filter(|_| errors.len() == before) {
        rules::validate(schema, &node, &at, errors);
    }
}

fn says_more_than_allowed(schema: &JSONSchemaProps) -> bool {
    let rest = JSONSchemaProps {
        description: None,
        type_: None,
        format: None,
        title: None,
        maximum: None,
        exclusive_maximum: None,
        minimum: None,
        exclusive_minimum: None,
        max_length: None,
        min_length: None,
        pattern: None,
        max_items: None,
        min_items: None,
        unique_items: None,
        multiple_of: None,
        required: None,
        items: None,
        properties: None,
        external_docs: None,
        example: None,
        x_kubernetes_preserve_unknown_fields: None,
        x_kubernetes_validations: None,
        ..schema.clone()
    };
    rest != JSONSchemaProps::default()
}

/// What is known about a place from those above it.
#[derive(Clone)]
struct Context {
    is_root: bool,
    /// Inside of `metadata` and its neighbours.
    inside_meta: bool,
    /// Why there may be no default here.
    no_defaults: Option<String>,
    /// The first place above of which the old and the new value can't be matched.
    uncorrelated: Option<String>,
}

impl Context {
    fn below(&self) -> Self {
        Self {
            is_root: false,
            ..self.clone()
        }
    }
}

fn place(schema: &JSONSchemaProps, path: &Path<'_>, context: &Context, errors: &mut Errors) {
    unsupported(schema, path, context, errors);
    if schema.unique_items == Some(true) {
        const DETAIL: &str =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(&path.child("uniqueItems"), DETAIL));
    }
    below(schema, path, context, errors);
    if schema.x_kubernetes_preserve_unknown_fields == Some(false) {
        errors.push(FieldError::invalid(
            &path.child("x-kubernetes-preserve-unknown-fields"),
            false,
            "must be true or undefined",
        ));
    }
    map_type(schema, path, errors);
    list_type(schema, path, errors);
    rules::texts(schema, path, errors);
}

/// What is part of JSON schemas, but not of these.
fn unsupported(schema: &JSONSchemaProps, path: &Path<'_>, context: &Context, errors: &mut Errors) {
    let ty = schema.type_.as_deref().unwrap_or_default();
    if !ty.is_empty() && !JsonType::NAMES.contains(&ty) {
        errors.push(FieldError::not_supported(
            &path.child("type"),
            ty,
            &JsonType::NAMES,
        ));
    }
    if let Some(reason) = context
        .no_defaults
        .as_ref()
        .filter(|_| schema.default.is_some())
    {
        let detail = format!("must not be set {reason}");
        errors.push(FieldError::forbidden(&path.child("default"), detail));
    }
    let forbidden = [
        (
            "id",
            schema.id.as_deref().is_some_and(|id| !id.is_empty()),
            "id is not supported",
        ),
        (
            "additionalItems",
            schema.additional_items.is_some(),
            "additionalItems is not supported",
        ),
        (
            "patternProperties",
            schema
                .pattern_properties
                .as_ref()
                .is_some_and(|map| !map.is_empty()),
            "patternProperties is not supported",
        ),
        (
            "definitions",
            schema
                .definitions
                .as_ref()
                .is_some_and(|map| !map.is_empty()),
            "definitions is not supported",
        ),
        (
            "dependencies",
            schema.dependencies.is_some(),
            "dependencies is not supported",
        ),
        ("$ref", schema.ref_path.is_some(), "$ref is not supported"),
        (
            "type",
            ty == "null",
            "type cannot be set to null, use nullable as an alternative",
        ),
        (
            "items",
            matches!(schema.items, Some(JSONSchemaPropsOrArray::Schemas(_))),
            "items must be a schema object and not an array",
        ),
        (
            "x-kubernetes-embedded-resource",
            context.inside_meta && schema.x_kubernetes_embedded_resource == Some(true),
            "must not be used inside of resource meta",
        ),
    ];
    for (name, set, detail) in forbidden {
        if set {
            errors.push(FieldError::forbidden(&path.child(name), detail));
        }
    }
}

/// The places below this one.
fn below(schema: &JSONSchemaProps, path: &Path<'_>, context: &Context, errors: &mut Errors) {
    let has_properties = schema
        .properties
        .as_ref()
        .is_some_and(|map| !map.is_empty());
    if let Some(additional) = &schema.additional_properties {
        let at = path.child("additionalProperties");
        if has_properties && !matches!(additional, JSONSchemaPropsOrBool::Bool(true)) {
            const DETAIL: &str = "additionalProperties and properties are mutual exclusive";
            errors.push(FieldError::forbidden(&at, DETAIL));
        }
        if let JSONSchemaPropsOrBool::Schema(additional) = additional {
            let mut context = context.below();
            if context.inside_meta {
                let reason = "inside additionalProperties applying to object metadata";
                context.no_defaults = Some(reason.to_owned());
            }
            place(additional, &at, &context, errors);
        }
    }
    let is_resource = context.is_root || schema.x_kubernetes_embedded_resource == Some(true);
    let properties = path.child("properties");
    for (name, property) in schema.properties.iter().flatten() {
        let mut below = context.below();
        if schema.x_kubernetes_map_type.as_deref() == Some("atomic") {
            below.uncorrelated.get_or_insert_with(|| path.to_string());
        }
        if is_resource && matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
            below.inside_meta = true;
            if context.is_root {
                below.no_defaults = Some(format!("in top-level {name}"));
            }
        }
        place(property, &properties.key(name), &below, errors);
    }
    if let Some(items) = items(schema) {
        let mut below = context.below();
        if schema.x_kubernetes_list_type.as_deref() != Some("map") {
            below.uncorrelated.get_or_insert_with(|| path.to_string());
        }
        place(items, &path.child("items"), &below, errors);
    }
    for (name, list) in [
        ("allOf", &schema.all_of),
        ("oneOf", &schema.one_of),
        ("anyOf", &schema.any_of),
    ] {
        let at = path.child(name);
        for (index, branch) in list.iter().flatten().enumerate() {
            place(branch, &at.index(index), &context.below(), errors);
        }
    }
    if let Some(not) = &schema.not {
        place(not, &path.child("not"), &context.below(), errors);
    }
}

fn map_type(schema: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "must be object if x-kubernetes-map-type is specified";
    let Some(map_type) = schema.x_kubernetes_map_type.as_deref() else {
        return;
    };
    must_be("object", schema, DETAIL, path, errors);
    if !matches!(map_type, "atomic" | "granular") {
        errors.push(FieldError::not_listed(
            &path.child("x-kubernetes-map-type"),
            map_type,
            &["atomic", "granular"],
        ));
    }
}

/// The type must be `wanted`; whether it is.
fn must_be(
    wanted: &str,
    schema: &JSONSchemaProps,
    detail: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) -> bool {
    let at = path.child("type");
    match schema.type_.as_deref().unwrap_or_default() {
        "" => errors.push(FieldError::required(&at, detail)),
        ty if ty == wanted => return true,
        ty => errors.push(FieldError::invalid(&at, ty, detail)),
    }
    false
}

fn list_type(schema: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    const KEYS: &str = "must be map if x-kubernetes-list-map-keys is non-empty";
    const ARRAY: &str = "must be array if x-kubernetes-list-type is specified";
    let keys = schema.x_kubernetes_list_map_keys.as_deref().unwrap_or(&[]);
    let at = path.child("x-kubernetes-list-type");
    let Some(list_type) = schema.x_kubernetes_list_type.as_deref() else {
        if !keys.is_empty() {
            errors.push(FieldError::required(&at, KEYS));
        }
        return;
    };
    let is_array = must_be("array", schema, ARRAY, path, errors);
    if !matches!(list_type, "atomic" | "set" | "map") {
        let allowed = ["atomic", "set", "map"];
        errors.push(FieldError::not_listed(&at, list_type, &allowed));
    }
    if !keys.is_empty() && list_type != "map" {
        errors.push(FieldError::invalid(&at, list_type, KEYS));
    }
    let items_path = path.child("items");
    if let Some(items) = items(schema).filter(|_| matches!(list_type, "set" | "map")) {
        if items.nullable == Some(true) {
            let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
            errors.push(FieldError::forbidden(&items_path.child("nullable"), detail));
        }
        if list_type == "set" && is_array {
            items_of_set(items, &items_path, errors);
        }
    }
    if list_type == "map" {
        items_of_map(schema, keys, path, errors);
    }
}

/// The items of a set are single values, or are replaced as if they were.
fn items_of_set(items: &JSONSchemaProps, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let list_type = items.x_kubernetes_list_type.as_deref();
    match items.type_.as_deref() {
        Some("array") if list_type.is_some_and(|ty| ty != "atomic") => {
            let at = path.child("x-kubernetes-list-type");
            errors.push(FieldError::invalid(&at, list_type, DETAIL));
        }
        Some("object") if items.x_kubernetes_map_type.as_deref() != Some("atomic") => {
            let at = path.child("x-kubernetes-map-type");
            errors.push(FieldError::invalid(&at, list_type, DETAIL));
        }
        _ => {}
    }
}

/// The items of a map are objects that have the keys.
fn items_of_map(schema: &JSONSchemaProps, keys: &[String], path: &Path<'_>, errors: &mut Errors) {
    let keys_path = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        const DETAIL: &str = "must not be empty if x-kubernetes-list-type is map";
        errors.push(FieldError::required(&keys_path, DETAIL));
    }
    let items_path = path.child("items");
    let Some(items) = items(schema) else {
        if schema.items.is_none() {
            const DETAIL: &str = "must have a schema if x-kubernetes-list-type is map";
            errors.push(FieldError::required(&items_path, DETAIL));
        }
        return;
    };
    let ty = items.type_.as_deref().unwrap_or_default();
    if ty != "object" {
        const DETAIL: &str = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(FieldError::invalid(&items_path.child("type"), ty, DETAIL));
        return;
    }
    let properties = items_path.child("properties");
    let required = items.required.as_deref().unwrap_or(&[]);
    for (index, key) in keys.iter().enumerate() {
        let at = properties.key(key);
        match items.properties.as_ref().and_then(|map| map.get(key)) {
            None => {
                const DETAIL: &str = "entries must all be names of item properties";
                errors.push(FieldError::invalid(&keys_path, keys.to_vec(), DETAIL));
            }
            Some(property) => {
                if matches!(property.type_.as_deref(), Some("array" | "object")) {
                    const DETAIL: &str =
                        "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    errors.push(FieldError::invalid(&at.child("type"), ty, DETAIL));
                }
                if !required.contains(key) && property.default.is_none() {
                    const DETAIL: &str = "this property is in x-kubernetes-list-map-keys, so it must have a default \
                                          or be a required property";
                    errors.push(FieldError::required(&at.child("default"), DETAIL));
                }
                if property.nullable == Some(true) {
                    const DETAIL: &str =
                        "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                    errors.push(FieldError::forbidden(&at.child("nullable"), DETAIL));
                }
            }
        }
        if keys[..index].contains(key) {
            const DETAIL: &str = "must not contain duplicate entries";
            errors.push(FieldError::invalid(&keys_path, keys.to_vec(), DETAIL));
        }
    }
}
