//! From the form in which schemas and operations are made here to the two versions of the specification.
//!
//! The common form is that of version 2, with bodies and answers named `requestBody` and `responses` by their schema alone.

use serde_json::{Map, Value, json};

use crate::definitions::REFERENCE;

const INT_OR_STRING: &str = "int-or-string";

/// A schema as version 3 has it: references stand alone, what is said beside them goes around.
pub(crate) fn v3_schema(schema: Value) -> Value {
    let Value::Object(mut schema) = schema else {
        return schema;
    };
    within(&mut schema, v3_schema);
    if schema
        .get("format")
        .is_some_and(|format| format == INT_OR_STRING)
    {
        schema.remove("type");
        schema.insert(
            "oneOf".to_owned(),
            json!([{"type": "integer"}, {"type": "string"}]),
        );
    }
    let Some(Value::String(reference)) = schema.remove("$ref") else {
        return schema.into();
    };
    let name = reference.trim_start_matches(REFERENCE);
    let reference = json!({"$ref": format!("#/components/schemas/{name}")});
    if schema.is_empty() {
        return reference;
    }
    schema.insert("allOf".to_owned(), json!([reference]));
    schema.into()
}

/// A schema as version 2 has it, which knows no alternatives.
pub(crate) fn v2_schema(schema: Value) -> Value {
    let Value::Object(mut schema) = schema else {
        return schema;
    };
    if schema.contains_key("x-kubernetes-preserve-unknown-fields")
        || schema.contains_key("x-kubernetes-int-or-string")
    {
        // Clients of version 2 would take the properties that are said for all that there are.
        schema.remove("properties");
        schema.remove("items");
        if schema.contains_key("x-kubernetes-int-or-string") {
            schema.remove("type");
        }
    }
    for unknown in [
        "oneOf",
        "anyOf",
        "allOf",
        "not",
        "nullable",
        "x-kubernetes-validations",
    ] {
        schema.remove(unknown);
    }
    within(&mut schema, v2_schema);
    schema.into()
}

/// Applies `change` to the schemas inside of `schema`.
fn within(schema: &mut Map<String, Value>, change: fn(Value) -> Value) {
    for (keyword, value) in schema.iter_mut() {
        match keyword.as_str() {
            "properties" | "patternProperties" => {
                if let Value::Object(properties) = value {
                    for property in properties.values_mut() {
                        *property = change(property.take());
                    }
                }
            }
            "items" | "additionalProperties" | "not" => *value = change(value.take()),
            "oneOf" | "anyOf" | "allOf" => {
                for alternative in value.as_array_mut().into_iter().flatten() {
                    *alternative = change(alternative.take());
                }
            }
            _ => {}
        }
    }
}

/// A path item of version 3.
pub(crate) fn v3_path(item: Value) -> Value {
    each_operation(item, v3_parameter, |operation| {
        if let Some(body) = operation.remove("requestBody") {
            let schema = v3_schema(body["schema"].clone());
            let content = contents(&body["consumes"], &schema);
            operation.insert(
                "requestBody".to_owned(),
                json!({"required": body["required"], "content": content}),
            );
        }
        let produces = operation.remove("produces").unwrap_or_default();
        if let Some(Value::Object(responses)) = operation.get_mut("responses") {
            for response in responses.values_mut() {
                if let Some(schema) = response
                    .as_object_mut()
                    .and_then(|map| map.remove("schema"))
                {
                    response["content"] = contents(&produces, &v3_schema(schema)).into();
                }
            }
        }
    })
}

/// A path item of version 2.
pub(crate) fn v2_path(item: Value) -> Value {
    each_operation(
        item,
        |parameter| parameter,
        |operation| {
            let body = operation.remove("requestBody");
            operation.insert("schemes".to_owned(), json!(["https"]));
            let Some(body) = body else {
                operation.insert("consumes".to_owned(), json!(["*/*"]));
                return;
            };
            operation.insert("consumes".to_owned(), body["consumes"].clone());
            let parameter = json!({"name": "body", "in": "body", "required": body["required"], "schema": body["schema"]});
            if let Some(Value::Array(parameters)) = operation.get_mut("parameters") {
                parameters.push(parameter);
            }
        },
    )
}

fn contents(kinds: &Value, schema: &Value) -> Map<String, Value> {
    let kinds = kinds
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    kinds
        .map(|kind| (kind.to_owned(), json!({"schema": schema})))
        .collect()
}

/// A parameter's type stands in a schema of its own in version 3.
fn v3_parameter(parameter: Value) -> Value {
    let Value::Object(mut parameter) = parameter else {
        return parameter;
    };
    let mut schema = Map::new();
    for field in ["type", "uniqueItems"] {
        if let Some(value) = parameter.remove(field) {
            schema.insert(field.to_owned(), value);
        }
    }
    parameter.insert("schema".to_owned(), schema.into());
    parameter.into()
}

fn each_operation(
    item: Value,
    parameter: fn(Value) -> Value,
    change: impl Fn(&mut Map<String, Value>),
) -> Value {
    let Value::Object(mut item) = item else {
        return item;
    };
    let parameters = |list: &mut Value| {
        for one in list.as_array_mut().into_iter().flatten() {
            *one = parameter(one.take());
        }
    };
    for (method, operation) in &mut item {
        if method == "parameters" {
            parameters(operation);
        } else if let Value::Object(operation) = operation {
            if let Some(list) = operation.get_mut("parameters") {
                parameters(list);
            }
            change(operation);
        }
    }
    item.into()
}
