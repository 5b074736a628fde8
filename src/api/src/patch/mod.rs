//! Patches: JSON Patch (RFC 6902), JSON Merge Patch (RFC 7386) and Kubernetes' strategic merge patch.
//!
//! Each works on JSON values; decoding the result as the kind that it should be comes after.

mod json;
mod merge;
mod strategic;

use serde_json::Value;

use crate::go;
use crate::schema::Schema;
use crate::status::Status;

/// The ways to patch that are told apart by the request's media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json`.
    Json,
    /// `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
}

impl PatchType {
    /// The media types that are understood.
    pub const MEDIA_TYPES: [&'static str; 3] = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    ];

    /// Reads the media type, without its parameters.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            _ => None,
        }
    }
}

/// Why a patch can't be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed.
    #[error("{0}")]
    Malformed(String),
    /// The patch is well-formed but does not fit the object: an absent path, a failed `test`. Clients are not told
    /// which; upstream keeps that to itself.
    #[error("{0}")]
    Inapplicable(String),
    /// A strategic merge patch that upstream's merging fails on without calling it a bad request.
    #[error("{0}")]
    Unmergeable(String),
    /// The patch, or what it makes of the object, is too large.
    #[error("{0}")]
    TooLarge(String),
}

impl From<PatchError> for Status {
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::Malformed(message) => Self::bad_request(message),
            PatchError::Inapplicable(_) => Self::rejected(),
            PatchError::Unmergeable(message) => Self::unknown(message),
            PatchError::TooLarge(message) => Self::too_large(message),
        }
    }
}

fn not_a_map(patch: &Value) -> String {
    format!(
        "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
        go::json_type(patch)
    )
}

/// Applies `patch` to `target`. On an error `target` may be left changed in part; give a copy.
pub fn apply(
    kind: PatchType,
    target: &mut Value,
    patch: Value,
    schema: &Schema,
) -> Result<(), PatchError> {
    match kind {
        PatchType::Json => json::apply(target, patch),
        PatchType::Merge => {
            if !patch.is_object() {
                return Err(PatchError::Malformed(format!(
                    "error decoding patch: {}",
                    not_a_map(&patch)
                )));
            }
            merge::apply(target, patch);
            Ok(())
        }
        PatchType::Strategic => strategic::apply(target, patch, schema),
    }
}
