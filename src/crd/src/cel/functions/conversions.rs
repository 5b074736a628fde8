//! From one type to another.

use super::super::types::{Opaque, P};
use super::super::value::{Fault, Val};
use super::super::{Machine, duration};
use super::{Overload, arg, global, text};

/// The conversions.
pub(super) static TABLE: &[Overload] = &[
    global("dyn", &[P::A], P::Dyn, |args, _| Ok(arg(args, 0)?.clone())),
    global("type", &[P::A], P::Type, |args, _| {
        Ok(Val::Type(arg(args, 0)?.type_name().into()))
    }),
    global("int", &[P::Int], P::Int, to_int),
    global("int", &[P::Uint], P::Int, to_int),
    global("int", &[P::Double], P::Int, to_int),
    global("int", &[P::Str], P::Int, to_int),
    global("int", &[P::Timestamp], P::Int, to_int),
    global("uint", &[P::Int], P::Uint, to_uint),
    global("uint", &[P::Uint], P::Uint, to_uint),
    global("uint", &[P::Double], P::Uint, to_uint),
    global("uint", &[P::Str], P::Uint, to_uint),
    global("double", &[P::Int], P::Double, to_double),
    global("double", &[P::Uint], P::Double, to_double),
    global("double", &[P::Double], P::Double, to_double),
    global("double", &[P::Str], P::Double, to_double),
    global("bool", &[P::Bool], P::Bool, to_bool),
    global("bool", &[P::Str], P::Bool, to_bool),
    global("bytes", &[P::Bytes], P::Bytes, to_bytes),
    global("bytes", &[P::Str], P::Bytes, to_bytes),
    global("string", &[P::Bool], P::Str, to_string),
    global("string", &[P::Int], P::Str, to_string),
    global("string", &[P::Uint], P::Str, to_string),
    global("string", &[P::Double], P::Str, to_string),
    global("string", &[P::Str], P::Str, to_string),
    global("string", &[P::Bytes], P::Str, to_string),
    global("string", &[P::Duration], P::Str, to_string),
    global("string", &[P::Timestamp], P::Str, to_string),
    global("string", &[P::Of(Opaque::Ip)], P::Str, to_string),
    global("string", &[P::Of(Opaque::Cidr)], P::Str, to_string),
    global("duration", &[P::Str], P::Duration, |args, _| {
        let text = text(args, 0)?;
        duration::parse(text)
            .map(Val::Duration)
            .ok_or_else(|| Fault::failed(format!("time: invalid duration {text:?}")))
    }),
    global("duration", &[P::Duration], P::Duration, |args, _| {
        Ok(arg(args, 0)?.clone())
    }),
    global("timestamp", &[P::Str], P::Timestamp, |args, _| {
        let text = text(args, 0)?;
        text.parse().map(Val::Timestamp).map_err(|_| {
            Fault::failed(format!(
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?}"
            ))
        })
    }),
    global("timestamp", &[P::Int], P::Timestamp, |args, _| {
        let seconds = arg(args, 0)?.as_int()?;
        jiff::Timestamp::from_second(seconds)
            .map(Val::Timestamp)
            .map_err(|_| Fault::failed("timestamp overflow"))
    }),
    global("timestamp", &[P::Timestamp], P::Timestamp, |args, _| {
        Ok(arg(args, 0)?.clone())
    }),
];

fn bad(what: &str, text: &str) -> Fault {
    Fault::failed(format!("strconv.{what}: parsing {text:?}: invalid syntax"))
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "within range, and cut as the language has it"
)]
fn to_int<'a>(args: &[Val<'a>], _: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let overflow = || Fault::failed("integer overflow");
    Ok(Val::Int(match arg(args, 0)? {
        Val::Int(number) => *number,
        Val::Uint(number) => i64::try_from(*number).map_err(|_| overflow())?,
        Val::Double(number) if number.abs() < 9.223_372_036_854_775e18 => *number as i64,
        Val::Double(_) => return Err(overflow()),
        Val::Str(text) => text.parse().map_err(|_| bad("ParseInt", text))?,
        Val::Timestamp(time) => time.as_second(),
        _ => return Err(Fault::NoSuchOverload),
    }))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "within range, and cut as the language has it"
)]
fn to_uint<'a>(args: &[Val<'a>], _: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let overflow = || Fault::failed("unsigned integer overflow");
    Ok(Val::Uint(match arg(args, 0)? {
        Val::Uint(number) => *number,
        Val::Int(number) => u64::try_from(*number).map_err(|_| overflow())?,
        Val::Double(number) if (0.0..1.844_674_407_370_955e19).contains(number) => *number as u64,
        Val::Double(_) => return Err(overflow()),
        Val::Str(text) => text.parse().map_err(|_| bad("ParseUint", text))?,
        _ => return Err(Fault::NoSuchOverload),
    }))
}

#[allow(clippy::cast_precision_loss, reason = "as the language has it")]
fn to_double<'a>(args: &[Val<'a>], _: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    Ok(Val::Double(match arg(args, 0)? {
        Val::Int(number) => *number as f64,
        Val::Uint(number) => *number as f64,
        Val::Double(number) => *number,
        Val::Str(text) => text.parse().map_err(|_| bad("ParseFloat", text))?,
        _ => return Err(Fault::NoSuchOverload),
    }))
}

fn to_bool<'a>(args: &[Val<'a>], _: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    Ok(Val::Bool(match arg(args, 0)? {
        Val::Bool(set) => *set,
        Val::Str(text) => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            text => return Err(bad("ParseBool", text)),
        },
        _ => return Err(Fault::NoSuchOverload),
    }))
}

fn to_bytes<'a>(args: &[Val<'a>], machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    match arg(args, 0)? {
        Val::Str(text) => {
            machine.spend(text.len() / 10)?;
            Ok(Val::Bytes(text.as_bytes().into()))
        }
        other @ Val::Bytes(_) => Ok(other.clone()),
        _ => Err(Fault::NoSuchOverload),
    }
}

fn to_string<'a>(args: &[Val<'a>], machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let value = arg(args, 0)?;
    if let Val::Str(_) = value {
        return Ok(value.clone());
    }
    let text = value
        .to_text()
        .ok_or_else(|| Fault::failed("invalid UTF-8 in bytes, cannot convert to string"))?;
    machine.spend(text.len() / 10)?;
    Ok(Val::text(text))
}
