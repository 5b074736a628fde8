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
use crate::process::{Environment, Threads};
use crate::settings::Settings;
use crate::stdio::{Input, Output};
use vaquita_guest_fs::Files;

/// The most handles (streams, sockets, pollables, header maps, ...) that an instance may hold.
const MOST_RESOURCES: usize = 64 << 10;

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
    pub(crate) member: Arc<Member>,
    pub(crate) share: Share,
}

impl State {
    pub(crate) fn new(environment: &Environment, share: Share) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MOST_RESOURCES);
        Self {
            wasi: context(environment)
                .stdin(Input::new(&environment.stdin))
                .stdout(Output::new(&environment.outputs, LogStream::Stdout))
                .stderr(Output::new(&environment.outputs, LogStream::Stderr))
                .build(),
            table,
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::new(environment),
            network: environment.network.clone(),
            capabilities: Arc::clone(&environment.capabilities),
            settings: Arc::clone(&environment.settings),
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
    pub(crate) fn new(environment: &Environment) -> Self {
        let root = environment.files.as_ref().map(Files::root);
        let network = environment.network.clone();
        Self {
            stdin: Input::new(&environment.stdin),
            stdout: Output::new(&environment.outputs, LogStream::Stdout),
            stderr: Output::new(&environment.outputs, LogStream::Stderr),
            descriptors: Descriptors::new(network, &environment.listen, root),
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
        let mut context = context(environment);
        context.stdin(stdin.clone()).stdout(stdout).stderr(stderr);
        let mut wasi = context.build_p1();
        wasi.ctx().table.set_max_capacity(MOST_RESOURCES);
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

fn context(environment: &Environment) -> WasiCtxBuilder {
    let mut context = WasiCtxBuilder::new();
    context.args(&environment.args).envs(&environment.env);
    if let Some(directory) = &environment.working_dir {
        context.initial_cwd(directory);
    }
    context
}
