//! HTTP on a pod's network: handlers that are served, and the requests that guests send.

mod body;
mod handler;
mod outgoing;
mod server;

pub(crate) use outgoing::Outgoing;
pub(crate) use server::Server;
