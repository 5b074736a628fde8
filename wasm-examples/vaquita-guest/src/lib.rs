//! What Vaquita offers to components beyond WASI, by the packages `vaquita:ipc` and `vaquita:pod`.
//!
//! ```no_run
//! use vaquita_guest::queues::{OpenFlags, Queue};
//!
//! let queue = Queue::open("jobs", OpenFlags::CREATE, None)?;
//! queue.blocking_send(b"do this", 1, None)?;
//! # Ok::<(), vaquita_guest::ErrorCode>(())
//! ```
//!
//! All of a pod's containers meet here: [`queues`], [`semaphores`] and [`shared_memory`] by their names. [`process`] lists and signals
//! the pod's processes, [`uts`] knows the pod's name, and [`lifecycle`] tells when the process is to end. Core modules have the same as
//! plain imports; `include/vaquita.h` declares them.

#[allow(
    missing_docs,
    unsafe_code,
    unused,
    clippy::all,
    clippy::pedantic,
    reason = "it is generated; the packages say what everything is"
)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../src/runtime/wit",
        world: "vaquita:guest/guest",
        with: { "wasi:io/poll@0.2.0": wasip2::io::poll },
        generate_all,
    });
}

pub use bindings::vaquita::ipc::types::ErrorCode;

/// Message queues: the most urgent message first, those of one priority in their order.
pub mod queues {
    pub use crate::bindings::vaquita::ipc::queues::*;
    pub use crate::bindings::vaquita::ipc::types::OpenFlags;
}

/// Semaphores.
pub mod semaphores {
    pub use crate::bindings::vaquita::ipc::semaphores::*;
    pub use crate::bindings::vaquita::ipc::types::OpenFlags;
}

/// Shared memory with atomic operations.
pub mod shared_memory {
    pub use crate::bindings::vaquita::ipc::shared_memory::*;
    pub use crate::bindings::vaquita::ipc::types::OpenFlags;
}

/// The pod's processes.
pub mod process {
    pub use crate::bindings::vaquita::pod::process::*;
}

/// The pod's name.
pub mod uts {
    pub use crate::bindings::vaquita::pod::uts::*;
}

/// How the process learns that it is to end.
pub mod lifecycle {
    pub use crate::bindings::vaquita::pod::lifecycle::*;
}
