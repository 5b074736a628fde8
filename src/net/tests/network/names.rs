//! Names and how a pod looks them up.

use std::net::{IpAddr, SocketAddr};

use vaquita_net::{
    Fabric, Lookups, PodIdentity, PodNetwork, Protocol, ResolveError, ServiceHost, ServiceKey,
    ServicePort, ServiceSpec,
};

use crate::tools::*;

fn identity() -> PodIdentity {
    PodIdentity {
        namespace: "default".to_owned(),
        name: "client".to_owned(),
        hostname: "client".to_owned(),
        ..PodIdentity::default()
    }
}

fn cluster() -> (Fabric, PodNetwork) {
    let fabric = fabric();
    let set = |key, spec: &ServiceSpec| assert!(fabric.services().set(&key, spec).is_empty());
    set(key("web"), &service("10.96.0.1", vec![port(80, &[])]));
    let elsewhere = ServiceKey {
        namespace: "other".to_owned(),
        ..key("web")
    };
    set(elsewhere, &service("10.96.0.2", vec![]));
    let headless = ServiceSpec {
        hosts: vec![
            ServiceHost {
                ip: ip("10.244.0.7"),
                hostname: Some("db-0".to_owned()),
            },
            ServiceHost {
                ip: ip("10.244.0.8"),
                hostname: None,
            },
        ],
        ..ServiceSpec::default()
    };
    set(key("db"), &headless);
    let pod = fabric.attach_as(identity(), None).unwrap();
    (fabric, pod)
}

async fn one(pod: &PodNetwork, name: &str) -> Option<IpAddr> {
    match pod.resolve(name).await {
        Ok(found) => Some(found[0]),
        Err(ResolveError::NotFound(_)) => None,
        Err(error) => panic!("{name}: {error}"),
    }
}

#[tokio::test]
async fn services_by_the_search_path() {
    let (_fabric, pod) = cluster();
    for name in [
        "web",
        "WEB",
        "web.default",
        "web.default.svc",
        "web.default.svc.cluster.local",
        "web.default.svc.cluster.local.",
    ] {
        assert_eq!(one(&pod, name).await, Some(ip("10.96.0.1")), "{name}");
    }
    assert_eq!(one(&pod, "web.other").await, Some(ip("10.96.0.2")));
    for name in [
        "we",
        "web.",
        "web.nowhere",
        "web.default.pod.cluster.local",
        "cluster.local",
        "x.y.web.default.svc.cluster.local",
        "svc.cluster.local",
    ] {
        assert_eq!(one(&pod, name).await, None, "{name}");
    }
}

#[tokio::test]
async fn headless_services_lead_to_their_pods() {
    let (fabric, pod) = cluster();
    let mut found = pod.resolve("db").await.unwrap();
    let again = pod.resolve("db").await.unwrap();
    assert_ne!(found[0], again[0], "the answers take turns");
    found.sort_unstable();
    assert_eq!(found, [ip("10.244.0.7"), ip("10.244.0.8")]);
    assert_eq!(one(&pod, "db-0.db").await, Some(ip("10.244.0.7")));
    assert_eq!(
        fabric.names().lookup("db-0.db.default.svc.cluster.local."),
        Some(vec![ip("10.244.0.7")])
    );
    assert_eq!(one(&pod, "db-1.db").await, None);

    // Without hosts, the endpoints of its ports, each once.
    let endpoints = [addr("10.244.0.9:80"), addr("10.244.0.9:81")];
    let spec = ServiceSpec {
        ports: vec![port(80, &endpoints)],
        ..ServiceSpec::default()
    };
    assert!(fabric.services().set(&key("db"), &spec).is_empty());
    assert_eq!(pod.resolve("db").await.unwrap(), [ip("10.244.0.9")]);
    assert!(
        fabric
            .services()
            .set(&key("db"), &ServiceSpec::default())
            .is_empty()
    );
    assert_eq!(one(&pod, "db").await, None);
    fabric.services().remove(&key("web"));
    assert_eq!(one(&pod, "web").await, None);
}

#[tokio::test]
async fn what_a_hosts_file_would_say() {
    let (fabric, _) = cluster();
    let pod = fabric
        .attach_as(
            PodIdentity {
                subdomain: Some("db".to_owned()),
                hosts: vec![
                    ("Legacy.example".to_owned(), ip("192.0.2.7")),
                    ("web".to_owned(), ip("192.0.2.8")),
                ],
                ..identity()
            },
            None,
        )
        .unwrap();
    assert_eq!(one(&pod, "localhost").await, Some(ip("127.0.0.1")));
    assert_eq!(one(&pod, "client").await, Some(pod.ip()));
    assert_eq!(
        one(&pod, "client.db.default.svc.cluster.local").await,
        Some(pod.ip())
    );
    assert_eq!(one(&pod, "legacy.example").await, Some(ip("192.0.2.7")));
    assert_eq!(one(&pod, "web").await, Some(ip("192.0.2.8")));
    for literal in ["10.1.2.3", "::1", "2001:db8::7"] {
        assert_eq!(one(&pod, literal).await, Some(ip(literal)));
    }
}

