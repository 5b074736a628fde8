//! HTTP on a pod's network: handlers that are served, and the requests that guests send.

mod body;
pub(crate) mod charged;
mod crowd;
mod direct;
mod guest;
mod handler;
mod outgoing;
mod pool;
mod server;
mod tls;

pub(crate) use handler::Handler;
pub(crate) use outgoing::Outgoing;
pub(crate) use server::Server;
pub(crate) use tls::Tls;
