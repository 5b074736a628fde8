//! Watching, as the API serves it: one JSON document a line for as long as the connection lasts.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::{Bytes, BytesMut};
use http::{Method, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::task::JoinSet;

use super::target::{Connection, Target, message};

/// How long an event may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// The part of a list that says where to watch from.
#[derive(Deserialize)]
struct List {
    metadata: ListMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
}

/// The lines of a watch.
pub(super) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    // The body ends with it.
    _connection: Connection,
}

impl Lines {
    /// Watches the collection at `path` from now on. When this returns, the server has accepted the watch.
    pub(super) async fn open(target: &Target, path: &str) -> anyhow::Result<Self> {
        Self::open_selecting(target, path, "").await
    }

    /// The same, of the objects that further parameters of the query select, such as `&fieldSelector=…`.
    pub(super) async fn open_selecting(
        target: &Target,
        path: &str,
        parameters: &str,
    ) -> anyhow::Result<Self> {
        let mut connection = target.connect().await?;
        let (_, list) = connection
            .call(
                Method::GET,
                target.uri(&format!("{path}?limit=1"))?,
                Bytes::new(),
            )
            .await?;
        let list: List = serde_json::from_slice(&list).context("the list cannot be read")?;
        let query = format!(
            "{path}?watch=true&resourceVersion={}{parameters}",
            list.metadata.resource_version
        );
        Self::start(connection, target.uri(&query)?).await
    }

    async fn start(mut connection: Connection, uri: Uri) -> anyhow::Result<Self> {
        let response = connection.send(Method::GET, uri, Bytes::new()).await?;
        let status = response.status();
        let body = response.into_body();
        if !status.is_success() {
            bail!(
                "cannot watch: {status}: {}",
                message(&body.collect().await?.to_bytes())
            );
        }
        Ok(Self {
            body,
            buffer: BytesMut::new(),
            _connection: connection,
        })
    }

    /// The next line, without its end.
    pub(super) async fn next(&mut self) -> anyhow::Result<Bytes> {
        let mut searched = 0;
        loop {
            if let Some(length) = self.buffer[searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let mut line = self.buffer.split_to(searched + length + 1);
                line.truncate(searched + length);
                return Ok(line.freeze());
            }
            searched = self.buffer.len();
            let frame = self
                .body
                .frame()
                .await
                .context("the server ended the watch")??;
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }
}

/// As much of an event as a watcher here wants.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: Object<'a>,
}

#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow, default)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize, Default)]
struct Metadata<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
}

/// Watchers of objects named with a prefix and a number.
pub(super) struct Audience {
    watchers: JoinSet<anyhow::Result<Instant>>,
    board: Arc<Board>,
}

/// What all watchers write down.
struct Board {
    prefix: String,
    start: Instant,
    /// For each object, when the last watcher had its event, in microseconds after `start`.
    latest: Vec<AtomicU64>,
}

impl Audience {
    /// So many watchers of the collection at `path`, who wait for the creation of `prefix` with the numbers
    /// `0..count`. When this returns, all of them are there.
    pub(super) async fn gather(
        target: &Target,
        path: &str,
        watchers: usize,
        prefix: String,
        count: usize,
    ) -> anyhow::Result<Self> {
        let latest = (0..count).map(|_| AtomicU64::new(0)).collect();
        let board = Arc::new(Board {
            prefix,
            start: Instant::now(),
            latest,
        });
        let mut tasks = JoinSet::new();
        for _ in 0..watchers {
            let lines = Lines::open(target, path).await?;
            tasks.spawn(watch(lines, board.clone()));
        }
        Ok(Self {
            watchers: tasks,
            board,
        })
    }

    /// Waits until every watcher has seen everything. Returns when the last event was seen, and for each object when
    /// the last watcher saw it.
    pub(super) async fn leave(mut self) -> anyhow::Result<(Instant, Vec<Instant>)> {
        let all = async {
            let mut last = self.board.start;
            while let Some(done) = self.watchers.join_next().await {
                last = last.max(done.context("a watcher failed")??);
            }
            anyhow::Ok(last)
        };
        let last = tokio::time::timeout(PATIENCE, all)
            .await
            .context("watchers wait for events in vain")??;
        let Board { start, latest, .. } = &*self.board;
        let latest = latest
            .iter()
            .map(|at| *start + Duration::from_micros(at.load(Ordering::Relaxed)));
        Ok((last, latest.collect()))
    }
}

async fn watch(mut lines: Lines, board: Arc<Board>) -> anyhow::Result<Instant> {
    let mut seen = 0;
    loop {
        let line = lines.next().await?;
        let event: Event<'_> = serde_json::from_slice(&line).context("an event cannot be read")?;
        ensure!(
            event.kind != "ERROR",
            "the watch failed: {}",
            String::from_utf8_lossy(&line)
        );
        let number = event
            .object
            .metadata
            .name
            .strip_prefix(board.prefix.as_str());
        let Some(number) = number.and_then(|number| number.parse::<usize>().ok()) else {
            continue;
        };
        if event.kind != "ADDED" || number >= board.latest.len() {
            continue;
        }
        let now = Instant::now();
        let micros = u64::try_from((now - board.start).as_micros()).unwrap_or(u64::MAX);
        board.latest[number].fetch_max(micros, Ordering::Relaxed);
        seen += 1;
        if seen == board.latest.len() {
            return Ok(now);
        }
    }
}
