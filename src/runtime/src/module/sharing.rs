//! Core modules that import their pod's shared memories as memories of their own:
//! `(import "vaquita:ipc" "memory:NAME" (memory MIN MAX shared))`.
//!
//! Which memory that is differs from pod to pod, so such a module is linked when it starts; what is wrong with its other imports is told
//! only then. The memory has MAX pages. Once it is made, it stays until it is unlinked, as one that is opened does.

use wasmparser::{Operator, Parser, Payload};
use wasmtime::{ExternType, Linker, MemoryType, Module, Store};

use super::LoadError;
use crate::ipc::OpenHow;
use crate::state::CoreState;

const MODULE: &str = "vaquita:ipc";
const PREFIX: &str = "memory:";

/// The size of WebAssembly's pages.
const PAGE: u64 = 64 << 10;

/// The shared memories that a module imports: their names in the pod, and their types.
fn memories(module: &Module) -> Vec<(String, MemoryType)> {
    let imports = module.imports().filter(|import| import.module() == MODULE);
    let memories = imports.filter_map(|import| match import.ty() {
        ExternType::Memory(kind) if kind.is_shared() => {
            let name = import.name().strip_prefix(PREFIX)?;
            Some((name.to_owned(), kind))
        }
        _ => None,
    });
    memories.collect()
}

/// Whether a module shares memories, of which each pod has its own; refused if it waits in them.
pub(super) fn shares(module: &Module, wasm: &[u8]) -> Result<bool, LoadError> {
    if memories(module).is_empty() {
        return Ok(false);
    }
    // It would hold up a thread that others need.
    if waits(wasm) {
        return Err(LoadError::UnsupportedKind {
            message: "it waits in a shared memory by an instruction (memory.atomic.wait); \
                      memory_wait of vaquita:ipc does that without holding up others"
                .into(),
        });
    }
    Ok(true)
}

/// What a module is linked with in a pod: the linker, and the pod's memories, which are made if nobody has done so.
pub(crate) fn linker(
    linker: &Linker<CoreState>,
    store: &mut Store<CoreState>,
    module: &Module,
) -> wasmtime::Result<Linker<CoreState>> {
    let mut linker = linker.clone();
    let how = OpenHow {
        create: true,
        exclusive: false,
    };
    for (name, kind) in memories(module) {
        let size = kind.maximum().unwrap_or(kind.minimum());
        let ipc = &store.data().member.namespaces.ipc;
        let segment = ipc.memory(&name, how, size.saturating_mul(PAGE));
        let segment = segment.map_err(|error| {
            wasmtime::Error::msg(format!("the shared memory {name:?}: {error}"))
        })?;
        let import = format!("{PREFIX}{name}");
        if linker.get(&mut *store, MODULE, &import).is_err() {
            linker.define(&mut *store, MODULE, &import, segment.memory().clone())?;
        }
    }
    Ok(linker)
}

/// Whether any of its functions waits in a memory. What can't be read was refused before.
fn waits(wasm: &[u8]) -> bool {
    let bodies = Parser::new(0)
        .parse_all(wasm)
        .filter_map(|payload| match payload {
            Ok(Payload::CodeSectionEntry(body)) => body.get_operators_reader().ok(),
            _ => None,
        });
    bodies.flatten().any(|operator| {
        let wait = |operator: &Operator<'_>| {
            matches!(
                operator,
                Operator::MemoryAtomicWait32 { .. } | Operator::MemoryAtomicWait64 { .. }
            )
        };
        operator.is_ok_and(|operator| wait(&operator))
    })
}
