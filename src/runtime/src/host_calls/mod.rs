//! `vaquita:ipc` and `vaquita:pod` for components, and [settings](crate::settings).

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

use crate::bindings::vaquita::ipc::types::{self, ErrorCode, OpenFlags};
use crate::bindings::vaquita::{ipc, pod};
use crate::budget::Purse;
use crate::ipc::{Ipc, IpcError, OpenHow, Queue, Segment, Semaphore};
use crate::namespaces::Member;
use crate::state::State;

mod memories;
mod pods;
mod queues;
mod semaphores;
mod settings;

#[expect(unreachable_pub, reason = "the bindings re-export them as `pub`")]
pub use settings::{OpenBucket, OpenStore};

/// Behind `queue`.
#[expect(unreachable_pub, reason = "the bindings re-export it as `pub`")]
pub struct OpenQueue(Arc<Queue>);
/// Behind `semaphore`.
#[expect(unreachable_pub, reason = "the bindings re-export it as `pub`")]
pub struct OpenSemaphore(Arc<Semaphore>);
/// Behind `memory`.
#[expect(unreachable_pub, reason = "the bindings re-export it as `pub`")]
pub struct OpenMemory(Arc<Segment>);

/// What the interfaces' functions work on.
pub(crate) struct View<'a> {
    table: &'a mut ResourceTable,
    member: &'a Arc<Member>,
    /// Who pays for what is made.
    purse: &'a Purse,
}

struct Namespaces;

impl HasData for Namespaces {
    type Data<'a> = View<'a>;
}

pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    fn view(state: &mut State) -> View<'_> {
        View {
            table: &mut state.table,
            member: &state.member,
            purse: &state.purse,
        }
    }
    ipc::types::add_to_linker::<State, Namespaces>(linker, view)?;
    ipc::queues::add_to_linker::<State, Namespaces>(linker, view)?;
    ipc::semaphores::add_to_linker::<State, Namespaces>(linker, view)?;
    ipc::shared_memory::add_to_linker::<State, Namespaces>(linker, view)?;
    pod::process::add_to_linker::<State, Namespaces>(linker, view)?;
    pod::uts::add_to_linker::<State, Namespaces>(linker, view)?;
    pod::lifecycle::add_to_linker::<State, Namespaces>(linker, view)?;
    settings::add_to_linker(linker)
}

impl types::Host for View<'_> {}

impl View<'_> {
    fn ipc(&self) -> &Ipc {
        &self.member.namespaces.ipc
    }

    /// A pollable of its own.
    fn wait_for(&mut self, what: Wait) -> wasmtime::Result<Resource<DynPollable>> {
        let wait = self.table.push(what)?;
        subscribe(self.table, wait)
    }
}

/// What a pollable waits for.
enum Wait {
    Sendable(Arc<Queue>),
    Receivable(Arc<Queue>),
    Acquirable(Arc<Semaphore>),
    Ending(Arc<Member>),
}

#[wasmtime_wasi::async_trait]
impl Pollable for Wait {
    async fn ready(&mut self) {
        match self {
            Self::Sendable(queue) => queue.sendable().await,
            Self::Receivable(queue) => queue.receivable().await,
            Self::Acquirable(semaphore) => semaphore.acquirable().await,
            Self::Ending(member) => member.lifecycle.ended().await,
        }
    }
}

fn code_of(error: IpcError) -> ErrorCode {
    match error {
        IpcError::NoEntry => ErrorCode::NoEntry,
        IpcError::Exist => ErrorCode::Exist,
        IpcError::Invalid => ErrorCode::Invalid,
        IpcError::WouldBlock => ErrorCode::WouldBlock,
        IpcError::TimedOut => ErrorCode::TimedOut,
        IpcError::MessageTooLong => ErrorCode::MessageTooLong,
        IpcError::TooMany => ErrorCode::TooMany,
        IpcError::InsufficientMemory => ErrorCode::InsufficientMemory,
        IpcError::Overflow => ErrorCode::Overflow,
        IpcError::OutOfBounds => ErrorCode::OutOfBounds,
    }
}

/// Puts what was opened behind a handle.
macro_rules! open {
    ($self:ident, $opened:expr, $behind:ident) => {{
        let opened = $opened;
        Ok(match opened {
            Ok(opened) => Ok($self.table.push($behind(opened))?),
            Err(error) => Err(code_of(error)),
        })
    }};
}
use open;

fn how(flags: OpenFlags) -> OpenHow {
    OpenHow {
        create: flags.contains(OpenFlags::CREATE),
        exclusive: flags.contains(OpenFlags::EXCLUSIVE),
    }
}

fn time(nanoseconds: Option<u64>) -> Option<Duration> {
    nanoseconds.map(Duration::from_nanos)
}
