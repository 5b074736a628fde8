//! Custom resources: kinds that a client declares while the server runs.
//!
//! - [`definition`]: the `CustomResourceDefinition` kind itself, and what a definition must be like;
//! - [`naming`]: which names a definition gets, and what its conditions say;
//! - [`compile()`]: from a definition to the [`Resource`](vaquita_api::registry::Resource)s that serve its versions;
//! - [`structural`]: the shape of a version, along which objects are pruned, completed and validated;
//! - [`rules`] and [`cel`]: the rules that a schema has in CEL, the Common Expression Language.
//!
//! Nothing here does I/O. The API server decides when a definition is served, and keeps the objects.

pub mod cel;
mod columns;
mod compile;
mod custom;
pub mod definition;
pub mod jsonpath;
pub mod naming;
pub mod rules;
mod shape;
pub mod structural;
#[cfg(test)]
mod tests;

pub use compile::{CompileError, Compiled, Convert, compile};

/// Marks the implementations of this crate; see [`Kind`](vaquita_api::registry::Kind).
pub enum Here {}
