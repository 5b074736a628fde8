//! GET of a collection.
//!
//! A list is the objects' own bytes with commas between them. They are put together as they are sent, 64 KiB at a time,
//! so that a list of gigabytes takes no more memory than the objects themselves.

use std::{convert::Infallible, sync::Arc};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, header};
use serde_json::{Map, Value};
use vaquita_api::{
    continuation::Continuation,
    field::{FieldError, Path},
    status::Status,
};
use vaquita_store::{Range, ReadError, Revision};

use super::{
    answer::{self, Answer},
    call::Call,
    protobuf,
    select::Selection,
};
use crate::{
    negotiation::Encoding,
    query::{ListOptions, VersionMatch, invalid_options},
};
use vaquita_cache::{
    Snapshot,
    entry::{Change, Entry},
};

/// How much of a list is put together before it is sent.
const CHUNK: usize = 64 << 10;
/// Objects that are read from the store's history in one go.
const HISTORY_PAGE: usize = 1000;

/// A page of a list.
struct Page {
    entries: Vec<Arc<Entry>>,
    revision: Revision,
    /// Whether there is more behind it.
    more: bool,
    /// How many objects there are behind it, where that is known without looking at each.
    remaining: Option<usize>,
}

/// Lists what the options select.
pub(crate) async fn list(call: &Call<'_>) -> Answer {
    let options = call.list_options()?;
    check(&options)?;
    let (namespace, name) = (call.info.namespace.as_deref(), call.info.name.as_deref());
    let selection = Selection::new(call.served, namespace, name, &options)?;
    let page = match &options.continue_token {
        Some(token) => {
            let from = Continuation::read(token)
                .map_err(|error| Status::bad_request(error.to_string()))?;
            next_page(call, &selection, &options, &from).await?
        }
        None => first_page(call, &selection, &options).await?,
    };
    answer(call, page)
}

async fn next_page(
    call: &Call<'_>,
    selection: &Selection,
    options: &ListOptions,
    from: &Continuation,
) -> Result<Page, Status> {
    if options.resource_version.is_some_and(|wanted| wanted != 0) {
        const MESSAGE: &str = "specifying resource version is not allowed when using continue";
        return Err(Status::bad_request(MESSAGE));
    }
    // Of another collection, or of another namespace than this one.
    if !from.after.starts_with(&selection.scope) {
        const MESSAGE: &str =
            "invalid continue token: continue key is not valid: it is of another list";
        return Err(Status::bad_request(MESSAGE));
    }
    let Some(revision) = from.revision else {
        let snapshot = call.served.collection.snapshot();
        return from_snapshot(call, selection, options, &snapshot, Some(&from.after));
    };
    at_revision(call, selection, options, revision, Some(&from.after)).await
}

async fn first_page(
    call: &Call<'_>,
    selection: &Selection,
    options: &ListOptions,
) -> Result<Page, Status> {
    let wanted = options.resource_version.unwrap_or(0);
    // Without a match, a limit turns "not older than" into "exactly" (a rule that clients of old depend on).
    let exact = match &options.version_match {
        Some(how) => *how == VersionMatch::Exact,
        None => options.limit.is_some() && wanted > 0,
    };
    call.server.reached(wanted).await?;
    if exact && wanted > 0 {
        return at_revision(call, selection, options, wanted, None).await;
    }
    let snapshot = call.served.collection.snapshot();
    from_snapshot(call, selection, options, &snapshot, None)
}

/// The page behind `after` at exactly `revision`: from memory if nothing has changed since, else from history.
async fn at_revision(
    call: &Call<'_>,
    selection: &Selection,
    options: &ListOptions,
    revision: Revision,
    after: Option<&[u8]>,
) -> Result<Page, Status> {
    let snapshot = call.served.collection.snapshot();
    if snapshot.changed <= revision {
        let page = from_snapshot(call, selection, options, &snapshot, after)?;
        return Ok(Page { revision, ..page });
    }
    from_history(call, selection, options, revision, after).await
}

fn unread(error: &ReadError, after: Option<&[u8]>) -> Status {
    match (error, after) {
        // The client may start anew, or take the rest as it is now.
        (ReadError::Compacted { .. }, Some(after)) => {
            let rest = Continuation {
                revision: None,
                after: after.to_vec(),
            };
            Status::expired_continue_at(&rest.token())
        }
        (error, _) => unread_at(error),
    }
}

fn unread_at(error: &ReadError) -> Status {
    match *error {
        ReadError::Compacted {
            requested,
            compacted,
        } => Status::too_old_resource_version(requested, compacted),
        ReadError::Future { requested, current } => {
            Status::too_large_resource_version(requested, current)
        }
        ReadError::Closed => Status::unavailable("the server is shutting down"),
        ReadError::Backend(_) => Status::internal(error),
    }
}

fn from_snapshot(
    call: &Call<'_>,
    selection: &Selection,
    options: &ListOptions,
    snapshot: &Snapshot,
    after: Option<&[u8]>,
) -> Result<Page, Status> {
    let limit = options.limit.unwrap_or(usize::MAX);
    let ahead = snapshot.range(&selection.scope, after);
    call.served.foresee(ahead, limit);
    let mut rest = snapshot.range(&selection.scope, after);
    let mut entries = Vec::new();
    let (mut more, mut remaining) = (false, None);
    while let Some(entry) = rest.next() {
        if entries.len() == limit && selection.is_everything() {
            (more, remaining) = (true, Some(1 + rest.count()));
            break;
        }
        let entry = call.served.show(entry)?;
        if !selection.matches(call.served, &entry) {
            continue;
        }
        if entries.len() == limit {
            more = true;
            break;
        }
        entries.push(entry.into_owned());
    }
    Ok(Page {
        entries,
        revision: snapshot.revision,
        more,
        remaining,
    })
}

