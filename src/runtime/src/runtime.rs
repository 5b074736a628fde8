//! The root object: the engine, the threads, and the modules that are loaded.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::budget::Share;
use crate::cache::Cache;
use crate::config::Config;
use crate::engine::{Engine, Purpose};
use crate::http::Tls;
use crate::linker;
use crate::module::{self, Digest, LoadError, Loader, Module, Toolchain};
use crate::pod::{Pod, PodConfig};
use crate::process::Environment;
use crate::state::CoreState;
use vaquita_guest_cpu::{Processors, Ticker};

/// Guests share their threads with their sockets' and timers' events. Looking for these once in so many turns, of a
/// time slice each at the most, keeps them prompt while every thread computes.
const TURNS_BETWEEN_EVENTS: u32 = 5;

/// Why a runtime could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The engine refused its settings, or there is no address space for even the smallest pool of instances.
    #[error("starting the engine")]
    Engine(#[source] wasmtime::Error),
    /// The standard interfaces could not be set up.
    #[error("setting up what guests can import")]
    Link(#[source] wasmtime::Error),
    /// The cache directory can't be used.
    #[error("opening the cache of compiled code")]
    Cache(#[source] io::Error),
    /// A thread could not be started.
    #[error("starting threads for guests")]
    Threads(#[source] io::Error),
}

/// Runs pods. Cheap to clone; when the last clone is dropped, all that it runs is killed.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
    _owner: Arc<Owner>,
}

/// What pods and processes use of their runtime. They may outlive it; then they are killed.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) processors: Processors,
    pub(crate) tls: Arc<Tls>,
    pub(crate) threads: tokio::runtime::Handle,
    pub(crate) ended: CancellationToken,
    loader: Loader,
    loaded: Mutex<HashMap<Key, Slot>>,
}

/// What makes a module: its bytes, and the function that it starts with, if that is named.
type Key = (Digest, Option<String>);

/// A module that is loaded or being loaded; locked while it is, so that nobody else does the same.
type Slot = Arc<tokio::sync::Mutex<Weak<module::Inner>>>;

/// What ends with the last handle.
struct Owner {
    ended: CancellationToken,
    threads: Option<tokio::runtime::Runtime>,
    _ticker: Ticker,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.ended.cancel();
        if let Some(threads) = self.threads.take() {
            // It must not wait: this may be an asynchronous task of the embedder.
            threads.shutdown_background();
        }
    }
}

