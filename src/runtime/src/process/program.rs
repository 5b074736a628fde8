//! Programs: modules that run once, from an entry point to an exit code.

use std::sync::Arc;

use wasmtime::component::Accessor;
use wasmtime::{Instance, Store};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p3::bindings::CommandPre as AsyncCommandPre;

use super::{Environment, Exit, Failure};
use crate::cpu::yield_in_turns;
use crate::module::{Program, sharing};
use crate::runtime::Shared;
use crate::state::{CoreState, State};

/// Runs a program from its start to its end.
pub(super) async fn run(
    runtime: &Shared,
    program: &Program,
    environment: &Arc<Environment>,
) -> Exit {
    match program {
        Program::Core(_) | Program::Sharing(_) => run_core(runtime, program, environment).await,
        Program::Component(program) => run_component(runtime, program, environment).await,
        Program::AsyncComponent(program) => run_async(runtime, program, environment).await,
    }
}

async fn run_core(runtime: &Shared, program: &Program, environment: &Arc<Environment>) -> Exit {
    let _counted = environment.accounts.count_instance();
    let share = runtime.share(environment);
    let refusals = share.refusals();
    let mut store = Store::new(&runtime.engine.wasmtime, CoreState::new(environment, share));
    store.limiter(|state| &mut state.share);
    yield_in_turns(&mut store);
    let result = async {
        let instance = instantiate(runtime, program, &mut store).await?;
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
        start.call_async(&mut store, ()).await
    };
    match result.await {
        Ok(()) => Exit::Exited(0),
        Err(error) => Failure::of(&error, &refusals).into(),
    }
}

async fn instantiate(
    runtime: &Shared,
    program: &Program,
    store: &mut Store<CoreState>,
) -> wasmtime::Result<Instance> {
    match program {
        Program::Core(program) => program.instantiate_async(store).await,
        Program::Sharing(module) => {
            let linker = sharing::linker(runtime.core_linker(), store, module)?;
            linker.instantiate_async(store, module).await
        }
        Program::Component(_) | Program::AsyncComponent(_) => {
            Err(wasmtime::Error::msg("a component is no core module"))
        }
    }
}

async fn run_component(
    runtime: &Shared,
    program: &CommandPre<State>,
    environment: &Arc<Environment>,
) -> Exit {
    let _counted = environment.accounts.count_instance();
    let share = runtime.share(environment);
    let refusals = share.refusals();
    let mut store = Store::new(&runtime.engine.wasmtime, State::new(environment, share));
    store.limiter(|state| &mut state.share);
    yield_in_turns(&mut store);
    let result = async {
        let command = program.instantiate_async(&mut store).await?;
        command.wasi_cli_run().call_run(&mut store).await
    };
    match result.await {
        Ok(Ok(())) => Exit::Exited(0),
        Ok(Err(())) if refusals.any() => Exit::OutOfMemory,
        Ok(Err(())) => Exit::Exited(1),
        Err(error) => Failure::of(&error, &refusals).into(),
    }
}

async fn run_async(
    runtime: &Shared,
    program: &AsyncCommandPre<State>,
    environment: &Arc<Environment>,
) -> Exit {
    let _counted = environment.accounts.count_instance();
    let share = runtime.share(environment);
    let refusals = share.refusals();
    let mut store = Store::new(program.engine(), State::new(environment, share));
    store.limiter(|state| &mut state.share);
    yield_in_turns(&mut store);
    let result = async {
        let command = program.instantiate_async(&mut store).await?;
        let run =
            async |accessor: &Accessor<State>| command.wasi_cli_run().call_run(accessor).await;
        store.run_concurrent(run).await.flatten()
    };
    match result.await {
        Ok(Ok(())) => Exit::Exited(0),
        Ok(Err(())) if refusals.any() => Exit::OutOfMemory,
        Ok(Err(())) => Exit::Exited(1),
        Err(error) => Failure::of(&error, &refusals).into(),
    }
}
