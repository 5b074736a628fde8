//! Vaquita: a Kubernetes-compatible cluster in one process, whose pods are groups of WebAssembly modules.
//!
//! This crate wires the parts together and adds the command line. Start reading at [`cluster`]: it opens the store,
//! puts the API server over it, and runs controllers, scheduler and node against that API, in this order. Every part
//! lives in a crate of its own (`vaquita-store`, `vaquita-apiserver`, ...) and none of them knows this one.
//!
//! To embed a cluster in another program:
//!
//! ```no_run
//! # async fn run() -> Result<(), vaquita::StartError> {
//! let cluster = vaquita::Cluster::start(vaquita::ClusterConfig::new("/tmp/my-cluster")).await?;
//! let client: kube::Client = cluster.client();
//! # drop(client);
//! cluster.stop().await;
//! # Ok(())
//! # }
//! ```

pub mod cli;
pub mod cluster;
pub mod containers;
pub mod entrance;
pub mod kernel_network;
pub mod local;
pub mod supervise;

pub use cluster::{ApiLimits, Cluster, ClusterConfig, StartError};
pub use containers::{ContainersConfig, EngineChoice};
pub use entrance::{EntranceConfig, ListenOn};
pub use kernel_network::{JoinError, KernelNetworkConfig, KernelNetworkMode};
