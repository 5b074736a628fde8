//! Guests' threads: instances of one module that have their memories, files and sockets in common.
//!
//! A module asks for them by `wasi::thread-spawn`. Each is a task on the guests' threads as every program is: it takes turns, and its time is
//! charged to its process. The first that fails or exits ends them all. How they wait for each other is in
//! [`crate::module::atomics`].

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use wasmtime::{
    Caller, Func, Instance, InstancePre, MemoryType, Module, Ref, ResourceLimiter, Store, Trap,
};

use super::{Environment, Exit, Failure};
use crate::budget::{Refusals, Share};
use crate::ipc::{IpcError, Waitable};
use crate::kept::yield_in_turns;
use crate::module::{atomics, sharing};
use crate::runtime::Shared;
use crate::state::{Common, CoreState};

/// The size of WebAssembly's pages.
const PAGE: usize = 64 << 10;

/// The highest number that a thread can have.
const HIGHEST_ID: i32 = 0x1fff_ffff;

/// The threads of a process, the first one included.
pub(crate) struct Threads {
    runtime: Arc<Shared>,
    environment: Arc<Environment>,
    common: Common,
    memories: Vec<sharing::Memory>,
    linked: InstancePre<CoreState>,
    /// What the memories take. Locked while one grows.
    share: Mutex<Share>,
    last_id: AtomicI32,
    running: AtomicUsize,
    told_of_limit: AtomicBool,
    /// None when the process is at its end.
    tasks: Mutex<Option<JoinSet<()>>>,
    /// What one of them brought upon all.
    over: watch::Sender<Option<Exit>>,
}

