//! Who asks, and may they: service-account and bootstrap tokens, RBAC with its escalation rules.
//!
//! Nothing here reads a socket, a file or a clock: what is needed comes in as values, or through a trait that looks
//! objects up. So every rule can be tested as what it is.
//!
//! - [`User`] is who asks. [`tokens`] and [`bootstrap_token`] make one of a bearer token, [`impersonation`] of the headers
//!   by which one user acts as another.
//! - [`rbac::Policy`] says what a user may do, and why.
//! - [`escalation`] keeps those who write roles and bindings from giving away more than they have.

pub mod bootstrap_token;
pub mod escalation;
pub mod impersonation;
pub mod rbac;
pub mod tokens;
mod user;

pub use user::{User, groups, service_account_name};
