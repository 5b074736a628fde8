//! From bytes to modules, and why not.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use vaquita_runtime::{Exit, LoadError, ModuleKind};

use crate::support::{Host, assemble, config, start};

const NOTHING: &str = r#"(module (func (export "_start")))"#;

async fn error_of(bytes: impl Into<Bytes>) -> LoadError {
    Host::new()
        .runtime
        .load(bytes.into())
        .await
        .expect_err("a refusal")
}

#[tokio::test]
async fn a_module_with_an_entry_point_is_a_command() {
    let host = Host::new();
    assert_eq!(host.load(NOTHING).await.kind(), ModuleKind::CoreCommand);
    assert_eq!(
        host.load(include_str!("handler.wat")).await.kind(),
        ModuleKind::HttpHandler
    );
}

#[tokio::test]
async fn what_is_not_wasm_is_refused_by_name() {
    let error = error_of(&b"\x7fELF\x02\x01\x01\0\0\0\0\0"[..]).await;
    assert_eq!(
        error.to_string(),
        "not WebAssembly: a module begins with \"\\0asm\", this is an ELF executable"
    );
}

#[tokio::test]
async fn no_beginning_of_a_module_passes_for_it() {
    let host = Host::new();
    let whole = assemble(include_str!("handler.wat"));
    for length in (0..whole.len()).step_by(97) {
        let error = host
            .runtime
            .load(whole.slice(..length))
            .await
            .expect_err("a refusal");
        let expected = matches!(
            error,
            LoadError::NotWasm { .. }
                | LoadError::Truncated { .. }
                | LoadError::Invalid { .. }
                | LoadError::UnsupportedKind { .. }
        );
        assert!(expected, "{length} bytes: {error}");
    }
}

#[tokio::test]
async fn no_changed_byte_does_harm() {
    let host = Host::new();
    let whole = assemble(include_str!("handler.wat"));
    for at in (0..whole.len()).step_by(61) {
        let mut changed = whole.to_vec();
        changed[at] = changed[at].wrapping_mul(31).wrapping_add(7);
        // It may well be valid still, in names and constants.
        let loaded = host.runtime.load(changed.into()).await;
        assert!(
            !matches!(loaded, Err(LoadError::Compiler { .. })),
            "byte {at}: {loaded:?}"
        );
    }
}

#[tokio::test]
async fn an_invalid_module_is_refused_with_the_offset() {
    let mut bytes = assemble(NOTHING).to_vec();
    let last = bytes.len() - 1;
    bytes[last] = 0x77;
    let error = error_of(bytes).await;
    assert!(matches!(error, LoadError::Invalid { .. }), "{error}");
    assert!(
        error.to_string().contains("at offset 35: type mismatch"),
        "{error}"
    );
}

#[tokio::test]
async fn an_import_that_nothing_provides_is_named_with_advice() {
    let text = r#"(module (import "wbg" "__wbg_now" (func)) (func (export "_start")))"#;
    let error = error_of(assemble(text)).await;
    assert_eq!(
        error.to_string(),
        "unknown import wbg::__wbg_now: it was built by wasm-bindgen for browsers; build for wasm32-wasip1 or -wasip2"
    );
}

#[tokio::test]
async fn a_components_unknown_import_is_named_too() {
    let component = |import: &str| {
        format!(
            r#"(component
                (import "{import}" (instance (export "get" (func))))
                (core module $m (func (export "run") (result i32) (i32.const 0)))
                (core instance $i (instantiate $m))
                (func $run (result (result)) (canon lift (core func $i "run")))
                (instance $exported (export "run" (func $run)))
                (export "wasi:cli/run@0.2.0" (instance $exported)))"#
        )
    };
    for (import, advice) in [
        ("acme:shop/prices@1.0.0", ""),
        (
            "fermyon:spin/redis",
            ": of Spin's own interfaces, version 2.0.0 of key-value and variables is provided",
        ),
        (
            "wasi:http/types@0.3.0",
            ": its package is provided, but not as this component expects it: instance export `get` has the wrong type: \
             function implementation is missing",
        ),
    ] {
        let error = error_of(assemble(&component(import))).await;
        assert_eq!(
            error.to_string(),
            format!("unknown import {import}{advice}")
        );
    }
    let error = error_of(assemble(&component("wasi:http/types@0.2.0")))
        .await
        .to_string();
    assert!(
        error.starts_with("unknown import wasi:http/types@0.2.0: its package is provided, but"),
        "{error}"
    );
    assert!(error.contains("`get`"), "{error}");
}

