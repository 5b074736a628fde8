//! The cluster's DNS, as its users know it: Service `kube-dns` in `kube-system`, at the tenth address of the Services' range.
//!
//! There are no pods behind it. The node answers at its own address in the fabric, out of its tables, and this keeps the
//! objects there by which everybody finds it.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use vaquita_net::{Fabric, PodIdentity};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
/// Who writes the slice.
const MANAGER: &str = "vaquita-dns";
/// How far the address is from that of the API server's Service, which is the range's first.
const DISTANCE: u32 = 9;
/// How soon a failure is tried again.
const REST: Duration = Duration::from_secs(1);
/// How often it is made sure that the objects are still there.
const PERIOD: Duration = Duration::from_mins(1);

/// What the DNS is to policies: the pods that they mean are labelled, and live in that namespace.
pub(crate) fn identity() -> PodIdentity {
    PodIdentity {
        namespace: NAMESPACE.to_owned(),
        name: MANAGER.to_owned(),
        ..PodIdentity::default()
    }
}

/// Serves DNS in the fabric, and keeps its objects, until told to stop.
pub(crate) async fn run(client: Client, fabric: Fabric, node: String, shutdown: CancellationToken) {
    let _serving = match fabric.serve_dns(identity()) {
        Ok(serving) => serving,
        Err(error) => {
            tracing::error!(%error, "the cluster's DNS is not served");
            return;
        }
    };
    let mut complained = false;
    loop {
        let rest = match publish(&client, &fabric, &node).await {
            Ok(true) => PERIOD,
            Ok(false) => REST,
            Err(error) => {
                // Said once, not at each attempt.
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(%error, "cannot write the objects of the cluster's DNS; trying on");
                }
                REST
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Makes Service and slice. False: it is too early, the API server's own Service is not there yet.
async fn publish(client: &Client, fabric: &Fabric, node: &str) -> kube::Result<bool> {
    let kubernetes: Api<Service> = Api::namespaced(client.clone(), "default");
    let first = kubernetes.get_opt("kubernetes").await?;
    let first = first.and_then(|service| service.spec?.cluster_ip?.parse::<Ipv4Addr>().ok());
    let Some(first) = first else { return Ok(false) };
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    if services.get_opt(NAME).await?.is_none() {
        let address = Ipv4Addr::from(u32::from(first).wrapping_add(DISTANCE));
        match services
            .create(&PostParams::default(), &service(address))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            made => drop(made?),
        }
    }
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let name = format!("{NAME}-{node}");
    let params = PatchParams::apply(MANAGER).force();
    let slice = slice(&name, fabric.node_ip(), node);
    slices.patch(&name, &params, &Patch::Apply(slice)).await?;
    Ok(true)
}

fn service(address: Ipv4Addr) -> Service {
    let mut service = Service::default();
    service.metadata.name = Some(NAME.to_owned());
    let labels = [
        ("k8s-app", NAME),
        ("kubernetes.io/cluster-service", "true"),
        ("kubernetes.io/name", "CoreDNS"),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    service.metadata.labels = Some(labels.into());
    let port = |name: &str, protocol: &str| k8s_openapi::api::core::v1::ServicePort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: 53,
        ..Default::default()
    };
    service.spec = Some(k8s_openapi::api::core::v1::ServiceSpec {
        cluster_ip: Some(address.to_string()),
        ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
        ..Default::default()
    });
    service
}

fn slice(name: &str, address: IpAddr, node: &str) -> serde_json::Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/service-name": NAME,
                "endpointslice.kubernetes.io/managed-by": MANAGER,
            },
        },
        "addressType": "IPv4",
        "ports": [
            {"name": "dns", "protocol": "UDP", "port": 53},
            {"name": "dns-tcp", "protocol": "TCP", "port": 53},
        ],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}, "nodeName": node}],
    })
}
