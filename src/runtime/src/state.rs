//! What the host keeps for one instance.

use std::sync::Arc;

use vaquita_net::PodNetwork;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::budget::Share;
use crate::capabilities::Capabilities;
use crate::http::Outgoing;
use crate::log::LogStream;
use crate::namespaces::Member;
use crate::preview1::{Descriptors, Objects};
use crate::process::Environment;
use crate::stdio::{Input, Output};
use vaquita_guest_fs::Files;

/// The most handles (streams, sockets, pollables, header maps, ...) that an instance may hold.
const MOST_RESOURCES: usize = 64 << 10;

/// The state of a component's instance.
pub(crate) struct State {
    wasi: WasiCtx,
    pub(crate) table: ResourceTable,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    pub(crate) network: PodNetwork,
    pub(crate) capabilities: Arc<Capabilities>,
    pub(crate) files: Option<Arc<Files>>,
    pub(crate) member: Arc<Member>,
    pub(crate) share: Share,
}

impl State {
    pub(crate) fn new(environment: &Environment, share: Share) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MOST_RESOURCES);
        Self {
            wasi: context(environment, Input::new(&environment.stdin)).build(),
            table,
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::new(environment),
            network: environment.network.clone(),
            capabilities: Arc::clone(&environment.capabilities),
            files: environment.files.clone(),
            member: Arc::clone(&environment.member),
            share,
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

/// The state of a core module's instance.
pub(crate) struct CoreState {
    pub(crate) wasi: WasiP1Ctx,
    pub(crate) stdin: Input,
    pub(crate) descriptors: Descriptors,
    pub(crate) objects: Objects,
    pub(crate) member: Arc<Member>,
    pub(crate) share: Share,
}

impl CoreState {
    pub(crate) fn new(environment: &Environment, share: Share) -> Self {
        let stdin = Input::new(&environment.stdin);
        let mut wasi = context(environment, stdin.clone()).build_p1();
        wasi.ctx().table.set_max_capacity(MOST_RESOURCES);
        let root = environment.files.as_ref().map(Files::root);
        let network = environment.network.clone();
        let descriptors = Descriptors::new(network, &environment.listen, root);
        Self {
            wasi,
            stdin,
            descriptors,
            objects: Objects::default(),
            member: Arc::clone(&environment.member),
            share,
        }
    }
}

fn context(environment: &Environment, stdin: Input) -> WasiCtxBuilder {
    let mut context = WasiCtxBuilder::new();
    context
        .args(&environment.args)
        .envs(&environment.env)
        .stdin(stdin)
        .stdout(Output::new(&environment.outputs, LogStream::Stdout))
        .stderr(Output::new(&environment.outputs, LogStream::Stderr));
    if let Some(directory) = &environment.working_dir {
        context.initial_cwd(directory);
    }
    context
}
