//! Evaluation: from a checked expression to a value, one step at a time.

use std::rc::Rc;

use super::Machine;
use super::ir::{Access, Ir, Literal, Loop};
use super::types::{Bindings, P};
use super::value::{Fault, Val, equal};

/// The variables; `None` stands for one without a value.
type Stack<'a> = Vec<Option<Val<'a>>>;

/// The value of an expression. The stack is left as it was.
pub(super) fn evaluate<'a>(
    ir: &Ir,
    stack: &mut Stack<'a>,
    machine: &mut Machine<'_>,
) -> Result<Val<'a>, Fault> {
    machine.spend(1)?;
    match ir {
        Ir::Literal(literal) => Ok(constant(literal)),
        Ir::Variable(at) => stack
            .get(*at)
            .cloned()
            .flatten()
            .ok_or_else(|| Fault::failed("no such attribute(s): oldSelf")),
        Ir::Select { of, field, access } => {
            let of = evaluate(of, stack, machine)?;
            select(&of, field, *access)
        }
        Ir::Index { of, key, access } => {
            let of = evaluate(of, stack, machine)?;
            let key = evaluate(key, stack, machine)?;
            index(&of, &key, *access, machine)
        }
        Ir::List(items) => list(items, stack, machine),
        Ir::Map(entries) => map(entries, stack, machine),
        Ir::And(a, b) => logic(a, b, false, stack, machine),
        Ir::Or(a, b) => logic(a, b, true, stack, machine),
        Ir::Conditional(parts) => {
            let [test, yes, no] = &**parts;
            match evaluate(test, stack, machine)? {
                Val::Bool(true) => evaluate(yes, stack, machine),
                Val::Bool(false) => evaluate(no, stack, machine),
                _ => Err(Fault::NoSuchOverload),
            }
        }
        Ir::Call { candidates, args } => {
            let mut values = Vec::with_capacity(args.len());
            for arg in args {
                values.push(evaluate(arg, stack, machine)?);
            }
            call(candidates, &values, machine)
        }
        Ir::Loop { .. } => repeat(ir, stack, machine),
        Ir::WithValue { of, body, flat } => match evaluate(of, stack, machine)? {
            Val::Optional(None) => Ok(Val::Optional(None)),
            Val::Optional(Some(value)) => {
                let inner = with(stack, vec![(*value).clone()], |stack| {
                    evaluate(body, stack, machine)
                })?;
                Ok(if *flat { inner } else { Val::some(inner) })
            }
            _ => Err(Fault::NoSuchOverload),
        },
        Ir::OrElse {
            of,
            other,
            optional,
        } => match evaluate(of, stack, machine)? {
            Val::Optional(None) => evaluate(other, stack, machine),
            Val::Optional(Some(value)) if !optional => Ok((*value).clone()),
            present @ Val::Optional(_) => Ok(present),
            _ => Err(Fault::NoSuchOverload),
        },
        Ir::Bind { value, body } => {
            let value = evaluate(value, stack, machine)?;
            with(stack, vec![value], |stack| evaluate(body, stack, machine))
        }
    }
}

/// Runs something with more variables.
fn with<'a, T>(
    stack: &mut Stack<'a>,
    values: Vec<Val<'a>>,
    run: impl FnOnce(&mut Stack<'a>) -> T,
) -> T {
    let depth = stack.len();
    stack.extend(values.into_iter().map(Some));
    let result = run(stack);
    stack.truncate(depth);
    result
}

fn constant<'a>(literal: &Literal) -> Val<'a> {
    match literal {
        Literal::Null => Val::Null,
        Literal::Bool(set) => Val::Bool(*set),
        Literal::Int(number) => Val::Int(*number),
        Literal::Uint(number) => Val::Uint(*number),
        Literal::Double(number) => Val::Double(*number),
        Literal::Str(text) => Val::text(text.as_str()),
        Literal::Bytes(bytes) => Val::Bytes(bytes.as_slice().into()),
        Literal::Type(name) => Val::Type((*name).into()),
    }
}

