//! DELETE of a collection: every object that the selectors name, many at a time, so that they share commits.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::StatusCode;
use serde_json::json;

use super::{
    answer::{self, Answer},
    call::Call,
    delete::{Deleted, Deletion, delete_admitted},
    select::Selection,
};

/// How many objects one request deletes at the same time. Each waits for a commit to disk, and all share it.
const AT_ONCE: usize = 64;

/// Deletes what the selectors name and answers with a list of it. An object that goes by itself meanwhile is no error.
pub(crate) async fn delete_collection(call: &mut Call<'_>) -> Answer {
    let deletion = Deletion::of(call).await?;
    let options = call.list_options()?;
    let limit = options.limit.unwrap_or(usize::MAX);
    let collection = &call.served.collection;
    let namespace = call.info.namespace.as_deref();
    let selection = Selection::new(call.served, namespace, None, &options)?;
    let snapshot = collection.snapshot();
    let mut selected = Vec::new();
    for entry in snapshot.range(&selection.scope, None) {
        let entry = call.served.show(entry)?;
        if selection.matches(call.served, &entry) && selected.len() < limit {
            selected.push(entry.into_owned());
        }
    }
    let mut deleted = Vec::new();
    {
        let call = &*call;
        let delete = |entry| delete_admitted(call, entry, &deletion);
        let mut deletions = stream::iter(selected).map(delete).buffered(AT_ONCE);
        while let Some(gone) = deletions.try_next().await? {
            deleted.extend(gone.map(|(Deleted::Gone(entry) | Deleted::Marked(entry))| entry));
        }
    }
    let metadata = json!({"resourceVersion": collection.snapshot().revision.to_string()});
    let list = call
        .shape()?
        .list(call.resource, metadata, deleted.iter().map(AsRef::as_ref))?;
    Ok(answer::json(StatusCode::OK, list, call.accepted.encoding))
}
