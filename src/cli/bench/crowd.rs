//! Pods by the hundred: created at a steady pace, and kept by a ReplicationController.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use http::Method;
use tokio::time::{sleep_until, timeout};

use super::{
    namespace::Namespace,
    objects,
    pods::{PodWatch, PodsArgs},
    report::{Figure, Report},
    stats::Samples,
    target::Target,
};

/// When the creation of each pod that is not Ready yet began.
type Begun = Arc<Mutex<HashMap<String, Instant>>>;

/// Creates pods at a pace that does not heed how long they take, and measures how long each takes to be Ready.
pub(super) async fn paced(
    args: &PodsArgs,
    target: &Target,
    namespace: &Namespace,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut watch = PodWatch::open(target, namespace).await?;
    report.progress(&format!("{} pods, {} a second", args.paced, args.pace));
    let begun = Begun::default();
    let start = Instant::now();
    let creating = create(args, target, namespace, Arc::clone(&begun), start);
    let watching = async {
        let mut samples = Samples::with_capacity(args.paced);
        while samples.len() < args.paced {
            let name = watch.next_ready().await?;
            let at = begun
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&name);
            if let Some(at) = at {
                samples.push(at.elapsed());
            }
        }
        Ok(samples)
    };
    let both = async { tokio::try_join!(creating, watching) };
    let ((), samples) = timeout(Duration::from_secs(args.timeout), both)
        .await
        .context("the pods took too long to be Ready")??;
    let work = format!("pod created to Ready, {} a second", args.pace);
    report.add(Figure::latency(work, 1, samples, start.elapsed()));
    Ok(())
}

async fn create(
    args: &PodsArgs,
    target: &Target,
    namespace: &Namespace,
    begun: Begun,
    start: Instant,
) -> anyhow::Result<()> {
    let mut connection = target.connect().await?;
    let pods = namespace.path("pods");
    for number in 0..args.paced {
        let due = start + Duration::from_secs(1) * u32::try_from(number)? / args.pace;
        sleep_until(due.into()).await;
        let name = format!("paced-{number}");
        begun
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone(), Instant::now());
        let pod = objects::running_pod(&name, &args.image, args.port);
        let uri = target.uri(&pods)?;
        connection.call(Method::POST, uri, pod).await?;
    }
    Ok(())
}

/// Has a ReplicationController make pods, and measures how long it takes until all of them run.
pub(super) async fn replicated(
    args: &PodsArgs,
    target: &Target,
    namespace: &Namespace,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut watch = PodWatch::open(target, namespace).await?;
    report.progress(&format!("{} pods of one controller", args.replicas));
    let mut connection = target.connect().await?;
    let uri = target.uri(&namespace.path("replicationcontrollers"))?;
    let name = "crowd";
    let body = objects::replication_controller(name, &args.image, args.port, args.replicas);
    let start = Instant::now();
    connection.call(Method::POST, uri, body).await?;
    let prefix = format!("{name}-");
    let counting = watch.until_so_many_run(&prefix, args.replicas);
    timeout(Duration::from_secs(args.timeout), counting)
        .await
        .context("the pods took too long to run")??;
    let work = "pods of one controller to Running";
    report.add(Figure::throughput(work, 1, args.replicas, start.elapsed()));
    let path = namespace.path("replicationcontrollers");
    let uri = target.uri(&format!("{path}/{name}?propagationPolicy=Background"))?;
    connection.call(Method::DELETE, uri, Bytes::new()).await?;
    Ok(())
}