async fn from_history(
    call: &Call<'_>,
    selection: &Selection,
    options: &ListOptions,
    revision: Revision,
    after: Option<&[u8]>,
) -> Result<Page, Status> {
    let limit = options.limit.unwrap_or(usize::MAX);
    let mut range = Range::prefix(selection.scope.clone())
        .at(revision)
        .limit(HISTORY_PAGE);
    if let Some(after) = after {
        range = range.after(after);
    }
    let mut entries = Vec::new();
    loop {
        let page = call.server.store.range(range.clone()).await;
        let page = page.map_err(|error| unread(&error, after))?;
        let last = page.items.last().map(|item| item.key.clone());
        for item in page.items {
            let Ok(entry) =
                Entry::from_stored(item.key, &item.value, item.mod_revision, Change::Added)
            else {
                continue;
            };
            let entry = call.served.show(&Arc::new(entry))?.into_owned();
            if !selection.matches(call.served, &entry) {
                continue;
            }
            if entries.len() == limit {
                return Ok(Page {
                    entries,
                    revision,
                    more: true,
                    remaining: None,
                });
            }
            entries.push(entry);
        }
        match last {
            Some(last) if page.more => range = range.after(&last),
            _ => {
                return Ok(Page {
                    entries,
                    revision,
                    more: false,
                    remaining: None,
                });
            }
        }
    }
}

/// Combinations of options that make no sense.
fn check(options: &ListOptions) -> Result<(), Status> {
    let field = Path::root("resourceVersionMatch");
    let mut errors = Vec::new();
    let mut forbid = |why: &str| errors.push(FieldError::forbidden(&field, why));
    if let Some(matching) = &options.version_match {
        if options.resource_version.is_none() {
            forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if options.continue_token.is_some() {
            forbid("resourceVersionMatch is forbidden when continue is provided");
        }
        match (matching, options.resource_version) {
            (VersionMatch::Exact, Some(0)) => {
                forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
            (VersionMatch::Other(other), _) => {
                let known = ["Exact", "NotOlderThan", ""];
                errors.push(FieldError::not_supported(&field, other.as_str(), &known));
            }
            _ => {}
        }
    }
    if options.send_initial_events.is_some() {
        let field = Path::root("sendInitialEvents");
        let why = "sendInitialEvents is forbidden for list";
        errors.push(FieldError::forbidden(&field, why));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(invalid_options("ListOptions", &errors))
}

fn answer(call: &Call<'_>, page: Page) -> Answer {
    let mut metadata = Map::new();
    metadata.insert(
        "resourceVersion".to_owned(),
        page.revision.to_string().into(),
    );
    if let (true, Some(last)) = (page.more, page.entries.last()) {
        let continuation = Continuation {
            revision: Some(page.revision),
            after: last.key.to_vec(),
        };
        metadata.insert("continue".to_owned(), continuation.token().into());
        if let Some(remaining) = page.remaining {
            metadata.insert("remainingItemCount".to_owned(), remaining.into());
        }
    }
    let shape = call.shape()?;
    if call.accepted.encoding == Encoding::Protobuf {
        let entries = page.entries.iter().map(AsRef::as_ref);
        let list = protobuf::list(shape, call.resource, &metadata, entries);
        let (code, body) = (http::StatusCode::OK, Body::from(list));
        return Ok(answer::body(code, body, Encoding::Protobuf));
    }
    let metadata = Value::Object(metadata);
    if shape.is_whole() && call.accepted.encoding == Encoding::Json {
        return Ok(concatenated(call, &metadata, page.entries));
    }
    let list = shape.list(
        call.resource,
        metadata,
        page.entries.iter().map(AsRef::as_ref),
    )?;
    Ok(answer::json(
        http::StatusCode::OK,
        list,
        call.accepted.encoding,
    ))
}

/// The list as its objects' own bytes.
fn concatenated(call: &Call<'_>, metadata: &Value, entries: Vec<Arc<Entry>>) -> Response {
    let (kind, version) = (&call.resource.list_kind, call.resource.api_version());
    let head = format!(
        "{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":["
    );
    let commas = entries.len().saturating_sub(1);
    let length = head.len()
        + entries
            .iter()
            .map(|entry| entry.json().len())
            .sum::<usize>()
        + commas
        + TAIL.len();
    let body = if length <= CHUNK {
        let mut parts = Pieces {
            head,
            entries: entries.into_iter(),
            first: true,
            ended: false,
        };
        Body::from(parts.next_chunk().unwrap_or_default())
    } else {
        let parts = Pieces {
            head,
            entries: entries.into_iter(),
            first: true,
            ended: false,
        };
        Body::from_stream(stream::iter(parts.map(Ok::<_, Infallible>)))
    };
    let mut response = answer::body(http::StatusCode::OK, body, Encoding::Json);
    // Known in advance, so it need not be sent in chunks with a length each.
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

const TAIL: &str = "]}\n";

/// The bytes of a list, a chunk at a time.
struct Pieces {
    head: String,
    entries: std::vec::IntoIter<Arc<Entry>>,
    first: bool,
    ended: bool,
}

impl Pieces {
    fn next_chunk(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut chunk = Vec::with_capacity(CHUNK + (CHUNK >> 2));
        chunk.extend_from_slice(std::mem::take(&mut self.head).as_bytes());
        while chunk.len() < CHUNK {
            let Some(entry) = self.entries.next() else {
                chunk.extend_from_slice(TAIL.as_bytes());
                self.ended = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                chunk.push(b',');
            }
            chunk.extend_from_slice(entry.json());
        }
        Some(chunk.into())
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.next_chunk()
    }
}
