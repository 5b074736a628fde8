//! Validation that kinds share. What belongs to one kind alone stands beside that kind.

pub(crate) mod metadata;
pub(crate) mod network;
pub(crate) mod resources;
pub(crate) mod selectors;