#[tokio::test]
async fn a_module_without_an_entry_point_is_refused_with_advice() {
    let library = error_of(assemble(r#"(module (func (export "_initialize")))"#))
        .await
        .to_string();
    assert!(
        library.contains("_initialize") && library.contains("_start"),
        "{library}"
    );
    let odd = error_of(assemble(r#"(module (func (export "_start") (param i32)))"#))
        .await
        .to_string();
    assert!(odd.contains("takes parameters"), "{odd}");
    let component = error_of(assemble("(component)")).await.to_string();
    assert!(
        component.contains("wasi:cli/run") && component.contains("no interface"),
        "{component}"
    );
}

#[tokio::test]
async fn an_asynchronous_component_is_held_to_the_same_rules() {
    let text = r#"(component (import "get" (func async (result (future u8)))))"#;
    let error = error_of(assemble(text)).await;
    assert!(
        matches!(error, LoadError::UnsupportedKind { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("no interface"), "{error}");
}

#[tokio::test]
async fn a_module_that_is_too_large_is_not_looked_at() {
    let mut config = config();
    config.max_module_size = 10;
    let error = Host::with(config)
        .runtime
        .load(vec![0; 11].into())
        .await
        .expect_err("a refusal");
    assert!(
        matches!(
            error,
            LoadError::TooLarge {
                length: 11,
                limit: 10
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn the_digest_is_that_of_the_bytes() {
    let bytes = assemble(NOTHING);
    let module = Host::new()
        .runtime
        .load(bytes.clone())
        .await
        .expect("a module");
    assert_eq!(module.digest().to_string().len(), "sha256:".len() + 64);
    let again = Host::new().runtime.load(bytes).await.expect("a module");
    assert_eq!(module.digest(), again.digest());
}

#[tokio::test]
async fn compiled_code_is_cached_and_a_damaged_entry_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config();
    config.cache_dir = Some(dir.path().to_owned());
    let text = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 0)
        (func (export "_start") (call $exit (i32.const 42))))"#;
    let run = async || {
        let host = Host::with(config.clone());
        let (_pod, process, _log) = host.run(text).await;
        process.wait().await
    };
    assert_eq!(run().await, Exit::Exited(42));
    let entry = only_file(dir.path());
    let good = fs::read(&entry).expect("readable");

    assert_eq!(run().await, Exit::Exited(42));
    assert_eq!(fs::read(&entry).expect("readable"), good, "used as it is");

    for damage in [0, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[damage] ^= 0x10;
        // A new file, as whatever still maps the old one must not see it change.
        fs::remove_file(&entry).expect("removable");
        fs::write(&entry, &bad).expect("writable");
        assert_eq!(run().await, Exit::Exited(42), "damaged at {damage}");
        assert_eq!(fs::read(&entry).expect("readable").len(), good.len());
        assert_ne!(fs::read(&entry).expect("readable"), bad, "replaced");
    }
}

fn only_file(dir: &Path) -> std::path::PathBuf {
    let mut entries = fs::read_dir(dir)
        .expect("readable")
        .map(|entry| entry.expect("readable").path());
    let entry = entries.next().expect("an entry");
    assert_eq!(entries.next(), None, "one entry");
    if entry.is_dir() {
        only_file(&entry)
    } else {
        entry
    }
}

const LIBRARY: &str = r#"(module
    (global $ready (mut i32) (i32.const 0))
    (func (export "_initialize") (global.set $ready (i32.const 40)))
    (func (export "code") (result i32) (i32.add (global.get $ready) (i32.const 2)))
    (func (export "quiet"))
    (func (export "_start") (unreachable))
    (func (export "picky") (param i32)))"#;

async fn run_entry(host: &Host, text: &str, entry: &str) -> Exit {
    let loaded = host.runtime.load_entry(assemble(text), entry).await;
    let module = loaded.unwrap_or_else(|error| panic!("{error}"));
    let pod = host.pod("pod");
    let (process, _) = start(&pod, module, |_| {}).await;
    process.wait().await
}

#[tokio::test]
async fn a_library_starts_with_the_function_that_is_named() {
    let host = Host::new();
    assert_eq!(run_entry(&host, LIBRARY, "code").await, Exit::Exited(42));
    assert_eq!(run_entry(&host, LIBRARY, "quiet").await, Exit::Exited(0));
    let exit = run_entry(&host, LIBRARY, "_start").await;
    assert!(matches!(exit, Exit::Trapped { .. }), "{exit}");
    let refused = |entry: &'static str| {
        let loaded = host.runtime.load_entry(assemble(LIBRARY), entry);
        async { loaded.await.expect_err("a refusal").to_string() }
    };
    assert_eq!(
        refused("absent").await,
        "no function absent to start with; it exports _initialize, code, quiet, _start, picky"
    );
    assert!(refused("picky").await.contains("takes nothing"));
}

#[tokio::test]
async fn a_component_starts_with_the_function_that_is_named() {
    const COMPONENT: &str = r#"(component
        (core module $m
            (func (export "good") (result i32) (i32.const 0))
            (func (export "bad") (result i32) (i32.const 1))
            (func (export "quiet")))
        (core instance $i (instantiate $m))
        (func $good (result (result)) (canon lift (core func $i "good")))
        (func $bad (result (result)) (canon lift (core func $i "bad")))
        (func $quiet (canon lift (core func $i "quiet")))
        (instance $jobs (export "run" (func $bad)))
        (export "good" (func $good))
        (export "quiet" (func $quiet))
        (export "my:jobs/nightly@1.0.0" (instance $jobs)))"#;
    let host = Host::new();
    assert_eq!(run_entry(&host, COMPONENT, "good").await, Exit::Exited(0));
    assert_eq!(run_entry(&host, COMPONENT, "quiet").await, Exit::Exited(0));
    let nested = run_entry(&host, COMPONENT, "my:jobs/nightly@1.0.0#run").await;
    assert_eq!(nested, Exit::Exited(1));
    let refused = host.runtime.load_entry(assemble(COMPONENT), "absent").await;
    assert!(matches!(refused, Err(LoadError::NoEntry { .. })));
}
