//! Core modules with shared memories, made fit for guests' threads before they are compiled.
//!
//! An instruction that waits in a shared memory (`memory.atomic.wait`) would hold up a thread that other guests need, and nothing could end it
//! there; one that grows such a memory asks nobody. So these become calls of the host: what waits is then a task like all others,
//! and what grows is charged to its process. [`rewritten`] puts the calls in, by way of a table that `provide` fills in each
//! instance.
//!
//! All that is new stands at the end of its index space, so that nothing else changes its number:
//!
//! - types of the functions that are called, and the table, exported as [`TABLE`];
//! - the start function becomes an export, [`START`], for it may wait, too, and needs the table;
//! - a shared memory of the module's own becomes an import, so that its threads can have it in common.

use std::ops::Range;

use wasmparser::{FunctionBody, Import, MemoryType, Operator, Parser, Payload, TypeRef, Validator};

use super::LoadError;

/// The table of the host's functions.
pub(crate) const TABLE: &str = "vaquita:atomics";
/// The start function that was.
pub(crate) const START: &str = "vaquita:start";
/// The import of a memory that was the module's own.
pub(crate) const OWN_MEMORY: (&str, &str) = ("vaquita:process", "memory");

/// The host's functions: what an instruction takes, then its offset, if it has one, and its memory's number.
pub(crate) const WAIT_32: u32 = 0;
pub(crate) const WAIT_64: u32 = 1;
pub(crate) const NOTIFY: u32 = 2;
pub(crate) const GROW: u32 = 3;
const FUNCTIONS: usize = 4;

const I32: u8 = 0x7f;
const I64: u8 = 0x7e;
const FUNCREF: u8 = 0x70;

/// The parameters of each; all return an i32.
const PARAMETERS: [&[u8]; FUNCTIONS] = [
    &[I32, I32, I64, I32, I32],
    &[I32, I64, I64, I32, I32],
    &[I32, I32, I32, I32],
    &[I32, I32],
];

/// Sections by their numbers in the binary format.
const CUSTOM: u8 = 0;
const TYPES: u8 = 1;
const IMPORTS: u8 = 2;
const TABLES: u8 = 4;
const MEMORIES: u8 = 5;
const EXPORTS: u8 = 7;
const START_SECTION: u8 = 8;
const CODE: u8 = 10;

/// What is known of a module before anything of it is changed.
#[derive(Debug, Default)]
struct Outline {
    types: u32,
    tables: u32,
    /// By their numbers: whether each is shared.
    memories: Vec<bool>,
    /// A shared memory of its own, which must be the only one.
    own: Option<MemoryType>,
    start: Option<u32>,
}

/// The module with the calls in it; `None` if it has no shared memory.
pub(super) fn rewritten(wasm: &[u8]) -> Result<Option<Vec<u8>>, LoadError> {
    // What can't be read is for the compiler to complain about.
    let Some(outline) = outline(wasm).ok().filter(Outline::shares) else {
        return Ok(None);
    };
    // From here on, all that the format demands is taken for granted.
    Validator::new().validate_all(wasm).map_err(invalid)?;
    if outline.own.is_some() && outline.memories.len() > 1 {
        return Err(LoadError::UnsupportedKind {
            message: "it has a shared memory of its own beside other memories".into(),
        });
    }
    if outline.own.is_some_and(|memory| memory.memory64) {
        return Err(LoadError::UnsupportedKind {
            message: "its shared memory has 64-bit addresses".into(),
        });
    }
    rewrite(wasm, &outline).map(Some).map_err(invalid)
}

fn invalid(error: wasmparser::BinaryReaderError) -> LoadError {
    LoadError::Invalid {
        message: error.to_string(),
        source: wasmtime::Error::msg(error),
    }
}

/// Whether a component has a module with a shared memory somewhere. What waits in one would hold up a thread.
pub(super) fn component_shares(wasm: &[u8]) -> bool {
    let mut payloads = Parser::new(0).parse_all(wasm).map_while(Result::ok);
    payloads.any(|payload| match payload {
        Payload::MemorySection(memories) => memories
            .into_iter()
            .any(|memory| memory.is_ok_and(|memory| memory.shared)),
        Payload::ImportSection(imports) => imports
            .into_imports()
            .any(|import| import.is_ok_and(|import| shared(&import))),
        _ => false,
    })
}

fn shared(import: &Import<'_>) -> bool {
    matches!(import.ty, TypeRef::Memory(memory) if memory.shared)
}

impl Outline {
    fn shares(&self) -> bool {
        self.memories.contains(&true)
    }

    fn is_shared(&self, memory: u32) -> bool {
        self.memories.get(memory as usize) == Some(&true)
    }
}

