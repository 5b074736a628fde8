//! `vaquita:ipc` for core modules: plain functions on numbers, as `wasm-examples/vaquita-guest/include/vaquita.h` declares them.
//!
//! Each answers an error number of WASI 0.1, 0 for success. A time is in nanoseconds: 0 does not wait, less than 0 waits for as long as
//! it takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use wasmtime::Linker;
use wasmtime_wasi::p1::types::Errno;

use super::memory::{Memory, Pointer};
use super::{Answer, errno, split};
use crate::budget::{Charge, Purse};
use crate::ipc::{Attributes, IpcError, Message, OpenHow, Operation, Queue, Segment, Semaphore};
use crate::state::CoreState;

const MODULE: &str = "vaquita:ipc";

/// The most that is copied at once.
const PIECE: u32 = 64 << 10;

/// The most that an instance has open.
const MOST: usize = 4096;

/// What is kept for each, beside the object itself.
const KEPT: u64 = 128;

/// What a process has open of its pod's, by number, all its threads alike. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Objects(Arc<Mutex<Table>>);

/// See [`Objects`].
#[derive(Default)]
struct Table {
    open: BTreeMap<u32, (Object, Charge)>,
    last: u32,
}

#[derive(Clone)]
enum Object {
    Queue(Arc<Queue>),
    Semaphore(Arc<Semaphore>),
    Memory(Arc<Segment>),
}

impl Objects {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, object: Object, purse: &Purse) -> Result<u32, Errno> {
        let charge = purse.charge(KEPT).ok_or(Errno::Nomem)?;
        let mut table = self.lock();
        if table.open.len() >= MOST {
            return Err(Errno::Mfile);
        }
        let number = table.last.checked_add(1).ok_or(Errno::Mfile)?;
        table.last = number;
        table.open.insert(number, (object, charge));
        Ok(number)
    }

    fn get(&self, number: i32) -> Option<Object> {
        let table = self.lock();
        let (object, _) = table.open.get(&number.cast_unsigned())?;
        Some(object.clone())
    }

    fn queue(&self, number: i32) -> Result<Arc<Queue>, Errno> {
        match self.get(number) {
            Some(Object::Queue(queue)) => Ok(queue),
            _ => Err(Errno::Badf),
        }
    }

    fn semaphore(&self, number: i32) -> Result<Arc<Semaphore>, Errno> {
        match self.get(number) {
            Some(Object::Semaphore(semaphore)) => Ok(semaphore),
            _ => Err(Errno::Badf),
        }
    }

    fn memory(&self, number: i32) -> Result<Arc<Segment>, Errno> {
        match self.get(number) {
            Some(Object::Memory(memory)) => Ok(memory),
            _ => Err(Errno::Badf),
        }
    }

    fn close(&self, number: i32) -> Result<(), Errno> {
        let closed = self.lock().open.remove(&number.cast_unsigned());
        closed.map(drop).ok_or(Errno::Badf)
    }
}

fn errno_of(error: IpcError) -> Errno {
    match error {
        IpcError::NoEntry => Errno::Noent,
        IpcError::Exist => Errno::Exist,
        IpcError::Invalid => Errno::Inval,
        IpcError::WouldBlock => Errno::Again,
        IpcError::TimedOut => Errno::Timedout,
        IpcError::MessageTooLong => Errno::Msgsize,
        IpcError::TooMany => Errno::Nfile,
        IpcError::InsufficientMemory => Errno::Nomem,
        IpcError::Overflow => Errno::Overflow,
        IpcError::OutOfBounds => Errno::Fault,
    }
}

/// How long to wait: not at all, for so long, or for as long as it takes.
pub(super) enum Patience {
    None,
    Until(Option<Duration>),
}

pub(super) fn patience(nanoseconds: i64) -> Patience {
    match u64::try_from(nanoseconds) {
        Ok(0) => Patience::None,
        Ok(time) => Patience::Until(Some(Duration::from_nanos(time))),
        Err(_) => Patience::Until(None),
    }
}

/// Adds a function: its module, its name, its parameters, and what it answers given the instance's state and memory.
macro_rules! provide {
    ($linker:ident, $module:expr, $name:literal, ($($param:ident: $type:ty),*), |$state:ident, $memory:ident| $answer:expr) => {
        $linker.func_wrap_async($module, $name, |mut caller, ($($param,)*): ($($type,)*)| {
            Box::new(async move {
                let (memory, state) = split(&mut caller)?;
                #[allow(unused_mut, reason = "not every function writes")]
                let mut $memory = memory;
                let $state = state;
                let answer: Answer = async { $answer }.await;
                Ok(errno(answer))
            })
        })?;
    };
}
pub(super) use provide;

pub(super) fn text(memory: &Memory<'_>, at: i32, length: i32) -> Result<String, Errno> {
    if !(0..=4096).contains(&length) {
        return Err(Errno::Nametoolong);
    }
    let bytes = memory.slice(Pointer::from(at), length.cast_unsigned())?;
    String::from_utf8(bytes.into_owned()).map_err(|_| Errno::Ilseq)
}

