//! What bytes are, before and after they are compiled.

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Type};
use wasmtime::{Engine, ExternType, Module, ValType};

use super::{LoadError, ModuleKind};

/// Which of WebAssembly's two binary formats a file is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Module,
    Component,
}

/// Formats that are mistaken for modules most often.
const OTHERS: &[(&[u8], &str)] = &[
    (b"\x7fELF", "an ELF executable"),
    (b"MZ", "a Windows executable"),
    (b"\xcf\xfa\xed\xfe", "a Mach-O executable"),
    (
        b"\xca\xfe\xba\xbe",
        "a Java class or a universal Mach-O binary",
    ),
    (b"!<arch>", "a static library"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "a zip archive"),
    (b"#!", "a script"),
    (b"(module", "WebAssembly text; assemble it first"),
    (b"(component", "WebAssembly text; assemble it first"),
    (b"{", "JSON or another text"),
    (b"<", "HTML or another text"),
];

/// By the first eight bytes.
pub(crate) fn format(wasm: &[u8]) -> Result<Format, LoadError> {
    let Some((magic, rest)) = wasm.split_first_chunk::<4>() else {
        return Err(LoadError::NotWasm {
            found: describe(wasm),
        });
    };
    if magic != b"\0asm" {
        return Err(LoadError::NotWasm {
            found: describe(wasm),
        });
    }
    match rest.first_chunk::<4>() {
        Some([1, 0, 0, 0]) => Ok(Format::Module),
        Some([0x0d, 0, 1, 0]) => Ok(Format::Component),
        Some([a, b, c, d]) => Err(LoadError::UnsupportedKind {
            message: format!(
                "the binary format's version is {a:02x} {b:02x} {c:02x} {d:02x}; known are modules (01 00 00 00) \
                 and components (0d 00 01 00)"
            ),
        }),
        None => Err(LoadError::Truncated { length: wasm.len() }),
    }
}

fn describe(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing, it is empty".into();
    }
    let known = OTHERS.iter().find(|(magic, _)| bytes.starts_with(magic));
    known.map_or_else(
        || {
            let first: Vec<_> = bytes
                .iter()
                .take(4)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            format!("the bytes {}", first.join(" "))
        },
        |(_, name)| (*name).into(),
    )
}

/// What a core module's entry point is called if nobody says otherwise.
pub(crate) const START: &str = "_start";

/// A core module can be run if it has an entry point: the one that is asked for, or else WASI's.
pub(crate) fn of_module(module: &Module, entry: Option<&str>) -> Result<ModuleKind, LoadError> {
    if let Some(entry) = entry.filter(|entry| *entry != START) {
        return has_entry(module, entry);
    }
    if let Some(ExternType::Func(start)) = module.get_export("_start") {
        if start.params().len() == 0 && start.results().len() == 0 {
            return Ok(ModuleKind::CoreCommand);
        }
        return Err(unsupported(
            "its `_start` takes parameters or returns results; WASI's takes and returns nothing",
        ));
    }
    Err(if module.get_export("_initialize").is_some() {
        unsupported(
            "the module is a library (it exports `_initialize`); build a program, which exports `_start`",
        )
    } else {
        unsupported(
            "the module has no entry point: it does not export `_start`; build it for wasm32-wasip1 or -wasip2",
        )
    })
}

/// An entry point by a name of its own takes nothing, and returns nothing or an exit code.
fn has_entry(module: &Module, entry: &str) -> Result<ModuleKind, LoadError> {
    let Some(export) = module.get_export(entry) else {
        let functions = module
            .exports()
            .filter(|export| export.ty().func().is_some());
        let names: Vec<_> = functions.map(|export| export.name()).take(20).collect();
        return Err(LoadError::NoEntry {
            entry: entry.to_owned(),
            found: list(&names),
        });
    };
    let fits = export.func().is_some_and(|function| {
        let code = function
            .results()
            .all(|result| matches!(result, ValType::I32));
        function.params().len() == 0 && function.results().len() <= 1 && code
    });
    if fits {
        return Ok(ModuleKind::CoreCommand);
    }
    Err(LoadError::UnsupportedKind {
        message: format!(
            "the entry point {entry} must be a function that takes nothing and returns nothing or an i32, its exit code"
        ),
    })
}