fn outline(wasm: &[u8]) -> wasmparser::Result<Outline> {
    let mut outline = Outline::default();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::TypeSection(types) => {
                for group in types {
                    outline.types += u32::try_from(group?.types().len()).unwrap_or(u32::MAX);
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    match import?.ty {
                        TypeRef::Table(_) => outline.tables += 1,
                        TypeRef::Memory(memory) => outline.memories.push(memory.shared),
                        _ => {}
                    }
                }
            }
            Payload::TableSection(tables) => outline.tables += tables.count(),
            Payload::MemorySection(memories) => {
                for memory in memories {
                    let memory = memory?;
                    outline.memories.push(memory.shared);
                    outline.own = outline.own.or(memory.shared.then_some(memory));
                }
            }
            Payload::StartSection { func, .. } => outline.start = Some(func),
            // Its own module would begin again here.
            Payload::CodeSectionStart { .. } => break,
            _ => {}
        }
    }
    Ok(outline)
}

/// The module, section by section.
fn rewrite(wasm: &[u8], outline: &Outline) -> wasmparser::Result<Vec<u8>> {
    let mut out = Writer {
        wasm: wasm.get(..8).unwrap_or_default().to_vec(),
        missing: added(outline),
    };
    let mut bodies = None;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        if let Payload::CodeSectionEntry(body) = &payload {
            if let Some((left, code)) = &mut bodies {
                push_sized(code, &rewrite_body(wasm, body, outline)?);
                *left -= 1_u32;
                if *left == 0 {
                    out.section(CODE, code);
                }
            }
            continue;
        }
        if let Payload::CodeSectionStart { count, .. } = payload {
            let mut code = Vec::new();
            push_unsigned(&mut code, count.into());
            if count == 0 {
                out.section(CODE, &code);
            } else {
                bodies = Some((count, code));
            }
            continue;
        }
        // It tells of places in the code, which are others now.
        if matches!(&payload, Payload::CustomSection(custom) if custom.name().starts_with("metadata.code."))
        {
            continue;
        }
        let Some((id, range)) = payload.as_section() else {
            continue;
        };
        if id == START_SECTION || (id == MEMORIES && outline.own.is_some()) {
            continue;
        }
        out.old_section(id, part(wasm, range));
    }
    out.finish();
    Ok(out.wasm)
}

/// What is added to each section: how many entries, and their bytes.
fn added(outline: &Outline) -> Vec<(u8, u64, Vec<u8>)> {
    let mut types = Vec::new();
    for parameters in PARAMETERS {
        types.push(0x60);
        push_unsigned(&mut types, parameters.len() as u64);
        types.extend_from_slice(parameters);
        types.extend_from_slice(&[1, I32]);
    }
    let mut table = vec![FUNCREF, 1];
    push_unsigned(&mut table, FUNCTIONS as u64);
    push_unsigned(&mut table, FUNCTIONS as u64);
    let mut exports = Vec::new();
    push_sized(&mut exports, TABLE.as_bytes());
    exports.push(1);
    push_unsigned(&mut exports, outline.tables.into());
    if let Some(start) = outline.start {
        push_sized(&mut exports, START.as_bytes());
        exports.push(0);
        push_unsigned(&mut exports, start.into());
    }
    let mut added = vec![(TYPES, FUNCTIONS as u64, types)];
    if let Some(memory) = outline.own {
        added.push((IMPORTS, 1, import_of(memory)));
    }
    added.push((TABLES, 1, table));
    added.push((EXPORTS, 1 + u64::from(outline.start.is_some()), exports));
    added
}

fn import_of(memory: MemoryType) -> Vec<u8> {
    let mut import = Vec::new();
    push_sized(&mut import, OWN_MEMORY.0.as_bytes());
    push_sized(&mut import, OWN_MEMORY.1.as_bytes());
    // A memory that is shared and has a maximum, as all that are shared have.
    import.extend_from_slice(&[2, 3]);
    push_unsigned(&mut import, memory.initial);
    push_unsigned(&mut import, memory.maximum.unwrap_or(memory.initial));
    import
}

/// Writes sections in the order that the format wants.
struct Writer {
    wasm: Vec<u8>,
    /// What is still to be added, in that order.
    missing: Vec<(u8, u64, Vec<u8>)>,
}

impl Writer {
    fn section(&mut self, id: u8, content: &[u8]) {
        if id != CUSTOM {
            self.add_up_to(rank(id));
        }
        self.wasm.push(id);
        push_sized(&mut self.wasm, content);
    }

