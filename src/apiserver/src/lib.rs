//! The Kubernetes API over HTTP.
//!
//! Enter at [`ApiServer`]: it reads a [`Store`](vaquita_store::Store) into its cache, makes what every cluster has, and
//! then serves, over TLS, in plain HTTP on loopback, or as an [`axum::Router`] within the process.
//!
//! A request goes through these modules: [`mod@authn`] says who it is, `authz` whether they may (by [`vaquita_auth`]), `request` and
//! `negotiation` what they want and in which form, and `server` has a module for each verb. What they read comes from
//! the `cache`, which hands on the bytes that were stored; what they write goes to the store, and is acknowledged when
//! it is durable and the cache shows it.

mod apiserver;
pub mod authn;
mod authz;
mod config;
mod metrics;
mod negotiation;
mod node;
mod query;
mod request;
mod serve;
mod server;

pub use apiserver::{ApiServer, StartError};
pub use authn::{Authenticator, User};
pub use config::{Config, Network, NetworkError};
pub use node::{Dialer, Duplex, HostNetwork, NodeError, NodeTransport};
pub use serve::{Peer, ServeError};
pub use server::bootstrap::BootstrapError;
pub use vaquita_cache::{entry::Malformed, feed::LoadError};
