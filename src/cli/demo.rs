//! `vaquita up --demo`: the guestbook, from images to an answer, by the same API that everybody uses.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    discovery,
};
use serde::Deserialize as _;

use super::report::Report;
use crate::Cluster;

/// A guest that the build embedded.
struct DemoImage {
    /// The image's name in the manifests.
    reference: &'static str,
    /// The component.
    wasm: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/demo.rs"));

/// The Service that the demo ends with, in namespace `default`.
const FRONT_END: &str = "guestbook";
/// How long the pods may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// The most of the answer that is read.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Images and manifests of the demo.
pub(super) struct Demo {
    images: &'static [DemoImage],
    manifests: &'static [&'static str],
}

impl Demo {
    /// What the build embedded, or how to build with it.
    pub(super) fn embedded() -> anyhow::Result<Self> {
        anyhow::ensure!(
            !IMAGES.is_empty(),
            "this binary was built without the demo's guests: build and run it by `cargo task demo`"
        );
        Ok(Self {
            images: IMAGES,
            manifests: MANIFESTS,
        })
    }

    /// Loads the images, applies the manifests, waits for an answer and prints it.
    pub(super) async fn run(&self, cluster: &Cluster, report: &mut Report) -> anyhow::Result<()> {
        for image in self.images {
            cluster
                .images()
                .load(image.reference, image.wasm)
                .with_context(|| format!("cannot load the image {}", image.reference))?;
        }
        report.step(
            "images",
            &self
                .images
                .iter()
                .map(|image| image.reference)
                .collect::<Vec<_>>()
                .join(", "),
        );

        let mut applied = Vec::new();
        for manifest in self.manifests {
            for document in serde_yaml::Deserializer::from_str(manifest) {
                let object = DynamicObject::deserialize(document)
                    .context("a manifest of the demo is damaged")?;
                applied.push(apply(&cluster.client(), object).await?);
            }
        }
        report.step("manifests", &format!("{} objects", applied.len()));

        let url = front_end_url(&cluster.client()).await?;
        let answer = tokio::time::timeout(ANSWER_DEADLINE, first_answer(&url))
            .await
            .map_err(|_| {
                anyhow::anyhow!(
                    "no answer from {url} in {} s: see `kubectl get pods`",
                    ANSWER_DEADLINE.as_secs()
                )
            })?;
        report.step("answer", &format!("GET {url}"));
        say_what_to_try(cluster, &url, &answer);
        Ok(())
    }
}

fn say_what_to_try(cluster: &Cluster, url: &str, answer: &str) {
    Report::say("");
    for line in answer.lines() {
        Report::say(&format!("    {line}"));
    }
    Report::say(&format!(
        "\nThe guestbook is at {url}\ntry:\n  export KUBECONFIG={}\n  kubectl get pods -o wide\n  kubectl scale rc guestbook --replicas=5\n  curl {url}\nCtrl-C stops the cluster; the same command starts it again with everything in it.",
        cluster.kubeconfig_path().display()
    ));
}

/// Creates the object, or merges it into the one that is there.
async fn apply(client: &kube::Client, object: DynamicObject) -> anyhow::Result<String> {
    let types = object
        .types
        .clone()
        .context("a manifest of the demo has no kind")?;
    let kind = GroupVersionKind::try_from(&types)?;
    let name = object.name_any();
    let what = format!("{} {name}", kind.kind);
    let (resource, _) = discovery::pinned_kind(client, &kind)
        .await
        .with_context(|| format!("the API server does not serve {}", kind.kind))?;
    let api: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            api.patch(&name, &PatchParams::default(), &Patch::Merge(&object))
                .await
        }
        created => created,
    }
    .with_context(|| format!("cannot apply {what}"))?;
    Ok(what)
}

async fn front_end_url(client: &kube::Client) -> anyhow::Result<String> {
    let service = Api::<Service>::default_namespaced(client.clone())
        .get(FRONT_END)
        .await?;
    let port = service
        .spec
        .and_then(|spec| spec.ports)
        .and_then(|ports| ports.first().and_then(|port| port.node_port))
        .with_context(|| format!("the Service {FRONT_END} has no node port"))?;
    Ok(format!("http://127.0.0.1:{port}/"))
}

/// Asks until a pod answers with success.
async fn first_answer(url: &str) -> String {
    loop {
        match get(url).await {
            Ok(answer) => return answer,
            Err(error) => tracing::debug!("no answer yet: {error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn get(url: &str) -> anyhow::Result<String> {
    let url: http::Uri = url.parse()?;
    let authority = url.authority().context("a URL without a host")?;
    let stream = tokio::net::TcpStream::connect(authority.as_str()).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::get(url.path())
        .header(http::header::HOST, authority.as_str())
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    anyhow::ensure!(
        response.status().is_success(),
        "status {}",
        response.status()
    );
    let body = Limited::new(response.into_body(), ANSWER_LIMIT)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}
