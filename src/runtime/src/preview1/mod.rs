//! Files and listening sockets for core modules.
//!
//! WASI 0.1 can't make sockets, but it can use them: a listener that its host has put among its file descriptors, and
//! what is accepted from it. Files it has, and ours are not `wasmtime-wasi`'s. So the functions on descriptors and paths are
//! replaced: they look among the instance's own [`Descriptors`] first, and leave standard input, output and error to the originals.

use wasmtime::{AsContextMut, Caller, Extern, Linker};
use wasmtime_wasi::p1::types::Errno;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as original, WasiSnapshotPreview1};
use wiggle::GuestMemory;

use crate::state::CoreState;

mod descriptors;
mod file_calls;
mod files;
mod io;
mod memory;
mod objects;
mod paths;
mod pod_calls;
mod poll;

pub(crate) use descriptors::Descriptors;
pub(crate) use objects::Objects;

use memory::{Memory, Pointer};

const MODULE: &str = "wasi_snapshot_preview1";

/// What every function answers: success, or why not.
type Answer = Result<(), Errno>;

/// Replaces the functions that can meet a socket.
pub(crate) fn add_to_linker(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    add_reading_and_writing(linker)?;
    add_descriptors(linker)?;
    add_sockets(linker)?;
    file_calls::add_to_linker(linker)?;
    linker.func_wrap_async(
        MODULE,
        "poll_oneoff",
        |mut caller, args: (i32, i32, i32, i32)| {
            Box::new(async move {
                let (subscriptions, events, count, written) = args;
                let (memory, state) = split(&mut caller)?;
                let request = poll::Request {
                    subscriptions: Pointer::from(subscriptions),
                    events: Pointer::from(events),
                    count: count.cast_unsigned(),
                    written: Pointer::from(written),
                };
                if poll::concerns_sockets(&state.descriptors, &Memory::new(memory), &request) {
                    return Ok(errno(
                        poll::poll(state, Memory::new(memory), &request).await,
                    ));
                }
                let mut memory = GuestMemory::Unshared(memory);
                original::poll_oneoff(
                    &mut state.wasi,
                    &mut memory,
                    subscriptions,
                    events,
                    count,
                    written,
                )
                .await
            })
        },
    )?;
    linker.allow_shadowing(false);
    objects::add_to_linker(linker)?;
    pod_calls::add_to_linker(linker)
}

