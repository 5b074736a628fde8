//! Arithmetic, comparison, membership, size.

use std::cmp::Ordering;

use super::super::Machine;
use super::super::types::P;
use super::super::value::{Fault, Val, compare, concatenated, equal};
use super::{Overload, arg, count, global, member};

const NUMBERS: [P; 3] = [P::Int, P::Uint, P::Double];
const LIST: P = P::List(&P::A);
const MAP: P = P::Map(&P::A, &P::B);

macro_rules! ordered {
    ($($name:literal $test:expr;)*) => {
        &[$(
            global($name, &[P::Bool, P::Bool], P::Bool, |args, machine| order(args, machine, $test)),
            global($name, &[P::Int, P::Int], P::Bool, |args, machine| order(args, machine, $test)),
            global($name, &[P::Int, P::Uint], P::Bool, |args, machine| order(args, machine, $test)),
            global($name, &[P::Int, P::Double], P::Bool, |args, machine| order(args, machine, $test)),
            global($name, &[P::Uint, P::Uint], P::Bool, |args, machine| order(args, machine, $test)),
            global($name, &[P::Uint, P::Int], P::Bool, |args, machine| order(args, machine, $test)),
            global($name, &[P::Uint, P::Double], P::Bool, |args, machine| order(args, machine, $test)),
            global($name, &[P::Double, P::Double], P::Bool, |args, machine| order(args, machine, $test)),
            global($name, &[P::Double, P::Int], P::Bool, |args, machine| order(args, machine, $test)),
            global($name, &[P::Double, P::Uint], P::Bool, |args, machine| order(args, machine, $test)),
            global($name, &[P::Str, P::Str], P::Bool, |args, machine| order(args, machine, $test)),
            global($name, &[P::Bytes, P::Bytes], P::Bool, |args, machine| order(args, machine, $test)),
            global($name, &[P::Duration, P::Duration], P::Bool, |args, machine| order(args, machine, $test)),
            global($name, &[P::Timestamp, P::Timestamp], P::Bool, |args, machine| order(args, machine, $test)),
        )*]
    };
}

/// The comparisons.
pub(super) static COMPARISONS: &[Overload] = ordered! {
    "_<_" Ordering::is_lt;
    "_<=_" Ordering::is_le;
    "_>_" Ordering::is_gt;
    "_>=_" Ordering::is_ge;
};

