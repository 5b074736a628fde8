use serde_json::{Value, json};

use super::*;
use crate::certificates::tests::secret;

#[derive(Default)]
struct World {
    ingresses: Vec<Arc<Ingress>>,
    services: Store<Service>,
    secrets: Store<Secret>,
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

impl World {
    fn ingress(&mut self, name: &str, made: &str, spec: &Value) {
        self.ingresses.push(object(json!({
            "metadata": {"name": name, "namespace": "shop", "creationTimestamp": made}, "spec": spec,
        })));
    }

    fn service(&self, name: &str, spec: &Value) {
        let service = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
        self.services.insert(object(service));
    }

    fn compile(&mut self) -> (Table, Vec<Vec<String>>) {
        let objects = Objects {
            services: &self.services,
            secrets: &self.secrets,
        };
        let (table, problems) = compile(&mut self.ingresses, &objects, &mut KeyCache::default());
        let said = |problem: Problem| format!("{}: {}", problem.reason, problem.message);
        let problems = problems
            .into_iter()
            .map(|(_, problems)| problems.into_iter().map(said).collect())
            .collect();
        (table, problems)
    }
}

fn to(service: &str, port: &Value) -> Value {
    json!({"service": {"name": service, "port": port}})
}

fn rule(host: &str, backend: &Value) -> Value {
    json!({"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}})
}

fn target<'a>(table: &'a Table, host: &str) -> &'a Target {
    &table.routes.find(host, "/x").unwrap().to
}

fn service(name: &str, port: u16, protocol: Protocol) -> Target {
    Target::Service {
        service: ServiceKey {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        },
        port: PortRef::Number(port),
        protocol,
    }
}

fn http1(name: &str) -> Target {
    service(name, 80, Protocol::Http1)
}

#[test]
fn backends_are_found_by_number_and_by_name() {
    let mut world = World::default();
    world.service(
        "web",
        &json!({"clusterIP": "10.96.0.7", "ports": [
            {"name": "http", "port": 80}, {"name": "grpc", "port": 90, "appProtocol": "kubernetes.io/h2c"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ]}),
    );
    world.ingress(
        "a",
        "2026-01-01T00:00:00Z",
        &json!({"rules": [
            rule("number.example", &to("web", &json!({"number": 80}))),
            rule("name.example", &to("web", &json!({"name": "grpc"}))),
            rule("udp.example", &to("web", &json!({"name": "dns"}))),
        ]}),
    );
    let (table, problems) = world.compile();
    assert_eq!(*target(&table, "number.example"), http1("web"));
    let grpc = service("web", 90, Protocol::Http2);
    assert_eq!(*target(&table, "name.example"), grpc);
    assert_eq!(
        problems,
        [["PortNotFound: Service shop/web has no TCP port dns"]]
    );
}

#[test]
fn broken_references_break_nothing_else() {
    let mut world = World::default();
    world.service(
        "web",
        &json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}),
    );
    world.service(
        "far",
        &json!({"type": "ExternalName", "externalName": "x.example"}),
    );
    let web = to("web", &json!({"number": 80}));
    world.ingress(
        "a",
        "2026-01-01T00:00:00Z",
        &json!({
            "rules": [
                rule("gone.example", &to("gone", &json!({"number": 80}))),
                rule("far.example", &to("far", &json!({"number": 80}))),
                rule("thing.example", &json!({"resource": {"kind": "Bucket", "name": "b"}})),
                rule("web.example", &web),
            ],
            "tls": [{"hosts": ["web.example"], "secretName": "nothing"}],
        }),
    );
    let (table, problems) = world.compile();
    assert_eq!(*target(&table, "web.example"), http1("web"));
    let broken = Target::Broken("Service shop/gone not found".to_owned());
    assert_eq!(*target(&table, "gone.example"), broken);
    let reasons: Vec<_> = problems[0]
        .iter()
        .map(|p| p.split_once(':').unwrap().0)
        .collect();
    let expected = [
        "BackendNotSupported",
        "BackendNotSupported",
        "SecretNotFound",
        "ServiceNotFound",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn the_older_ingress_wins_and_secrets_are_served() {
    let mut world = World::default();
    for (name, ip) in [("old", "10.96.0.1"), ("new", "10.96.0.2")] {
        world.service(name, &json!({"clusterIP": ip, "ports": [{"port": 80}]}));
    }
    world
        .secrets
        .insert(Arc::new(secret("cert", 1, &["a.example"])));
    for (name, made) in [
        ("new", "2026-02-01T00:00:00Z"),
        ("old", "2026-01-01T00:00:00Z"),
    ] {
        let backend = to(name, &json!({"number": 80}));
        let tls = json!([{"hosts": ["a.example"], "secretName": "cert"}, {"hosts": ["b.example"]}]);
        world.ingress(
            name,
            made,
            &json!({"rules": [rule("a.example", &backend)], "tls": tls}),
        );
    }
    let (table, problems) = world.compile();
    assert_eq!(*target(&table, "a.example"), http1("old"));
    assert!(table.certificates.find("a.example").is_some());
    assert!(table.certificates.find("b.example").is_none());
    assert!(problems.iter().all(Vec::is_empty), "{problems:?}");
}
