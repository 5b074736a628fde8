//! `vaquita bench scheduler`: how many pods a second get a node.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use http::Method;
use tokio::time::{sleep, timeout};

use super::{
    hollow::HollowNodes,
    load::{self, Call, Work},
    namespace::Namespace,
    objects,
    report::{Figure, Report},
    target::Target,
};

/// Options of `vaquita bench scheduler`.
#[derive(Debug, clap::Args)]
pub(super) struct SchedulerArgs {
    /// Simulated nodes.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,
    /// Pods to bind.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pods: u32,
    /// Connections through which they are created.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// How long one step may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

/// How long pods that no node can take are left alone, so that each has been looked at in vain and may be looked at again.
const SETTLING: Duration = Duration::from_secs(3);

pub(super) async fn run(
    args: &SchedulerArgs,
    target: &Target,
    namespace: &Namespace,
    report: &mut Report,
) -> anyhow::Result<()> {
    namespace.wait_until_pods_are_admitted(target).await?;
    let limit = Duration::from_secs(args.timeout);
    let pods = usize::try_from(args.pods)?;
    let nodes = usize::try_from(args.nodes)?;

    // With nodes there already: from the first creation to the last binding.
    let mut hollow = HollowNodes::register(target, namespace, nodes).await?;
    hollow.follow_pods(namespace, false).await?;
    report.progress(&format!("{pods} pods over {nodes} nodes"));
    let start = Instant::now();
    let created = timeout(limit, async {
        let run = create(args, target, namespace, "busy");
        tokio::try_join!(run, hollow.until_bound(pods))
    });
    let (run, ()) = created
        .await
        .context("the pods took too long to be bound")??;
    let work = format!("pods created and bound, {nodes} nodes");
    report.add(Figure::throughput(
        work,
        run.connections,
        pods,
        start.elapsed(),
    ));
    hollow.delete().await?;

    // With pods there already: from the first node to the last binding.
    report.progress(&format!("{pods} pods that wait for {nodes} nodes"));
    timeout(limit, create(args, target, namespace, "idle"))
        .await
        .context("the pods took too long to be created")??;
    sleep(SETTLING).await;
    report.progress(&format!("{nodes} nodes for {pods} pods"));
    let mut watch = HollowNodes::register(target, namespace, 0).await?;
    watch.follow_pods(namespace, false).await?;
    let start = Instant::now();
    let hollow = HollowNodes::register(target, namespace, nodes).await?;
    timeout(limit, watch.until_bound(pods))
        .await
        .context("the pods took too long to be bound")??;
    report.add(Figure::throughput(
        format!("waiting pods bound, {nodes} nodes made"),
        1,
        pods,
        start.elapsed(),
    ));
    hollow.delete().await
}

async fn create(
    args: &SchedulerArgs,
    target: &Target,
    namespace: &Namespace,
    prefix: &'static str,
) -> anyhow::Result<load::Run> {
    let work = CreatePods {
        target: target.clone(),
        collection: namespace.path("pods"),
        nodes: namespace.name().to_owned(),
        prefix,
    };
    let pods = usize::try_from(args.pods)?;
    load::run(target, usize::from(args.connections), pods, Arc::new(work)).await
}

/// Creates pods for simulated nodes.
pub(super) struct CreatePods {
    pub(super) target: Target,
    pub(super) collection: String,
    pub(super) nodes: String,
    pub(super) prefix: &'static str,
}

impl CreatePods {
    pub(super) fn name(&self, number: usize) -> String {
        format!("{}-{number}", self.prefix)
    }
}

impl Work for CreatePods {
    fn call(&self, number: usize) -> anyhow::Result<Call> {
        Ok(Call {
            method: Method::POST,
            uri: self.target.uri(&self.collection)?,
            body: objects::hollow_pod(&self.name(number), &self.nodes),
        })
    }
}
