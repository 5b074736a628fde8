//! Texts. Places and lengths are counted in characters.

use std::fmt::Write as _;

use super::super::Machine;
use super::super::types::P;
use super::super::value::{Fault, Val};
use super::{Overload, arg, count, global, int, member, text};

const S: P = P::Str;

/// The functions of texts.
pub(super) static TABLE: &[Overload] = &[
    member("contains", &[S, S], P::Bool, |args, machine| {
        test(args, machine, |text, part| text.contains(part))
    }),
    member("startsWith", &[S, S], P::Bool, |args, machine| {
        test(args, machine, |text, part| text.starts_with(part))
    }),
    member("endsWith", &[S, S], P::Bool, |args, machine| {
        test(args, machine, |text, part| text.ends_with(part))
    }),
    member("charAt", &[S, P::Int], S, |args, machine| {
        let (text, at) = (read(args, 0, machine)?, int(args, 1)?);
        let length = text.chars().count();
        let place = usize::try_from(at).ok().filter(|at| *at <= length);
        let place = place.ok_or_else(|| Fault::failed(format!("index out of range: {at}")))?;
        let found: String = text.chars().nth(place).into_iter().collect();
        Ok(Val::text(found))
    }),
    member("indexOf", &[S, S], P::Int, |args, machine| {
        index_of(args, 0, machine)
    }),
    member("indexOf", &[S, S, P::Int], P::Int, |args, machine| {
        index_of(args, int(args, 2)?, machine)
    }),
    member("lastIndexOf", &[S, S], P::Int, |args, machine| {
        last_index_of(args, None, machine)
    }),
    member("lastIndexOf", &[S, S, P::Int], P::Int, |args, machine| {
        last_index_of(args, Some(int(args, 2)?), machine)
    }),
    member("lowerAscii", &[S], S, |args, machine| {
        Ok(Val::text(read(args, 0, machine)?.to_ascii_lowercase()))
    }),
    member("upperAscii", &[S], S, |args, machine| {
        Ok(Val::text(read(args, 0, machine)?.to_ascii_uppercase()))
    }),
    member("trim", &[S], S, |args, machine| {
        Ok(Val::text(read(args, 0, machine)?.trim()))
    }),
    member("reverse", &[S], S, |args, machine| {
        Ok(Val::text(
            read(args, 0, machine)?.chars().rev().collect::<String>(),
        ))
    }),
    member("replace", &[S, S, S], S, |args, machine| {
        replace(args, -1, machine)
    }),
    member("replace", &[S, S, S, P::Int], S, |args, machine| {
        replace(args, int(args, 3)?, machine)
    }),
    member("split", &[S, S], P::List(&S), |args, machine| {
        split(args, -1, machine)
    }),
    member("split", &[S, S, P::Int], P::List(&S), |args, machine| {
        split(args, int(args, 2)?, machine)
    }),
    member("substring", &[S, P::Int], S, |args, machine| {
        let end = read(args, 0, machine)?.chars().count();
        substring(args, i64::try_from(end).unwrap_or(i64::MAX), machine)
    }),
    member("substring", &[S, P::Int, P::Int], S, |args, machine| {
        substring(args, int(args, 2)?, machine)
    }),
    member("join", &[P::List(&S)], S, |args, machine| {
        join(args, "", machine)
    }),
    member("join", &[P::List(&S), S], S, |args, machine| {
        join(args, text(args, 1)?, machine)
    }),
    member("format", &[S, P::List(&P::Dyn)], S, format),
    global("strings.quote", &[S], S, |args, machine| {
        Ok(Val::text(format!("{:?}", read(args, 0, machine)?)))
    }),
];

/// The text at a place, paid for.
fn read<'v>(args: &'v [Val<'_>], at: usize, machine: &mut Machine<'_>) -> Result<&'v str, Fault> {
    let text = text(args, at)?;
    machine.spend(text.len() / 10)?;
    Ok(text)
}

fn test<'a>(
    args: &[Val<'a>],
    machine: &mut Machine<'_>,
    test: fn(&str, &str) -> bool,
) -> Result<Val<'a>, Fault> {
    let (whole, part) = (read(args, 0, machine)?, read(args, 1, machine)?);
    Ok(Val::Bool(test(whole, part)))
}

/// The byte at which a character begins.
fn byte_at(text: &str, at: i64) -> Result<usize, Fault> {
    let wrong = || Fault::failed(format!("index out of range: {at}"));
    let place = usize::try_from(at).map_err(|_| wrong())?;
    let ends = std::iter::once(text.len());
    text.char_indices()
        .map(|(byte, _)| byte)
        .chain(ends)
        .nth(place)
        .ok_or_else(wrong)
}

fn chars_before(text: &str, byte: usize) -> usize {
    text.get(..byte).map_or(0, |before| before.chars().count())
}

fn index_of<'a>(args: &[Val<'a>], from: i64, machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let (whole, part) = (read(args, 0, machine)?, read(args, 1, machine)?);
    let start = byte_at(whole, from)?;
    let found = whole.get(start..).and_then(|rest| rest.find(part));
    Ok(found.map_or(Val::Int(-1), |at| count(chars_before(whole, start + at))))
}

