//! DELETE of a collection: every object that the selectors name, one after another.

use http::StatusCode;
use serde_json::json;

use super::{
    answer::{self, Answer},
    call::Call,
    delete::{Deleted, Deletion, delete_admitted},
    select::Selection,
};

/// Deletes what the selectors name and answers with a list of it. An object that goes by itself meanwhile is no error.
pub(crate) async fn delete_collection(call: &mut Call<'_>) -> Answer {
    let deletion = Deletion::of(call).await?;
    let options = call.list_options()?;
    let limit = options.limit.unwrap_or(usize::MAX);
    let collection = &call.served.collection;
    let namespace = call.info.namespace.as_deref();
    let selection = Selection::new(call.served, namespace, None, &options)?;
    let snapshot = collection.snapshot();
    let mut deleted = Vec::new();
    for entry in snapshot.range(&selection.scope, None) {
        let entry = call.served.show(entry)?;
        if !selection.matches(call.served, &entry) {
            continue;
        }
        if deleted.len() == limit {
            break;
        }
        if let Some(Deleted::Gone(entry) | Deleted::Marked(entry)) =
            delete_admitted(call, entry.into_owned(), &deletion).await?
        {
            deleted.push(entry);
        }
    }
    let metadata = json!({"resourceVersion": collection.snapshot().revision.to_string()});
    let list = call
        .shape()?
        .list(call.resource, metadata, deleted.iter().map(AsRef::as_ref))?;
    Ok(answer::json(StatusCode::OK, list, call.accepted.encoding))
}
