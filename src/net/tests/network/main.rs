//! The virtual network as its users see it.

mod datagrams;
mod dns;
mod host;
mod host_network;
mod kernel;
mod names;
#[cfg(target_os = "linux")]
mod namespace;
mod node_ports;
mod outward;
mod pods;
mod policy;
mod services;
mod sleep;
mod streams;
mod tools;
mod uplink;
