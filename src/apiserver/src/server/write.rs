//! What all writes share: reading the object from the body, and carrying it through store and cache.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use vaquita_api::{
    Object,
    body::Parsed,
    field::{FieldError, Path},
    meta,
    registry::{Resource, field_warnings},
    status::Status,
};
use vaquita_store::{CommitError, Expect, Revision, Write};

use super::{Server, call::Call, catalog::Served};
use crate::query::{FieldValidation, WriteOptions};
use vaquita_cache::entry::{Change, Entry, encode};

/// How often a write is tried again that somebody else's came before.
pub(crate) const ATTEMPTS: usize = 32;

/// Makes an object of `value`, which came in a body or out of a patch. What is unknown or double in it is an error, a
/// warning or nothing, as the client wants.
pub(crate) fn incoming(
    call: &Call<'_>,
    value: Value,
    duplicates: &[String],
    options: &WriteOptions,
) -> Result<Object, Status> {
    let decoded = call.resource.decode(value)?;
    match options.field_validation {
        FieldValidation::Strict if !(decoded.unknown.is_empty() && duplicates.is_empty()) => {
            return Err(call.resource.strict_error(&decoded.unknown, duplicates));
        }
        FieldValidation::Warn => {
            field_warnings(&decoded.unknown, duplicates).for_each(|text| call.warn(text));
        }
        FieldValidation::Ignore | FieldValidation::Strict => {}
    }
    Ok(decoded.object)
}

/// The object in the body of a create or update.
pub(crate) fn incoming_body(
    call: &Call<'_>,
    parsed: Parsed,
    options: &WriteOptions,
) -> Result<Object, Status> {
    incoming(call, parsed.value, &parsed.duplicates, options)
}

/// The resourceVersion that an object carries; `None` if it carries none, which means "whatever there is".
pub(crate) fn precondition(object: &Object) -> Result<Option<Revision>, Status> {
    match meta::resource_version(object) {
        "" | "0" => Ok(None),
        text => match text.parse() {
            Ok(revision) => Ok(Some(revision)),
            Err(_) => Err(invalid_version(text)),
        },
    }
}

fn invalid_version(text: &str) -> Status {
    let metadata = Path::root("metadata");
    let path = metadata.child("resourceVersion");
    let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
    Status::invalid("", "", "", &[FieldError::invalid(&path, text, why)])
}

/// Validates; where that may take a while, other requests go on on other threads meanwhile.
pub(crate) fn unhurried<T>(resource: &Resource, validate: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
    if resource.rules.thinks_long() && matches!(flavor, Ok(RuntimeFlavor::MultiThread)) {
        tokio::task::block_in_place(validate)
    } else {
        validate()
    }
}

/// What became of a write.
pub(crate) enum Outcome {
    /// It is durable, and the cache shows it.
    Done(Arc<Entry>),
    /// The object is not as it was expected; the cache shows it as it is now.
    Conflict,
}

impl Server {
    /// Writes `object` to `key`, and waits until the cache shows it.
    pub(crate) async fn put(
        &self,
        served: &Served,
        key: Bytes,
        object: &Object,
        expect: Expect,
    ) -> Result<Outcome, Status> {
        let value = served.encode(object)?;
        let write = Write::Put {
            key: key.clone(),
            value: value.clone(),
            expect,
        };
        let Some(revision) = self.commit(write).await? else {
            return Ok(Outcome::Conflict);
        };
        let shown = served
            .collection
            .get(&key)
            .filter(|entry| entry.revision == revision);
        let entry = match shown {
            Some(entry) => entry,
            // Somebody else has written since, or the cache is behind: the answer is still this write's.
            None => Arc::new(
                Entry::from_stored(key, &value, revision, Change::Modified)
                    .map_err(Status::internal)?,
            ),
        };
        Ok(Outcome::Done(served.show(&entry)?.into_owned()))
    }

    /// Removes the object that `entry` is the state of, and waits until the cache shows that.
    pub(crate) async fn remove(&self, served: &Served, entry: &Entry) -> Result<Outcome, Status> {
        let write = Write::Delete {
            key: entry.key.clone(),
            expect: Expect::Revision(entry.revision),
        };
        match self.commit(write).await? {
            Some(revision) => {
                if served.resource.plural == "services" && served.resource.group.is_empty() {
                    self.services.forget(entry);
                }
                Ok(Outcome::Done(Arc::new(entry.deleted(revision))))
            }
            None => Ok(Outcome::Conflict),
        }
    }

    /// Commits a write; `None` if its precondition does not hold. Returns when the cache shows the result.
    async fn commit(&self, write: Write) -> Result<Option<Revision>, Status> {
        match self.store.commit(write).await {
            Ok(committed) => {
                // Durable in any case: a cache that lags is no reason to say that the write failed.
                let _ = self.reached(committed.revision).await;
                Ok(Some(committed.revision))
            }
            Err(CommitError::Conflict { .. }) => {
                self.reached(self.store.revision()).await?;
                Ok(None)
            }
            Err(error) => Err(refused(&error)),
        }
    }
}

fn refused(error: &CommitError) -> Status {
    match error {
        CommitError::ValueTooLarge { .. } | CommitError::KeyTooLarge { .. } => {
            Status::too_large(error)
        }
        CommitError::Full => Status::too_many_requests(error.to_string(), 1),
        CommitError::Closed => Status::unavailable("the server is shutting down"),
        CommitError::Conflict { .. } | CommitError::EmptyKey | CommitError::Backend(_) => {
            Status::internal(error)
        }
    }
}

/// The entry that a dry run answers with: the object as it would be, at the revision that it has now (0: none).
pub(crate) fn rehearsed(key: Bytes, object: &Object, revision: Revision) -> Result<Entry, Status> {
    let value = encode(object).map_err(Status::internal)?;
    Entry::from_stored(key, &value, revision, Change::Modified).map_err(Status::internal)
}

impl Call<'_> {
    /// The conflict of a write that is about another object of the same name than the one there is, if there is one.
    pub(crate) fn other_uid(&self, wanted: &str, actual: &str) -> Status {
        let key = String::from_utf8_lossy(&self.key()).into_owned();
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: \
             Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}"
        );
        let (group, plural) = (&self.resource.group, &self.resource.plural);
        Status::conflict(group, plural, self.name(), why)
    }

    /// The conflict of a write whose object has changed since it was read.
    pub(crate) fn stale(&self) -> Status {
        Status::stale(&self.resource.group, &self.resource.plural, self.name())
    }
}