    /// A section of the original, with what is added to it.
    fn old_section(&mut self, id: u8, content: &[u8]) {
        let Some(at) = self.missing.iter().position(|(added, ..)| *added == id) else {
            return self.section(id, content);
        };
        let (_, count, entries) = self.missing.remove(at);
        let (before, rest) = read_unsigned(content);
        let mut longer = Vec::new();
        push_unsigned(&mut longer, before + count);
        longer.extend_from_slice(rest);
        longer.extend_from_slice(&entries);
        self.section(id, &longer);
    }

    /// Sections that the original does not have.
    fn add_up_to(&mut self, before: u8) {
        while let Some((id, ..)) = self.missing.first()
            && rank(*id) < before
        {
            let (id, count, entries) = self.missing.remove(0);
            let mut content = Vec::new();
            push_unsigned(&mut content, count);
            content.extend_from_slice(&entries);
            self.wasm.push(id);
            push_sized(&mut self.wasm, &content);
        }
    }

    fn finish(&mut self) {
        self.add_up_to(u8::MAX);
    }
}

/// Where a section stands among the others: in the order of their numbers, but for two that came later.
fn rank(id: u8) -> u8 {
    match id {
        // Tags, between memories and globals.
        13 => 2 * MEMORIES + 1,
        // The count of data segments, before the code.
        12 => 2 * CODE - 1,
        id => 2 * id,
    }
}

fn rewrite_body(
    wasm: &[u8],
    body: &FunctionBody<'_>,
    outline: &Outline,
) -> wasmparser::Result<Vec<u8>> {
    let range = body.range();
    let mut operators = body.get_operators_reader()?;
    let (mut out, mut copied) = (Vec::new(), range.start);
    while !operators.eof() {
        let (operator, at) = operators.read_with_offset()?;
        if let Some(call) = call(&operator, outline) {
            out.extend_from_slice(part(wasm, copied..at));
            out.extend_from_slice(&call);
            copied = operators.original_position();
        }
    }
    out.extend_from_slice(part(wasm, copied..range.end));
    Ok(out)
}

/// What stands in the place of an instruction on a shared memory.
fn call(operator: &Operator<'_>, outline: &Outline) -> Option<Vec<u8>> {
    let (function, offset, memory) = match operator {
        Operator::MemoryAtomicWait32 { memarg } => (WAIT_32, Some(memarg.offset), memarg.memory),
        Operator::MemoryAtomicWait64 { memarg } => (WAIT_64, Some(memarg.offset), memarg.memory),
        Operator::MemoryAtomicNotify { memarg } => (NOTIFY, Some(memarg.offset), memarg.memory),
        Operator::MemoryGrow { mem } => (GROW, None, *mem),
        _ => return None,
    };
    if !outline.is_shared(memory) {
        return None;
    }
    let mut call = Vec::new();
    let offset = offset.map(|offset| u32::try_from(offset).unwrap_or(u32::MAX));
    for constant in offset.into_iter().chain([memory, function]) {
        call.push(0x41);
        push_signed(&mut call, constant.cast_signed());
    }
    // call_indirect
    call.push(0x11);
    push_unsigned(&mut call, u64::from(outline.types + function));
    push_unsigned(&mut call, outline.tables.into());
    Some(call)
}

fn part(wasm: &[u8], range: Range<usize>) -> &[u8] {
    wasm.get(range).unwrap_or_default()
}

