//! `vaquita bench scale`: a cluster as large as clusters get, of simulated nodes, and how it answers while pods come and go.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use http::Method;
use tokio::{
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::{
    hollow::HollowNodes,
    load::{self, Work as _},
    namespace::Namespace,
    report::{Figure, Report},
    scheduler::CreatePods,
    stats::Samples,
    target::{Connection, Target},
};

/// Options of `vaquita bench scale`.
#[derive(Debug, clap::Args)]
pub(super) struct ScaleArgs {
    /// Simulated nodes, each of which renews its lease every 10 s.
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,
    /// Pods that run on them.
    #[arg(long, value_name = "N", default_value_t = 150_000, value_parser = clap::value_parser!(u32).range(1..))]
    pods: u32,
    /// Pods that are deleted, and as many created, in each second afterwards.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    churn: u32,
    /// How long pods come and go, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u32,
    /// Connections through which the first pods are created.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// How long it may take until all pods run, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout: u64,
}

/// Connections that make and delete pods, get them, and list a page of them.
const CHURNING: u32 = 8;
const GETS: Duration = Duration::from_millis(10);
const LISTS: Duration = Duration::from_millis(200);

pub(super) async fn run(
    args: &ScaleArgs,
    target: &Target,
    namespace: &Namespace,
    report: &mut Report,
) -> anyhow::Result<()> {
    namespace.wait_until_pods_are_admitted(target).await?;
    let (nodes, pods) = (usize::try_from(args.nodes)?, usize::try_from(args.pods)?);

    report.progress(&format!("{nodes} nodes"));
    let start = Instant::now();
    let mut hollow = HollowNodes::register(target, namespace, nodes).await?;
    report.add(Figure::throughput(
        "nodes registered",
        16,
        nodes,
        start.elapsed(),
    ));

    hollow.follow_pods(namespace, true).await?;
    report.progress(&format!("{pods} pods over {nodes} nodes"));
    let create = Arc::new(CreatePods {
        target: target.clone(),
        collection: namespace.path("pods"),
        nodes: namespace.name().to_owned(),
        prefix: "pod",
    });
    let start = Instant::now();
    let connections = usize::from(args.connections);
    let work: Arc<dyn load::Work> = Arc::clone(&create) as _;
    timeout(Duration::from_secs(args.timeout), async {
        tokio::try_join!(
            load::run(target, connections, pods, work),
            hollow.until_running(pods)
        )
    })
    .await
    .context("the pods took too long to run")??;
    let what = format!("pods to Running, {nodes} nodes");
    report.add(Figure::throughput(what, connections, pods, start.elapsed()));

    drop(hollow.take_renewals());
    report.progress(&format!("{} pods a second", args.churn));
    let start = Instant::now();
    let churned = churn(args, &create, start).await?;
    let took = start.elapsed();
    let pace = format!("at {} pods/s", args.churn);
    for (what, connections, samples) in [
        ("create a pod", CHURNING, churned.created),
        ("delete a pod", CHURNING, churned.deleted),
        ("get a pod", 1, churned.got),
        ("list 500 pods", 1, churned.listed),
        ("renew a lease", 4, hollow.take_renewals()),
    ] {
        let connections = usize::try_from(connections)?;
        report.add(Figure::latency(
            format!("{what}, {pace}"),
            connections,
            samples,
            took,
        ));
    }
    hollow.delete().await
}

/// How long the requests took.
#[derive(Default)]
struct Churned {
    created: Samples,
    deleted: Samples,
    got: Samples,
    listed: Samples,
}

/// Makes requests at their pace until the time is over.
async fn churn(
    args: &ScaleArgs,
    pods: &Arc<CreatePods>,
    start: Instant,
) -> anyhow::Result<Churned> {
    let end = start + Duration::from_secs(args.seconds.into());
    let mut tasks: JoinSet<anyhow::Result<Churned>> = JoinSet::new();
    for worker in 0..CHURNING {
        let connection = pods.target.connect().await?;
        let pace = Pace {
            start: start + Duration::from_secs(1) * worker / args.churn,
            every: Duration::from_secs(1) * CHURNING / args.churn,
            end,
        };
        let first = usize::try_from(args.pods)?;
        let (pods, worker) = (Arc::clone(pods), usize::try_from(worker)?);
        tasks.spawn(replace(connection, pods, pace, worker, first));
    }
    let reading = |every| Pace { start, every, end };
    // Somewhere in the middle, which the churn does not reach.
    let one = format!(
        "{}/{}",
        pods.collection,
        pods.name(usize::try_from(args.pods - 1)?)
    );
    let listing = format!("{}?limit=500", pods.collection);
    for (path, every, is_list) in [(one, GETS, false), (listing, LISTS, true)] {
        let connection = pods.target.connect().await?;
        let (uri, pace) = (pods.target.uri(&path)?, reading(every));
        tasks.spawn(async move {
            let samples = read(connection, uri, pace).await?;
            Ok(if is_list {
                Churned {
                    listed: samples,
                    ..Churned::default()
                }
            } else {
                Churned {
                    got: samples,
                    ..Churned::default()
                }
            })
        });
    }
    let mut all = Churned::default();
    while let Some(done) = tasks.join_next().await {
        let done = done.context("a client failed")??;
        all.created.extend(done.created);
        all.deleted.extend(done.deleted);
        all.got.extend(done.got);
        all.listed.extend(done.listed);
    }
    Ok(all)
}

/// When requests are due, whether or not the last one has been answered in time.
struct Pace {
    start: Instant,
    every: Duration,
    end: Instant,
}

impl Pace {
    /// Waits until the request of this number is due. Says when that was; `None` if the time is over.
    async fn due(&self, number: u32) -> Option<Instant> {
        let due = self.start + self.every * number;
        if due >= self.end {
            return None;
        }
        sleep_until(due.into()).await;
        Some(due)
    }
}

/// Deletes the oldest pod and creates another, time and again.
async fn replace(
    mut connection: Connection,
    pods: Arc<CreatePods>,
    pace: Pace,
    worker: usize,
    first: usize,
) -> anyhow::Result<Churned> {
    let mut churned = Churned::default();
    let mut round = 0;
    while let Some(due) = pace.due(round).await {
        let number = usize::try_from(round * CHURNING)? + worker;
        let old = pods.name(number % first);
        let uri = pods.target.uri(&format!("{}/{old}", pods.collection))?;
        connection.call(Method::DELETE, uri, Bytes::new()).await?;
        churned.deleted.push(due.elapsed());
        let call = pods.call(first + number)?;
        let start = Instant::now();
        connection.call(call.method, call.uri, call.body).await?;
        churned.created.push(start.elapsed());
        round += 1;
    }
    Ok(churned)
}

async fn read(mut connection: Connection, uri: http::Uri, pace: Pace) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    let mut round = 0;
    while let Some(due) = pace.due(round).await {
        connection
            .call(Method::GET, uri.clone(), Bytes::new())
            .await?;
        samples.push(due.elapsed());
        round += 1;
    }
    Ok(samples)
}