fn how(flags: i32) -> OpenHow {
    OpenHow {
        create: flags & 1 != 0,
        exclusive: flags & 2 != 0,
    }
}

fn width(width: i32) -> Result<u8, Errno> {
    u8::try_from(width).map_err(|_| Errno::Inval)
}

pub(super) fn add_to_linker(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    add_queues(linker)?;
    add_semaphores(linker)?;
    add_memories(linker)?;
    add_atomics(linker)?;
    provide!(linker, MODULE, "close", (number: i32), |state, _memory| {
        state.objects.close(number)
    });
    Ok(())
}

fn add_queues(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    provide!(
        linker,
        MODULE,
        "queue_open",
        (name: i32, length: i32, flags: i32, messages: i32, size: i32, out: i32),
        |state, memory| {
            let name = text(&memory, name, length)?;
            let attributes = match (messages, size) {
                (0, 0) => Attributes::default(),
                (messages, size) => Attributes {
                    max_messages: messages.cast_unsigned(),
                    max_message_size: size.cast_unsigned(),
                },
            };
            let ipc = &state.member.namespaces.ipc;
            let purse = state.share.purse();
            let queue = ipc.queue(&name, how(flags), attributes, &purse).map_err(errno_of)?;
            let number = state.objects.add(Object::Queue(queue), &purse)?;
            memory.write_u32(Pointer::from(out), number)
        }
    );
    provide!(linker, MODULE, "queue_unlink", (name: i32, length: i32), |state, memory| {
        let name = text(&memory, name, length)?;
        let unlinked = state.member.namespaces.ipc.queues().unlink(&name);
        unlinked.map_err(errno_of)
    });
    provide!(linker, MODULE, "queue_status", (number: i32, out: i32), |state, memory| {
        let queue = state.objects.queue(number)?;
        let Attributes { max_messages, max_message_size } = queue.attributes();
        for (index, value) in (0..).zip([max_messages, max_message_size, queue.length()]) {
            memory.write_u32(Pointer::from(out).element(index, 4)?, value)?;
        }
        Ok(())
    });
    provide!(
        linker,
        MODULE,
        "queue_send",
        (number: i32, data: i32, length: i32, priority: i32, time: i64),
        |state, memory| {
            let queue = state.objects.queue(number)?;
            if length.cast_unsigned() > queue.attributes().max_message_size {
                return Err(Errno::Msgsize);
            }
            let data = memory.slice(Pointer::from(data), length.cast_unsigned())?;
            let message = Message {
                data: Bytes::copy_from_slice(&data),
                priority: priority.cast_unsigned(),
            };
            match patience(time) {
                Patience::None => queue.try_send(&message),
                Patience::Until(time) => queue.send(message, time).await,
            }
            .map_err(errno_of)
        }
    );
    provide!(
        linker,
        MODULE,
        "queue_receive",
        (number: i32, into: i32, room: i32, time: i64, length: i32, priority: i32),
        |state, memory| {
            let queue = state.objects.queue(number)?;
            // As POSIX has it: a message that was taken must not be lost for want of room.
            if room.cast_unsigned() < queue.attributes().max_message_size {
                return Err(Errno::Msgsize);
            }
            memory.check(Pointer::from(into), room.cast_unsigned())?;
            memory.check(Pointer::from(length), 4)?;
            memory.check(Pointer::from(priority), 4)?;
            let received = match patience(time) {
                Patience::None => queue.try_receive(),
                Patience::Until(time) => queue.receive(time).await,
            };
            let message = received.map_err(errno_of)?;
            memory.write(Pointer::from(into), &message.data)?;
            let size = u32::try_from(message.data.len()).map_err(|_| Errno::Overflow)?;
            memory.write_u32(Pointer::from(length), size)?;
            memory.write_u32(Pointer::from(priority), message.priority)
        }
    );
    Ok(())
}

fn add_semaphores(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    provide!(
        linker,
        MODULE,
        "semaphore_open",
        (name: i32, length: i32, flags: i32, value: i32, out: i32),
        |state, memory| {
            let name = text(&memory, name, length)?;
            let ipc = &state.member.namespaces.ipc;
            let opened = ipc.semaphore(&name, how(flags), value.cast_unsigned());
            let opened = Object::Semaphore(opened.map_err(errno_of)?);
            let number = state.objects.add(opened, &state.share.purse())?;
            memory.write_u32(Pointer::from(out), number)
        }
    );
    provide!(linker, MODULE, "semaphore_unlink", (name: i32, length: i32), |state, memory| {
        let name = text(&memory, name, length)?;
        let unlinked = state.member.namespaces.ipc.semaphores().unlink(&name);
        unlinked.map_err(errno_of)
    });
    provide!(linker, MODULE, "semaphore_value", (number: i32, out: i32), |state, memory| {
        let value = state.objects.semaphore(number)?.value();
        memory.write_u32(Pointer::from(out), value)
    });
    provide!(linker, MODULE, "semaphore_acquire", (number: i32, time: i64), |state, _memory| {
        let semaphore = state.objects.semaphore(number)?;
        match patience(time) {
            Patience::None => semaphore.try_acquire(),
            Patience::Until(time) => semaphore.acquire(time).await,
        }
        .map_err(errno_of)
    });
    provide!(linker, MODULE, "semaphore_release", (number: i32, count: i32), |state, _memory| {
        let semaphore = state.objects.semaphore(number)?;
        semaphore.release(count.cast_unsigned()).map_err(errno_of)
    });
    Ok(())
}

