//! A whole cluster inside the caller's process, without `kubectl` and without a socket in between.

use std::time::Duration;

use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{ConfigMap, Node, Pod, ServiceAccount},
};
use kube::{Api, ResourceExt, api::PostParams, runtime::wait::await_condition};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;
use vaquita::{Cluster, ClusterConfig, StartError};

use crate::harness::{PATIENCE, guest_file};

fn config(dir: &tempfile::TempDir) -> ClusterConfig {
    let mut config = ClusterConfig::new(dir.path());
    config.listen = "127.0.0.1:0".parse().expect("an address");
    "embedded".clone_into(&mut config.node_name);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_starts_works_and_stops_within_a_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut steps = Vec::new();
    let cluster = Cluster::start_reporting(config(&dir), |step| steps.push(step.name))
        .await
        .expect("it starts");
    assert_eq!(steps.first().copied(), Some("store"));
    assert_eq!(steps.last().copied(), Some("node"));

    let nodes = Api::<Node>::all(cluster.client())
        .list(&kube::api::ListParams::default())
        .await
        .expect("a list");
    assert_eq!(
        nodes
            .items
            .iter()
            .map(ResourceExt::name_any)
            .collect::<Vec<_>>(),
        ["embedded"]
    );

    let wasm = std::fs::read(guest_file("hello")).expect("the guest");
    cluster
        .images()
        .load("localhost/hello:v1", &wasm)
        .expect("an image");
    let pods = Api::<Pod>::default_namespaced(cluster.client());
    let pod = json!({
        "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "web", "image": "localhost/hello:v1"}]},
    });
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    pods.create(&PostParams::default(), &pod)
        .await
        .expect("it is created");
    let running = await_condition(pods, "web", kube::runtime::conditions::is_pod_running());
    tokio::time::timeout(PATIENCE, running)
        .await
        .expect("in time")
        .expect("a watch");
    cluster.stop().await;
}

/// Calls the API as a pod does: by its Service, with the token and the authority that pods are given.
async fn ask_as_a_pod(
    network: &vaquita_net::PodNetwork,
    authority: &[u8],
    token: &str,
) -> Result<String, Box<dyn std::error::Error>> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority) {
        roots.add(certificate?)?;
    }
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut answers = String::new();
    // By the address that pods find in their environment, and by name.
    for name in ["10.96.0.1", "kubernetes.default.svc"] {
        let address = network.resolve(name).await?[0];
        let stream = network.connect((address, 443).into()).await?;
        let name = rustls::pki_types::ServerName::try_from(name)?;
        let mut stream = connector.connect(name, stream).await?;
        let request = format!(
            "GET /api/v1/namespaces/default/secrets HTTP/1.1\r\nHost: kubernetes\r\n\
             Authorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        // The end may come without a word of TLS.
        let mut answer = Vec::new();
        let _end = stream.read_to_end(&mut answer).await;
        answers.push_str(&String::from_utf8_lossy(&answer));
    }
    Ok(answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_an_api_that_listens_on_the_loopback() {
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(config(&dir)).await.expect("it starts");
    let accounts = Api::<ServiceAccount>::default_namespaced(cluster.client());
    let exists = await_condition(
        accounts.clone(),
        "default",
        |account: Option<&ServiceAccount>| account.is_some(),
    );
    tokio::time::timeout(PATIENCE, exists)
        .await
        .expect("in time")
        .expect("a watch");
    let asked = TokenRequest::default();
    let token = accounts
        .create_token_request("default", &PostParams::default(), &asked)
        .await
        .expect("a token");
    let token = token
        .status
        .and_then(|status| status.token)
        .expect("a token");
    let authority = std::fs::read(dir.path().join("pki/ca.crt")).expect("the authority");
    let network = cluster.fabric().attach(None).expect("an address");
    let asking = async {
        // Until the proxy has seen the Service.
        loop {
            match ask_as_a_pod(&network, &authority, &token).await {
                Ok(answers) => return answers,
                Err(_not_yet) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let answers = tokio::time::timeout(PATIENCE, asking)
        .await
        .expect("in time");
    let known = answers
        .matches("system:serviceaccount:default:default")
        .count();
    assert!(known >= 2 && answers.contains("403"), "{answers}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_there_after_a_restart_in_the_same_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(config(&dir)).await.expect("it starts");
    let refused = Cluster::start(config(&dir)).await;
    assert!(
        matches!(refused, Err(StartError::InUse { .. })),
        "one cluster for each directory"
    );
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "kept"}})).expect("a map");
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    let made = maps
        .create(&PostParams::default(), &map)
        .await
        .expect("it is created");
    cluster.stop().await;

    let cluster = Cluster::start(config(&dir)).await.expect("it starts again");
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
    let kept = maps.get("kept").await.expect("it is there");
    assert_eq!(
        (kept.uid(), kept.resource_version()),
        (made.uid(), made.resource_version())
    );
    cluster.stop().await;
}
