//! What can be run: bytes in, compiled code and its kind out.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use wasmtime::component::{self, Component, InstancePre as ComponentPre};
use wasmtime::{EngineWeak, InstancePre, Linker, Module as CoreModule};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p3::bindings::CommandPre as AsyncCommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use crate::cache::Cache;
use crate::config::Config;
use crate::engine::{Engine, Purpose};
use crate::linker;
use crate::state::{CoreState, State};

pub(crate) mod atomics;
mod imports;
mod kind;
pub(crate) mod sharing;

use kind::{Entry, Format};

/// SHA-256 of a module's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub(crate) [u8; 32]);

impl Digest {
    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub(crate) fn to_hex(self) -> String {
        use fmt::Write;
        self.0
            .iter()
            .fold(String::with_capacity(64), |mut hex, byte| {
                // Writing to a string can't fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            })
    }
}

/// As OCI writes digests: `sha256:` and 64 lower-case hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a module is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModuleKind {
    /// A core module for WASI 0.1 (preview 1) that exports `_start`: run once, as a program.
    CoreCommand,
    /// A component that exports `wasi:cli/run`, of 0.2 or 0.3: run once, as a program.
    Command,
    /// A component that exports `wasi:http/incoming-handler@0.2` or `wasi:http/handler@0.3`: served, by default with one
    /// instance for each request.
    HttpHandler,
}

/// Why bytes can't be run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Not WebAssembly at all.
    #[error("not WebAssembly: a module begins with \"\\0asm\", this is {found}")]
    NotWasm {
        /// The first bytes, or the well-known format they belong to.
        found: String,
    },
    /// The file ends within its first eight bytes.
    #[error("truncated WebAssembly: the file ends after {length} bytes")]
    Truncated {
        /// How many bytes there are.
        length: usize,
    },
    /// More bytes than [`Config::max_module_size`](crate::Config::max_module_size).
    #[error("the module has {length} bytes, more than the {limit} allowed")]
    TooLarge {
        /// How many bytes there are.
        length: usize,
        /// How many there may be.
        limit: usize,
    },
    /// WebAssembly that ends early or breaks a rule.
    #[error("invalid WebAssembly: {message}")]
    Invalid {
        /// What is wrong, and at which offset.
        message: String,
        /// What the compiler said.
        #[source]
        source: wasmtime::Error,
    },
    /// Valid, but nothing here knows how to run it.
    #[error("nothing to run: {message}")]
    UnsupportedKind {
        /// What was found and what would be needed.
        message: String,
    },
    /// The function that it was to start with is not there.
    #[error("no function {entry} to start with; it exports {found}")]
    NoEntry {
        /// What was asked for.
        entry: String,
        /// What there is.
        found: String,
    },
    /// The module asks for something that nothing provides.
    #[error("unknown import {name}{}", hint.as_ref().map(|hint| format!(": {hint}")).unwrap_or_default())]
    UnknownImport {
        /// The import as the module names it: `module::name`, or a component's `wasi:http/types@0.2.0`.
        name: String,
        /// What to do about it, if that is known.
        hint: Option<String>,
    },
    /// The compiler broke down over it, which it never should.
    #[error("the compiler failed on this module: {message}")]
    Compiler {
        /// What it said.
        message: String,
    },
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    ShuttingDown,
}

/// A module that is ready to run: compiled, checked and linked. Cheap to clone.
#[derive(Clone)]
pub struct Module {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    digest: Digest,
    pub(crate) code: Code,
    /// The function that it starts with, if that is another than its kind's.
    pub(crate) entry: Option<String>,
    /// What it asks for, each once.
    pub(crate) imports: Vec<String>,
}

/// Linked code, ready to be instantiated.
pub(crate) enum Code {
    Program(Program),
    HttpHandler(HttpGuest),
}

/// What answers requests.
#[derive(Clone)]
pub(crate) enum HttpGuest {
    P2(ProxyPre<State>),
    P3(ServicePre<State>),
}

/// What runs once.
#[derive(Clone)]
pub(crate) enum Program {
    Core(InstancePre<CoreState>),
    /// A core module that has shared memories; linked when it starts.
    Sharing(CoreModule),
    Component(CommandPre<State>),
    AsyncComponent(AsyncCommandPre<State>),
    /// A component by a function of its own; `true` on the engine for asynchronous ones.
    Function(ComponentPre<State>, bool),
}

impl Module {
    /// How it is run.
    pub fn kind(&self) -> ModuleKind {
        match self.inner.code {
            Code::Program(Program::Core(_) | Program::Sharing(_)) => ModuleKind::CoreCommand,
            Code::Program(
                Program::Component(_) | Program::AsyncComponent(_) | Program::Function(..),
            ) => ModuleKind::Command,
            Code::HttpHandler(_) => ModuleKind::HttpHandler,
        }
    }

    /// What it imports: `module::name` of a core module, `wasi:http/types@0.2.0` of a component; sorted, each once.
    pub fn imports(&self) -> &[String] {
        &self.inner.imports
    }

