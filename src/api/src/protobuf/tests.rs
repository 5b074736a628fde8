use proptest::prelude::*;

use super::*;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};

/// Builds messages.
#[derive(Default, Clone)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap());
        self
    }

    fn number(self, field: u64, value: i64) -> Self {
        self.varint(field << 3).varint(value.cast_unsigned())
    }

    fn bytes(self, field: u64, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let mut message = self.varint(field << 3 | 2).varint(bytes.len() as u64);
        message.0.extend_from_slice(bytes);
        message
    }

    fn message(self, field: u64, inner: &Self) -> Self {
        self.bytes(field, &inner.0)
    }

    /// In its envelope.
    fn body(&self, api_version: &str, kind: &str) -> Vec<u8> {
        let type_meta = Self::default().bytes(1, api_version).bytes(2, kind);
        let unknown = Self::default()
            .message(1, &type_meta)
            .message(2, self)
            .bytes(3, "")
            .bytes(4, "");
        [MAGIC.as_slice(), &unknown.0].concat()
    }
}

fn message() -> Message {
    Message::default()
}

fn read(plural: &str, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let schema = match plural {
        "namespaces" => Schema::of::<Namespace>(),
        "secrets" => Schema::of::<Secret>(),
        "configmaps" => Schema::of::<ConfigMap>(),
        _ => Schema::of::<Pod>(),
    };
    decode(bytes, &schema, "v1")
}

#[test]
fn reads_what_kubectl_sends() {
    // `kubectl create namespace foo`
    let metadata = message()
        .bytes(1, "foo")
        .bytes(2, "")
        .bytes(3, "")
        .bytes(4, "")
        .bytes(5, "")
        .bytes(6, "")
        .number(7, 0)
        .bytes(8, "");
    let namespace = message()
        .message(1, &metadata)
        .bytes(2, "")
        .message(3, &message().bytes(1, ""));
    let value = read("namespaces", &namespace.body("v1", "Namespace")).unwrap();
    assert_eq!(
        value,
        json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {
                "name": "foo", "generateName": "", "namespace": "", "selfLink": "", "uid": "", "resourceVersion": "",
                "generation": 0, "creationTimestamp": null,
            },
            "spec": {}, "status": {"phase": ""},
        })
    );
}

#[test]
fn reads_all_sorts_of_fields() {
    let entry = |key: &str, value: &[u8]| message().bytes(1, key).bytes(2, value);
    let quantity = message().bytes(1, "500m");
    let resources = message().message(1, &entry("cpu", &quantity.0));
    let port = message().number(1, 0).number(2, 8080);
    let probe = message()
        .message(
            1,
            &message().message(2, &message().bytes(1, "/ok").message(2, &port)),
        )
        .number(2, -1);
    let container = message()
        .bytes(1, "c")
        .bytes(2, "x")
        .bytes(4, "a")
        .bytes(4, "b")
        .message(8, &resources)
        .message(10, &probe);
    let volume = message()
        .bytes(1, "v")
        .message(2, &message().message(2, &message().bytes(1, "")));
    let time = message().number(1, 60).number(2, 0);
    let metadata = message()
        .bytes(1, "p")
        .message(8, &time)
        .message(11, &entry("a", b"1"))
        .message(11, &entry("b", b"2"));
    let spec = message()
        .message(1, &volume)
        .message(2, &container)
        .number(99, 1);
    let pod = message().message(1, &metadata).message(2, &spec);
    assert_eq!(
        read("pods", &pod.body("v1", "Pod")).unwrap(),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:01:00Z", "labels": {"a": "1", "b": "2"}},
            "spec": {
                "volumes": [{"name": "v", "emptyDir": {"medium": ""}}],
                "containers": [{
                    "name": "c", "image": "x", "args": ["a", "b"], "resources": {"limits": {"cpu": "500m"}},
                    "livenessProbe": {"httpGet": {"path": "/ok", "port": 8080}, "initialDelaySeconds": -1},
                }],
            },
        })
    );
    let secret = message().message(2, &entry("k", b"hello"));
    assert_eq!(
        read("secrets", &secret.body("v1", "Secret")).unwrap()["data"],
        json!({"k": "aGVsbG8="})
    );
}

#[test]
fn refuses_what_is_broken() {
    assert_eq!(read("pods", b"{}"), Err(ProtobufError::NoMagic));
    let body = message()
        .message(1, &message().bytes(1, "p"))
        .body("v1", "Pod");
    for end in MAGIC.len() + 1..body.len() {
        // Cut anywhere, it is an error or a shorter message; never a panic.
        let _ = read("pods", &body[..end]);
    }
    assert_eq!(
        read("pods", &message().number(1, 1).body("v1", "Pod")),
        Err(ProtobufError::WrongType)
    );
    let metadata = message().bytes(1, [0xff]);
    assert_eq!(
        read("pods", &message().message(1, &metadata).body("v1", "Pod")),
        Err(ProtobufError::Contents)
    );
}

