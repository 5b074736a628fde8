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

#[test]
fn refuses_families_that_the_cluster_has_not() {
    let cases = [
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
        (
            json!({"ipFamilies": ["IPv5"]}),
            "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\"",
        ),
        (
            json!({"clusterIPs": ["10.0.0.1"]}),
            "spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: must be empty when `clusterIP` is not specified",
        ),
        (
            json!({"clusterIP": "fd00::1"}),
            "spec.clusterIPs[0]: Invalid value: \"fd00::1\": expected an IPv4 value as indicated by `ipFamilies[0]`",
        ),
    ];
    for (spec, want) in cases {
        assert_eq!(refused(&resource(), service(spec)), [want]);
    }
    let preferred = created(
        &resource(),
        service(json!({"ipFamilyPolicy": "PreferDualStack"})),
    );
    assert_eq!(preferred["spec"]["ipFamilies"], json!(["IPv4"]));
    let nameless = json!({"clusterIP": "None", "selector": null});
    let nameless = created(&resource(), service(nameless));
    assert_eq!(nameless["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(nameless["spec"]["ipFamilyPolicy"], "RequireDualStack");
}

#[test]
fn keeps_to_its_balancer() {
    let balanced = json!({"type": "LoadBalancer", "loadBalancerClass": "a/b", "externalTrafficPolicy": "Local"});
    let mut old = created(&resource(), service(balanced));
    assert!(needs_health_check_port(&old) && health_check_port(&old) == 0);
    set_health_check_port(&mut old, 30009);
    let with = |part: Part, change: fn(&mut Value)| {
        updated(&resource(), &old, changed(&old, change), part)
    };
    assert_eq!(
        causes(with(Part::Main, |s| s["spec"]["loadBalancerClass"] =
            "c/d".into())),
        ["spec.loadBalancerClass: Invalid value: \"c/d\": may not change once set"]
    );
    assert_eq!(
        causes(with(Part::Main, |s| s["spec"]["healthCheckNodePort"] =
            30010.into())),
        ["spec.healthCheckNodePort: Forbidden: field is immutable"]
    );
    assert_eq!(
        causes(with(Part::Main, |s| {
            s["spec"]["loadBalancerSourceRanges"] = json!(["10.0.0.0"]);
        })),
        [
            "spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
        ]
    );
    let cluster = with(Part::Main, |s| {
        s["spec"]["externalTrafficPolicy"] = "Cluster".into();
    });
    assert_eq!(health_check_port(&cluster.unwrap()), 0);
    let ingress = with(Part::Status, |s| {
        s["status"]["loadBalancer"]["ingress"] =
            json!([{"ip": "1.2.3.4"}, {"hostname": "1.2.3.4"}]);
    });
    assert_eq!(
        causes(ingress),
        [
            "status.loadBalancer.ingress[1].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address"
        ]
    );
    let ingress = with(Part::Status, |s| {
        s["status"]["loadBalancer"]["ingress"] = json!([{"ip": "1.2.3.4"}]);
    });
    assert_eq!(
        ingress.unwrap()["status"]["loadBalancer"]["ingress"][0]["ipMode"],
        "VIP"
    );
}