fn select<'a>(of: &Val<'a>, field: &str, access: Access) -> Result<Val<'a>, Fault> {
    let found = of.select(field)?;
    let optional = matches!(of, Val::Optional(_)) || access == Access::Optional;
    match access {
        Access::Has => Ok(Val::Bool(found.is_some())),
        _ if optional => Ok(Val::Optional(found.map(Rc::new))),
        _ => found.ok_or_else(|| Fault::no_such_key(field)),
    }
}

fn index<'a>(
    of: &Val<'a>,
    key: &Val<'a>,
    access: Access,
    machine: &mut Machine<'_>,
) -> Result<Val<'a>, Fault> {
    let found = of.index(key, machine)?;
    if access == Access::Optional || matches!(of, Val::Optional(_)) {
        return Ok(Val::Optional(found.map(Rc::new)));
    }
    found.ok_or_else(|| {
        let key = key.to_text().unwrap_or_default();
        if of.is_list() {
            Fault::failed(format!("index out of bounds: {key}"))
        } else {
            Fault::no_such_key(&key)
        }
    })
}

/// The value of something that may be missing.
fn optional(value: Val<'_>) -> Result<Option<Val<'_>>, Fault> {
    match value {
        Val::Optional(inner) => Ok(inner.map(|inner| (*inner).clone())),
        _ => Err(Fault::NoSuchOverload),
    }
}

fn list<'a>(
    items: &[(Ir, bool)],
    stack: &mut Stack<'a>,
    machine: &mut Machine<'_>,
) -> Result<Val<'a>, Fault> {
    let mut values = Vec::with_capacity(items.len());
    for (item, may_miss) in items {
        let value = evaluate(item, stack, machine)?;
        if *may_miss {
            values.extend(optional(value)?);
        } else {
            values.push(value);
        }
    }
    Ok(Val::list(values))
}

fn map<'a>(
    entries: &[(Ir, Ir, bool)],
    stack: &mut Stack<'a>,
    machine: &mut Machine<'_>,
) -> Result<Val<'a>, Fault> {
    let mut values: Vec<(Val<'a>, Val<'a>)> = Vec::with_capacity(entries.len());
    for (key, value, may_miss) in entries {
        let key = evaluate(key, stack, machine)?;
        if !matches!(key, Val::Str(_) | Val::Int(_) | Val::Uint(_) | Val::Bool(_)) {
            return Err(Fault::failed("unsupported key type"));
        }
        for (other, _) in &values {
            if equal(other, &key, machine)? {
                let key = key.to_text().unwrap_or_default();
                return Err(Fault::failed(format!("Failed with repeated key: {key}")));
            }
        }
        let value = evaluate(value, stack, machine)?;
        let value = if *may_miss {
            optional(value)?
        } else {
            Some(value)
        };
        values.extend(value.map(|value| (key, value)));
    }
    Ok(Val::Map(Rc::new(values)))
}

/// `&&` and `||`: one side that decides makes up for a fault of the other.
fn logic<'a>(
    a: &Ir,
    b: &Ir,
    decides: bool,
    stack: &mut Stack<'a>,
    machine: &mut Machine<'_>,
) -> Result<Val<'a>, Fault> {
    let first = evaluate(a, stack, machine);
    match first {
        Ok(Val::Bool(found)) if found == decides => return Ok(Val::Bool(found)),
        Err(Fault::TooExpensive) => return Err(Fault::TooExpensive),
        _ => {}
    }
    match (evaluate(b, stack, machine)?, first) {
        (Val::Bool(found), _) if found == decides => Ok(Val::Bool(found)),
        (Val::Bool(found), Ok(Val::Bool(_))) => Ok(Val::Bool(found)),
        (_, Err(fault)) => Err(fault),
        _ => Err(Fault::NoSuchOverload),
    }
}

