//! GET with `watch=true`: the state of a collection and what happens to it from then on.
//!
//! A watch is a cursor over the collection's shared event log. It holds no queue: what a slow reader has not taken is
//! still in the log, or, when it has fallen out of there, in the store's history; when that is compacted too, the
//! watch ends with `410 Expired`. Frames are made once, when an event enters the cache; a watch without a selector hands
//! them on, many at a time.

use std::{borrow::Cow, convert::Infallible, pin::pin, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt as _, future, stream};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vaquita_api::{
    field::{FieldError, Path},
    registry::Storage,
    status::Status,
};
use vaquita_store::{
    Event as StoreEvent, EventKind, Revision, Store, Watch as StoreWatch, WatchError,
};

use super::{
    answer::{self, Answer},
    call::Call,
    catalog::Served,
    present::Shape,
    protobuf,
    select::Selection,
    watch_socket,
};
use crate::{
    metrics::OpenGuard,
    negotiation::Encoding,
    query::{ListOptions, VersionMatch, invalid_options},
};
use vaquita_cache::{
    Snapshot,
    entry::{Change, Entry},
    log::Event,
};

/// Events that are taken from the log in one go.
const BATCH: usize = 256;
/// How much is put together before it is sent.
const CHUNK: usize = 64 << 10;
/// How often a watcher that wants bookmarks gets one.
const BOOKMARK_PERIOD: Duration = Duration::from_mins(1);
/// How long a watch goes on if the client does not say: between this and twice this, so that not all come back at once.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(30);
/// A bookmark this long before the end spares the next watch most of what this one has seen.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

