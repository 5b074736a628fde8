//! Core modules with shared memories: those of their pod, which they import by
//! `(import "vaquita:ipc" "memory:NAME" (memory MIN MAX shared))`, and their own, which their threads have in common.
//!
//! Which memory that is differs from pod to pod and from process to process, so such a module is linked when it starts; what is wrong
//! with its other imports is told only then. A pod's memory has MAX pages. Once it is made, it stays until it is unlinked, as one
//! that is opened does.

use std::sync::Arc;

use wasmtime::{Engine, ExternType, InstancePre, Linker, MemoryType, Module, Store};

use super::{LoadError, atomics};
use crate::budget::Purse;
use crate::ipc::{Ipc, OpenHow, Segment, Waitable};
use crate::process::Threads;
use crate::state::CoreState;

const MODULE: &str = "vaquita:ipc";
const PREFIX: &str = "memory:";

/// The function by which a module starts threads, and the one that each of them begins with, as toolchains know them
/// (wasi-threads).
const SPAWN: (&str, &str) = ("wasi", "thread-spawn");
pub(crate) const THREAD_START: &str = "wasi_thread_start";

/// The size of WebAssembly's pages.
const PAGE: u64 = 64 << 10;

/// Refuses a module that could not start the threads that it wants.
pub(super) fn check(module: &Module) -> Result<(), LoadError> {
    let spawns = module
        .imports()
        .any(|import| (import.module(), import.name()) == SPAWN);
    if !spawns {
        return Ok(());
    }
    let start = module.get_export(THREAD_START);
    let fits = start
        .as_ref()
        .and_then(ExternType::func)
        .is_some_and(|start| {
            start.params().len() == 2
                && start.params().all(|parameter| parameter.is_i32())
                && start.results().len() == 0
        });
    if fits {
        return Ok(());
    }
    Err(LoadError::UnsupportedKind {
        message: format!(
            "it imports wasi::thread-spawn, but exports no function {THREAD_START} with two i32 parameters"
        ),
    })
}

/// Whether an import is a memory of the process's own: nothing that could be granted or not.
pub(super) fn is_own_memory(import: &wasmtime::ImportType<'_>) -> bool {
    let named = import.module() == MODULE && import.name().starts_with(PREFIX);
    !named && matches!(import.ty(), ExternType::Memory(kind) if kind.is_shared())
}

/// A memory that a module's instances have.
pub(crate) enum Memory {
    /// The module's number for it means another one, which is not shared.
    Unshared,
    /// The pod's. It is kept as long as anybody has it.
    Pods(Arc<Segment>),
    /// The process's own.
    Own(Arc<Waitable>),
}

impl Memory {
    pub(crate) fn waitable(&self) -> Option<&Arc<Waitable>> {
        match self {
            Self::Unshared => None,
            Self::Pods(segment) => Some(segment.memory()),
            Self::Own(memory) => Some(memory),
        }
    }
}

/// A module's memories in a process, by their numbers. Those that nobody has made are made: `charge` is asked before the process gets
/// one of its own.
pub(crate) fn memories(
    module: &Module,
    engine: &Engine,
    (ipc, purse): (&Ipc, &Purse),
    mut charge: impl FnMut(&MemoryType) -> wasmtime::Result<()>,
) -> wasmtime::Result<Vec<Memory>> {
    let mut memories = Vec::new();
    for import in module.imports() {
        let ExternType::Memory(kind) = import.ty() else {
            continue;
        };
        memories.push(if !kind.is_shared() {
            Memory::Unshared
        } else if is_own_memory(&import) {
            charge(&kind)?;
            Memory::Own(Arc::new(Waitable::new(engine, kind)?))
        } else {
            Memory::Pods(pods(import.name(), &kind, (ipc, purse))?)
        });
    }
    Ok(memories)
}

fn pods(
    import: &str,
    kind: &MemoryType,
    (ipc, purse): (&Ipc, &Purse),
) -> wasmtime::Result<Arc<Segment>> {
    let name = import.strip_prefix(PREFIX).unwrap_or(import);
    let how = OpenHow {
        create: true,
        exclusive: false,
    };
    let size = kind.maximum().unwrap_or(kind.minimum());
    let segment = ipc.memory(name, how, size.saturating_mul(PAGE), purse);
    segment.map_err(|error| wasmtime::Error::msg(format!("the shared memory {name:?}: {error}")))
}

/// Links a module with the memories of its process, and with the means to start threads.
pub(crate) fn link(
    linker: &Linker<CoreState>,
    store: &mut Store<CoreState>,
    module: &Module,
    memories: &[Memory],
) -> wasmtime::Result<InstancePre<CoreState>> {
    let mut linker = linker.clone();
    linker.func_wrap_async(SPAWN.0, SPAWN.1, |caller, (argument,): (i32,)| {
        let threads: Option<Arc<Threads>> = caller.data().threads.clone();
        Box::new(async move {
            match threads {
                Some(threads) => threads.spawn(argument).await,
                None => -1,
            }
        })
    })?;
    let imports = module
        .imports()
        .filter(|import| matches!(import.ty(), ExternType::Memory(_)));
    for (import, memory) in imports.zip(memories) {
        let (from, name) = (import.module(), import.name());
        if let Some(memory) = memory.waitable()
            && linker.get(&mut *store, from, name).is_err()
        {
            linker.define(&mut *store, from, name, memory.shared().clone())?;
        }
    }
    linker.instantiate_pre(module)
}

/// The start function that was, if there was one.
pub(crate) const START: &str = atomics::START;
