//! `vaquita:pod` for core modules; as for [`objects`](super::objects).

use std::fmt::Write as _;
use std::time::Duration;

use wasmtime::Linker;
use wasmtime_wasi::p1::types::Errno;

use super::memory::{Memory, Pointer};
use super::objects::{Patience, patience, provide};
use super::{Answer, errno, split};
use crate::namespaces::Member;
use crate::state::CoreState;

const MODULE: &str = "vaquita:pod";

/// Numbers of signals, as everywhere.
const KILL: i32 = 9;
const TERM: i32 = 15;

/// Writes as much of a text as there is room for, and how long it is.
fn tell(memory: &mut Memory<'_>, text: &str, into: (i32, i32), length: i32) -> Answer {
    let (at, room) = into;
    let told = &text.as_bytes()[..text.len().min(room.cast_unsigned() as usize)];
    memory.write(Pointer::from(at), told)?;
    let size = u32::try_from(text.len()).map_err(|_| Errno::Overflow)?;
    memory.write_u32(Pointer::from(length), size)
}

/// The processes, one on a line: number, container, `running` or `terminating`, CPU time in nanoseconds, memory in bytes, and
/// the command, with tabs between.
fn table(member: &Member) -> String {
    let clean = |text: &str| text.replace(['\t', '\n'], " ");
    let mut table = String::new();
    for listed in member.visible() {
        let usage = listed.process.usage();
        let ending = listed.member.lifecycle.ending().is_some();
        // Writing to a string can't fail.
        let _ = writeln!(
            table,
            "{}\t{}\t{}\t{}\t{}\t{}",
            listed.member.id,
            clean(&listed.member.container),
            if ending { "terminating" } else { "running" },
            usage.cpu.as_nanos(),
            usage.memory,
            clean(&listed.member.command.join(" ")),
        );
    }
    table
}

pub(super) fn add_to_linker(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    add_processes(linker)?;
    provide!(linker, MODULE, "hostname", (into: i32, room: i32, length: i32), |state, memory| {
        tell(&mut memory, &state.member.namespaces.hostname, (into, room), length)
    });
    provide!(linker, MODULE, "domain", (into: i32, room: i32, length: i32), |state, memory| {
        let domain = state.member.namespaces.domain.as_deref();
        tell(&mut memory, domain.unwrap_or_default(), (into, room), length)
    });
    provide!(linker, MODULE, "termination", (time: i64, remaining: i32), |state, memory| {
        let lifecycle = &state.member.lifecycle;
        lifecycle.heed();
        match patience(time) {
            Patience::None => {}
            Patience::Until(None) => lifecycle.ended().await,
            Patience::Until(Some(time)) => {
                // Whether it was in time is seen below.
                let _ = tokio::time::timeout(time, lifecycle.ended()).await;
            }
        }
        let remaining_time = lifecycle.ending().ok_or(Errno::Again)?;
        let left = remaining_time.map_or(u64::MAX, |left| {
            u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)
        });
        memory.write(Pointer::from(remaining), &left.to_le_bytes())
    });
    Ok(())
}

fn add_processes(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    provide!(linker, MODULE, "process_own_id", (out: i32), |state, memory| {
        memory.write_u32(Pointer::from(out), state.member.id)
    });
    provide!(linker, MODULE, "process_list", (into: i32, room: i32, length: i32), |state, memory| {
        let table = table(&state.member);
        tell(&mut memory, &table, (into, room), length)
    });
    provide!(linker, MODULE, "process_signal", (id: i32, signal: i32), |state, _memory| {
        let process = state.member.find(id.cast_unsigned()).ok_or(Errno::Srch)?;
        match signal {
            TERM => process.terminate(Duration::MAX),
            KILL => process.kill(),
            _ => return Err(Errno::Inval),
        }
        Ok(())
    });
    provide!(linker, MODULE, "process_wait", (id: i32, out: i32), |state, memory| {
        let other = id.cast_unsigned() != state.member.id;
        let process = state.member.find(id.cast_unsigned()).filter(|_| other);
        let exit = process.ok_or(Errno::Srch)?.wait().await;
        memory.write_u32(Pointer::from(out), exit.code().cast_unsigned())
    });
    Ok(())
}
