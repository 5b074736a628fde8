//! Validation that kinds share. What belongs to one kind alone stands beside that kind.

pub mod metadata;
pub mod network;
pub mod resources;
pub mod selectors;
