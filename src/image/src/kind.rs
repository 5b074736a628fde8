//! What kind of WebAssembly a file is, from its bytes alone.
//!
//! Beyond the header, only the outline is checked: that the sections fill the file exactly. It finds files that were
//! cut off, which is what goes wrong in practice, without a compiler. Whether the code inside is valid, its runner says.

use std::fmt;

const MAGIC: &[u8; 4] = b"\0asm";
/// Version and layer of a core module, then of a component.
const MODULE: [u8; 4] = [1, 0, 0, 0];
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];

/// What runs an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImageKind {
    /// A core module.
    WasmModule,
    /// A component.
    WasmComponent,
    /// A Spin application: any number of modules and files, and a description of what they are for.
    SpinApplication,
    /// Files for a Linux container.
    Linux,
}

impl ImageKind {
    /// Whether it is WebAssembly.
    pub fn is_wasm(self) -> bool {
        self != Self::Linux
    }
}

impl fmt::Display for ImageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::WasmModule => "wasm module",
            Self::WasmComponent => "wasm component",
            Self::SpinApplication => "spin application",
            Self::Linux => "linux",
        })
    }
}

/// Why bytes are no whole file of WebAssembly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotWasm {
    /// Something else.
    #[error("not WebAssembly: this is {0}")]
    Other(&'static str),
    /// The magic number is right, but what follows is no version that is known.
    #[error("WebAssembly of an unknown version ({0:02x?}): neither a core module nor a component")]
    Version([u8; 4]),
    /// The file ends too early.
    #[error("truncated WebAssembly: the file ends after {length} bytes, inside of {inside}")]
    Truncated {
        /// How many bytes there are.
        length: usize,
        /// What is cut off.
        inside: &'static str,
    },
    /// A section's header is not one.
    #[error("damaged WebAssembly: no section can begin at byte {offset}")]
    Section {
        /// Where it was expected.
        offset: usize,
    },
}

/// What people load by mistake.
const OTHERS: &[(&[u8], &str)] = &[
    (
        b"\x7fELF",
        "a native program (ELF): compile it for wasm32-wasip2 or wasm32-wasip1",
    ),
    (
        b"\xcf\xfa\xed\xfe",
        "a native program (Mach-O): compile it for wasm32-wasip2 or wasm32-wasip1",
    ),
    (
        b"MZ",
        "a Windows program: compile it for wasm32-wasip2 or wasm32-wasip1",
    ),
    (
        b"(module",
        "WebAssembly text: translate it to the binary format first",
    ),
    (
        b"(component",
        "WebAssembly text: translate it to the binary format first",
    ),
    (b"\x1f\x8b", "compressed (gzip): unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd): unpack it first"),
    (b"PK\x03\x04", "a zip archive"),
    (b"#!", "a script"),
    (b"<", "HTML or XML; was the download an error page?"),
];

impl ImageKind {
    /// What the header says, without a look at the rest. `None` if it is no WebAssembly header.
    pub(crate) fn of_header(bytes: &[u8]) -> Option<Self> {
        match bytes.get(..8)?.strip_prefix(MAGIC)? {
            version if version == MODULE => Some(Self::WasmModule),
            version if version == COMPONENT => Some(Self::WasmComponent),
            _ => None,
        }
    }

    /// What a whole file is.
    pub fn detect(bytes: &[u8]) -> Result<Self, NotWasm> {
        if let Some(kind) = Self::of_header(bytes) {
            check_outline(bytes)?;
            return Ok(kind);
        }
        if bytes.is_empty() {
            return Err(NotWasm::Other("an empty file"));
        }
        match bytes.strip_prefix(MAGIC).map(|rest| rest.first_chunk()) {
            Some(Some(version)) => Err(NotWasm::Version(*version)),
            Some(None) => Err(NotWasm::Truncated {
                length: bytes.len(),
                inside: "the header",
            }),
            None => Err(NotWasm::Other(what_else(bytes))),
        }
    }
}

fn what_else(bytes: &[u8]) -> &'static str {
    let text = bytes.trim_ascii_start();
    let known = OTHERS
        .iter()
        .find(|(prefix, _)| bytes.starts_with(prefix) || text.starts_with(prefix));
    match known {
        Some((_, name)) => name,
        None if bytes
            .iter()
            .take(512)
            .all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) =>
        {
            "text"
        }
        None => "data of another format",
    }
}

/// Walks over the sections: each is one byte of identity, the length of its content in LEB128, the content.
fn check_outline(bytes: &[u8]) -> Result<(), NotWasm> {
    /// The highest section number of either format.
    const LAST_SECTION: u8 = 13;
    let truncated = |inside| NotWasm::Truncated {
        length: bytes.len(),
        inside,
    };
    let mut offset = 8;
    while let Some(id) = bytes.get(offset) {
        if *id > LAST_SECTION {
            return Err(NotWasm::Section { offset });
        }
        let (length, used) = match leb128(&bytes[offset + 1..]) {
            Leb::Value(length, used) => (length, used),
            Leb::Truncated => return Err(truncated("a section's header")),
            Leb::TooLong => return Err(NotWasm::Section { offset }),
        };
        let end = (offset + 1 + used).checked_add(length as usize);
        match end {
            Some(end) if end <= bytes.len() => offset = end,
            _ => return Err(truncated("a section")),
        }
    }
    Ok(())
}

enum Leb {
    /// The number, and how many bytes it took.
    Value(u32, usize),
    Truncated,
    TooLong,
}

fn leb128(bytes: &[u8]) -> Leb {
    let mut value = 0_u64;
    for index in 0..5 {
        let Some(byte) = bytes.get(index) else {
            return Leb::Truncated;
        };
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return u32::try_from(value).map_or(Leb::TooLong, |value| Leb::Value(value, index + 1));
        }
    }
    Leb::TooLong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module() -> Vec<u8> {
        wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")) (data (i32.const 0) "abc"))"#).unwrap()
    }

    #[test]
    fn the_two_binary_formats_are_told_apart() {
        assert_eq!(ImageKind::detect(&module()), Ok(ImageKind::WasmModule));
        let component = wat::parse_str("(component (core module))").unwrap();
        assert_eq!(ImageKind::detect(&component), Ok(ImageKind::WasmComponent));
    }

    #[test]
    fn a_file_that_was_cut_off_anywhere_but_between_sections_is_noticed() {
        let whole = module();
        let mut passed = 0;
        for length in 0..whole.len() {
            match ImageKind::detect(&whole[..length]) {
                Err(NotWasm::Truncated { length: said, .. }) => assert_eq!(said, length),
                Err(NotWasm::Other(_)) => assert!(length < 4),
                Err(other) => panic!("{other}"),
                Ok(_) => passed += 1,
            }
        }
        // Before each of the six sections.
        assert_eq!(passed, 6);
    }

    #[test]
    fn other_files_are_called_by_their_name() {
        for (bytes, part) in [
            (&b"\x7fELF\x02\x01\x01"[..], "ELF"),
            (b"  (module)", "text"),
            (b"<!DOCTYPE html>", "HTML"),
            (b"this is no module", "text"),
            (b"", "empty"),
            (b"\xff\xfe\xfd", "another format"),
            (b"\0asm\x02\0\0\0", "unknown version"),
            (b"\0asm\x01\0\0\0\x7f\0", "byte 8"),
            (b"\0asm\x01\0\0\0\x01\xff\xff\xff\xff\xff\xff", "byte 8"),
        ] {
            let error = ImageKind::detect(bytes).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
