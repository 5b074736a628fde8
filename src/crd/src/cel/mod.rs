//! CEL, the Common Expression Language, as rules in schemas use it.
//!
//! The `cel` crate parses; its syntax tree is checked against the types that a schema declares and made into a small tree
//! of our own ([`Program`]), which is evaluated under a budget of steps. The evaluation is ours for two reasons: a rule
//! comes from a client, and so does the object that it looks at, hence each loop, comparison and concatenation has to be
//! paid for; and values are looked at in place, so that a rule about one field does not copy the object.
//!
//! Enter at [`Program::compile`] and [`Program::evaluate`]; [`exercise`] is the way in for fuzzing.

mod check;
pub(crate) mod duration;
mod eval;
pub(crate) mod functions;
mod ir;
#[cfg(test)]
mod tests;
mod types;
mod value;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use regex::Regex;
use serde_json::Value;

use self::ir::Ir;
pub use self::types::{ObjectTy, Opaque, Ty, escape};
pub use self::value::Fault;
use self::value::Val;
use crate::structural::compile_pattern;

/// The longest expression, in characters.
pub const SOURCE_LIMIT: usize = 16 << 10;
/// How deep an expression may be nested once it is parsed.
const DEPTH_LIMIT: usize = 200;
/// How many steps one evaluation may take, where the caller has more.
pub const CALL_LIMIT: u64 = 1_000_000;
/// How many steps the rules for one object may take together.
pub const BUDGET: u64 = 10_000_000;
/// The stack on which expressions are parsed: the parser needs much of it for each level of nesting.
const STACK: usize = 256 << 20;
/// How many compiled patterns a program keeps.
const PATTERNS: usize = 32;

/// The variables that an expression may name, with their types.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    variables: Vec<(String, Ty)>,
}

impl Scope {
    /// Adds a variable.
    #[must_use]
    pub fn with(mut self, name: &str, ty: Ty) -> Self {
        self.variables.push((name.to_owned(), ty));
        self
    }
}

/// What is wrong with an expression: one or more messages, each with its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(pub String);

/// What an evaluation gives a variable.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A value.
    Value(&'a Value),
    /// A value that may be missing, for a variable whose type is [`Ty::Optional`].
    Optional(Option<&'a Value>),
    /// Nothing: naming it fails.
    Absent,
}

/// What came out of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// `true` or `false`.
    Bool(bool),
    /// Text.
    Text(String),
    /// Something else, by the name of its type.
    Other(String),
}

/// A checked expression.
#[derive(Debug)]
pub struct Program {
    ir: Ir,
    ty: Ty,
    /// The types of the variables, which the evaluation reads values by.
    variables: Vec<(String, Ty)>,
    used: Vec<bool>,
    patterns: Arc<Patterns>,
}

/// The patterns that have been compiled for a program.
#[derive(Debug, Default)]
struct Patterns(Mutex<HashMap<String, Regex>>);

impl Patterns {
    fn get(&self, source: &str) -> Result<Regex, Fault> {
        let known = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(source)
            .cloned();
        if let Some(pattern) = known {
            return Ok(pattern);
        }
        let pattern = compile_pattern(source)
            .map_err(|error| Fault::failed(format!("error parsing regexp: {error}")))?;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < PATTERNS {
            kept.insert(source.to_owned(), pattern.clone());
        }
        Ok(pattern)
    }
}

/// What an evaluation has left, and what it keeps.
struct Machine<'p> {
    left: u64,
    patterns: &'p Patterns,
}

impl Machine<'_> {
    /// Pays for `steps` steps.
    fn spend(&mut self, steps: usize) -> Result<(), Fault> {
        let steps = u64::try_from(steps).unwrap_or(u64::MAX).max(1);
        if let Some(left) = self.left.checked_sub(steps) {
            self.left = left;
            Ok(())
        } else {
            self.left = 0;
            Err(Fault::TooExpensive)
        }
    }

    fn pattern(&mut self, source: &str) -> Result<Regex, Fault> {
        // Compiling costs more than matching.
        self.spend(100 + source.len())?;
        self.patterns.get(source)
    }
}

impl Program {
    /// Parses and checks an expression.
    pub fn compile(source: &str, scope: &Scope) -> Result<Self, CompileError> {
        let size = source.chars().count();
        if size > SOURCE_LIMIT {
            return Err(CompileError(format!(
                "expression code point size exceeds limit: size: {size}, limit {SOURCE_LIMIT}"
            )));
        }
        deep(|| check::compile(source, scope))
            .unwrap_or_else(|| Err(CompileError("the expression can't be parsed".to_owned())))
    }

    /// The type of the result.
    pub fn ty(&self) -> &Ty {
        &self.ty
    }

    /// Whether the expression names the variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables
            .iter()
            .zip(&self.used)
            .any(|((name, _), used)| name == variable && *used)
    }

    /// Evaluates the expression with a value for each variable of its scope, in their order. What it takes is taken from
    /// `budget`; it may take no more than [`CALL_LIMIT`] of it.
    pub fn evaluate(&self, inputs: &[Input<'_>], budget: &mut u64) -> Result<Outcome, Fault> {
        let allowed = (*budget).min(CALL_LIMIT);
        let mut machine = Machine {
            left: allowed,
            patterns: &self.patterns,
        };
        let mut variables = Vec::with_capacity(inputs.len() + 4);
        for (at, (_, ty)) in self.variables.iter().enumerate() {
            let value = match (inputs.get(at), ty) {
                (Some(Input::Value(value)), ty) => Some(Val::view(value, ty)),
                (Some(Input::Optional(Some(value))), Ty::Optional(ty)) => {
                    Some(Val::some(Val::view(value, ty)))
                }
                (Some(Input::Optional(Some(value))), ty) => Some(Val::some(Val::view(value, ty))),
                (Some(Input::Optional(None)), _) => Some(Val::Optional(None)),
                (Some(Input::Absent) | None, _) => None,
            };
            variables.push(value);
        }
        let outcome = eval::evaluate(&self.ir, &mut variables, &mut machine);
        *budget -= allowed - machine.left;
        Ok(match outcome? {
            Val::Bool(set) => Outcome::Bool(set),
            Val::Str(text) => Outcome::Text(text.to_string()),
            other => Outcome::Other(other.type_name()),
        })
    }
}

thread_local! {
    static DEEP: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on a stack that is large enough for the parser. `None` if it panicked.
pub(crate) fn deep<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    if DEEP.get() {
        return Some(work());
    }
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new()
            .name("cel".to_owned())
            .stack_size(STACK);
        let thread = builder.spawn_scoped(scope, || {
            DEEP.set(true);
            work()
        });
        thread.ok()?.join().ok()
    })
}

/// Parses, checks and evaluates any text as an expression over any value: nothing may panic or go on for long.
pub fn exercise(source: &str, value: &Value) {
    let scope = Scope::default()
        .with("self", Ty::Dyn)
        .with("oldSelf", Ty::Optional(Ty::Dyn.into()));
    if let Ok(program) = Program::compile(source, &scope) {
        let inputs = [Input::Value(value), Input::Optional(Some(value))];
        let _ = program.evaluate(&inputs, &mut BUDGET.clone());
    }
}
