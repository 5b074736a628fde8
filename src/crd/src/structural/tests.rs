//! Laws of schemas, and the words of validation.

#![allow(
    clippy::needless_pass_by_value,
    clippy::too_many_lines,
    reason = "tables of cases"
)]

use proptest::prelude::*;
use serde_json::json;
use vaquita_api::field::Errors;

use super::*;

fn node(schema: Value) -> Node {
    Node::compile(&serde_json::from_value(schema).unwrap())
}

fn problems(schema: Value, value: Value) -> Vec<String> {
    changed(schema, value, None)
}

fn changed(schema: Value, value: Value, old: Option<Value>) -> Vec<String> {
    let node = node(schema);
    let mut errors = Errors::default();
    validate::validate(&node, &value, old.as_ref(), None, &mut errors);
    lists::validate(&node, &value, None, &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

fn field(schema: Value, value: Value) -> Vec<String> {
    problems(
        json!({"type": "object", "properties": {"f": schema}}),
        json!({"f": value}),
    )
}

#[test]
fn words_mistakes_as_upstream_does() {
    for (schema, value, want) in [
        (
            json!({"type": "integer"}),
            json!("x"),
            r#"f: Invalid value: "string": f in body must be of type integer: "string""#,
        ),
        (
            json!({"type": "integer"}),
            json!(1.5),
            r#"f: Invalid value: "number": f in body must be of type integer: "number""#,
        ),
        (
            json!({"type": "integer", "minimum": 1}),
            json!(0),
            "f: Invalid value: 0: f in body should be greater than or equal to 1",
        ),
        (
            json!({"type": "integer", "maximum": 10}),
            json!(11),
            "f: Invalid value: 11: f in body should be less than or equal to 10",
        ),
        (
            json!({"type": "number", "minimum": 0.5, "exclusiveMinimum": true}),
            json!(0.5),
            "f: Invalid value: 0.5: f in body should be greater than 0.5",
        ),
        (
            json!({"type": "integer", "multipleOf": 5}),
            json!(7),
            "f: Invalid value: 7: f in body should be a multiple of 5",
        ),
        (
            json!({"type": "string", "enum": ["b", "a"]}),
            json!("x"),
            r#"f: Unsupported value: "x": supported values: "b", "a""#,
        ),
        (
            json!({"type": "string", "pattern": "^a$"}),
            json!("b"),
            r#"f: Invalid value: "b": f in body should match '^a$'"#,
        ),
        (
            json!({"type": "string", "minLength": 2}),
            json!("b"),
            r#"f: Invalid value: "b": f in body should be at least 2 chars long"#,
        ),
        (
            json!({"type": "string", "maxLength": 2}),
            json!("bbb"),
            "f: Too long: may not be more than 2 bytes",
        ),
        (
            json!({"type": "string", "format": "date"}),
            json!("x"),
            r#"f: Invalid value: "x": f in body must be of type date: "x""#,
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "minItems": 1}),
            json!([]),
            "f: Invalid value: []: f in body should have at least 1 items",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
            json!(["a", "b"]),
            "f: Too many: 2: must have at most 1 item",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            json!(["a", 1]),
            r#"f[1]: Invalid value: "integer": f[1] in body must be of type string: "integer""#,
        ),
        (
            json!({"type": "object", "properties": {"g": {"type": "string"}}, "required": ["g"]}),
            json!({}),
            "f.g: Required value",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
            json!(["a", "a"]),
            r#"f[1]: Duplicate value: "a""#,
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"k": 1}),
            r#"f.k: Invalid value: "integer": f.k in body must be of type string: "integer""#,
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            r#"f: Invalid value: "boolean": f in body must be of type integer,string: "boolean""#,
        ),
        (
            json!({"type": "string"}),
            Value::Null,
            r#"f: Invalid value: "null": f in body must be of type string: "null""#,
        ),
    ] {
        assert_eq!(field(schema, value), [want]);
    }
    assert_eq!(
        field(json!({"type": "string", "nullable": true}), Value::Null),
        [""; 0]
    );
    assert_eq!(
        field(json!({"x-kubernetes-int-or-string": true}), json!("http")),
        [""; 0]
    );
}

#[test]
fn joins_schemas() {
    let one_of = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    assert_eq!(field(one_of.clone(), json!({"a": "x"})), [""; 0]);
    assert_eq!(
        field(one_of.clone(), json!({})),
        [
            r#"<nil>: Invalid value: "": "f" must validate one and only one schema (oneOf). Found none valid"#,
            "f.a: Required value"
        ]
    );
    assert_eq!(
        field(one_of, json!({"a": "x", "b": "y"})),
        [
            r#"<nil>: Invalid value: "": "f" must validate one and only one schema (oneOf). Found 2 valid alternatives"#
        ]
    );
    let not = json!({"type": "integer", "not": {"enum": [3]}});
    assert_eq!(
        field(not, json!(3)),
        [r#"<nil>: Invalid value: "": "f" must not validate the schema (not)"#]
    );
    let any_of = json!({"type": "integer", "anyOf": [{"minimum": 5}, {"maximum": 1}]});
    assert_eq!(
        field(any_of, json!(3))[0],
        r#"<nil>: Invalid value: "": "f" must validate at least one schema (anyOf)"#
    );
}

#[test]
fn lets_be_what_has_been_before() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "integer", "maximum": 1}, "b": {"type": "integer", "maximum": 1},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "n": {"type": "integer", "maximum": 1}}}},
    }});
    let old = json!({"a": 5, "b": 1, "list": [{"k": "x", "n": 5}]});
    let new = json!({"a": 5, "b": 6, "list": [{"k": "y", "n": 0}, {"k": "x", "n": 5}]});
    assert_eq!(
        changed(schema, new, Some(old)),
        ["b: Invalid value: 6: b in body should be less than or equal to 1"]
    );
}

