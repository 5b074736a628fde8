//! DNS packets, as anybody on the network may send them: answered briefly, or not at all.
#![no_main]

use std::sync::LazyLock;

use vaquita_net::{Fabric, FabricConfig, ServiceHost, ServiceKey, ServiceSpec};

static FABRIC: LazyLock<Fabric> = LazyLock::new(|| {
    let fabric = Fabric::new(FabricConfig::default()).expect("the defaults are well");
    let set = |name: &str, spec: &ServiceSpec| {
        let key = ServiceKey {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        };
        assert!(fabric.services().set(&key, spec).is_empty());
    };
    set(
        "web",
        &ServiceSpec {
            cluster_ips: vec!["10.96.0.7".parse().expect("an address")],
            ..ServiceSpec::default()
        },
    );
    let hosts = (0..100).map(|last| ServiceHost {
        ip: [10, 244, 0, last].into(),
        hostname: Some(format!("db-{last}")),
    });
    set(
        "db",
        &ServiceSpec {
            hosts: hosts.collect(),
            ..ServiceSpec::default()
        },
    );
    set(
        "alias",
        &ServiceSpec {
            external_name: Some("alias.default.svc.cluster.local".to_owned()),
            ..ServiceSpec::default()
        },
    );
    fabric
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some(answer) = vaquita_net::fuzz_answer(&FABRIC, data, true) {
        assert!(answer.len() <= 1232);
        assert_eq!(answer[..2], data[..2]);
    }
    if let Some(answer) = vaquita_net::fuzz_answer(&FABRIC, data, false) {
        assert!(answer.len() <= usize::from(u16::MAX));
    }
});