fn push_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    push_unsigned(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// LEB128
fn push_unsigned(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn push_signed(out: &mut Vec<u8>, number: i32) {
    let mut number = i64::from(number);
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        let is_last = number == if low & 0x40 == 0 { 0 } else { -1 };
        if is_last {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// A number, and what follows.
fn read_unsigned(bytes: &[u8]) -> (u64, &[u8]) {
    let mut number = 0;
    for (index, byte) in bytes.iter().enumerate().take(5) {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return (number, &bytes[index + 1..]);
        }
    }
    (number, &[])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rewrite_text(text: &str) -> Option<Vec<u8>> {
        let wasm = wat::parse_str(text).expect("correct text");
        let rewritten = rewritten(&wasm).unwrap_or_else(|error| panic!("{error}"));
        if let Some(wasm) = &rewritten {
            Validator::new().validate_all(wasm).expect("valid");
        }
        rewritten
    }

    /// How many instructions are left that are the host's business.
    fn left(wasm: &[u8]) -> usize {
        let bodies = Parser::new(0).parse_all(wasm).filter_map(|payload| {
            let Ok(Payload::CodeSectionEntry(body)) = payload else {
                return None;
            };
            body.get_operators_reader().ok()
        });
        bodies
            .flatten()
            .filter(|operator| {
                matches!(
                    operator,
                    Ok(Operator::MemoryAtomicWait32 { .. }
                        | Operator::MemoryAtomicWait64 { .. }
                        | Operator::MemoryAtomicNotify { .. }
                        | Operator::MemoryGrow { .. })
                )
            })
            .count()
    }

    #[test]
    fn what_shares_nothing_stays_as_it_is() {
        assert_eq!(rewrite_text("(module)"), None);
        assert_eq!(
            rewrite_text("(module (memory 1) (func (drop (memory.grow (i32.const 1)))))"),
            None
        );
        assert!(matches!(rewritten(b"\0asm\x01\0\0\0\x05"), Ok(None)));
    }

    #[test]
    fn all_that_waits_or_grows_becomes_a_call() {
        let every = r#"(module
            (import "env" "memory" (memory 1 2 shared))
            (table 3 funcref)
            (func $begin)
            (start $begin)
            (func (export "f") (result i32)
                (block
                    (br_if 0 (memory.atomic.wait32 offset=4294967292 (i32.const 0) (i32.const -1) (i64.const 5)))
                    (br_if 0 (memory.atomic.wait64 offset=8 (i32.const 0) (i64.const -1) (i64.const -1)))
                    (drop (memory.atomic.notify offset=4 (i32.const 0) (i32.const 1))))
                (memory.grow (i32.const 1)))
            (data (i32.const 0) "abc"))"#;
        let wasm = rewrite_text(every).expect("changed");
        assert_eq!(left(&wasm), 0);
        let text = wasm
            .windows(TABLE.len())
            .any(|bytes| bytes == TABLE.as_bytes());
        assert!(text, "the table is exported");
        let starts = Parser::new(0)
            .parse_all(&wasm)
            .any(|payload| matches!(payload, Ok(Payload::StartSection { .. })));
        assert!(!starts);
    }

    #[test]
    fn memories_that_are_not_shared_keep_their_instructions() {
        let both = r#"(module
            (import "a" "own" (memory 1))
            (import "a" "shared" (memory 1 1 shared))
            (func (drop (memory.grow 0 (i32.const 1))) (drop (memory.grow 1 (i32.const 1)))))"#;
        assert_eq!(left(&rewrite_text(both).expect("changed")), 1);
    }

    #[test]
    fn a_memory_of_its_own_becomes_an_import() {
        let wasm = rewrite_text(r#"(module (memory (export "memory") 1 2 shared) (func))"#);
        let wasm = wasm.expect("changed");
        let imports = Parser::new(0)
            .parse_all(&wasm)
            .filter_map(|payload| match payload {
                Ok(Payload::ImportSection(imports)) => Some(imports),
                _ => None,
            });
        let imports: Vec<_> = imports
            .flat_map(wasmparser::SectionLimited::into_imports)
            .filter_map(Result::ok)
            .map(|import| (import.module, import.name))
            .collect();
        assert_eq!(imports, [OWN_MEMORY]);
        let two = wat::parse_str("(module (memory 1 2 shared) (memory 1))").expect("correct text");
        assert!(matches!(
            rewritten(&two),
            Err(LoadError::UnsupportedKind { .. })
        ));
    }

    #[test]
    fn components_that_share_are_found() {
        let shares = |text: &str| component_shares(&wat::parse_str(text).expect("correct text"));
        assert!(!shares("(component (core module (memory 1)))"));
        assert!(shares("(component (core module (memory 1 1 shared)))"));
        assert!(shares(
            r#"(component (component (core module (import "a" "b" (memory 1 1 shared)))))"#
        ));
    }

    proptest! {
        #[test]
        fn numbers_come_back(number: u32, signed: i32) {
            let mut bytes = Vec::new();
            push_unsigned(&mut bytes, number.into());
            bytes.push(7);
            prop_assert_eq!(read_unsigned(&bytes), (number.into(), &[7][..]));
            let mut bytes = Vec::new();
            push_signed(&mut bytes, signed);
            let mut reader = wasmparser::BinaryReader::new(&bytes, 0);
            prop_assert_eq!(reader.read_var_i32().expect("a number"), signed);
        }

        #[test]
        fn no_changed_byte_does_harm(at in 8_usize..120, to: u8) {
            let text = r#"(module (memory 1 2 shared)
                (func (export "f") (drop (memory.atomic.notify (i32.const 0) (i32.const 1)))
                    (drop (memory.grow (i32.const 1)))))"#;
            let mut wasm = wat::parse_str(text).expect("correct text");
            let at = at.min(wasm.len() - 1);
            wasm[at] = to;
            if let Ok(Some(rewritten)) = rewritten(&wasm) {
                prop_assert!(Validator::new().validate_all(&rewritten).is_ok());
            }
        }
    }
}
