//! What the tests of this crate share: short ways to write objects, and an API server in memory.

pub mod api;
pub mod objects;
