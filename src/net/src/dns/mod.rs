//! The cluster's DNS on the wire, for those who ask by it: the host, its containers, modules with a resolver of their own.
//!
//! Answers come out of the same tables as [`PodNetwork::resolve`](crate::PodNetwork::resolve)'s ([`crate::records`]). Names of
//! others are passed on to the host's name servers ([`forward`]), where that is allowed. [`DnsSockets`] are the sockets
//! of the host; [`Fabric::serve_dns`](crate::Fabric::serve_dns) answers at the node's address in the fabric.

pub(crate) mod client;
mod forward;
mod message;
mod server;

pub(crate) use self::server::serve_fabric;
pub use self::{
    message::fuzz_answer,
    server::{DnsSockets, DnsTask},
};

/// Longest request that is read.
const MAX_REQUEST: usize = 4096;
/// Longest answer by UDP, whatever the client would take: what passes every network in one piece.
const MAX_UDP: u16 = 1232;
/// Longest answer by UDP to a client that does not say how much it takes.
const MIN_UDP: u16 = 512;
