//! Version 2 in protobuf: the form of gnostic's `openapi.v2.Document`, which `client-go` reads.
//!
//! Extensions and defaults travel in it as YAML texts; JSON is YAML.

use serde_json::{Map, Value};

/// The media type of the answer. (The `@` of the one that clients ask by is nothing that a media type may have.)
pub const MEDIA_TYPE_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The media type that Go clients accept.
pub const MEDIA_TYPE_V2_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// A version 2 document in protobuf.
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    out.message(2, &info(&document["info"]));
    let mut paths = Message::default();
    for (path, item) in entries(&document["paths"]) {
        paths.message(2, &named(path, &path_item(item)));
    }
    out.message(8, &paths);
    let mut definitions = Message::default();
    for (name, definition) in entries(&document["definitions"]) {
        definitions.message(1, &named(name, &schema(definition)));
    }
    out.message(9, &definitions);
    out.0
}

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    /// A string; nothing else is written.
    fn text(&mut self, field: u64, value: &Value) {
        if let Value::String(text) = value {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u64, values: &Value) {
        for value in values.as_array().into_iter().flatten() {
            self.text(field, value);
        }
    }

    fn flag(&mut self, field: u64, value: &Value) {
        if value == &Value::Bool(true) {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    fn whole(&mut self, field: u64, value: &Value) {
        if let Some(number) = value.as_u64() {
            self.varint(field << 3);
            self.varint(number);
        }
    }

    fn real(&mut self, field: u64, value: &Value) {
        if let Some(number) = value.as_f64() {
            self.varint(field << 3 | 1);
            self.0.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// Everything in `map` that is an extension.
    fn extensions(&mut self, field: u64, map: &Value) {
        for (name, value) in entries(map).filter(|(name, _)| name.starts_with("x-")) {
            self.message(field, &named(name, &any(value)));
        }
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn named(name: &str, value: &Message) -> Message {
    let mut out = Message::default();
    out.bytes(1, name.as_bytes());
    out.message(2, value);
    out
}

fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, value.to_string().as_bytes());
    out
}

fn info(info: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, &info["title"]);
    out.text(2, &info["version"]);
    out
}

fn path_item(item: &Value) -> Message {
    const METHODS: [(&str, u64); 7] = [
        ("get", 2),
        ("put", 3),
        ("post", 4),
        ("delete", 5),
        ("options", 6),
        ("head", 7),
        ("patch", 8),
    ];
    let mut out = Message::default();
    for (method, field) in METHODS {
        if let Some(found) = item.get(method) {
            out.message(field, &operation(found));
        }
    }
    for one in item["parameters"].as_array().into_iter().flatten() {
        out.message(9, &parameter(one));
    }
    out
}

fn operation(operation: &Value) -> Message {
    let mut out = Message::default();
    out.texts(1, &operation["tags"]);
    out.text(3, &operation["description"]);
    out.text(5, &operation["operationId"]);
    out.texts(6, &operation["produces"]);
    out.texts(7, &operation["consumes"]);
    for one in operation["parameters"].as_array().into_iter().flatten() {
        out.message(8, &parameter(one));
    }
    let mut responses = Message::default();
    for (code, response) in entries(&operation["responses"]) {
        let mut written = Message::default();
        written.text(1, &response["description"]);
        if let Some(found) = response.get("schema") {
            let mut item = Message::default();
            item.message(1, &schema(found));
            written.message(2, &item);
        }
        let mut value = Message::default();
        value.message(1, &written);
        responses.message(1, &named(code, &value));
    }
    out.message(9, &responses);
    out.texts(10, &operation["schemes"]);
    out.extensions(13, operation);
    out
}

/// `ParametersItem`, three choices deep.
fn parameter(parameter: &Value) -> Message {
    let mut chosen = Message::default();
    if parameter["in"] == "body" {
        let mut body = Message::default();
        body.text(1, &parameter["description"]);
        body.text(2, &parameter["name"]);
        body.text(3, &parameter["in"]);
        body.flag(4, &parameter["required"]);
        body.message(5, &schema(&parameter["schema"]));
        chosen.message(1, &body);
    } else {
        let in_path = parameter["in"] == "path";
        let mut written = Message::default();
        written.flag(1, &parameter["required"]);
        written.text(2, &parameter["in"]);
        written.text(3, &parameter["description"]);
        written.text(4, &parameter["name"]);
        written.text(if in_path { 5 } else { 6 }, &parameter["type"]);
        written.flag(if in_path { 19 } else { 20 }, &parameter["uniqueItems"]);
        let mut other = Message::default();
        other.message(if in_path { 4 } else { 3 }, &written);
        chosen.message(2, &other);
    }
    let mut out = Message::default();
    out.message(1, &chosen);
    out
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    for (keyword, field) in [
        ("$ref", 1),
        ("format", 2),
        ("title", 3),
        ("description", 4),
        ("pattern", 13),
    ] {
        out.text(field, &value[keyword]);
    }
    if let Some(default) = value.get("default") {
        out.message(5, &any(default));
    }
    for (keyword, field) in [("multipleOf", 6), ("maximum", 7), ("minimum", 9)] {
        out.real(field, &value[keyword]);
    }
    for (keyword, field) in [
        ("maxLength", 11),
        ("minLength", 12),
        ("maxItems", 14),
        ("minItems", 15),
        ("maxProperties", 17),
        ("minProperties", 18),
    ] {
        out.whole(field, &value[keyword]);
    }
    for (keyword, field) in [
        ("exclusiveMaximum", 8),
        ("exclusiveMinimum", 10),
        ("uniqueItems", 16),
    ] {
        out.flag(field, &value[keyword]);
    }
    out.texts(19, &value["required"]);
    for one in value["enum"].as_array().into_iter().flatten() {
        out.message(20, &any(one));
    }
    match value.get("additionalProperties") {
        Some(Value::Bool(allowed)) => {
            let mut item = Message::default();
            item.varint(2 << 3);
            item.varint(u64::from(*allowed));
            out.message(21, &item);
        }
        Some(inner) => {
            let mut item = Message::default();
            item.message(1, &schema(inner));
            out.message(21, &item);
        }
        None => {}
    }
    if let Some(kind @ Value::String(_)) = value.get("type") {
        let mut item = Message::default();
        item.text(1, kind);
        out.message(22, &item);
    }
    if let Some(items) = value.get("items") {
        let mut item = Message::default();
        item.message(1, &schema(items));
        out.message(23, &item);
    }
    if let Some(properties) = value.get("properties") {
        let mut written = Message::default();
        for (name, property) in entries(properties) {
            written.message(1, &named(name, &schema(property)));
        }
        out.message(25, &written);
    }
    out.extensions(31, value);
    out
}