/// Everything else.
pub(super) static TABLE: &[Overload] = &[
    global("_==_", &[P::A, P::A], P::Bool, |args, machine| {
        Ok(Val::Bool(equal(arg(args, 0)?, arg(args, 1)?, machine)?))
    }),
    global("_!=_", &[P::A, P::A], P::Bool, |args, machine| {
        Ok(Val::Bool(!equal(arg(args, 0)?, arg(args, 1)?, machine)?))
    }),
    global("!_", &[P::Bool], P::Bool, |args, _| match arg(args, 0)? {
        Val::Bool(set) => Ok(Val::Bool(!set)),
        _ => Err(Fault::NoSuchOverload),
    }),
    global("-_", &[P::Int], P::Int, negate),
    global("-_", &[P::Double], P::Double, negate),
    global("-_", &[P::Duration], P::Duration, negate),
    global("_+_", &[P::Int, P::Int], P::Int, add),
    global("_+_", &[P::Uint, P::Uint], P::Uint, add),
    global("_+_", &[P::Double, P::Double], P::Double, add),
    global("_+_", &[P::Str, P::Str], P::Str, add),
    global("_+_", &[P::Bytes, P::Bytes], P::Bytes, add),
    global("_+_", &[LIST, LIST], LIST, add),
    global("_+_", &[P::Duration, P::Duration], P::Duration, add),
    global("_+_", &[P::Timestamp, P::Duration], P::Timestamp, add),
    global("_+_", &[P::Duration, P::Timestamp], P::Timestamp, add),
    global("_-_", &[P::Int, P::Int], P::Int, subtract),
    global("_-_", &[P::Uint, P::Uint], P::Uint, subtract),
    global("_-_", &[P::Double, P::Double], P::Double, subtract),
    global("_-_", &[P::Duration, P::Duration], P::Duration, subtract),
    global("_-_", &[P::Timestamp, P::Timestamp], P::Duration, subtract),
    global("_-_", &[P::Timestamp, P::Duration], P::Timestamp, subtract),
    global("_*_", &[NUMBERS[0], NUMBERS[0]], P::Int, multiply),
    global("_*_", &[NUMBERS[1], NUMBERS[1]], P::Uint, multiply),
    global("_*_", &[NUMBERS[2], NUMBERS[2]], P::Double, multiply),
    global("_/_", &[P::Int, P::Int], P::Int, divide),
    global("_/_", &[P::Uint, P::Uint], P::Uint, divide),
    global("_/_", &[P::Double, P::Double], P::Double, divide),
    global("_%_", &[P::Int, P::Int], P::Int, remainder),
    global("_%_", &[P::Uint, P::Uint], P::Uint, remainder),
    global("@in", &[P::A, LIST], P::Bool, contains),
    global("@in", &[P::A, MAP], P::Bool, contains),
    global("size", &[P::Str], P::Int, size),
    global("size", &[P::Bytes], P::Int, size),
    global("size", &[LIST], P::Int, size),
    global("size", &[MAP], P::Int, size),
    member("size", &[P::Str], P::Int, size),
    member("size", &[P::Bytes], P::Int, size),
    member("size", &[LIST], P::Int, size),
    member("size", &[MAP], P::Int, size),
];

fn order<'a>(
    args: &[Val<'a>],
    machine: &mut Machine<'_>,
    test: fn(Ordering) -> bool,
) -> Result<Val<'a>, Fault> {
    let (a, b) = (arg(args, 0)?, arg(args, 1)?);
    if let (Val::Str(a), Val::Str(b)) = (a, b) {
        machine.spend(a.len().min(b.len()) / 10)?;
    }
    Ok(Val::Bool(compare(a, b)?.is_some_and(test)))
}

fn overflow(what: &str) -> Fault {
    Fault::failed(format!("{what} overflow"))
}

fn negate<'a>(args: &[Val<'a>], _: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    match arg(args, 0)? {
        Val::Int(number) => number
            .checked_neg()
            .map(Val::Int)
            .ok_or_else(|| overflow("integer")),
        Val::Double(number) => Ok(Val::Double(-number)),
        Val::Duration(span) => span
            .checked_neg()
            .map(Val::Duration)
            .ok_or_else(|| overflow("duration")),
        _ => Err(Fault::NoSuchOverload),
    }
}

fn add<'a>(args: &[Val<'a>], machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    match (arg(args, 0)?, arg(args, 1)?) {
        (Val::Int(a), Val::Int(b)) => a
            .checked_add(*b)
            .map(Val::Int)
            .ok_or_else(|| overflow("integer")),
        (Val::Uint(a), Val::Uint(b)) => a
            .checked_add(*b)
            .map(Val::Uint)
            .ok_or_else(|| overflow("unsigned integer")),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a + b)),
        (Val::Str(a), Val::Str(b)) => {
            machine.spend((a.len() + b.len()) / 10)?;
            Ok(Val::text([&**a, &**b].concat()))
        }
        (Val::Bytes(a), Val::Bytes(b)) => {
            machine.spend((a.len() + b.len()) / 10)?;
            Ok(Val::Bytes([&**a, &**b].concat().into()))
        }
        (Val::Duration(a), Val::Duration(b)) => a
            .checked_add(*b)
            .map(Val::Duration)
            .ok_or_else(|| overflow("duration")),
        (Val::Timestamp(time), Val::Duration(span))
        | (Val::Duration(span), Val::Timestamp(time)) => time
            .checked_add(*span)
            .map(Val::Timestamp)
            .map_err(|_| overflow("timestamp")),
        (a, b) if a.is_list() && b.is_list() => concatenated(a, b, machine),
        _ => Err(Fault::NoSuchOverload),
    }
}

