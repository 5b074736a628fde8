//! The node agent: what a kubelet is to a cluster.
//!
//! Enter at [`Node::start`]. A node registers itself, takes the pods that are bound to it, runs their containers on a
//! backend (WebAssembly, by `vaquita-runtime`), reports their status and events, keeps their logs, and has its virtual
//! network follow the cluster (`vaquita-service-proxy`). It speaks to the cluster by a [`kube::Client`] alone, so it can be a node of any
//! cluster. Reasons and messages are upstream's kubelet's, because people and tools look for them.
//!
//! Where things are: `registration` the Node object and its lease; `pods` which pods there are; `pod` one pod's life;
//! `images` from a name to an image; `exec` commands in containers; `refused` images that it cannot run; `eviction` what ends pods when
//! the machine runs out; `events`; `persistent` volumes that outlive pods; `stats` what all of it uses;
//! `http` what the node answers, `connections` that of it which lasts. What it stands on are crates of their own: what runs
//! containers (`vaquita-backends`), what a manifest says (`vaquita-manifest`), probes and hooks (`vaquita-checks`), logs
//! (`vaquita-logs`), volumes (`vaquita-volumes`).

mod config;
mod connections;
mod events;
mod eviction;
mod exec;
mod host;
mod http;
mod images;
mod node;
mod persistent;
mod pod;
mod pods;
mod refused;
mod registration;
mod stats;
#[cfg(test)]
mod testing;

pub use config::{Containers, NodeConfig, StartError};
pub use eviction::{EvictionThresholds, SoftEviction, ThresholdError};
pub use images::gc::ImageGc;
pub use node::Node;
pub use vaquita_logs::LogLimits;
pub use vaquita_manifest::Capacity;
