//! What recording the owners of fields adds to each write of a pod or `ConfigMap`, and what an answer in protobuf costs.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::{Value, json};
use vaquita_api::apply::{Manager, Reset, apply, track};
use vaquita_api::schema::Schema;
use vaquita_api::{Object, protobuf};

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}

fn pod() -> Object {
    object(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "a", "tier": "b"}},
        "spec": {
            "containers": [{
                "name": "c", "image": "i", "imagePullPolicy": "Always",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "periodSeconds": 10},
            }],
            "volumes": [{"name": "v", "emptyDir": {}}], "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            "tolerations": [{"key": "a", "operator": "Exists"}], "enableServiceLinks": true, "nodeName": "n",
        },
    }))
}

fn config_map() -> Object {
    object(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n", "labels": {"app": "a"}},
        "data": {"one": "1", "two": "2", "three": "3"},
    }))
}

fn manager(subresource: &str) -> Manager {
    Manager {
        name: "bench".to_owned(),
        api_version: "v1".to_owned(),
        subresource: subresource.to_owned(),
        time: Timestamp::UNIX_EPOCH,
        reset: Reset::of(subresource, true),
    }
}

fn tracking(bench: &mut Criterion) {
    let (pods, maps) = (Schema::of::<Pod>(), Schema::of::<ConfigMap>());
    let mut write =
        |what: &str, schema: &Schema, old: Option<&Object>, new: &Object, by: &Manager| {
            bench.bench_function(what, |bencher| {
                bencher.iter_batched_ref(
                    || new.clone(),
                    |new| track(schema, old, new, by),
                    BatchSize::SmallInput,
                );
            });
        };
    write(
        "create a ConfigMap",
        &maps,
        None,
        &config_map(),
        &manager(""),
    );
    write("create a pod", &pods, None, &pod(), &manager(""));
    let mut old = pod();
    track(&pods, None, &mut old, &manager(""));
    write("update nothing", &pods, Some(&old), &old, &manager(""));
    let mut running = old.clone();
    let ready = json!([{"type": "Ready", "status": "True"}]);
    running.insert(
        "status".to_owned(),
        json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": ready}),
    );
    write(
        "update a status",
        &pods,
        Some(&old),
        &running,
        &manager("status"),
    );

    let applied = apply(&pods, None, &pod(), &manager(""), false).unwrap_or_default();
    bench.bench_function("apply a pod again", |bencher| {
        bencher.iter(|| apply(&pods, Some(&applied), &pod(), &manager(""), false));
    });
}

fn answering(bench: &mut Criterion) {
    let schema = Schema::of::<Pod>();
    let pod = pod();
    bench.bench_function("a pod as JSON", |bencher| {
        bencher.iter(|| serde_json::to_vec(&pod));
    });
    bench.bench_function("a pod as protobuf", |bencher| {
        bencher.iter(|| protobuf::encode(&pod, &schema));
    });
    let bytes = protobuf::encode(&pod, &schema);
    bench.bench_function("a pod from protobuf", |bencher| {
        bencher.iter(|| protobuf::decode(&bytes, &schema, "v1"));
    });
}

criterion_group!(benches, tracking, answering);
criterion_main!(benches);