fn call<'a>(
    candidates: &[&'static super::functions::Overload],
    args: &[Val<'a>],
    machine: &mut Machine<'_>,
) -> Result<Val<'a>, Fault> {
    if let [only] = candidates {
        return (only.run)(args, machine);
    }
    let chosen = candidates.iter().find(|overload| {
        // What an item of a list is, the function finds out itself.
        let mut bindings = Bindings::default();
        overload
            .params
            .iter()
            .zip(args)
            .all(|(param, arg)| match param {
                P::A | P::B | P::Dyn => true,
                param => param.accepts(&arg.ty(), &mut bindings),
            })
    });
    match chosen {
        Some(overload) => (overload.run)(args, machine),
        None => Err(Fault::NoSuchOverload),
    }
}

/// Evaluates a loop.
fn repeat<'a>(ir: &Ir, stack: &mut Stack<'a>, machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let Ir::Loop {
        what,
        over,
        two,
        test,
        body,
    } = ir
    else {
        return Err(Fault::NoSuchOverload);
    };
    let over = evaluate(over, stack, machine)?;
    let rounds: Vec<Vec<Val<'a>>> = if *two {
        let entries = over.entries(machine)?;
        entries
            .into_iter()
            .map(|(key, value)| vec![key, value])
            .collect()
    } else {
        over.items(machine)?
            .into_iter()
            .map(|item| vec![item])
            .collect()
    };
    let mut state = State::default();
    for variables in rounds {
        let key = variables.first().cloned().unwrap_or(Val::Null);
        let (passed, value) = with(stack, variables, |stack| {
            let passed = match test {
                Some(test) => evaluate(test, stack, machine),
                None => Ok(Val::Bool(true)),
            };
            let wanted = matches!(passed, Ok(Val::Bool(true)));
            let value = match body {
                Some(body) if wanted => evaluate(body, stack, machine).map(Some),
                _ => Ok(None),
            };
            (passed, value)
        });
        if let Some(done) = state.take(*what, passed, key, value?)? {
            return Ok(done);
        }
    }
    state.finish(*what)
}

/// What a loop has seen so far.
#[derive(Default)]
struct State<'a> {
    fault: Option<Fault>,
    count: usize,
    items: Vec<Val<'a>>,
    entries: Vec<(Val<'a>, Val<'a>)>,
}

impl<'a> State<'a> {
    /// Takes one round in; gives the result if that is decided.
    fn take(
        &mut self,
        what: Loop,
        passed: Result<Val<'a>, Fault>,
        key: Val<'a>,
        value: Option<Val<'a>>,
    ) -> Result<Option<Val<'a>>, Fault> {
        let passed = match passed {
            Ok(Val::Bool(passed)) => passed,
            Err(Fault::TooExpensive) => return Err(Fault::TooExpensive),
            // A later item may decide without this one.
            Err(fault) if matches!(what, Loop::All | Loop::Exists) => {
                self.fault.get_or_insert(fault);
                return Ok(None);
            }
            Err(fault) => return Err(fault),
            Ok(_) => return Err(Fault::NoSuchOverload),
        };
        match what {
            Loop::All if !passed => return Ok(Some(Val::Bool(false))),
            Loop::Exists if passed => return Ok(Some(Val::Bool(true))),
            Loop::ExistsOne => self.count += usize::from(passed),
            Loop::Filter if passed => self.items.push(key),
            Loop::Map => self.items.extend(value),
            Loop::MapEntries => self.entries.extend(value.map(|value| (key, value))),
            Loop::All | Loop::Exists | Loop::Filter => {}
        }
        Ok(None)
    }

    fn finish(self, what: Loop) -> Result<Val<'a>, Fault> {
        match what {
            Loop::All | Loop::Exists => match self.fault {
                Some(fault) => Err(fault),
                None => Ok(Val::Bool(what == Loop::All)),
            },
            Loop::ExistsOne => Ok(Val::Bool(self.count == 1)),
            Loop::Filter | Loop::Map => Ok(Val::list(self.items)),
            Loop::MapEntries => Ok(Val::Map(Rc::new(self.entries))),
        }
    }
}
