//! Which import is missing, and what its user can do about it.

use wasmtime::component::Component;
use wasmtime::{Engine, Module, UnknownImportError};

use super::LoadError;

/// Where imports come from that people meet in practice, by the beginning of their names, and what helps. The first
/// match counts.
const HINTS: &[(&str, &str)] = &[
    (
        "wasi_unstable::",
        "this is WASI before 0.1; rebuild it with a current toolchain",
    ),
    (
        "wasi_snapshot_preview1::sock_",
        "WASI 0.1 itself knows only sock_accept, sock_recv, sock_send and sock_shutdown; build for wasm32-wasip2, \
         which has sockets",
    ),
    (
        "wasi_snapshot_preview1::",
        "WASI 0.1 has no such function of this type",
    ),
    (
        "wasi::thread-spawn",
        "a module with threads must have a shared memory; build for wasm32-wasip1-threads",
    ),
    ("wasi_ephemeral_nn::", "neural networks are not provided"),
    (
        "__wbindgen",
        "it was built by wasm-bindgen for browsers; build for wasm32-wasip1 or -wasip2",
    ),
    (
        "wbg::",
        "it was built by wasm-bindgen for browsers; build for wasm32-wasip1 or -wasip2",
    ),
    (
        "go::",
        "it was built by Go for browsers; build with GOOS=wasip1 GOARCH=wasm",
    ),
    (
        "gojs::",
        "it was built by Go for browsers; build with GOOS=wasip1 GOARCH=wasm",
    ),
    (
        "env::emscripten",
        "it was built by Emscripten for browsers; build it with -sSTANDALONE_WASM or a WASI SDK",
    ),
    (
        "env::",
        "a symbol was left undefined when the module was linked; link with the library that defines it, or build for \
         wasm32-wasip1 or -wasip2",
    ),
    ("wasmtime:", "wasmtime's own interfaces are not provided"),
    (
        "fermyon:",
        "of Spin's own interfaces, version 2.0.0 of key-value and variables is provided",
    ),
    (
        "spin:",
        "Spin's own interfaces are not provided; use those of WASI",
    ),
    (
        "wasmcloud:",
        "wasmCloud's own interfaces are not provided; use those of WASI",
    ),
    (
        "wasi:keyvalue/",
        "of wasi:keyvalue, the interface store of the version 0.2.0-draft2 is provided",
    ),
    (
        "wasi:config/",
        "of wasi:config, the interface store of the versions 0.2.0-rc.1 and 0.2.0-draft-2024-09-27 is provided",
    ),
    (
        "vaquita:",
        "the provided version is 0.1.0 of vaquita:ipc and vaquita:pod",
    ),
    (
        "wasi:",
        "the provided versions are 0.2 and 0.3; build for wasm32-wasip2",
    ),
];

/// The packages that are provided, in versions 0.2 and 0.3.
const PROVIDED: &[&str] = &[
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:http/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

/// What a core module asks for.
pub(super) fn of_module(module: &Module) -> Vec<String> {
    sorted(
        module
            .imports()
            .filter(|import| !super::sharing::is_own_memory(import))
            .map(|import| format!("{}::{}", import.module(), import.name())),
    )
}

/// What a component asks for.
pub(super) fn of_component(component: &Component, engine: &Engine) -> Vec<String> {
    let kind = component.component_type();
    sorted(kind.imports(engine).map(|(name, _)| name.to_owned()))
}

fn sorted(imports: impl Iterator<Item = String>) -> Vec<String> {
    let unique: std::collections::BTreeSet<_> = imports.collect();
    unique.into_iter().collect()
}

/// What a linker said about a core module.
pub(crate) fn unknown_in_module(error: wasmtime::Error) -> LoadError {
    match error.downcast::<UnknownImportError>() {
        Ok(unknown) => unknown_import(format!("{}::{}", unknown.module(), unknown.name())),
        // The other thing that can be wrong is an import's type.
        Err(error) => LoadError::Invalid {
            message: format!("{error:#}"),
            source: error,
        },
    }
}

/// What a linker said about a component.
pub(crate) fn unknown_in_component(
    error: wasmtime::Error,
    component: &Component,
    engine: &Engine,
) -> LoadError {
    let message = error.to_string();
    let kind = component.component_type();
    let name = kind
        .imports(engine)
        .map(|(name, _)| name)
        .find(|name| message.contains(&format!("`{name}`")));
    let Some(name) = name.map(str::to_owned) else {
        return LoadError::Invalid {
            message: format!("{error:#}"),
            source: error,
        };
    };
    let provided = PROVIDED.iter().any(|package| name.starts_with(package))
        && (name.contains("@0.2.") || name.contains("@0.3."));
    if !provided {
        return unknown_import(name);
    }
    let reasons: Vec<_> = error.chain().skip(1).map(ToString::to_string).collect();
    let hint = format!(
        "its package is provided, but not as this component expects it: {}",
        reasons.join(": ")
    );
    LoadError::UnknownImport {
        name,
        hint: Some(hint),
    }
}

fn unknown_import(name: String) -> LoadError {
    let hint = HINTS
        .iter()
        .find(|(prefix, _)| name.starts_with(prefix))
        .map(|(_, hint)| (*hint).to_owned());
    LoadError::UnknownImport { name, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_special_hint_comes_first() {
        for (at, (prefix, _)) in HINTS.iter().enumerate() {
            let first = HINTS
                .iter()
                .position(|(other, _)| prefix.starts_with(other));
            assert_eq!(first, Some(at), "{prefix} is never reached");
        }
    }
}