#[tokio::test]
async fn search_path_and_domain_are_options() {
    let fabric = fabric_with(|config| config.cluster_domain = "farm.example".to_owned());
    assert!(
        fabric
            .services()
            .set(&key("web"), &service("10.96.0.1", vec![]))
            .is_empty()
    );
    let pod = fabric.attach_as(identity(), None).unwrap();
    assert_eq!(one(&pod, "web").await, Some(ip("10.96.0.1")));
    assert_eq!(one(&pod, "web.default.svc.cluster.local").await, None);
    assert_eq!(
        one(&pod, "web.default.svc.farm.example").await,
        Some(ip("10.96.0.1"))
    );
    let own = PodIdentity {
        searches: Some(vec!["svc.farm.example".to_owned()]),
        ..identity()
    };
    let pod = fabric.attach_as(own, None).unwrap();
    assert_eq!(one(&pod, "web").await, None);
    assert_eq!(one(&pod, "web.default").await, Some(ip("10.96.0.1")));
}

#[tokio::test]
async fn nonsense_is_no_name() {
    let (_fabric, pod) = cluster();
    let long = "a".repeat(64);
    let longer = format!("{}a", "a.".repeat(130));
    let huge = "x".repeat(1 << 20);
    for name in ["", ".", "a..b", "a b", "a\0b", "ü", &long, &longer, &huge] {
        let error = pod.resolve(name).await.unwrap_err();
        assert!(matches!(error, ResolveError::Invalid(_)));
        assert!(error.to_string().len() < 400);
    }
    pod.close();
    assert!(matches!(
        pod.resolve("web").await,
        Err(ResolveError::Closed)
    ));
}

#[tokio::test]
async fn outside_names_only_if_allowed() {
    let fabric = fabric_with(|config| config.outside.everything = true);
    let pod = fabric.attach_as(identity(), None).unwrap();
    // Names of the cluster are not asked for outside, nor does the host's own "localhost" count.
    assert_eq!(one(&pod, "web.default.svc.cluster.local").await, None);
    assert_eq!(one(&pod, "localhost").await, Some(ip("127.0.0.1")));
    assert!(matches!(
        pod.resolve("no-such-host.invalid").await,
        Err(ResolveError::NotFound(_) | ResolveError::Outside { .. })
    ));
}

#[tokio::test]
async fn a_pod_with_servers_of_its_own_asks_those() {
    let (fabric, _pod) = cluster();
    let _dns = fabric.serve_dns(PodIdentity::default()).unwrap();
    let node = SocketAddr::new(fabric.node_ip(), 53);
    let udp = ServicePort {
        protocol: Protocol::Udp,
        ..port(53, &[node])
    };
    let dns = service("10.96.0.10", vec![udp, port(53, &[node])]);
    assert!(fabric.services().set(&key("dns"), &dns).is_empty());
    let asking = |servers: &[&str], searches: &[&str], ndots| {
        let identity = PodIdentity {
            lookups: Lookups::Servers(servers.iter().map(|server| ip(server)).collect()),
            searches: Some(searches.iter().map(ToString::to_string).collect()),
            ndots,
            ..identity()
        };
        fabric.attach_as(identity, None).unwrap()
    };
    let web = "web.default.svc.cluster.local";
    // One that cannot be reached is passed over.
    let pod = asking(
        &["192.0.2.1", "10.96.0.10"],
        &["default.svc.cluster.local."],
        None,
    );
    assert_eq!(one(&pod, web).await, Some(ip("10.96.0.1")));
    assert_eq!(one(&pod, "web").await, Some(ip("10.96.0.1")));
    assert_eq!(one(&pod, "client").await, Some(pod.ip()));
    assert_eq!(one(&pod, "nobody.default.svc.cluster.local.").await, None);
    // Of other names, these servers will not speak.
    for name in ["nobody", "web."] {
        let refused = pod.resolve(name).await;
        assert!(
            matches!(refused, Err(ResolveError::Outside { .. })),
            "{name}"
        );
    }
    // By the address of the node as well; without suffixes, a bare name is one.
    let bare = asking(&["10.244.0.1"], &[], None);
    assert_eq!(one(&bare, web).await, Some(ip("10.96.0.1")));
    assert!(bare.resolve("web").await.is_err());
    let nobody = asking(&[], &[], None);
    assert!(matches!(
        nobody.resolve(web).await,
        Err(ResolveError::Outside { .. })
    ));
}

#[tokio::test]
async fn a_pod_that_asks_the_host_does_not_know_the_cluster() {
    let (fabric, _pod) = cluster();
    let identity = PodIdentity {
        lookups: Lookups::Host,
        ..identity()
    };
    let pod = fabric.attach_as(identity, None).unwrap();
    assert_eq!(one(&pod, "web").await, None);
    assert_eq!(one(&pod, "web.default.svc.cluster.local").await, None);
    assert_eq!(one(&pod, "client").await, Some(pod.ip()));
}
