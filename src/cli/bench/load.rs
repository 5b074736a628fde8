//! Requests through so many connections, each of which sends the next when it has the answer to the last.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Uri};
use tokio::task::JoinSet;

use super::{
    stats::Samples,
    target::{Connection, Target},
};

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn get(uri: Uri) -> Self {
        Self {
            method: Method::GET,
            uri,
            body: Bytes::new(),
        }
    }
}

/// What to request, and what to make of the answers.
pub(super) trait Work: Send + Sync + 'static {
    /// The request of this number.
    fn call(&self, number: usize) -> anyhow::Result<Call>;

    /// Looks at the answer to it. The time for this is not measured, but passes.
    fn answered(&self, _number: usize, _body: &Bytes) -> anyhow::Result<()> {
        Ok(())
    }
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) connections: usize,
    /// When the first request was sent.
    pub(super) start: Instant,
    /// From then to the last answer.
    pub(super) took: Duration,
    /// From a request to the end of its answer.
    pub(super) latencies: Samples,
}

/// Makes the requests `0..count`, every one of which must succeed. Connecting is not part of the measurement.
pub(super) async fn run(
    target: &Target,
    connections: usize,
    count: usize,
    work: Arc<dyn Work>,
) -> anyhow::Result<Run> {
    let open = target.connect_many(connections).await?;
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut tasks: JoinSet<anyhow::Result<Samples>> = open
        .into_iter()
        .map(|connection| drive(connection, next.clone(), count, work.clone()))
        .collect();
    let mut latencies = Samples::with_capacity(count);
    while let Some(samples) = tasks.join_next().await {
        latencies.extend(samples.context("a client failed")??);
    }
    Ok(Run {
        connections,
        start,
        took: start.elapsed(),
        latencies,
    })
}

async fn drive(
    mut connection: Connection,
    next: Arc<AtomicUsize>,
    count: usize,
    work: Arc<dyn Work>,
) -> anyhow::Result<Samples> {
    let mut latencies = Samples::default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            return Ok(latencies);
        }
        let Call { method, uri, body } = work.call(number)?;
        let start = Instant::now();
        let (_, body) = connection.call(method, uri, body).await?;
        latencies.push(start.elapsed());
        work.answered(number, &body)?;
    }
}
