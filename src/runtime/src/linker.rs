//! What guests can import.

use std::fmt;

use wasmtime::{Engine, Linker, component};
use wasmtime_wasi::{p1, p2};

use crate::state::{CoreState, State};
use crate::{fs, preview1, sockets};

/// Everything that is provided to modules of each format. A process's configuration decides what these functions give
/// access to, never which of them exist.
pub(crate) struct Linkers {
    pub(crate) core: Linker<CoreState>,
    pub(crate) component: component::Linker<State>,
}

impl fmt::Debug for Linkers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Linkers")
    }
}

impl Linkers {
    pub(crate) fn new(engine: &Engine) -> wasmtime::Result<Self> {
        let mut core = Linker::new(engine);
        p1::add_to_linker_async(&mut core, |state: &mut CoreState| &mut state.wasi)?;
        preview1::add_to_linker(&mut core)?;

        let mut component = component::Linker::new(engine);
        p2::add_to_linker_async(&mut component)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut component)?;
        // The host's sockets are replaced by those of the pod's network, its files by those of the process.
        component.allow_shadowing(true);
        sockets::add_to_linker(&mut component)?;
        fs::add_to_linker(&mut component)?;
        component.allow_shadowing(false);
        Ok(Self { core, component })
    }
}
