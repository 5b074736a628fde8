//! Lists, and lists that are taken for sets.

use std::cmp::Ordering;

use super::super::Machine;
use super::super::types::P;
use super::super::value::{Fault, Val, compare, equal, find};
use super::{Overload, arg, count, global, int, member};

const LIST: P = P::List(&P::A);

/// The functions of lists.
pub(super) static TABLE: &[Overload] = &[
    member("isSorted", &[LIST], P::Bool, |args, machine| {
        let items = arg(args, 0)?.items(machine)?;
        for pair in items.windows(2) {
            if let [a, b] = pair
                && compare(a, b)? == Some(Ordering::Greater)
            {
                return Ok(Val::Bool(false));
            }
        }
        Ok(Val::Bool(true))
    }),
    member("sum", &[P::List(&P::Int)], P::Int, sum),
    member("sum", &[P::List(&P::Uint)], P::Uint, sum),
    member("sum", &[P::List(&P::Double)], P::Double, sum),
    member("sum", &[P::List(&P::Duration)], P::Duration, sum),
    member("min", &[LIST], P::A, |args, machine| {
        extreme(args, "min", Ordering::Less, machine)
    }),
    member("max", &[LIST], P::A, |args, machine| {
        extreme(args, "max", Ordering::Greater, machine)
    }),
    member("indexOf", &[LIST, P::A], P::Int, |args, machine| {
        let items = arg(args, 0)?.items(machine)?;
        Ok(find(&items, arg(args, 1)?, machine)?.map_or(Val::Int(-1), count))
    }),
    member("lastIndexOf", &[LIST, P::A], P::Int, |args, machine| {
        let items = arg(args, 0)?.items(machine)?;
        for (at, item) in items.iter().enumerate().rev() {
            if equal(item, arg(args, 1)?, machine)? {
                return Ok(count(at));
            }
        }
        Ok(Val::Int(-1))
    }),
    member("reverse", &[LIST], LIST, |args, machine| {
        let mut items = arg(args, 0)?.items(machine)?;
        items.reverse();
        Ok(Val::list(items))
    }),
    member("distinct", &[LIST], LIST, |args, machine| {
        let mut kept: Vec<Val<'_>> = Vec::new();
        for item in arg(args, 0)?.items(machine)? {
            if find(&kept, &item, machine)?.is_none() {
                kept.push(item);
            }
        }
        Ok(Val::list(kept))
    }),
    member("sort", &[LIST], LIST, sort),
    member("slice", &[LIST, P::Int, P::Int], LIST, slice),
    member(
        "flatten",
        &[P::List(&P::Dyn)],
        P::List(&P::Dyn),
        |args, machine| {
            let mut flat = Vec::new();
            for item in arg(args, 0)?.items(machine)? {
                if item.is_list() {
                    flat.extend(item.items(machine)?);
                } else {
                    flat.push(item);
                }
            }
            Ok(Val::list(flat))
        },
    ),
    global("sets.contains", &[LIST, LIST], P::Bool, |args, machine| {
        Ok(Val::Bool(holds_all(arg(args, 0)?, arg(args, 1)?, machine)?))
    }),
    global(
        "sets.equivalent",
        &[LIST, LIST],
        P::Bool,
        |args, machine| {
            let (a, b) = (arg(args, 0)?, arg(args, 1)?);
            Ok(Val::Bool(
                holds_all(a, b, machine)? && holds_all(b, a, machine)?,
            ))
        },
    ),
    global(
        "sets.intersects",
        &[LIST, LIST],
        P::Bool,
        |args, machine| {
            let (a, b) = (arg(args, 0)?.items(machine)?, arg(args, 1)?.items(machine)?);
            for item in &b {
                if find(&a, item, machine)?.is_some() {
                    return Ok(Val::Bool(true));
                }
            }
            Ok(Val::Bool(false))
        },
    ),
];

fn holds_all(of: &Val<'_>, wanted: &Val<'_>, machine: &mut Machine<'_>) -> Result<bool, Fault> {
    let items = of.items(machine)?;
    for item in wanted.items(machine)? {
        if find(&items, &item, machine)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn sum<'a>(args: &[Val<'a>], machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let overflow = || Fault::failed("integer overflow");
    let mut total: Option<Val<'a>> = None;
    for item in arg(args, 0)?.items(machine)? {
        total = Some(match (total, item) {
            (None, item) => item,
            (Some(Val::Int(a)), Val::Int(b)) => Val::Int(a.checked_add(b).ok_or_else(overflow)?),
            (Some(Val::Uint(a)), Val::Uint(b)) => Val::Uint(a.checked_add(b).ok_or_else(overflow)?),
            (Some(Val::Double(a)), Val::Double(b)) => Val::Double(a + b),
            (Some(Val::Duration(a)), Val::Duration(b)) => {
                Val::Duration(a.checked_add(b).ok_or_else(overflow)?)
            }
            _ => return Err(Fault::NoSuchOverload),
        });
    }
    Ok(total.unwrap_or(Val::Int(0)))
}

fn extreme<'a>(
    args: &[Val<'a>],
    name: &str,
    wanted: Ordering,
    machine: &mut Machine<'_>,
) -> Result<Val<'a>, Fault> {
    let mut best: Option<Val<'a>> = None;
    for item in arg(args, 0)?.items(machine)? {
        best = Some(match best {
            Some(best) if compare(&item, &best)? != Some(wanted) => best,
            _ => item,
        });
    }
    best.ok_or_else(|| Fault::failed(format!("{name} called on empty list")))
}

fn sort<'a>(args: &[Val<'a>], machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let mut items = arg(args, 0)?.items(machine)?;
    machine.spend(items.len().saturating_mul(8))?;
    let mut fault = None;
    items.sort_by(|a, b| {
        compare(a, b)
            .inspect_err(|found| fault = Some(found.clone()))
            .ok()
            .flatten()
            .unwrap_or(Ordering::Equal)
    });
    match fault {
        Some(fault) => Err(fault),
        None => Ok(Val::list(items)),
    }
}

fn slice<'a>(args: &[Val<'a>], machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let items = arg(args, 0)?.items(machine)?;
    let (start, end) = (int(args, 1)?, int(args, 2)?);
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    let found = range.and_then(|(start, end)| items.get(start..end));
    found.map(|items| Val::list(items.to_vec())).ok_or_else(|| {
        Fault::failed(format!(
            "cannot slice({start}, {end}), list is length {}",
            items.len()
        ))
    })
}