#[test]
fn prunes_what_is_not_known() {
    let schema = node(json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "a": {"type": "string"},
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"closed": {"type": "object"}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "string"}}}},
            "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string"}}}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
        }},
    }}));
    let mut value = json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n"}, "other": 1, "spec": {
        "a": "x", "b": 1, "open": {"y": 1, "closed": {"z": 1}}, "map": {"k": {"x": "", "y": 1}},
        "list": [{"x": "", "y": 1}], "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {"q": 1}, "r": 1},
    }});
    let mut unknown = schema.prune(&mut value);
    unknown.sort();
    assert_eq!(
        unknown,
        [
            "other",
            "spec.b",
            "spec.list[0].y",
            "spec.map.k.y",
            "spec.open.closed.z",
            "spec.pod.r",
            "spec.pod.spec.q"
        ]
    );
    assert_eq!(value["spec"]["open"], json!({"y": 1, "closed": {}}));
    assert_eq!(
        value["spec"]["pod"],
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {}})
    );
}

#[test]
fn fills_in_defaults() {
    let schema = node(json!({"type": "object", "properties": {
        "spec": {"type": "object", "default": {}, "properties": {
            "a": {"type": "string", "default": "x"},
            "n": {"type": "string", "nullable": true, "default": "y"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
        }},
    }}));
    let filled = |mut value: Value| {
        schema.drop_nulls(&mut value);
        schema.fill_defaults(&mut value).unwrap();
        value
    };
    assert_eq!(filled(json!({})), json!({"spec": {"a": "x", "n": "y"}}));
    assert_eq!(
        filled(json!({"spec": {"a": null, "n": null, "list": [{}, {"p": "UDP"}]}})),
        json!({"spec": {"a": "x", "n": null, "list": [{"p": "TCP"}, {"p": "UDP"}]}})
    );
}

#[test]
fn bounds_what_defaults_add() {
    let large = "x".repeat(1 << 20);
    let schema = node(
        json!({"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string", "default": large}}}}),
    );
    let mut value = Value::Array(vec![json!({}); 1000]);
    assert_eq!(schema.fill_defaults(&mut value), Err(TooLarge));
}

#[test]
fn bounds_the_steps_of_hostile_schemas() {
    let branch: Vec<Value> = (0..2000)
        .map(|_| json!({"items": {"minimum": 0}}))
        .collect();
    let schema = json!({"type": "array", "items": {"type": "integer"}, "allOf": branch});
    let found = field(schema, Value::Array(vec![json!(1); 20_000]));
    assert!(
        found
            .last()
            .unwrap()
            .ends_with("the schema takes too many steps to validate the object against")
    );
}

/// Any schema, a few levels deep, with a default here and there.
fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "string", "default": "d"})),
        Just(json!({"type": "string", "maxLength": 2})),
        Just(json!({"type": "integer", "default": 7})),
        Just(json!({"type": "integer", "nullable": true})),
        Just(json!({"x-kubernetes-int-or-string": true})),
        Just(json!({"x-kubernetes-preserve-unknown-fields": true})),
        Just(json!({"type": "boolean"})),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            (
                prop::collection::btree_map("[a-d]", inner.clone(), 0..4),
                any::<bool>(),
                any::<bool>()
            )
                .prop_map(|(properties, default, open)| {
                    let mut schema = json!({"type": "object", "properties": properties});
                    if default {
                        schema["default"] = json!({});
                    }
                    if open {
                        schema["x-kubernetes-preserve-unknown-fields"] = true.into();
                    }
                    schema
                }),
            inner
                .clone()
                .prop_map(|items| json!({"type": "array", "items": items})),
            inner.prop_map(|value| json!({"type": "object", "additionalProperties": value})),
        ]
    })
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        Just(json!(1.5)),
        "[a-z]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-e]", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pruning_and_defaulting_are_done_once(schema in any_schema(), value in any_value()) {
        let node = node(schema);
        let complete = |value: &mut Value| {
            node.prune_part(value);
            node.drop_nulls(value);
            node.fill_defaults(value).unwrap();
        };
        let mut once = value;
        complete(&mut once);
        let mut twice = once.clone();
        prop_assert_eq!(node.prune_part(&mut twice), Vec::<String>::new());
        complete(&mut twice);
        prop_assert_eq!(&once, &twice);
    }

    #[test]
    fn validation_is_the_same_for_what_is_complete(schema in any_schema(), value in any_value()) {
        let node = node(schema);
        let mut value = value;
        node.prune_part(&mut value);
        node.drop_nulls(&mut value);
        node.fill_defaults(&mut value).unwrap();
        let found = |value: &Value, old: Option<&Value>| {
            let mut errors = Errors::default();
            validate::validate(&node, value, old, None, &mut errors);
            errors.len()
        };
        let mut again = value.clone();
        node.prune_part(&mut again);
        node.fill_defaults(&mut again).unwrap();
        prop_assert_eq!(found(&value, None), found(&again, None));
        // What has not changed is never in the way.
        prop_assert_eq!(found(&value, Some(&value)), 0);
    }
}