    /// Of the bytes it was loaded from.
    pub fn digest(&self) -> Digest {
        self.inner.digest
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module")
            .field("digest", &self.digest())
            .field("kind", &self.kind())
            .finish()
    }
}

/// All that it takes to make a module of bytes. Loading is slow: it compiles.
pub(crate) struct Loader {
    pub(crate) modules: Linker<CoreState>,
    pub(crate) sync: Toolchain,
    /// For components that the first one can't take; made when there is one.
    pub(crate) asynchronous: OnceLock<Toolchain>,
    /// Where the ticker finds the engine of that.
    pub(crate) later: Arc<OnceLock<EngineWeak>>,
    pub(crate) max_size: usize,
    pub(crate) config: Config,
}

/// What compiles and links components.
pub(crate) struct Toolchain {
    pub(crate) engine: wasmtime::Engine,
    pub(crate) components: component::Linker<State>,
    pub(crate) cache: Option<Cache>,
    pub(crate) is_async: bool,
}

impl Loader {
    pub(crate) fn check_size(&self, wasm: &Bytes) -> Result<(), LoadError> {
        if wasm.len() > self.max_size {
            return Err(LoadError::TooLarge {
                length: wasm.len(),
                limit: self.max_size,
            });
        }
        Ok(())
    }

    pub(crate) fn load(
        &self,
        digest: Digest,
        wasm: &[u8],
        entry: Option<&str>,
    ) -> Result<Inner, LoadError> {
        let entry = entry.filter(|entry| *entry != kind::START);
        let (code, imports) = match kind::format(wasm)? {
            Format::Module => {
                if let Some(rewritten) = atomics::rewritten(wasm)? {
                    let digest = Digest::of(&rewritten);
                    let module = self.sync.compiled::<CoreModule>(digest, &rewritten)?;
                    kind::of_module(&module, entry)?;
                    sharing::check(&module)?;
                    let imports = imports::of_module(&module);
                    (Code::Program(Program::Sharing(module)), imports)
                } else {
                    let module = self.sync.compiled::<CoreModule>(digest, wasm)?;
                    let imports = imports::of_module(&module);
                    (self.link_module(&module, entry)?, imports)
                }
            }
            Format::Component if atomics::component_shares(wasm) => {
                return Err(LoadError::UnsupportedKind {
                    message: "a component with shared memories; only core modules can have threads"
                        .into(),
                });
            }
            Format::Component => match self.sync.component(digest, wasm, entry) {
                Err(CompileError::IsAsync) => {
                    self.asynchronous()?.component(digest, wasm, entry)?
                }
                loaded => loaded?,
            },
        };
        Ok(Inner {
            digest,
            code,
            entry: entry.map(str::to_owned),
            imports,
        })
    }

    fn link_module(&self, module: &CoreModule, entry: Option<&str>) -> Result<Code, LoadError> {
        let linked = self
            .modules
            .instantiate_pre(module)
            .map_err(imports::unknown_in_module)?;
        kind::of_module(module, entry)?;
        Ok(Code::Program(Program::Core(linked)))
    }

    /// The toolchain for asynchronous components.
    fn asynchronous(&self) -> Result<&Toolchain, LoadError> {
        if let Some(toolchain) = self.asynchronous.get() {
            return Ok(toolchain);
        }
        let failed = |error: wasmtime::Error| LoadError::Compiler {
            message: format!("no engine for asynchronous components: {error:#}"),
        };
        let engine = Engine::new(&self.config, Purpose::Async).map_err(failed)?;
        let engine = engine.wasmtime;
        let toolchain = Toolchain {
            components: linker::for_async_components(&engine).map_err(failed)?,
            cache: Cache::of(&self.config, &engine).map_err(|error| failed(error.into()))?,
            engine,
            is_async: true,
        };
        // Two may come here at once. The engine of whoever is late is dropped.
        let toolchain = self.asynchronous.get_or_init(|| toolchain);
        let _ = self.later.set(toolchain.engine.weak());
        Ok(toolchain)
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader").finish_non_exhaustive()
    }
}

impl Toolchain {
    /// A component, linked, and what it imports.
    fn component(
        &self,
        digest: Digest,
        wasm: &[u8],
        entry: Option<&str>,
    ) -> Result<(Code, Vec<String>), CompileError> {
        let component = self.compiled::<Component>(digest, wasm)?;
        let imports = imports::of_component(&component, &self.engine);
        Ok((self.link(&component, entry)?, imports))
    }

