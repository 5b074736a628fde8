//! The parts of moments and spans of time.

use jiff::Zoned;
use jiff::tz::{Offset, TimeZone};

use super::super::types::P;
use super::super::value::{Fault, Val};
use super::{Overload, arg, member, text};

macro_rules! parts {
    ($($name:literal $part:expr;)*) => {
        &[$(
            member($name, &[P::Timestamp], P::Int, |args, _| {
                let part: fn(&Zoned) -> i64 = $part;
                Ok(Val::Int(part(&zoned(args)?)))
            }),
            member($name, &[P::Timestamp, P::Str], P::Int, |args, _| {
                let part: fn(&Zoned) -> i64 = $part;
                Ok(Val::Int(part(&zoned(args)?)))
            }),
        )*
            member("getHours", &[P::Duration], P::Int, |args, _| span(args, 3_600_000)),
            member("getMinutes", &[P::Duration], P::Int, |args, _| span(args, 60_000)),
            member("getSeconds", &[P::Duration], P::Int, |args, _| span(args, 1_000)),
            member("getMilliseconds", &[P::Duration], P::Int, |args, _| span(args, 1)),
        ]
    };
}

/// The functions of times.
pub(super) static TABLE: &[Overload] = parts! {
    "getFullYear" |time| time.year().into();
    "getMonth" |time| i64::from(time.month()) - 1;
    "getDate" |time| time.day().into();
    "getDayOfMonth" |time| i64::from(time.day()) - 1;
    "getDayOfWeek" |time| time.weekday().to_sunday_zero_offset().into();
    "getDayOfYear" |time| i64::from(time.day_of_year()) - 1;
    "getHours" |time| time.hour().into();
    "getMinutes" |time| time.minute().into();
    "getSeconds" |time| time.second().into();
    "getMilliseconds" |time| time.millisecond().into();
};

/// The moment in UTC, or in the zone that the second argument names.
fn zoned(args: &[Val<'_>]) -> Result<Zoned, Fault> {
    let Val::Timestamp(time) = arg(args, 0)? else {
        return Err(Fault::NoSuchOverload);
    };
    let zone = match args.get(1) {
        Some(_) => zone(text(args, 1)?)?,
        None => TimeZone::UTC,
    };
    Ok(time.to_zoned(zone))
}

/// A zone by its name, or by its distance from UTC: `-02:00`.
fn zone(name: &str) -> Result<TimeZone, Fault> {
    let unknown = || Fault::failed(format!("unknown time zone {name}"));
    let Some((hours, minutes)) = name.split_once(':') else {
        return TimeZone::get(name).map_err(|_| unknown());
    };
    let negative = hours.starts_with('-');
    let hours: i32 = hours
        .trim_start_matches(['+', '-'])
        .parse()
        .map_err(|_| unknown())?;
    let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
    if !(0..=24).contains(&hours) || !(0..60).contains(&minutes) {
        return Err(unknown());
    }
    let seconds = (hours * 60 + minutes) * 60;
    let offset = Offset::from_seconds(if negative { -seconds } else { seconds });
    offset.map(TimeZone::fixed).map_err(|_| unknown())
}

/// A span in units of so many milliseconds.
fn span<'a>(args: &[Val<'a>], unit: i128) -> Result<Val<'a>, Fault> {
    let Val::Duration(span) = arg(args, 0)? else {
        return Err(Fault::NoSuchOverload);
    };
    Ok(Val::Int(
        i64::try_from(span.as_millis() / unit).unwrap_or(i64::MAX),
    ))
}
