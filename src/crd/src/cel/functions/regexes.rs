//! Regular expressions, in Go's syntax.

use super::super::Machine;
use super::super::types::P;
use super::super::value::{Fault, Val};
use super::{Overload, global, int, member, text};

const S: P = P::Str;

/// The functions of patterns.
pub(super) static TABLE: &[Overload] = &[
    member("matches", &[S, S], P::Bool, matches),
    global("matches", &[S, S], P::Bool, matches),
    member("find", &[S, S], S, |args, machine| {
        let whole = read(args, machine)?;
        let pattern = machine.pattern(text(args, 1)?)?;
        Ok(Val::text(
            pattern.find(whole).map_or("", |found| found.as_str()),
        ))
    }),
    member("findAll", &[S, S], P::List(&S), |args, machine| {
        find_all(args, -1, machine)
    }),
    member("findAll", &[S, S, P::Int], P::List(&S), |args, machine| {
        find_all(args, int(args, 2)?, machine)
    }),
];

/// The text, paid for: a match may look at it as often as the pattern is long.
fn read<'v>(args: &'v [Val<'_>], machine: &mut Machine<'_>) -> Result<&'v str, Fault> {
    let (whole, pattern) = (text(args, 0)?, text(args, 1)?);
    machine.spend((whole.len() / 10 + 1).saturating_mul(pattern.len() / 4 + 1))?;
    Ok(whole)
}

fn matches<'a>(args: &[Val<'a>], machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let whole = read(args, machine)?;
    Ok(Val::Bool(machine.pattern(text(args, 1)?)?.is_match(whole)))
}

fn find_all<'a>(args: &[Val<'a>], limit: i64, machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let whole = read(args, machine)?;
    let pattern = machine.pattern(text(args, 1)?)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut found = Vec::new();
    for part in pattern.find_iter(whole).take(limit) {
        machine.spend(1)?;
        found.push(Val::text(part.as_str()));
    }
    Ok(Val::list(found))
}