    fn link(&self, component: &Component, function: Option<&str>) -> Result<Code, LoadError> {
        let entry = match function {
            Some(function) => {
                kind::of_component_function(component, &self.engine, function)?;
                None
            }
            None => Some(kind::of_component(component, &self.engine)?),
        };
        let linked: ComponentPre<State> = self
            .components
            .instantiate_pre(component)
            .map_err(|error| imports::unknown_in_component(error, component, &self.engine))?;
        let Some(entry) = entry else {
            return Ok(Code::Program(Program::Function(linked, self.is_async)));
        };
        let code = match entry {
            Entry::Handler => {
                ProxyPre::new(linked).map(|linked| Code::HttpHandler(HttpGuest::P2(linked)))
            }
            Entry::AsyncHandler => {
                ServicePre::new(linked).map(|linked| Code::HttpHandler(HttpGuest::P3(linked)))
            }
            Entry::Run => {
                CommandPre::new(linked).map(|linked| Code::Program(Program::Component(linked)))
            }
            Entry::AsyncRun => AsyncCommandPre::new(linked)
                .map(|linked| Code::Program(Program::AsyncComponent(linked))),
        };
        // The interface has the right name, so it is its functions' types that are wrong.
        code.map_err(|error| LoadError::Invalid {
            message: format!("{error:#}"),
            source: error,
        })
    }

    /// From the cache, or else compiled and put there. The cache is only an aid: without it, things are slower.
    fn compiled<A: Artifact>(&self, digest: Digest, wasm: &[u8]) -> Result<A, CompileError> {
        let Some(cache) = &self.cache else {
            return compile(&self.engine, wasm);
        };
        if let Some(artifact) = cached(&self.engine, cache, digest) {
            return Ok(artifact);
        }
        let artifact: A = compile(&self.engine, wasm)?;
        let stored = artifact
            .bytes()
            .and_then(|bytes| Ok(cache.put(digest, &bytes)?));
        // What is mapped shares its memory with the file's other readers; what was just compiled does not.
        // SAFETY: as above, in `cached`.
        let mapped = stored.and_then(|path| unsafe { A::map(&self.engine, &path) });
        Ok(mapped.unwrap_or_else(|error| {
            tracing::warn!(%digest, %error, "compiled code can't be cached");
            artifact
        }))
    }
}

/// Why bytes were not compiled.
enum CompileError {
    /// It is a component that only the engine for asynchronous ones takes.
    IsAsync,
    Refused(LoadError),
}

impl From<LoadError> for CompileError {
    fn from(error: LoadError) -> Self {
        Self::Refused(error)
    }
}

impl From<CompileError> for LoadError {
    fn from(error: CompileError) -> Self {
        match error {
            CompileError::IsAsync => Self::UnsupportedKind {
                message: "asynchronous functions outside of a component".into(),
            },
            CompileError::Refused(error) => error,
        }
    }
}

/// What the cache has, if it can be used; if not, it is forgotten.
fn cached<A: Artifact>(engine: &wasmtime::Engine, cache: &Cache, digest: Digest) -> Option<A> {
    let found = cache.find(digest).map_err(wasmtime::Error::from);
    let mapped = found.and_then(|path| {
        // SAFETY: the cache only gives artifacts of this engine that are as they were written.
        path.map(|path| unsafe { A::map(engine, &path) })
            .transpose()
    });
    mapped.unwrap_or_else(|error| {
        tracing::warn!(%digest, %error, "compiled code can't be used; compiling again");
        cache.remove(digest);
        None
    })
}

fn compile<A: Artifact>(engine: &wasmtime::Engine, wasm: &[u8]) -> Result<A, CompileError> {
    // The outer layers tell what the compiler was doing; what is wrong with the module is innermost.
    A::compile(engine, wasm).map_err(|error| {
        let message = error.root_cause().to_string();
        if message.contains("component model async") {
            return CompileError::IsAsync;
        }
        CompileError::Refused(LoadError::Invalid {
            message,
            source: error,
        })
    })
}

/// What the engine compiles to: modules and components alike.
trait Artifact: Sized {
    fn compile(engine: &wasmtime::Engine, wasm: &[u8]) -> wasmtime::Result<Self>;
    fn bytes(&self) -> wasmtime::Result<Vec<u8>>;

    /// # Safety
    ///
    /// The file must hold what [`bytes`](Self::bytes) gave for this engine, and must never change.
    unsafe fn map(engine: &wasmtime::Engine, path: &std::path::Path) -> wasmtime::Result<Self>;
}

impl Artifact for CoreModule {
    fn compile(engine: &wasmtime::Engine, wasm: &[u8]) -> wasmtime::Result<Self> {
        Self::from_binary(engine, wasm)
    }

    fn bytes(&self) -> wasmtime::Result<Vec<u8>> {
        self.serialize()
    }

    unsafe fn map(engine: &wasmtime::Engine, path: &std::path::Path) -> wasmtime::Result<Self> {
        // SAFETY: the caller's promise.
        unsafe { Self::deserialize_file(engine, path) }
    }
}

impl Artifact for Component {
    fn compile(engine: &wasmtime::Engine, wasm: &[u8]) -> wasmtime::Result<Self> {
        Self::from_binary(engine, wasm)
    }

    fn bytes(&self) -> wasmtime::Result<Vec<u8>> {
        self.serialize()
    }

    unsafe fn map(engine: &wasmtime::Engine, path: &std::path::Path) -> wasmtime::Result<Self> {
        // SAFETY: the caller's promise.
        unsafe { Self::deserialize_file(engine, path) }
    }
}
