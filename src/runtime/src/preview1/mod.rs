//! Files and listening sockets for core modules.
//!
//! WASI 0.1 can't make sockets, but it can use them: a listener that its host has put among its file descriptors, and
//! what is accepted from it. Files it has, and ours are not `wasmtime-wasi`'s. So the functions on descriptors and paths are
//! replaced: they look among the instance's own [`Descriptors`] first, and leave standard input, output and error to the originals.

use wasmtime::{AsContextMut, Caller, Extern, Linker};
use wasmtime_wasi::p1::types::Errno;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as original, WasiSnapshotPreview1};

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
                let (mut memory, state) = split(&mut caller)?;
                let request = poll::Request {
                    subscriptions: Pointer::from(subscriptions),
                    events: Pointer::from(events),
                    count: count.cast_unsigned(),
                    written: Pointer::from(written),
                };
                if poll::concerns_sockets(&state.descriptors, &memory, &request) {
                    return Ok(errno(poll::poll(state, memory, &request).await));
                }
                let mut memory = memory.original();
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
                let (mut memory, state) = split(&mut caller)?;
                if state.descriptors.lock().is_file(fd.cast_unsigned()) {
                    let into = files::Buffers { list: data, count };
                    let length = files::read(&state.descriptors, &mut memory, fd, into, None).await;
                    return Ok(errno(
                        length.and_then(|length| memory.write_u32(Pointer::from(read), length)),
                    ));
                }
                if !state.descriptors.lock().contains(fd.cast_unsigned()) {
                    let mut memory = memory.original();
                    return original::fd_read(&mut state.wasi, &mut memory, fd, data, count, read)
                        .await;
                }
                let into = (Pointer::from(data), count);
                let received =
                    io::receive(&state.descriptors, fd, &mut memory, into, io::Receive::Take);
                let length = received.await;
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
                let (mut memory, state) = split(&mut caller)?;
                if state.descriptors.lock().is_file(fd.cast_unsigned()) {
                    let from = files::Buffers { list: data, count };
                    let length = files::write(&state.descriptors, &memory, fd, from, None).await;
                    return Ok(errno(length.and_then(|length| {
                        memory.write_u32(Pointer::from(written), length)
                    })));
                }
                if !state.descriptors.lock().contains(fd.cast_unsigned()) {
                    let mut memory = memory.original();
                    return original::fd_write(
                        &mut state.wasi,
                        &mut memory,
                        fd,
                        data,
                        count,
                        written,
                    )
                    .await;
                }
                let from = (Pointer::from(data), count);
                let length = io::send(&state.descriptors, fd, &memory, from).await;
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
            let (mut memory, state) = split(&mut caller)?;
            let closed = state.descriptors.lock().close(fd);
            if closed {
                return Ok(errno(Ok(())));
            }
            original::fd_close(&mut state.wasi, &mut memory.original(), fd).await
        })
    })?;
    linker.func_wrap_async(
        MODULE,
        "fd_fdstat_get",
        |mut caller, (fd, out): (i32, i32)| {
            Box::new(async move {
                let (mut memory, state) = split(&mut caller)?;
                let stat = state
                    .descriptors
                    .lock()
                    .entry_mut(fd)
                    .map(descriptors::Entry::fdstat);
                if let Some(stat) = stat {
                    return Ok(errno(memory.write(Pointer::from(out), &stat)));
                }
                let mut memory = memory.original();
                original::fd_fdstat_get(&mut state.wasi, &mut memory, fd, out).await
            })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_filestat_get",
        |mut caller, (fd, out): (i32, i32)| {
            Box::new(async move {
                let (mut memory, state) = split(&mut caller)?;
                let is_socket = state.descriptors.lock().get(fd).is_some();
                if is_socket {
                    return Ok(errno(
                        memory.write(Pointer::from(out), &descriptors::FILESTAT),
                    ));
                }
                if let Some(stat) = files::stat(&state.descriptors, fd).await {
                    return Ok(errno(
                        stat.and_then(|stat| memory.write(Pointer::from(out), &stat)),
                    ));
                }
                let mut memory = memory.original();
                original::fd_filestat_get(&mut state.wasi, &mut memory, fd, out).await
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_fdstat_set_flags",
        |mut caller: Caller<'_, CoreState>, fd: i32, flags: i32| {
            let (mut memory, state) = split(&mut caller)?;
            if let Some(entry) = state.descriptors.lock().entry_mut(fd) {
                return Ok(errno(entry.set_flags(flags)));
            }
            let mut memory = memory.original();
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
                let (mut memory, state) = split(&mut caller)?;
                let accepted = state.descriptors.accept(fd, flags).await;
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
                let (mut memory, state) = split(&mut caller)?;
                let receive = async {
                    let how = io::Receive::of_flags(flags);
                    let into = (Pointer::from(data), count);
                    let length =
                        io::receive(&state.descriptors, fd, &mut memory, into, how).await?;
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
                let (mut memory, state) = split(&mut caller)?;
                let send = async {
                    let from = (Pointer::from(data), count);
                    let length = io::send(&state.descriptors, fd, &memory, from).await?;
                    memory.write_u32(Pointer::from(written), length)
                };
                Ok(errno(send.await))
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "sock_shutdown",
        |caller: Caller<'_, CoreState>, fd: i32, how: i32| {
            let mut table = caller.data().descriptors.lock();
            let socket = table.get(fd).ok_or(Errno::Notsock);
            errno(socket.and_then(|socket| socket.shutdown(how)))
        },
    )?;
    Ok(())
}

/// The guest's memory and the instance's state, with the bound on what the originals may copy set as they expect it.
fn split<'a>(
    caller: &'a mut Caller<'_, CoreState>,
) -> wasmtime::Result<(Memory<'a>, &'a mut CoreState)> {
    let fuel = caller.as_context_mut().hostcall_fuel();
    let (memory, state) = match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => {
            let (memory, state) = memory.data_and_store_mut(caller);
            (Memory::Own(memory), state)
        }
        Some(Extern::SharedMemory(memory)) => (Memory::Shared(memory), caller.data_mut()),
        _ => {
            return Err(wasmtime::Error::msg(
                "the module does not export its memory",
            ));
        }
    };
    state.wasi.set_hostcall_fuel(fuel);
    Ok((memory, state))
}

fn errno(answer: Answer) -> i32 {
    i32::from(u16::from(answer.err().unwrap_or(Errno::Success)))
}