#[test]
fn writes_what_it_reads() {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "p", "creationTimestamp": "2020-02-03T04:05:06Z", "labels": {"a": "1", "b": ""}, "generation": -1,
            "managedFields": [{"manager": "m", "fieldsV1": {"f:a": {}}}],
        },
        "spec": {
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "secret": {"optional": false}}],
            "containers": [{
                "name": "c", "args": ["a", ""], "resources": {"limits": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"port": 8080}, "initialDelaySeconds": -1, "periodSeconds": 0},
                "readinessProbe": {"tcpSocket": {"port": "http"}},
                "image": "x".repeat(20_000),
            }],
            "terminationGracePeriodSeconds": 9_999_999_999_i64,
        },
    });
    let Value::Object(object) = &pod else {
        unreachable!()
    };
    let bytes = encode(object, &Schema::of::<Pod>());
    assert_eq!(&bytes[..8], b"k8s\0\x0a\x09\x0a\x02");
    assert_eq!(read("pods", &bytes).unwrap(), pod);
    // What does not fit is left out.
    pod["spec"] = json!({"containers": "none", "nodeName": "n", "hostNetwork": 1, "newer": true});
    let bytes = encode(pod.as_object().unwrap(), &Schema::of::<Pod>());
    assert_eq!(
        read("pods", &bytes).unwrap()["spec"],
        json!({"nodeName": "n"})
    );
}

#[test]
fn writes_schemas_of_custom_kinds() {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let schema = Schema::of::<CustomResourceDefinition>();
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "spec": {"versions": [{"schema": {"openAPIV3Schema": {
            "type": "object", "default": {"a": [1, null]}, "maximum": 1.5,
            "properties": {"a": {"additionalProperties": true}, "b": {"additionalProperties": {"type": "string"}}},
            "items": {"type": "string"}, "allOf": [{"items": [{"type": "integer"}], "additionalItems": false}],
            "dependencies": {"a": ["b"], "c": {"type": "string"}}, "$ref": "x",
        }}}]},
    });
    let bytes = encode(definition.as_object().unwrap(), &schema);
    let back = decode(&bytes, &schema, "apiextensions.k8s.io/v1").unwrap();
    assert_eq!(back, definition);
}

#[test]
fn writes_lists_events_and_statuses() {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let item = super::message(map.as_object().unwrap(), &Schema::of::<ConfigMap>(), "v1");
    let meta = ListMeta {
        resource_version: "7",
        continue_token: "",
        remaining: Some(3),
    };
    let bytes = list("v1", "ConfigMapList", meta, [&item[..], &item[..]]);
    let envelope = Envelope::read(&bytes).unwrap();
    assert_eq!(
        (envelope.api_version, envelope.kind),
        ("v1", "ConfigMapList")
    );
    let items = fields(envelope.raw)
        .filter(|field| matches!(field, Ok((2, Payload::Bytes(bytes))) if *bytes == item));
    assert_eq!(items.count(), 2);

    let object = encode(map.as_object().unwrap(), &Schema::of::<ConfigMap>());
    let frame = event("ADDED", &object);
    let (length, event) = frame.split_first_chunk().unwrap();
    assert_eq!(u32::from_be_bytes(*length) as usize, event.len());
    assert_eq!(&event[..7], b"\x0a\x05ADDED");
    assert_eq!(
        read("configmaps", &event[event.len() - object.len()..]).unwrap(),
        map
    );

    let status = status(&Status::not_found("apps", "deployments", "web"));
    let schema = Schema::of::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status>();
    let status = decode(&status, &schema, "v1").unwrap();
    assert_eq!(status["code"], 404);
    assert_eq!(
        status["details"],
        json!({"name": "web", "group": "apps", "kind": "deployments"})
    );

    let partial = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "a"}});
    let bytes = encode(partial.as_object().unwrap(), partial_metadata());
    assert_eq!(
        decode(&bytes, partial_metadata(), "meta.k8s.io/v1").unwrap(),
        partial
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), plural in prop::sample::select(vec!["pods", "services", "secrets"])) {
        let _ = read(plural, &[MAGIC.as_slice(), &bytes].concat());
        let _ = read(plural, &Message(bytes).body("v1", "X"));
    }
}