fn add_reading_and_writing(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "fd_read",
        |mut caller, (fd, data, count, read): (i32, i32, i32, i32)| {
            Box::new(async move {
                let (memory, state) = split(&mut caller)?;
                if state.descriptors.is_file(fd.cast_unsigned()) {
                    let mut memory = Memory::new(memory);
                    let into = files::Buffers { list: data, count };
                    let length =
                        files::read(&mut state.descriptors, &mut memory, fd, into, None).await;
                    return Ok(errno(
                        length.and_then(|length| memory.write_u32(Pointer::from(read), length)),
                    ));
                }
                let Some(socket) = state.descriptors.get(fd) else {
                    let mut memory = GuestMemory::Unshared(memory);
                    return original::fd_read(&mut state.wasi, &mut memory, fd, data, count, read)
                        .await;
                };
                let mut memory = Memory::new(memory);
                let length = io::receive(
                    socket,
                    &mut memory,
                    Pointer::from(data),
                    count,
                    io::Receive::Take,
                )
                .await;
                Ok(errno(length.and_then(|length| {
                    memory.write_u32(Pointer::from(read), length)
                })))
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_write",
        |mut caller, (fd, data, count, written): (i32, i32, i32, i32)| {
            Box::new(async move {
                let (memory, state) = split(&mut caller)?;
                if state.descriptors.is_file(fd.cast_unsigned()) {
                    let mut memory = Memory::new(memory);
                    let from = files::Buffers { list: data, count };
                    let length =
                        files::write(&mut state.descriptors, &memory, fd, from, None).await;
                    return Ok(errno(length.and_then(|length| {
                        memory.write_u32(Pointer::from(written), length)
                    })));
                }
                let Some(socket) = state.descriptors.get(fd) else {
                    let mut memory = GuestMemory::Unshared(memory);
                    return original::fd_write(
                        &mut state.wasi,
                        &mut memory,
                        fd,
                        data,
                        count,
                        written,
                    )
                    .await;
                };
                let mut memory = Memory::new(memory);
                let length = io::send(socket, &memory, Pointer::from(data), count).await;
                Ok(errno(length.and_then(|length| {
                    memory.write_u32(Pointer::from(written), length)
                })))
            })
        },
    )?;
    Ok(())
}

fn add_descriptors(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(MODULE, "fd_close", |mut caller, (fd,): (i32,)| {
        Box::new(async move {
            let (memory, state) = split(&mut caller)?;
            if state.descriptors.close(fd) {
                return Ok(errno(Ok(())));
            }
            original::fd_close(&mut state.wasi, &mut GuestMemory::Unshared(memory), fd).await
        })
    })?;
    linker.func_wrap_async(
        MODULE,
        "fd_fdstat_get",
        |mut caller, (fd, out): (i32, i32)| {
            Box::new(async move {
                let (memory, state) = split(&mut caller)?;
                if let Some(entry) = state.descriptors.entry_mut(fd) {
                    let stat = entry.fdstat();
                    return Ok(errno(Memory::new(memory).write(Pointer::from(out), &stat)));
                }
                let mut memory = GuestMemory::Unshared(memory);
                original::fd_fdstat_get(&mut state.wasi, &mut memory, fd, out).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_filestat_get",
        |mut caller, (fd, out): (i32, i32)| {
            Box::new(async move {
                let (memory, state) = split(&mut caller)?;
                if state.descriptors.get(fd).is_some() {
                    return Ok(errno(
                        Memory::new(memory).write(Pointer::from(out), &descriptors::FILESTAT),
                    ));
                }
                if let Some(stat) = files::stat(&mut state.descriptors, fd).await {
                    return Ok(errno(stat.and_then(|stat| {
                        Memory::new(memory).write(Pointer::from(out), &stat)
                    })));
                }
                let mut memory = GuestMemory::Unshared(memory);
                original::fd_filestat_get(&mut state.wasi, &mut memory, fd, out).await
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_fdstat_set_flags",
        |mut caller: Caller<'_, CoreState>, fd: i32, flags: i32| {
            let (memory, state) = split(&mut caller)?;
            if let Some(entry) = state.descriptors.entry_mut(fd) {
                entry.set_flags(flags);
                return Ok(errno(Ok(())));
            }
            let mut memory = GuestMemory::Unshared(memory);
            original::fd_fdstat_set_flags(&mut state.wasi, &mut memory, fd, flags)
        },
    )?;
    Ok(())
}

fn add_sockets(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "sock_accept",
        |mut caller, (fd, flags, out): (i32, i32, i32)| {
            Box::new(async move {
                let (memory, state) = split(&mut caller)?;
                let accepted = state.descriptors.accept(fd, flags).await;
                let mut memory = Memory::new(memory);
                Ok(errno(
                    accepted.and_then(|fd| memory.write_u32(Pointer::from(out), fd)),
                ))
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "sock_recv",
        |mut caller, (fd, data, count, flags, read, told): (i32, i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let (memory, state) = split(&mut caller)?;
                let mut memory = Memory::new(memory);
                let receive = async {
                    let socket = state.descriptors.get(fd).ok_or(Errno::Notsock)?;
                    let how = io::Receive::of_flags(flags);
                    let length =
                        io::receive(socket, &mut memory, Pointer::from(data), count, how).await?;
                    memory.write_u32(Pointer::from(read), length)?;
                    // No flag: a stream's data is never cut off.
                    memory.write(Pointer::from(told), &[0; 2])
                };
                Ok(errno(receive.await))
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "sock_send",
        |mut caller, (fd, data, count, _flags, written): (i32, i32, i32, i32, i32)| {
            Box::new(async move {
                let (memory, state) = split(&mut caller)?;
                let mut memory = Memory::new(memory);
                let send = async {
                    let socket = state.descriptors.get(fd).ok_or(Errno::Notsock)?;
                    let length = io::send(socket, &memory, Pointer::from(data), count).await?;
                    memory.write_u32(Pointer::from(written), length)
                };
                Ok(errno(send.await))
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "sock_shutdown",
        |mut caller: Caller<'_, CoreState>, fd: i32, how: i32| {
            let socket = caller.data_mut().descriptors.get(fd).ok_or(Errno::Notsock);
            errno(socket.and_then(|socket| socket.shutdown(how)))
        },
    )?;
    Ok(())
}

/// The guest's memory and the instance's state, with the bound on what the originals may copy set as they expect it.
fn split<'a>(
    caller: &'a mut Caller<'_, CoreState>,
) -> wasmtime::Result<(&'a mut [u8], &'a mut CoreState)> {
    let fuel = caller.as_context_mut().hostcall_fuel();
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return Err(wasmtime::Error::msg(
            "the module does not export its memory",
        ));
    };
    let (memory, state) = memory.data_and_store_mut(caller);
    state.wasi.set_hostcall_fuel(fuel);
    Ok((memory, state))
}

fn errno(answer: Answer) -> i32 {
    i32::from(u16::from(answer.err().unwrap_or(Errno::Success)))
}
