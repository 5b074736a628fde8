//! `wasi:cli/environment`, 0.2 and 0.3: arguments and variables, told when an instance asks. Pods may have many variables, and
//! most handlers never ask, so that copies for each instance would be most of its cost.

use wasmtime::component::{HasData, Linker};
use wasmtime_wasi::{p2, p3};

use crate::process::Environment;
use crate::state::State;

type Answer<T> = wasmtime::Result<T>;

/// What the functions tell of.
pub(crate) struct View<'a>(&'a Environment);

struct Told;

impl HasData for Told {
    type Data<'a> = View<'a>;
}

fn view(state: &mut State) -> View<'_> {
    View(&state.environment)
}

/// Puts the process's environment in the place of a copy.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> Answer<()> {
    p2::bindings::cli::environment::add_to_linker::<State, Told>(linker, view)
}

/// The same for WASI 0.3.
pub(crate) fn add_async_to_linker(linker: &mut Linker<State>) -> Answer<()> {
    p3::bindings::cli::environment::add_to_linker::<State, Told>(linker, view)
}

impl p2::bindings::cli::environment::Host for View<'_> {
    fn get_environment(&mut self) -> Answer<Vec<(String, String)>> {
        Ok(self.0.env.clone())
    }

    fn get_arguments(&mut self) -> Answer<Vec<String>> {
        Ok(self.0.args.clone())
    }

    fn initial_cwd(&mut self) -> Answer<Option<String>> {
        Ok(self.0.working_dir.clone())
    }
}

impl p3::bindings::cli::environment::Host for View<'_> {
    fn get_environment(&mut self) -> Answer<Vec<(String, String)>> {
        Ok(self.0.env.clone())
    }

    fn get_arguments(&mut self) -> Answer<Vec<String>> {
        Ok(self.0.args.clone())
    }

    fn get_initial_cwd(&mut self) -> Answer<Option<String>> {
        Ok(self.0.working_dir.clone())
    }
}