impl Runtime {
    /// Starts threads and reserves address space as `config` says.
    pub fn new(config: Config) -> Result<Self, RuntimeError> {
        let engine = Engine::new(&config, Purpose::Sync).map_err(RuntimeError::Engine)?;
        let cache = Cache::of(&config, &engine.wasmtime).map_err(RuntimeError::Cache)?;
        let components = linker::for_components(&engine.wasmtime).map_err(RuntimeError::Link)?;
        let modules = linker::for_modules(&engine.wasmtime).map_err(RuntimeError::Link)?;
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.threads.max(1))
            .thread_name("vaquita-guest")
            .event_interval(TURNS_BETWEEN_EVENTS)
            .enable_all()
            .build()
            .map_err(RuntimeError::Threads)?;
        // The engine for asynchronous components, once there is one.
        let later = Arc::new(OnceLock::new());
        let ticker = Ticker::start(config.time_slice, {
            let (engine, later) = (engine.wasmtime.weak(), Arc::clone(&later));
            move || {
                for engine in std::iter::once(&engine).chain(later.get()) {
                    if let Some(engine) = engine.upgrade() {
                        engine.increment_epoch();
                    }
                }
            }
        })
        .map_err(RuntimeError::Threads)?;
        let ended = CancellationToken::new();
        let shared = Shared {
            tls: Arc::new(Tls::new(config.tls.clone())),
            processors: Processors::new(ticker.clock(), config.threads, config.time_slice),
            threads: threads.handle().clone(),
            ended: ended.clone(),
            loader: Loader {
                modules,
                sync: Toolchain {
                    engine: engine.wasmtime.clone(),
                    components,
                    cache,
                    is_async: false,
                },
                later,
                asynchronous: OnceLock::new(),
                max_size: config.max_module_size,
                config,
            },
            engine,
            loaded: Mutex::default(),
        };
        let owner = Owner {
            ended,
            threads: Some(threads),
            _ticker: ticker,
        };
        Ok(Self {
            shared: Arc::new(shared),
            _owner: Arc::new(owner),
        })
    }

    /// Makes a module of its bytes: checks, compiles and links it. Bytes that were loaded before and are still in use
    /// give the same module, without any work.
    ///
    /// Compiling takes about half a second for each megabyte; it is done on other threads.
    pub async fn load(&self, wasm: Bytes) -> Result<Module, LoadError> {
        self.load_for(wasm, None).await
    }

    /// As [`load`](Self::load), with the function that the program starts with: an export of a core module that takes nothing and
    /// returns nothing or its exit code, after `_initialize` if there is that; or one of a component (`run`, or
    /// `a:b/c@1.0.0#run` for that of an interface) that takes nothing and returns nothing or a `result`. `_start` is what
    /// `load` does.
    pub async fn load_entry(&self, wasm: Bytes, entry: &str) -> Result<Module, LoadError> {
        self.load_for(wasm, Some(entry.to_owned())).await
    }

    async fn load_for(&self, wasm: Bytes, entry: Option<String>) -> Result<Module, LoadError> {
        self.shared.loader.check_size(&wasm)?;
        let shared = Arc::clone(&self.shared);
        let task = self
            .shared
            .threads
            .spawn(async move { shared.load(wasm, entry).await });
        task.await.unwrap_or(Err(LoadError::ShuttingDown))
    }

    /// Makes an empty pod.
    pub fn pod(&self, config: PodConfig) -> Pod {
        Pod::new(Arc::clone(&self.shared), config)
    }

    /// How many linear memories can exist at once: [`Config::max_instances`], or fewer if the machine's
    /// address space does not suffice.
    pub fn max_instances(&self) -> u32 {
        self.shared.engine.instances
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("engine", &self.shared.engine)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// A new instance's share of its process's memory.
    pub(crate) fn share(&self, environment: &Environment) -> Share {
        Share::new(
            Arc::clone(&environment.accounts.memory),
            self.engine.ceilings,
        )
    }

    /// What core modules are linked with.
    pub(crate) fn core_linker(&self) -> &wasmtime::Linker<CoreState> {
        &self.loader.modules
    }

    async fn load(
        self: Arc<Self>,
        wasm: Bytes,
        entry: Option<String>,
    ) -> Result<Module, LoadError> {
        let (digest, wasm) = blocking(move || (Digest::of(&wasm), wasm)).await?;
        let slot = self.slot((digest, entry.clone()));
        let mut slot = slot.lock().await;
        if let Some(inner) = slot.upgrade() {
            return Ok(Module { inner });
        }
        let inner = blocking(move || self.loader.load(digest, &wasm, entry.as_deref())).await??;
        let inner = Arc::new(inner);
        *slot = Arc::downgrade(&inner);
        Ok(Module { inner })
    }

    fn slot(&self, key: Key) -> Slot {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if !loaded.contains_key(&key) {
            // Modules come and go; what nobody uses is forgotten here, where the map would grow.
            loaded.retain(|_, slot| {
                Arc::strong_count(slot) > 1
                    || slot
                        .try_lock()
                        .is_ok_and(|module| module.strong_count() > 0)
            });
        }
        Arc::clone(loaded.entry(key).or_default())
    }
}

/// `work` on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LoadError> {
    let failed = match tokio::task::spawn_blocking(work).await {
        Ok(done) => return Ok(done),
        Err(failed) => failed,
    };
    let Ok(panic) = failed.try_into_panic() else {
        return Err(LoadError::ShuttingDown);
    };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    Err(LoadError::Compiler {
        message: text.unwrap_or("it panicked").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_compiler_that_breaks_down_takes_nobody_along() {
        let failed = blocking(|| panic!("out of luck")).await;
        let message = failed.expect_err("a panic").to_string();
        assert_eq!(message, "the compiler failed on this module: out of luck");
    }
}
