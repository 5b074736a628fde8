//! Puts guests into the binary, if `wasm-examples` has been built: those of the demo, with its manifests, and the toolbox.
//!
//! Writes `demo.rs` into `OUT_DIR`, to be included where a `DemoImage { reference: &'static str, wasm: &'static [u8] }`
//! is in scope. It defines two items:
//!
//! ```ignore
//! /// What the manifests name, and the components behind those names. Empty if any of them has not been built.
//! static IMAGES: &[DemoImage];
//! /// YAML, to be applied in this order; each text may hold several documents. Empty if `IMAGES` is.
//! static MANIFESTS: &[&str];
//! ```
//!
//! Both are all or nothing, so that a binary has a demo that works or none. And `toolbox.rs`, with one item:
//!
//! ```ignore
//! /// Small commands to execute in containers. `None` if it has not been built.
//! static TOOLBOX: Option<&[u8]>;
//! ```

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// An image's name in the manifests, and the guest that it is made of.
const IMAGES: [(&str, &str); 3] = [
    ("localhost/hello:v1", "hello"),
    ("localhost/guestbook:v1", "guestbook"),
    ("localhost/kv:v1", "kv"),
];

const MANIFESTS: [&str; 2] = ["guestbook/redis.yaml", "guestbook/guestbook.yaml"];

fn main() -> io::Result<()> {
    let examples = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("wasm-examples");
    let built = |guest: &str| {
        let path = examples.join("target/wasm32-wasip2/release").join(guest);
        path.with_extension("wasm")
    };
    let guests = IMAGES.map(|(reference, guest)| (reference, built(guest)));
    let toolbox = built("toolbox");
    let manifests = MANIFESTS.map(|manifest| examples.join(manifest));

    println!("cargo::rerun-if-changed=src/build.rs");
    let paths = guests.iter().map(|(_, path)| path).chain(&manifests);
    for path in paths.clone().chain([&toolbox]) {
        println!(
            "cargo::rerun-if-changed={}",
            closest_that_exists(path).display()
        );
    }

    let complete = paths.into_iter().all(|path| path.is_file());
    let (guests, manifests) = if complete {
        (&guests[..], &manifests[..])
    } else {
        (&[][..], &[][..])
    };
    let out = PathBuf::from(variable("OUT_DIR")?);
    fs::write(out.join("demo.rs"), code(guests, manifests))?;
    let toolbox = if toolbox.is_file() {
        format!("Some(include_bytes!({}))", literal(&toolbox))
    } else {
        "None".to_owned()
    };
    let toolbox = format!("static TOOLBOX: Option<&[u8]> = {toolbox};\n");
    fs::write(out.join("toolbox.rs"), toolbox)
}

fn code(guests: &[(&str, PathBuf)], manifests: &[PathBuf]) -> String {
    let mut lines = vec!["static IMAGES: &[DemoImage] = &[".to_owned()];
    for (reference, path) in guests {
        lines.push(format!(
            "    DemoImage {{ reference: {reference:?}, wasm: include_bytes!({}) }},",
            literal(path)
        ));
    }
    lines.extend(["];".to_owned(), "static MANIFESTS: &[&str] = &[".to_owned()]);
    for path in manifests {
        lines.push(format!("    include_str!({}),", literal(path)));
    }
    lines.push("];\n".to_owned());
    lines.join("\n")
}

/// The path as a string in Rust's source.
fn literal(path: &Path) -> String {
    format!("{:?}", path.to_string_lossy())
}

/// What to watch for changes of `path`. Naming a file that does not exist would make each build start anew; the folder
/// in which it would appear is changed by its appearance.
fn closest_that_exists(path: &Path) -> &Path {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .unwrap_or(path)
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|error| io::Error::other(format!("{name}: {error}")))
}
