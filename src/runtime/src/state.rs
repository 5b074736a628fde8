//! What the host keeps for one instance.

use std::sync::Arc;

use vaquita_net::{Payer, PodNetwork};
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::budget::{Purse, Share};
use crate::capabilities::Capabilities;
use crate::http::Outgoing;
use crate::kept::{MOST_HANDLES, yield_in_turns};
use crate::log::LogStream;
use crate::namespaces::Member;
use crate::preview1::{Descriptors, Objects};
use crate::process::{Environment, Threads};
use crate::settings::Settings;
use crate::stdio::{Input, Output};
use vaquita_guest_fs::Files;

/// The state of a component's instance.
pub(crate) struct State {
    wasi: WasiCtx,
    pub(crate) table: ResourceTable,
    http: WasiHttpCtx,
    pub(crate) outgoing: Outgoing,
    pub(crate) network: PodNetwork,
    pub(crate) capabilities: Arc<Capabilities>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) files: Option<Arc<Files>>,
    pub(crate) environment: Arc<Environment>,
    pub(crate) member: Arc<Member>,
    pub(crate) share: Share,
    /// For what goes out and is read by others.
    pub(crate) purse: Arc<Purse>,
    /// The same, as sockets know it.
    payer: Arc<dyn Payer>,
}

impl State {
    /// Where an instance lives, within its process's limits.
    pub(crate) fn store(
        engine: &Engine,
        environment: &Arc<Environment>,
        share: Share,
    ) -> Store<Self> {
        let mut store = Store::new(engine, Self::new(environment, share));
        store.limiter(|state| &mut state.share);
        store.set_max_component_handles(MOST_HANDLES);
        if let Some(concurrent) = store.concurrent_resource_table() {
            concurrent.set_max_capacity(MOST_HANDLES);
        }
        yield_in_turns(&mut store);
        store
    }

    fn new(environment: &Arc<Environment>, share: Share) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MOST_HANDLES);
        Self {
            wasi: WasiCtxBuilder::new()
                .stdin(Input::new(&environment.stdin))
                .stdout(Output::new(&environment.outputs, LogStream::Stdout))
                .stderr(Output::new(&environment.outputs, LogStream::Stderr))
                .build(),
            table,
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::new(environment, share.purse()),
            network: environment.network.clone(),
            capabilities: Arc::clone(&environment.capabilities),
            settings: Arc::clone(&environment.settings),
            files: environment.files.clone(),
            environment: Arc::clone(environment),
            member: Arc::clone(&environment.member),
            purse: share.purse(),
            payer: share.purse(),
            share,
        }
    }
}

impl State {
    /// What sockets want to know of it.
    pub(crate) fn sockets(&mut self) -> vaquita_guest_sockets::View<'_> {
        vaquita_guest_sockets::View {
            table: &mut self.table,
            network: &self.network,
            payer: &self.payer,
            grants: &*self.capabilities,
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.outgoing,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

/// What all instances of a core module's process have in common: its threads, each of which is an instance.
#[derive(Clone)]
pub(crate) struct Common {
    stdin: Input,
    stdout: Output,
    stderr: Output,
    descriptors: Descriptors,
    objects: Objects,
}

impl Common {
    pub(crate) fn new(environment: &Environment, purse: Arc<Purse>) -> Self {
        let root = environment.files.as_ref().map(Files::root);
        let network = environment.network.clone();
        Self {
            stdin: Input::new(&environment.stdin),
            stdout: Output::new(&environment.outputs, LogStream::Stdout),
            stderr: Output::new(&environment.outputs, LogStream::Stderr),
            descriptors: Descriptors::new(network, &environment.listen, root, purse),
            objects: Objects::default(),
        }
    }
}

/// The state of a core module's instance.
pub(crate) struct CoreState {
    pub(crate) wasi: WasiP1Ctx,
    pub(crate) stdin: Input,
    pub(crate) descriptors: Descriptors,
    pub(crate) objects: Objects,
    pub(crate) member: Arc<Member>,
    pub(crate) share: Share,
    /// Of a module with shared memories.
    pub(crate) threads: Option<Arc<Threads>>,
}

impl CoreState {
    pub(crate) fn new(environment: &Environment, common: Common, share: Share) -> Self {
        let Common {
            stdin,
            stdout,
            stderr,
            descriptors,
            objects,
        } = common;
        let mut context = WasiCtxBuilder::new();
        context.args(&environment.args).envs(&environment.env);
        context.stdin(stdin.clone()).stdout(stdout).stderr(stderr);
        let mut wasi = context.build_p1();
        wasi.ctx().table.set_max_capacity(MOST_HANDLES);
        Self {
            wasi,
            stdin,
            descriptors,
            objects,
            member: Arc::clone(&environment.member),
            share,
            threads: None,
        }
    }
}