/// Answers with a stream of events.
pub(crate) async fn watch(call: &Call<'_>) -> Answer {
    let options = call.list_options()?;
    check(&options)?;
    let (namespace, name) = (call.info.namespace.as_deref(), call.info.name.as_deref());
    let selection = Selection::new(call.served, namespace, name, &options)?;
    let shape = call.shape()?;
    let socket = watch_socket::is_wanted(&call.parts.headers);
    let protobuf = match call.accepted.encoding {
        Encoding::Json => false,
        // Messages of a WebSocket are texts.
        Encoding::Protobuf => !socket,
        Encoding::Yaml => {
            let streams = [
                "application/json;stream=watch",
                "application/vnd.kubernetes.protobuf;stream=watch",
            ];
            return Err(Status::not_acceptable(&streams));
        }
    };
    let begin = begin(call, &options).await?;
    let watcher = Watcher {
        store: call.server.store.clone(),
        served: call.served.clone(),
        selection,
        frames: Frames {
            served: call.served.clone(),
            shape,
            protobuf,
            first: true,
        },
        begin,
        deadline: Instant::now() + timeout(&options),
        bookmarks: options.bookmarks.then(|| Instant::now() + BOOKMARK_PERIOD),
        history: None,
        ends: [
            Some(call.server.closing.clone()),
            Some(call.served.withdrawn.clone()),
            call.closing.clone(),
        ],
        _counted: call.server.metrics.watcher(&call.served.label),
    };
    if socket {
        return watch_socket::switch(call, watcher);
    }
    let chunks = stream::unfold(Some(watcher), |watcher| async {
        let mut watcher = watcher?;
        match watcher.next().await {
            Next::Chunk(chunk) => Some((Ok::<_, Infallible>(chunk), Some(watcher))),
            Next::Last(chunk) => Some((Ok(chunk), None)),
            Next::End => None,
        }
    });
    let (code, body) = (StatusCode::OK, Body::from_stream(chunks));
    let mut response = answer::body(code, body, call.accepted.encoding);
    if protobuf {
        let kind = HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    Ok(response)
}

/// Where a watch is.
enum Begin {
    /// The state is being sent: a snapshot, and the last key that has been.
    State {
        snapshot: Snapshot,
        after: Option<Bytes>,
        mark: bool,
    },
    /// The state has been sent, or was not wanted: what came after this revision follows.
    Events(Revision),
}

async fn begin(call: &Call<'_>, options: &ListOptions) -> Result<Begin, Status> {
    let wanted = options.resource_version.unwrap_or(0);
    let collection = &call.served.collection;
    let state = |mark| Begin::State {
        snapshot: collection.snapshot(),
        after: None,
        mark,
    };
    Ok(match options.send_initial_events {
        Some(true) => {
            call.server.reached(wanted).await?;
            state(options.bookmarks)
        }
        Some(false) if wanted == 0 => Begin::Events(collection.snapshot().revision),
        None if wanted == 0 => state(false),
        _ => Begin::Events(wanted),
    })
}

/// Combinations of options that make no sense.
fn check(options: &ListOptions) -> Result<(), Status> {
    let field = Path::root("resourceVersionMatch");
    let mut errors = Vec::new();
    let not_older = options.version_match == Some(VersionMatch::NotOlderThan);
    let mut forbid = |why: &str| errors.push(FieldError::forbidden(&field, why));
    if options.send_initial_events.is_some() && !not_older {
        forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if let Some(matching) = &options.version_match {
        if options.send_initial_events.is_none() {
            forbid(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        if options.continue_token.is_some() {
            forbid("resourceVersionMatch is forbidden when continue is provided");
        }
        if !not_older {
            let shown = match matching {
                VersionMatch::Other(other) => other.as_str(),
                VersionMatch::Exact | VersionMatch::NotOlderThan => "Exact",
            };
            errors.push(FieldError::not_supported(&field, shown, &["NotOlderThan"]));
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(invalid_options("ListOptions", &errors))
}

fn timeout(options: &ListOptions) -> Duration {
    options
        .timeout
        .unwrap_or_else(|| DEFAULT_TIMEOUT.mul_f64(1.0 + rand::random::<f64>()))
}

/// What a watch sends next.
pub(super) enum Next {
    Chunk(Bytes),
    /// And nothing after it.
    Last(Bytes),
    End,
}

/// One watch.
pub(super) struct Watcher {
    store: Arc<dyn Store>,
    served: Arc<Served>,
    selection: Selection,
    frames: Frames,
    begin: Begin,
    deadline: Instant,
    /// When the next bookmark is due, if they are wanted.
    bookmarks: Option<Instant>,
    /// The store's history, while the cursor is older than the log.
    history: Option<StoreWatch>,
    ends: [Option<CancellationToken>; 3],
    _counted: OpenGuard,
}

impl Watcher {
    /// Resolves when the watch has to end, whether its client reads or not.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + use<> {
        let (ends, deadline) = (self.ends.clone(), self.deadline);
        async move {
            let [server, resource, listener] = &ends;
            tokio::select! {
                () = ended(server.as_ref()) => (),
                () = ended(resource.as_ref()) => (),
                () = ended(listener.as_ref()) => (),
                () = tokio::time::sleep_until(deadline) => (),
            }
        }
    }

    /// The next chunk: whole lines, at least one event or a bookmark. Nothing is lost if this is dropped halfway.
    pub(super) async fn next(&mut self) -> Next {
        loop {
            let cursor = match &self.begin {
                Begin::State { .. } => match self.state() {
                    Some(chunk) => return Next::Chunk(chunk),
                    None => continue,
                },
                Begin::Events(cursor) => *cursor,
            };
            let served = self.served.clone();
            let mut changed = pin!(served.collection.changed());
            // Before the log is read: a change in between is not missed.
            changed.as_mut().enable();
            let (events, seen) = match served.collection.events(cursor, BATCH) {
                Ok(read) => {
                    self.history = None;
                    read
                }
                Err(_) => match self.read_history(cursor).await {
                    Ok(read) => read,
                    Err(next) => return next,
                },
            };
            self.begin = Begin::Events(seen);
            if events.is_empty() {
                if let Some(next) = self.idle(changed, seen).await {
                    return next;
                }
            } else if let Some(chunk) = self.frames(&events) {
                return Next::Chunk(chunk);
            } else {
                // Nothing of it was selected; other tasks want their turn too.
                tokio::task::consume_budget().await;
            }
        }
    }

    /// Waits for a change. `Some` if something else came first.
    async fn idle(&mut self, changed: impl Future<Output = ()>, seen: Revision) -> Option<Next> {
        let mark_at = self
            .bookmarks
            .map(|due| due.min(self.deadline - LAST_BOOKMARK));
        let mark = async {
            match mark_at {
                Some(due) => tokio::time::sleep_until(due).await,
                None => future::pending().await,
            }
        };
        let [server, resource, listener] = &self.ends;
        tokio::select! {
            () = changed => None,
            () = ended(server.as_ref()) => Some(Next::End),
            () = ended(resource.as_ref()) => Some(Next::End),
            () = ended(listener.as_ref()) => Some(Next::End),
            () = tokio::time::sleep_until(self.deadline) => Some(Next::End),
            () = mark => {
                let due = Instant::now() + BOOKMARK_PERIOD;
                // The last one was sent if there is no time for another.
                self.bookmarks = (due < self.deadline || Instant::now() + LAST_BOOKMARK < self.deadline).then_some(due);
                Some(Next::Chunk(self.bookmark(seen, false)))
            }
        }
    }

    /// The next part of the state; `None` when there is no more to send of it.
    fn state(&mut self) -> Option<Bytes> {
        let Begin::State {
            snapshot,
            after,
            mark,
        } = &mut self.begin
        else {
            return None;
        };
        let mut out = Vec::new();
        let mut last = None;
        for entry in snapshot.range(&self.selection.scope, after.as_deref()) {
            // What cannot be shown, which nothing that we wrote is, is left out.
            let Ok(entry) = self.served.show(entry) else {
                continue;
            };
            if self.selection.matches(&self.served, &entry) {
                self.frames.write(Change::Added, &entry, &mut out);
            }
            if out.len() >= CHUNK {
                last = Some(entry.key.clone());
                break;
            }
        }
        if last.is_some() {
            *after = last;
            return Some(out.into());
        }
        let (revision, mark) = (snapshot.revision, *mark);
        self.begin = Begin::Events(revision);
        if mark {
            out.extend_from_slice(&self.bookmark(revision, true));
        }
        (!out.is_empty()).then(|| out.into())
    }

    /// Events after `cursor` from the store, for a cursor that the log has left behind.
    async fn read_history(
        &mut self,
        cursor: Revision,
    ) -> Result<(Vec<Arc<Event>>, Revision), Next> {
        let mut history = match self.history.take() {
            Some(history) => history,
            None => self
                .store
                .watch(self.served.collection.prefix().clone(), cursor)
                .map_err(|error| self.failed(&error))?,
        };
        let batch = tokio::select! {
            batch = history.next() => batch,
            // Nothing to read yet, though the log begins later: nothing has happened in between.
            next = self.idle(future::pending(), cursor) => {
                self.history = Some(history);
                return Err(next.unwrap_or(Next::End));
            }
        };
        self.history = Some(history);
        let batch = batch
            .ok_or(Next::End)?
            .map_err(|error| self.failed(&error))?;
        let seen = batch.last().map_or(cursor, |event| event.kv.mod_revision);
        Ok((batch.into_iter().filter_map(event_of).collect(), seen))
    }

    /// What becomes of a watch whose history cannot be read.
    fn failed(&self, error: &WatchError) -> Next {
        let status = match *error {
            WatchError::Compacted {
                requested,
                compacted,
            } => Status::too_old_resource_version(requested, compacted),
            WatchError::Closed => return Next::End,
            WatchError::Backend(_) => Status::internal(error),
        };
        Next::Last(self.frames.error(&status))
    }

    /// The frames of those events that are selected; `None` if none is.
    fn frames(&mut self, events: &[Arc<Event>]) -> Option<Bytes> {
        let everything = self.selection.is_everything();
        let own = matches!(self.served.resource.storage, Storage::Own);
        if let ([event], true) = (events, everything && self.frames.are_ready() && own)
            && event.entry.key.starts_with(&self.selection.scope)
            && let Some(frame) = event.entry.frame(event.change)
        {
            return Some(frame.clone());
        }
        let mut out = Vec::new();
        for event in events {
            let Some((change, entry)) = self.selected(event) else {
                continue;
            };
            self.frames.write(change, &entry, &mut out);
        }
        (!out.is_empty()).then(|| out.into())
    }

    /// What an event is to this watch: an object that begins to match is added, one that ceases to is deleted.
    fn selected(&self, event: &Event) -> Option<(Change, Arc<Entry>)> {
        let matching = |entry| {
            let entry = self.served.show(entry).ok()?;
            let matches = self.selection.matches(&self.served, &entry);
            matches.then_some(entry)
        };
        let before = event.previous.as_ref().and_then(matching);
        let after = matching(&event.entry);
        match (event.change, before, after) {
            (Change::Deleted, Some(before), after) => {
                // By its last state it may not match any more; it was there all the same.
                let last =
                    after.unwrap_or_else(|| Cow::Owned(Arc::new(before.deleted(event.revision()))));
                Some((Change::Deleted, last.into_owned()))
            }
            (Change::Deleted, None, _) | (_, None, None) => None,
            (_, Some(_), Some(after)) => Some((Change::Modified, after.into_owned())),
            (_, None, Some(after)) => Some((Change::Added, after.into_owned())),
            (_, Some(before), None) => {
                Some((Change::Deleted, Arc::new(before.deleted(event.revision()))))
            }
        }
    }

    /// A bookmark: everything up to `revision` has been sent.
    fn bookmark(&self, revision: Revision, initial_end: bool) -> Bytes {
        let (kind, version) = self.frames.shape.bookmark_type(&self.served.resource);
        let mut metadata =
            json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
        if self.frames.protobuf {
            return protobuf::bookmark(&object).into();
        }
        line("BOOKMARK", &object)
    }
}

async fn ended(token: Option<&CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => future::pending().await,
    }
}

/// How events are written.
struct Frames {
    served: Arc<Served>,
    shape: Shape,
    /// In protobuf, not in JSON.
    protobuf: bool,
    /// Whether nothing was written yet.
    first: bool,
}

impl Frames {
    /// Whether the entries' own frames are what is written.
    fn are_ready(&self) -> bool {
        self.shape.is_whole() && !self.protobuf
    }

    /// Appends the frame of one event.
    fn write(&mut self, change: Change, entry: &Entry, out: &mut Vec<u8>) {
        let (first, resource) = (std::mem::take(&mut self.first), &self.served.resource);
        if self.are_ready() {
            entry.write_frame(change, out);
        } else if self.protobuf {
            let event = protobuf::event(self.shape, resource, change.as_str(), entry);
            out.extend_from_slice(&event);
        // What cannot be shown in this shape, which nothing that we wrote is, is left out.
        } else if let Ok(object) = self.shape.watched(resource, entry, first) {
            out.extend_from_slice(change.frame_start());
            out.extend_from_slice(&object);
            out.extend_from_slice(b"}\n");
        }
    }

    /// The frame of an error.
    fn error(&self, status: &Status) -> Bytes {
        if self.protobuf {
            return vaquita_api::protobuf::event("ERROR", &vaquita_api::protobuf::status(status))
                .into();
        }
        line("ERROR", &status.to_value())
    }
}

/// An event of the store's history, as the cache would have made it.
fn event_of(event: StoreEvent) -> Option<Arc<Event>> {
    let previous = match event.prev {
        Some(prev) => Some(Arc::new(
            Entry::from_stored(prev.key, &prev.value, prev.mod_revision, Change::Modified).ok()?,
        )),
        None => None,
    };
    let kv = event.kv;
    let (change, entry) = match (event.kind, &previous) {
        (EventKind::Put, None) => (
            Change::Added,
            Entry::from_stored(kv.key, &kv.value, kv.mod_revision, Change::Added),
        ),
        (EventKind::Put, Some(_)) => (
            Change::Modified,
            Entry::from_stored(kv.key, &kv.value, kv.mod_revision, Change::Modified),
        ),
        (EventKind::Delete, Some(previous)) => {
            (Change::Deleted, Ok(previous.deleted(kv.mod_revision)))
        }
        (EventKind::Delete, None) => return None,
    };
    Some(Arc::new(Event {
        change,
        entry: Arc::new(entry.ok()?),
        previous,
    }))
}

fn line(kind: &str, object: &Value) -> Bytes {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into()
}