fn add_memories(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    provide!(
        linker,
        MODULE,
        "memory_open",
        (name: i32, length: i32, flags: i32, size: i64, out: i32),
        |state, memory| {
            let name = text(&memory, name, length)?;
            let ipc = &state.member.namespaces.ipc;
            let purse = state.share.purse();
            let opened = ipc.memory(&name, how(flags), size.cast_unsigned(), &purse);
            let opened = Object::Memory(opened.map_err(errno_of)?);
            memory.write_u32(Pointer::from(out), state.objects.add(opened, &purse)?)
        }
    );
    provide!(linker, MODULE, "memory_unlink", (name: i32, length: i32), |state, memory| {
        let name = text(&memory, name, length)?;
        let unlinked = state.member.namespaces.ipc.memories().unlink(&name);
        unlinked.map_err(errno_of)
    });
    provide!(linker, MODULE, "memory_size", (number: i32, out: i32), |state, memory| {
        let size = state.objects.memory(number)?.size();
        memory.write(Pointer::from(out), &size.to_le_bytes())
    });
    provide!(
        linker,
        MODULE,
        "memory_read",
        (number: i32, offset: i64, into: i32, length: i32),
        |state, memory| {
            let shared = state.objects.memory(number)?;
            let read = shared.read(offset.cast_unsigned(), length.cast_unsigned().into());
            memory.write(Pointer::from(into), &read.map_err(errno_of)?)
        }
    );
    provide!(
        linker,
        MODULE,
        "memory_write",
        (number: i32, offset: i64, from: i32, length: i32),
        |state, memory| {
            let shared = state.objects.memory(number)?;
            let (from, length) = (Pointer::from(from), length.cast_unsigned());
            memory.check(from, length)?;
            for at in (0..length).step_by(PIECE as usize) {
                let data = memory.slice(from.element(at, 1)?, PIECE.min(length - at))?;
                let to = offset.cast_unsigned().checked_add(at.into()).ok_or(Errno::Fault)?;
                shared.write(to, &data).map_err(errno_of)?;
            }
            Ok(())
        }
    );
    Ok(())
}

fn add_atomics(linker: &mut Linker<CoreState>) -> wasmtime::Result<()> {
    provide!(
        linker,
        MODULE,
        "memory_load",
        (number: i32, offset: i64, size: i32, out: i32),
        |state, memory| {
            let shared = state.objects.memory(number)?;
            let value = shared.load(offset.cast_unsigned(), width(size)?);
            memory.write(Pointer::from(out), &value.map_err(errno_of)?.to_le_bytes())
        }
    );
    provide!(
        linker,
        MODULE,
        "memory_update",
        (number: i32, offset: i64, size: i32, operation: i32, operand: i64, out: i32),
        |state, memory| {
            let shared = state.objects.memory(number)?;
            let operation = match operation {
                0 => Operation::Add,
                1 => Operation::Sub,
                2 => Operation::And,
                3 => Operation::Or,
                4 => Operation::Xor,
                5 => Operation::Exchange,
                _ => return Err(Errno::Inval),
            };
            let (offset, operand) = (offset.cast_unsigned(), operand.cast_unsigned());
            let old = shared.update(offset, width(size)?, operation, operand);
            memory.write(Pointer::from(out), &old.map_err(errno_of)?.to_le_bytes())
        }
    );
    provide!(
        linker,
        MODULE,
        "memory_compare_exchange",
        (number: i32, offset: i64, size: i32, expected: i64, new: i64, out: i32),
        |state, memory| {
            let shared = state.objects.memory(number)?;
            let (expected, new) = (expected.cast_unsigned(), new.cast_unsigned());
            let old = shared.compare_exchange(offset.cast_unsigned(), width(size)?, expected, new);
            memory.write(Pointer::from(out), &old.map_err(errno_of)?.to_le_bytes())
        }
    );
    provide!(
        linker,
        MODULE,
        "memory_wait",
        (number: i32, offset: i64, size: i32, expected: i64, time: i64),
        |state, _memory| {
            let shared = state.objects.memory(number)?;
            let time = match patience(time) {
                Patience::None => Some(Duration::ZERO),
                Patience::Until(time) => time,
            };
            let (offset, expected) = (offset.cast_unsigned(), expected.cast_unsigned());
            let woken = shared.wait(offset, width(size)?, expected, time).await;
            woken.map_err(errno_of)
        }
    );
    provide!(
        linker,
        MODULE,
        "memory_notify",
        (number: i32, offset: i64, count: i32, out: i32),
        |state, memory| {
            let shared = state.objects.memory(number)?;
            let woken = shared.notify(offset.cast_unsigned(), count.cast_unsigned());
            memory.write_u32(Pointer::from(out), woken.map_err(errno_of)?)
        }
    );
    Ok(())
}
