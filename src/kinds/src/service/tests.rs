use serde_json::json;

use super::*;
use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

fn service(spec: Value) -> Value {
    let mut service = json!({
        "metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    });
    if let Value::Object(spec) = spec {
        for (field, value) in spec {
            service["spec"][field] = value;
        }
    }
    service
}

#[test]
fn reads_back_like_the_real_one() {
    let mut service = created(&resource(), service(json!({"type": "NodePort"})));
    assert!(needs_cluster_ip(&service) && cluster_ips(&service).is_empty());
    assert!(needs_node_ports(&service));
    assert_eq!(node_ports(&service), [("TCP", 0)]);
    set_cluster_ip(&mut service, "10.96.0.5");
    set_node_port(&mut service, 0, 30001);
    assert_eq!(cluster_ips(&service), ["10.96.0.5"]);
    assert_eq!(
        service["spec"],
        json!({
            "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "externalTrafficPolicy": "Cluster",
            "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"nodePort": 30001, "port": 80, "protocol": "TCP", "targetPort": 80}],
            "selector": {"app": "web"}, "sessionAffinity": "None", "type": "NodePort",
        })
    );
    assert_eq!(service["status"], json!({"loadBalancer": {}}));
    assert_stable(&resource(), &service);
    assert_eq!(
        Value::from(resource().row(&service, Timestamp::UNIX_EPOCH)),
        json!([
            "web",
            "NodePort",
            "10.96.0.5",
            "<none>",
            "80:30001/TCP",
            "0s",
            "app=web"
        ])
    );
}

#[test]
fn prints_the_other_types() {
    let row = |spec: Value| {
        let service = created(&resource(), service(spec));
        Value::from(resource().row(&service, Timestamp::UNIX_EPOCH)[1..5].to_vec())
    };
    assert_eq!(
        row(json!({"clusterIP": "None"})),
        json!(["ClusterIP", "None", "<none>", "80/TCP"])
    );
    assert_eq!(
        row(json!({"type": "LoadBalancer"})),
        json!(["LoadBalancer", "<none>", "<pending>", "80/TCP"])
    );
    assert_eq!(
        row(json!({"type": "ExternalName", "externalName": "a.example.com", "ports": null})),
        json!(["ExternalName", "<none>", "a.example.com", "<none>"])
    );
}

#[test]
fn refuses_mistakes_with_their_place() {
    let cases = [
        (json!({"ports": []}), "spec.ports: Required value"),
        (
            json!({"ports": [{"port": 0, "targetPort": 1}]}),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"ports": [{"port": 1, "protocol": "ICMP"}]}),
            "spec.ports[0].protocol: Unsupported value: \"ICMP\"",
        ),
        (
            json!({"type": "Magic"}),
            "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\"",
        ),
        (
            json!({"ports": [{"port": 1, "nodePort": 30000}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            json!({"sessionAffinity": "Cookie"}),
            "spec.sessionAffinity: Unsupported value: \"Cookie\"",
        ),
        (
            json!({"clusterIP": "x"}),
            "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address",
        ),
        (
            json!({"type": "ExternalName"}),
            "spec.externalName: Required value",
        ),
        (
            json!({"externalIPs": ["127.0.0.1"]}),
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range",
        ),
        (
            json!({"loadBalancerClass": "a/b"}),
            "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
    ];
    for (spec, want) in cases {
        let errors = refused(&resource(), service(spec));
        assert_eq!(errors.len(), 1, "{want}: {errors:?}");
        assert!(errors[0].starts_with(want), "{want}: {errors:?}");
    }
    assert_eq!(
        refused(
            &resource(),
            service(json!({"ports": [{"port": 80}, {"port": 80, "name": "a"}]}))
        ),
        [
            "spec.ports[0].name: Required value",
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}"
        ]
    );
    assert_eq!(
        refused(
            &resource(),
            json!({"metadata": {"name": "9x"}, "spec": {"ports": [{"port": 1}]}})
        )
        .len(),
        1
    );
}

fn allocated() -> Object {
    let mut service = created(&resource(), service(json!({"type": "NodePort"})));
    set_cluster_ip(&mut service, "10.96.0.5");
    set_node_port(&mut service, 0, 30001);
    service
}

#[test]
fn keeps_what_it_was_given() {
    let old = allocated();
    let new = updated(
        &resource(),
        &old,
        service(json!({"type": "NodePort"})),
        Part::Main,
    )
    .unwrap();
    assert_eq!(new["spec"], old["spec"]);
    let moved = changed(&old, |service| {
        service["spec"]["clusterIP"] = "10.96.0.6".into();
    });
    assert_eq!(
        causes(updated(&resource(), &old, moved, Part::Main)),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.6\"]: may not change once set"]
    );
}

#[test]
fn loses_what_its_new_type_has_no_use_for() {
    let old = allocated();
    let inner = changed(&old, |service| service["spec"]["type"] = "ClusterIP".into());
    let new = updated(&resource(), &old, inner, Part::Main).unwrap();
    assert_eq!(new["spec"]["clusterIP"], "10.96.0.5");
    assert_eq!(
        new["spec"]["ports"],
        json!([{"port": 80, "protocol": "TCP", "targetPort": 80}])
    );
    assert!(
        !new["spec"]
            .as_object()
            .unwrap()
            .contains_key("externalTrafficPolicy")
    );
    let name = changed(&old, |service| {
        service["spec"]["type"] = "ExternalName".into();
        service["spec"]["externalName"] = "example.com".into();
    });
    let new = updated(&resource(), &old, name, Part::Main).unwrap();
    assert!(!needs_cluster_ip(&new) && cluster_ips(&new).is_empty());
}