fn last_index_of<'a>(
    args: &[Val<'a>],
    until: Option<i64>,
    machine: &mut Machine<'_>,
) -> Result<Val<'a>, Fault> {
    let (whole, part) = (read(args, 0, machine)?, read(args, 1, machine)?);
    let end = match until {
        Some(until) => byte_at(whole, until)?
            .saturating_add(part.len())
            .min(whole.len()),
        None => whole.len(),
    };
    let mut end = end;
    while !whole.is_char_boundary(end) {
        end -= 1;
    }
    let found = whole.get(..end).and_then(|text| text.rfind(part));
    Ok(found.map_or(Val::Int(-1), |at| count(chars_before(whole, at))))
}

fn replace<'a>(args: &[Val<'a>], times: i64, machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let (whole, from, to) = (read(args, 0, machine)?, text(args, 1)?, text(args, 2)?);
    let found = if from.is_empty() {
        whole.chars().count() + 1
    } else {
        whole.matches(from).count()
    };
    let times = usize::try_from(times).unwrap_or(usize::MAX).min(found);
    machine.spend(times.saturating_mul(to.len()) / 10)?;
    Ok(Val::text(whole.replacen(from, to, times)))
}

fn split<'a>(args: &[Val<'a>], limit: i64, machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let (whole, by) = (read(args, 0, machine)?, text(args, 1)?);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut parts: Vec<Val<'a>> = Vec::new();
    if limit == 0 {
        return Ok(Val::list(parts));
    }
    machine.spend(if by.is_empty() {
        whole.len()
    } else {
        whole.matches(by).count()
    })?;
    if by.is_empty() {
        let mut rest = whole;
        while let Some(c) = rest.chars().next() {
            if parts.len() + 1 == limit {
                break;
            }
            let (head, tail) = rest.split_at(c.len_utf8());
            parts.push(Val::text(head));
            rest = tail;
        }
        if !rest.is_empty() {
            parts.push(Val::text(rest));
        }
    } else {
        parts.extend(whole.splitn(limit, by).map(Val::text));
    }
    Ok(Val::list(parts))
}

fn substring<'a>(args: &[Val<'a>], end: i64, machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let (whole, start) = (read(args, 0, machine)?, int(args, 1)?);
    if start > end {
        return Err(Fault::failed(format!(
            "invalid substring range. start: {start}, end: {end}"
        )));
    }
    let range = byte_at(whole, start)?..byte_at(whole, end)?;
    Ok(Val::text(whole.get(range).unwrap_or_default()))
}

fn join<'a>(args: &[Val<'a>], by: &str, machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let mut joined = String::new();
    for (at, item) in arg(args, 0)?.items(machine)?.iter().enumerate() {
        let item = item.as_str()?;
        machine.spend((item.len() + by.len()) / 10)?;
        if at > 0 {
            joined.push_str(by);
        }
        joined.push_str(item);
    }
    Ok(Val::text(joined))
}

fn format<'a>(args: &[Val<'a>], machine: &mut Machine<'_>) -> Result<Val<'a>, Fault> {
    let template = read(args, 0, machine)?;
    let values = arg(args, 1)?.items(machine)?;
    let mut values = values.iter();
    let mut out = String::new();
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut precision = 6;
        if chars.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = digits
                .parse()
                .ok()
                .filter(|precision| *precision <= 64)
                .ok_or_else(|| Fault::failed("error while formatting: precision out of range"))?;
        }
        let verb = chars
            .next()
            .ok_or_else(|| Fault::failed("unexpected end of format string"))?;
        let value = values.next().ok_or_else(|| {
            Fault::failed("index out of range: too few arguments for the format string")
        })?;
        clause(verb, precision, value, &mut out, machine)?;
    }
    Ok(Val::text(out))
}

/// Writes one argument as its verb says.
fn clause(
    verb: char,
    precision: usize,
    value: &Val<'_>,
    out: &mut String,
    machine: &mut Machine<'_>,
) -> Result<(), Fault> {
    let wrong = || {
        Fault::failed(format!(
            "error during formatting: {verb:?} does not take a value of type {}",
            value.type_name()
        ))
    };
    let _ = match (verb, value) {
        ('s', value) => {
            out.push_str(&value.to_display(machine)?);
            Ok(())
        }
        ('d', Val::Int(number)) => write!(out, "{number}"),
        ('d', Val::Uint(number)) => write!(out, "{number}"),
        ('d', Val::Double(number)) => write!(out, "{number}"),
        ('f', Val::Double(number)) => write!(out, "{number:.precision$}"),
        ('f', Val::Int(number)) => write!(out, "{number}.{:0<precision$}", ""),
        ('e', Val::Double(number)) => write!(out, "{number:.precision$e}"),
        ('b', Val::Int(number)) => write!(out, "{number:b}"),
        ('b', Val::Uint(number)) => write!(out, "{number:b}"),
        ('b', Val::Bool(set)) => write!(out, "{}", u8::from(*set)),
        ('o', Val::Int(number)) => write!(out, "{number:o}"),
        ('o', Val::Uint(number)) => write!(out, "{number:o}"),
        ('x', Val::Int(number)) => write!(out, "{number:x}"),
        ('x', Val::Uint(number)) => write!(out, "{number:x}"),
        ('X', Val::Int(number)) => write!(out, "{number:X}"),
        ('X', Val::Uint(number)) => write!(out, "{number:X}"),
        ('x' | 'X', Val::Str(text)) => {
            machine.spend(text.len() / 5)?;
            for byte in text.bytes() {
                let _ = if verb == 'x' {
                    write!(out, "{byte:02x}")
                } else {
                    write!(out, "{byte:02X}")
                };
            }
            Ok(())
        }
        _ => return Err(wrong()),
    };
    Ok(())
}