fn list(names: &[&str]) -> String {
    if names.is_empty() {
        "no function".to_owned()
    } else {
        names.join(", ")
    }
}

/// A component's function as an entry point: of an interface that it exports (`a:b/c@1.0.0#run`), or of its own. It takes
/// nothing, and returns nothing or a `result`.
pub(crate) fn of_component_function(
    component: &Component,
    engine: &Engine,
    entry: &str,
) -> Result<(), LoadError> {
    let function = match entry.rsplit_once('#') {
        Some((interface, name)) => match component.get_export(None, interface) {
            Some((ComponentItem::ComponentInstance(_), index)) => {
                component.get_export(Some(&index), name)
            }
            _ => None,
        },
        None => component.get_export(None, entry),
    };
    let Some((ComponentItem::ComponentFunc(function), _)) = function else {
        let kind = component.component_type();
        let names: Vec<_> = kind
            .exports(engine)
            .map(|(name, _)| name)
            .take(20)
            .collect();
        return Err(LoadError::NoEntry {
            entry: entry.to_owned(),
            found: list(&names),
        });
    };
    let results: Vec<_> = function.results().collect();
    if function.params().len() == 0 && matches!(results[..], [] | [Type::Result(_)]) {
        return Ok(());
    }
    Err(LoadError::UnsupportedKind {
        message: format!(
            "the entry point {entry} must be a function that takes nothing and returns nothing or a result"
        ),
    })
}

/// The interface by which a component is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Run,
    AsyncRun,
    Handler,
    AsyncHandler,
}

/// The interfaces by which a component can be run; of several, the first one that it exports counts.
const ENTRIES: [(&str, Entry); 4] = [
    ("wasi:http/handler@0.3.", Entry::AsyncHandler),
    ("wasi:http/incoming-handler@0.2.", Entry::Handler),
    ("wasi:cli/run@0.3.", Entry::AsyncRun),
    ("wasi:cli/run@0.2.", Entry::Run),
];

/// A component can be run if it exports one of these interfaces.
pub(crate) fn of_component(component: &Component, engine: &Engine) -> Result<Entry, LoadError> {
    let kind = component.component_type();
    let instances: Vec<String> = kind
        .exports(engine)
        .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentInstance(_)))
        .map(|(name, _)| name.to_owned())
        .collect();
    let exports = |prefix: &str| instances.iter().any(|name| name.starts_with(prefix));
    if let Some((_, entry)) = ENTRIES.iter().find(|(prefix, _)| exports(prefix)) {
        return Ok(*entry);
    }
    let found = if instances.is_empty() {
        "no interface".to_owned()
    } else {
        instances.join(", ")
    };
    Err(LoadError::UnsupportedKind {
        message: format!(
            "a component must export wasi:cli/run or wasi:http/incoming-handler (0.2), or wasi:http/handler (0.3); \
             this one exports {found}"
        ),
    })
}

fn unsupported(message: &str) -> LoadError {
    LoadError::UnsupportedKind {
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_in_the_first_eight_bytes() {
        assert!(matches!(format(b"\0asm\x01\0\0\0"), Ok(Format::Module)));
        assert!(matches!(
            format(b"\0asm\x0d\0\x01\0"),
            Ok(Format::Component)
        ));
        assert!(matches!(
            format(b"\0asm\x02\0\0\0"),
            Err(LoadError::UnsupportedKind { .. })
        ));
        assert!(matches!(
            format(b"\0asm\x01"),
            Err(LoadError::Truncated { length: 5 })
        ));
    }

    #[test]
    fn what_is_not_wasm_is_called_by_its_name() {
        let found = |bytes: &[u8]| match format(bytes) {
            Err(LoadError::NotWasm { found }) => found,
            other => panic!("{other:?}"),
        };
        assert_eq!(found(b""), "nothing, it is empty");
        assert_eq!(found(b"\x7fELF\x02\x01\x01"), "an ELF executable");
        assert_eq!(found(b"\x01\x02"), "the bytes 01 02");
        assert_eq!(found(b"\0as"), "the bytes 00 61 73");
    }
}