/// Counts a thread as long as it lives.
struct Running(Arc<Threads>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Threads {
    /// Makes the memories of a process, and links its module with them.
    pub(super) fn new(
        runtime: &Arc<Shared>,
        module: &Module,
        environment: &Arc<Environment>,
    ) -> Result<Arc<Self>, Failure> {
        let mut share = runtime.share(environment);
        let (refusals, purse) = (share.refusals(), share.purse());
        let mut link = || {
            let ipc = &environment.member.namespaces.ipc;
            let engine = &runtime.engine.wasmtime;
            let charge = |kind: &MemoryType| {
                let bytes = usize::try_from(kind.minimum()).unwrap_or(usize::MAX);
                if share.memory_growing(0, bytes.saturating_mul(PAGE), None)? {
                    Ok(())
                } else {
                    Err(wasmtime::Error::msg("no memory for its shared memory"))
                }
            };
            let memories = sharing::memories(module, engine, (ipc, &purse), charge)?;
            let common = Common::new(environment, Arc::clone(&purse));
            let state = CoreState::new(environment, common.clone(), share.sibling());
            let mut store = Store::new(engine, state);
            let linked = sharing::link(runtime.core_linker(), &mut store, module, &memories)?;
            Ok((memories, common, linked))
        };
        let made: wasmtime::Result<_> = link();
        let (memories, common, linked) = made.map_err(|error| Failure::of(&error, &refusals))?;
        Ok(Arc::new(Self {
            runtime: Arc::clone(runtime),
            environment: Arc::clone(environment),
            common,
            memories,
            linked,
            share: Mutex::new(share),
            last_id: AtomicI32::new(0),
            running: AtomicUsize::new(1),
            told_of_limit: AtomicBool::new(false),
            tasks: Mutex::new(Some(JoinSet::new())),
            over: watch::Sender::new(None),
        }))
    }

    fn share(&self) -> MutexGuard<'_, Share> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, Option<JoinSet<()>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What explains the failures of all of them.
    pub(super) fn refusals(&self) -> Refusals {
        self.share().refusals()
    }

    /// An instance for a thread, ready to begin.
    pub(super) async fn instance(
        self: &Arc<Self>,
    ) -> wasmtime::Result<(Store<CoreState>, Instance)> {
        let share = self.share().sibling();
        let mut state = CoreState::new(&self.environment, self.common.clone(), share);
        state.threads = Some(Arc::clone(self));
        let mut store = Store::new(&self.runtime.engine.wasmtime, state);
        store.limiter(|state| &mut state.share);
        yield_in_turns(&mut store);
        let instance = self.linked.instantiate_async(&mut store).await?;
        provide(&mut store, &instance)?;
        if let Ok(start) = instance.get_typed_func::<(), ()>(&mut store, sharing::START) {
            start.call_async(&mut store, ()).await?;
        }
        Ok((store, instance))
    }

    /// Starts another one, and gives its number; or -1 if it can't be started.
    pub(crate) async fn spawn(self: Arc<Self>, argument: i32) -> i32 {
        match self.try_spawn(argument).await {
            Ok(id) => id,
            Err(reason) => {
                // Who has met the limit may meet it a thousand times.
                if !self.told_of_limit.swap(true, Ordering::Relaxed) {
                    let message = format!("a thread could not be started: {reason}");
                    self.environment.report(&message);
                }
                -1
            }
        }
    }

    async fn try_spawn(self: &Arc<Self>, argument: i32) -> Result<i32, String> {
        let most = self.environment.max_threads as usize;
        let running = self
            .count(most)
            .ok_or_else(|| format!("the process may have {most} at once"))?;
        let next = |last: i32| last.checked_add(1).filter(|id| *id <= HIGHEST_ID);
        let last = self
            .last_id
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let id = last.map_err(|_| "all numbers are used up".to_owned())? + 1;
        let instance = self.instance().await;
        let (mut store, instance) = instance.map_err(|error| format!("{error:#}"))?;
        let this = Arc::clone(self);
        let thread = async move {
            let result = async {
                let start =
                    instance.get_typed_func::<(i32, i32), ()>(&mut store, sharing::THREAD_START)?;
                start.call_async(&mut store, (id, argument)).await
            };
            if let Err(error) = result.await {
                this.end_with(Failure::of(&error, &this.refusals()).into());
            }
            drop(running);
        };
        let accounts = &self.environment.accounts;
        let thread = self.runtime.processors.drive(thread, &accounts.cpu);
        let mut tasks = self.tasks();
        let tasks = tasks.as_mut().ok_or("the process is at its end")?;
        // Those that are done are forgotten, so that they don't become ever more.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(thread, &self.runtime.threads);
        Ok(id)
    }

    fn count(self: &Arc<Self>, most: usize) -> Option<Running> {
        let more = |running: usize| running.checked_add(1).filter(|running| *running <= most);
        let counted = self
            .running
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.ok().map(|_| Running(Arc::clone(self)))
    }

    /// Ends them all. The first word counts.
    fn end_with(&self, exit: Exit) {
        self.over.send_if_modified(|over| {
            let is_first = over.is_none();
            if is_first {
                *over = Some(exit);
            }
            is_first
        });
    }

    /// Waits until one of them has ended them all.
    pub(super) async fn over(&self) -> Exit {
        let mut over = self.over.subscribe();
        // The sender is ours, so it can't be gone.
        let exit = over.wait_for(Option::is_some).await;
        exit.ok()
            .and_then(|exit| exit.clone())
            .unwrap_or(Exit::Killed)
    }

    /// Ends all but the first. When this returns, they are gone.
    pub(super) async fn end(&self) {
        let tasks = self.tasks().take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
    }

    fn memory(&self, number: i32) -> wasmtime::Result<Arc<Waitable>> {
        let memory = usize::try_from(number).ok();
        let memory = memory.and_then(|number| self.memories.get(number)?.waitable());
        memory
            .cloned()
            .ok_or_else(|| wasmtime::Error::msg("no such shared memory"))
    }

    /// `memory.grow`: how many pages there were, or -1.
    fn grow(&self, memory: i32, pages: i32) -> wasmtime::Result<i32> {
        let waitable = self.memory(memory)?;
        let shared = waitable.shared();
        let mut share = self.share();
        let current = shared.data_size();
        let wanted = (pages.cast_unsigned() as usize).saturating_mul(PAGE);
        let desired = current.saturating_add(wanted);
        let most = shared.ty().maximum().unwrap_or_default();
        let most = usize::try_from(most)
            .unwrap_or(usize::MAX)
            .saturating_mul(PAGE);
        if !share.memory_growing(current, desired, Some(most))? {
            return Ok(-1);
        }
        let before = shared.grow(pages.cast_unsigned().into());
        Ok(before
            .ok()
            .and_then(|pages| i32::try_from(pages).ok())
            .unwrap_or(-1))
    }
}

/// Where in a memory an instruction waits or wakes, and in which.
#[derive(Clone, Copy)]
struct Where {
    address: i32,
    offset: i32,
    memory: i32,
}

impl Where {
    fn find(self, caller: &Caller<'_, CoreState>) -> wasmtime::Result<(Arc<Waitable>, u64)> {
        let threads = caller.data().threads.as_ref();
        let threads = threads.ok_or_else(|| wasmtime::Error::msg("no shared memory"))?;
        let at = u64::from(self.address.cast_unsigned()) + u64::from(self.offset.cast_unsigned());
        Ok((threads.memory(self.memory)?, at))
    }
}

/// Waits as the instruction does: 0 if it was woken, 1 if something else than was expected is there, 2 if the time is over.
async fn wait(
    (memory, at): (Arc<Waitable>, u64),
    width: u8,
    expected: u64,
    timeout: i64,
) -> wasmtime::Result<i32> {
    if !at.is_multiple_of(width.into()) {
        return Err(Trap::HeapMisaligned.into());
    }
    let timeout = u64::try_from(timeout).ok().map(Duration::from_nanos);
    match memory.wait(at, width, expected, timeout).await {
        Ok(()) => Ok(0),
        Err(IpcError::WouldBlock) => Ok(1),
        Err(IpcError::TimedOut) => Ok(2),
        Err(IpcError::OutOfBounds) => Err(Trap::MemoryOutOfBounds.into()),
        Err(error) => Err(wasmtime::Error::msg(format!(
            "waiting in a memory: {error}"
        ))),
    }
}

/// Fills an instance's table of functions; see [`atomics`].
fn provide(store: &mut Store<CoreState>, instance: &Instance) -> wasmtime::Result<()> {
    let table = instance.get_table(&mut *store, atomics::TABLE);
    let table = table.ok_or_else(|| wasmtime::Error::msg("no table for the host's functions"))?;
    let wait_32 = Func::wrap_async(
        &mut *store,
        |caller: Caller<'_, CoreState>,
         (address, expected, timeout, offset, memory): (i32, i32, i64, i32, i32)| {
            let at = Where {
                address,
                offset,
                memory,
            }
            .find(&caller);
            Box::new(async move { wait(at?, 4, expected.cast_unsigned().into(), timeout).await })
        },
    );
    let wait_64 = Func::wrap_async(
        &mut *store,
        |caller: Caller<'_, CoreState>,
         (address, expected, timeout, offset, memory): (i32, i64, i64, i32, i32)| {
            let at = Where {
                address,
                offset,
                memory,
            }
            .find(&caller);
            Box::new(async move { wait(at?, 8, expected.cast_unsigned(), timeout).await })
        },
    );
    let notify = Func::wrap(
        &mut *store,
        |caller: Caller<'_, CoreState>, address: i32, count: i32, offset: i32, memory: i32| {
            let (memory, at) = Where {
                address,
                offset,
                memory,
            }
            .find(&caller)?;
            if !at.is_multiple_of(4) {
                return Err(wasmtime::Error::from(Trap::HeapMisaligned));
            }
            let woken = memory.notify(at, count.cast_unsigned());
            woken
                .map(u32::cast_signed)
                .map_err(|_| Trap::MemoryOutOfBounds.into())
        },
    );
    let grow = Func::wrap(
        &mut *store,
        |caller: Caller<'_, CoreState>, pages: i32, memory: i32| match &caller.data().threads {
            Some(threads) => threads.grow(memory, pages),
            None => Ok(-1),
        },
    );
    for (index, function) in [
        (atomics::WAIT_32, wait_32),
        (atomics::WAIT_64, wait_64),
        (atomics::NOTIFY, notify),
        (atomics::GROW, grow),
    ] {
        table.set(&mut *store, index.into(), Ref::Func(Some(function)))?;
    }
    Ok(())
}
