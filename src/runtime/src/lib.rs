//! Pods of WebAssembly modules, embeddable without a control plane.
//!
//! A [`Runtime`] owns the engine, the threads guests run on and the cache of compiled code. From it
//! come [`Module`]s (what to run) and [`Pod`]s (where to run it): a pod is a set of namespaces which its
//! processes share, above all one virtual network with one IP address. A [`Process`] is one module
//! running in a pod.
//!
//! What a module is follows from its bytes alone ([`ModuleKind`]): a core module or component with an
//! entry point is run once, as a program; a component that exports `wasi:http/incoming-handler` is
//! served over HTTP, with a fresh instance for each request and none while it is idle.
//!
//! Nothing is shared with the host unless it is given: no file, no socket, no environment. Guests
//! run on threads of their own, so one that never yields delays its like, never the caller.

#![allow(
    unsafe_code,
    reason = "compiled code is mapped from the cache, which the engine can't check"
)]

mod budget;
mod cache;
mod config;
mod engine;
mod http;
mod linker;
mod log;
mod module;
mod pod;
mod preview1;
mod process;
mod runtime;
mod sockets;
mod state;
mod stdio;
mod ticker;

pub use config::{Config, HttpConfig};
pub use log::{Discard, LogSink, LogStream};
pub use module::{Digest, LoadError, Module, ModuleKind};
pub use pod::{Pod, PodConfig};
pub use process::{Exit, Process, ProcessConfig, StartError, Usage};
pub use runtime::{Runtime, RuntimeError};
