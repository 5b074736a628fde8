//! Pods of Linux containers, run by a Docker engine.
//!
//! This crate knows the Docker Engine API and takes its own plain description of a pod; it knows nothing of Kubernetes.
//! Enter at [`Engine::connect`], then [`Shim::open`]: the shim makes a network of its own on the engine, [`Shim::pod`] a
//! pod on it, and [`Pod::start`] containers in that.
//!
//! A pod is a container that does nothing but hold the namespaces ([`pause`]), which the others join. Everything is
//! labelled ([`labels`]), so that [`Shim::survivors`] finds what runs after the caller was started anew, and what belongs
//! to nobody any more can be removed.

mod bare;
mod container;
mod engine;
mod hijack;
mod image;
mod intake;
pub mod labels;
mod network;
mod output;
pub mod pause;
mod pod;
mod shim;
mod spec;
mod usage;
mod volume;

pub use container::{Container, Exit, Logged, StartError};
pub use engine::{ConnectError, Engine, EngineError};
pub use hijack::Input;
pub use image::{EngineImage, Login};
pub use intake::CopyError;
pub use output::{Channel, Output};
pub use pod::{ExecSpec, Execution, Pod};
pub use shim::{OpenError, Settings, Shim, Subnet, Survivor};
pub use spec::{
    Bind, ContainerSpec, Device, HostPort, MemoryVolume, Network, PodSpec, Processes, Profile,
    Protocol, Resources, Security, Source,
};
pub use usage::Usage;
