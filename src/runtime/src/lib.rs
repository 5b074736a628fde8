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
//! Processes of a pod find each other on the network, in volumes that they [mount](Mount), and by `vaquita:ipc` and `vaquita:pod`,
//! whose WIT is in `wit`.
//!
//! Nothing is shared with the host unless it is given: no file, no socket, no environment. Guests
//! run on threads of their own, so one that never yields delays its like, never the caller.
//!
//! ```
//! # use std::sync::{Arc, Mutex};
//! # use std::time::Duration;
//! # use bytes::Bytes;
//! # use http_body_util::{BodyExt, Empty};
//! use vaquita_net::{Fabric, FabricConfig};
//! use vaquita_runtime::{
//!     Config, Exit, LogSink, LogStream, Mount, PodConfig, ProcessConfig, Runtime, Volume,
//! };
//!
//! /// Keeps the log in memory.
//! #[derive(Default)]
//! struct Log(Mutex<String>);
//!
//! impl LogSink for Log {
//!     fn write(&self, _stream: LogStream, line: &[u8]) {
//!         self.0.lock().unwrap().push_str(&String::from_utf8_lossy(line));
//!     }
//! }
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let runtime = Runtime::new(Config::default())?;
//! let fabric = Fabric::new(FabricConfig::default())?;
//!
//! // Two modules: one that answers requests, and one that runs to its end.
//! # let handler = wat::parse_str(include_str!("../tests/runtime/handler.wat"))?;
//! let handler = runtime.load(handler.into()).await?;
//! let program = wat::parse_str(r#"(module
//!     (import "wasi_snapshot_preview1" "fd_write"
//!         (func $write (param i32 i32 i32 i32) (result i32)))
//!     (memory (export "memory") 1)
//!     (data (i32.const 0) "\08\00\00\00\06\00\00\00hello\n")
//!     (func (export "_start")
//!         (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)))))"#)?;
//! let program = runtime.load(program.into()).await?;
//!
//! // They share an address, a hostname, and this volume.
//! let pod = runtime.pod(PodConfig::new("greeting", fabric.attach(None)?));
//! let scratch = Volume::memory(1 << 20);
//! let log = Arc::new(Log::default());
//! let config = |name, module| {
//!     let mut config = ProcessConfig::new(name, module);
//!     config.log = log.clone();
//!     config.memory_limit = Some(64 << 20);
//!     config.mounts = vec![Mount {
//!         guest: "/scratch".into(),
//!         volume: scratch.clone(),
//!         sub_path: String::new(),
//!         read_only: false,
//!     }];
//!     config
//! };
//! let server = pod.start(config("server", handler)).await?;
//! let hello = pod.start(config("hello", program)).await?;
//!
//! assert_eq!(hello.wait().await, Exit::Exited(0));
//! assert_eq!(*log.0.lock().unwrap(), "hello\n");
//!
//! // Over the network it is served at port 8080 of the pod's address; this is the shorter way.
//! let request = http::Request::get("http://greeting/path").body(Empty::<Bytes>::new())?;
//! let answer = server.request(request).await?;
//! assert_eq!(answer.status(), 200);
//! assert_eq!(answer.into_body().collect().await?.to_bytes(), "/path");
//! assert_eq!(server.usage().requests, 1);
//!
//! server.terminate(Duration::from_secs(1));
//! assert_eq!(server.wait().await, Exit::Exited(0));
//! pod.shutdown().await;
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?; Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![allow(
    unsafe_code,
    reason = "compiled code is mapped from the cache, which the engine can't check"
)]

mod bindings;
mod budget;
mod cache;
mod capabilities;
mod cells;
mod config;
mod engine;
mod environment;
mod fs;
mod host_calls;
mod http;
mod ipc;
mod kept;
mod linker;
mod log;
mod module;
mod namespaces;
mod pod;
mod preview1;
mod process;
mod runtime;
mod settings;
mod state;
mod stdio;

pub use capabilities::{Capabilities, Destination};
pub use config::{Config, HttpConfig};
pub use ipc::IpcLimits;
pub use log::{Discard, LogSink, LogStream, OutputSink};
pub use module::{Digest, LoadError, Module, ModuleKind};
pub use pod::{Pod, PodConfig};
pub use process::{
    BodyError, Exit, OverLimit, Process, ProcessConfig, RequestError, ResponseBody, StartError,
    Usage,
};
pub use runtime::{Runtime, RuntimeError};
pub use settings::{KeyValue, KeyValueError, MemoryStore, Settings};
pub use vaquita_guest_fs::{Mount, MountError, Volume};
