//! What guests can import.

use wasmtime::{Engine, Linker, component};
use wasmtime_wasi::{p1, p2, p3};

use crate::http::charged;
use crate::state::{CoreState, State};
use crate::{environment, fs, host_calls, preview1};

/// Everything that is provided to core modules. A process's configuration decides what these functions give access to,
/// never which of them exist; so it is for components.
pub(crate) fn for_modules(engine: &Engine) -> wasmtime::Result<Linker<CoreState>> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_async(&mut linker, |state: &mut CoreState| &mut state.wasi)?;
    preview1::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Everything that is provided to components that know no more than WASI 0.2.
pub(crate) fn for_components(engine: &Engine) -> wasmtime::Result<component::Linker<State>> {
    let mut linker = component::Linker::new(engine);
    p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    // The host's sockets are replaced by those of the pod's network, its files by those of the process; and bodies are charged.
    linker.allow_shadowing(true);
    vaquita_guest_sockets::add_to_linker(&mut linker, State::sockets)?;
    fs::add_to_linker(&mut linker)?;
    charged::add_to_linker(&mut linker)?;
    environment::add_to_linker(&mut linker)?;
    linker.allow_shadowing(false);
    host_calls::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Everything that is provided to asynchronous components: WASI 0.3, and 0.2 for what they have of it.
pub(crate) fn for_async_components(engine: &Engine) -> wasmtime::Result<component::Linker<State>> {
    let mut linker = for_components(engine)?;
    p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    linker.allow_shadowing(true);
    vaquita_guest_sockets::add_async_to_linker(&mut linker, State::sockets)?;
    fs::asynchronous::add_to_linker(&mut linker)?;
    environment::add_async_to_linker(&mut linker)?;
    linker.allow_shadowing(false);
    Ok(linker)
}