fn subtract<'a>(args: &[Val<'a>], _: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    match (arg(args, 0)?, arg(args, 1)?) {
        (Val::Int(a), Val::Int(b)) => a
            .checked_sub(*b)
            .map(Val::Int)
            .ok_or_else(|| overflow("integer")),
        (Val::Uint(a), Val::Uint(b)) => a
            .checked_sub(*b)
            .map(Val::Uint)
            .ok_or_else(|| overflow("unsigned integer")),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a - b)),
        (Val::Duration(a), Val::Duration(b)) => a
            .checked_sub(*b)
            .map(Val::Duration)
            .ok_or_else(|| overflow("duration")),
        (Val::Timestamp(a), Val::Timestamp(b)) => Ok(Val::Duration(a.duration_since(*b))),
        (Val::Timestamp(time), Val::Duration(span)) => time
            .checked_sub(*span)
            .map(Val::Timestamp)
            .map_err(|_| overflow("timestamp")),
        _ => Err(Fault::NoSuchOverload),
    }
}

fn multiply<'a>(args: &[Val<'a>], _: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    match (arg(args, 0)?, arg(args, 1)?) {
        (Val::Int(a), Val::Int(b)) => a
            .checked_mul(*b)
            .map(Val::Int)
            .ok_or_else(|| overflow("integer")),
        (Val::Uint(a), Val::Uint(b)) => a
            .checked_mul(*b)
            .map(Val::Uint)
            .ok_or_else(|| overflow("unsigned integer")),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a * b)),
        _ => Err(Fault::NoSuchOverload),
    }
}

fn divide<'a>(args: &[Val<'a>], _: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    match (arg(args, 0)?, arg(args, 1)?) {
        (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) => {
            Err(Fault::failed("division by zero"))
        }
        (Val::Int(a), Val::Int(b)) => a
            .checked_div(*b)
            .map(Val::Int)
            .ok_or_else(|| overflow("integer")),
        (Val::Uint(a), Val::Uint(b)) => Ok(Val::Uint(a / b)),
        (Val::Double(a), Val::Double(b)) => Ok(Val::Double(a / b)),
        _ => Err(Fault::NoSuchOverload),
    }
}

fn remainder<'a>(args: &[Val<'a>], _: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    match (arg(args, 0)?, arg(args, 1)?) {
        (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) => {
            Err(Fault::failed("modulus by zero"))
        }
        (Val::Int(a), Val::Int(b)) => a
            .checked_rem(*b)
            .map(Val::Int)
            .ok_or_else(|| overflow("integer")),
        (Val::Uint(a), Val::Uint(b)) => Ok(Val::Uint(a % b)),
        _ => Err(Fault::NoSuchOverload),
    }
}

fn contains<'a>(args: &[Val<'a>], machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let (wanted, of) = (arg(args, 0)?, arg(args, 1)?);
    if of.is_map() {
        return Ok(Val::Bool(match (of, wanted) {
            (Val::Json(..), Val::Str(_)) | (Val::Map(_), _) => of.index(wanted, machine)?.is_some(),
            _ => false,
        }));
    }
    for item in of.items(machine)? {
        if equal(&item, wanted, machine)? {
            return Ok(Val::Bool(true));
        }
    }
    Ok(Val::Bool(false))
}

fn size<'a>(args: &[Val<'a>], machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    match arg(args, 0)? {
        Val::Str(text) => {
            machine.spend(text.len() / 10)?;
            Ok(count(text.chars().count()))
        }
        Val::Bytes(bytes) => Ok(count(bytes.len())),
        other => other.len().map(count).ok_or(Fault::NoSuchOverload),
    }
}
