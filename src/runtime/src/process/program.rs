//! Programs: modules that run once, from an entry point to an exit code.

use std::sync::Arc;

use wasmtime::component::{self, Accessor, Func, InstancePre as ComponentPre, Val};
use wasmtime::{Engine, Instance, InstancePre, Store};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p3::bindings::CommandPre as AsyncCommandPre;

use super::{Environment, Exit, Failure, Threads};
use crate::budget::Refusals;
use crate::kept::yield_in_turns;
use crate::module::Program;
use crate::runtime::Shared;
use crate::state::{Common, CoreState, State};

/// Runs a program from its start to its end.
pub(super) async fn run(
    runtime: &Shared,
    program: &Program,
    entry: Option<&str>,
    (environment, threads): (&Arc<Environment>, Option<&Arc<Threads>>),
) -> Exit {
    match (program, threads) {
        (Program::Core(program), _) => run_core(runtime, program, entry, environment).await,
        (Program::Sharing(_), Some(threads)) => run_threads(threads, entry, environment).await,
        (Program::Sharing(_), None) => Exit::Failed {
            message: "its memories are not there".into(),
        },
        (Program::Component(program), _) => run_component(runtime, program, environment).await,
        (Program::AsyncComponent(program), _) => run_async(runtime, program, environment).await,
        (Program::Function(program, is_async), _) => {
            let function = entry.unwrap_or_default();
            run_function(runtime, (program, *is_async), function, environment).await
        }
    }
}

async fn run_core(
    runtime: &Shared,
    program: &InstancePre<CoreState>,
    entry: Option<&str>,
    environment: &Arc<Environment>,
) -> Exit {
    let _counted = environment.accounts.count_instance();
    let share = runtime.share(environment);
    let refusals = share.refusals();
    let common = Common::new(environment, share.purse());
    let state = CoreState::new(environment, common, share);
    let mut store = Store::new(&runtime.engine.wasmtime, state);
    store.limiter(|state| &mut state.share);
    yield_in_turns(&mut store);
    let result = async {
        let instance = program.instantiate_async(&mut store).await?;
        start(&mut store, &instance, entry).await
    };
    match result.await {
        Ok(code) => Exit::Exited(code),
        Err(error) => Failure::of(&error, &refusals).into(),
    }
}

/// The first thread of a program that has shared memories. The process ends with it, whatever the others do, or before.
async fn run_threads(
    threads: &Arc<Threads>,
    entry: Option<&str>,
    environment: &Arc<Environment>,
) -> Exit {
    let _counted = environment.accounts.count_instance();
    let first = async {
        let (mut store, instance) = threads.instance().await?;
        start(&mut store, &instance, entry).await
    };
    let result = tokio::select! {
        biased;
        exit = threads.over() => return exit,
        result = first => result,
    };
    match result {
        Ok(code) => Exit::Exited(code),
        Err(error) => Failure::of(&error, &threads.refusals()).into(),
    }
}

/// Has a module begin where it begins, and gives its exit code.
async fn start(
    store: &mut Store<CoreState>,
    instance: &Instance,
    entry: Option<&str>,
) -> wasmtime::Result<i32> {
    if let Some(entry) = entry {
        return start_with(store, instance, entry).await;
    }
    let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
    start.call_async(store, ()).await.map(|()| 0)
}

/// Has a library begin with one of its functions; what that returns is the exit code.
async fn start_with(
    store: &mut Store<CoreState>,
    instance: &Instance,
    entry: &str,
) -> wasmtime::Result<i32> {
    if let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut *store, "_initialize") {
        initialize.call_async(&mut *store, ()).await?;
    }
    if let Ok(function) = instance.get_typed_func::<(), i32>(&mut *store, entry) {
        return function.call_async(store, ()).await;
    }
    let function = instance.get_typed_func::<(), ()>(&mut *store, entry)?;
    function.call_async(store, ()).await.map(|()| 0)
}

/// Where a component's instance lives, on the engine that it was compiled for.
fn component_store(
    runtime: &Shared,
    engine: &Engine,
    environment: &Arc<Environment>,
) -> (Store<State>, Refusals) {
    let share = runtime.share(environment);
    let refusals = share.refusals();
    (State::store(engine, environment, share), refusals)
}

/// How a component ended that said whether it succeeded.
fn told(result: wasmtime::Result<Result<(), ()>>, refusals: &Refusals) -> Exit {
    match result {
        Ok(Ok(())) => Exit::Exited(0),
        Ok(Err(())) if refusals.any() => Exit::OutOfMemory,
        Ok(Err(())) => Exit::Exited(1),
        Err(error) => Failure::of(&error, refusals).into(),
    }
}

async fn run_component(
    runtime: &Shared,
    program: &CommandPre<State>,
    environment: &Arc<Environment>,
) -> Exit {
    let _counted = environment.accounts.count_instance();
    let (mut store, refusals) = component_store(runtime, program.engine(), environment);
    let result = async {
        let command = program.instantiate_async(&mut store).await?;
        command.wasi_cli_run().call_run(&mut store).await
    };
    told(result.await, &refusals)
}

async fn run_async(
    runtime: &Shared,
    program: &AsyncCommandPre<State>,
    environment: &Arc<Environment>,
) -> Exit {
    let _counted = environment.accounts.count_instance();
    let (mut store, refusals) = component_store(runtime, program.engine(), environment);
    let result = async {
        let command = program.instantiate_async(&mut store).await?;
        let run =
            async |accessor: &Accessor<State>| command.wasi_cli_run().call_run(accessor).await;
        store.run_concurrent(run).await.flatten()
    };
    told(result.await, &refusals)
}

/// Runs a component by a function that takes nothing, and returns nothing or a `result`.
async fn run_function(
    runtime: &Shared,
    (program, is_async): (&ComponentPre<State>, bool),
    function: &str,
    environment: &Arc<Environment>,
) -> Exit {
    let _counted = environment.accounts.count_instance();
    let (mut store, refusals) = component_store(runtime, program.engine(), environment);
    let result = async {
        let instance = program.instantiate_async(&mut store).await?;
        let function = find(&mut store, &instance, function)?;
        let mut results = vec![Val::Bool(false); function.ty(&store).results().len()];
        if is_async {
            let call = async |accessor: &Accessor<State>| {
                function.call_concurrent(accessor, &[], &mut results).await
            };
            store.run_concurrent(call).await.flatten()?;
        } else {
            function.call_async(&mut store, &[], &mut results).await?;
        }
        Ok(match results.first() {
            Some(Val::Result(Err(_))) => Err(()),
            _ => Ok(()),
        })
    };
    told(result.await, &refusals)
}

/// A function by its name, or that of an interface by `interface#name`.
fn find(
    store: &mut Store<State>,
    instance: &component::Instance,
    function: &str,
) -> wasmtime::Result<Func> {
    let within = match function.rsplit_once('#') {
        Some((interface, name)) => instance
            .get_export_index(&mut *store, None, interface)
            .and_then(|interface| instance.get_export_index(&mut *store, Some(&interface), name)),
        None => instance.get_export_index(&mut *store, None, function),
    };
    within
        .and_then(|index| instance.get_func(store, index))
        .ok_or_else(|| wasmtime::Error::msg(format!("no function {function}")))
}
