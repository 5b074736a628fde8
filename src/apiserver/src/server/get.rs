//! GET of one object.

use http::StatusCode;

use super::{
    answer::Answer,
    call::{Call, bad_query},
};
use crate::query::resource_version;

/// Answers with the object as the cache has it, which shows every acknowledged write.
pub(crate) async fn get(call: &Call<'_>) -> Answer {
    if let Some(revision) = resource_version(&call.query).map_err(bad_query)? {
        call.server.reached(revision).await?;
    }
    call.object(StatusCode::OK, call.entry()?.as_ref())
}
