//! Schedules of cron jobs: five fields (minute, hour, day of month, month, day of week), or a word such as `@hourly`.
//!
//! What is accepted, and in which words the rest is refused, is as `ParseStandard` of github.com/robfig/cron v3 has it.

use super::cron_job::zone_exists;

/// Why a text is no schedule.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScheduleError {
    #[error("provided bad location {zone}: unknown time zone {zone}")]
    Zone { zone: String },
    #[error("expected exactly 5 fields, found {count}: [{fields}]")]
    Fields { count: usize, fields: String },
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    #[error("failed to parse duration {0}: time: invalid duration {1:?}")]
    Duration(String, String),
    #[error("failed to parse int from {0}: strconv.Atoi: parsing {0:?}: invalid syntax")]
    Number(String),
    #[error("negative number ({number}) not allowed: {text}")]
    Negative { number: i64, text: String },
    #[error("too many hyphens: {0}")]
    Hyphens(String),
    #[error("too many slashes: {0}")]
    Slashes(String),
    #[error("beginning of range ({start}) below minimum ({min}): {text}")]
    BelowMinimum { start: i64, min: i64, text: String },
    #[error("end of range ({end}) above maximum ({max}): {text}")]
    AboveMaximum { end: i64, max: i64, text: String },
    #[error("beginning of range ({start}) beyond end of range ({end}): {text}")]
    Backwards { start: i64, end: i64, text: String },
    #[error("step of range should be a positive number: {0}")]
    Step(String),
}

/// The values of a field, with names for them.
struct Bounds {
    min: i64,
    max: i64,
    /// The first of the names stands for `min`.
    names: &'static [&'static str],
}

const FIELDS: [Bounds; 5] = [
    Bounds {
        min: 0,
        max: 59,
        names: &[],
    },
    Bounds {
        min: 0,
        max: 23,
        names: &[],
    },
    Bounds {
        min: 1,
        max: 31,
        names: &[],
    },
    Bounds {
        min: 1,
        max: 12,
        names: &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    },
    Bounds {
        min: 0,
        max: 6,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];

const DESCRIPTORS: [&str; 7] = [
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@midnight",
    "@hourly",
];

/// Checks a schedule.
pub(super) fn check(text: &str) -> Result<(), ScheduleError> {
    let mut schedule = text;
    for prefix in ["TZ=", "CRON_TZ="] {
        if let Some(rest) = text.strip_prefix(prefix) {
            let (zone, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            if !zone.is_empty() && !zone_exists(zone) {
                let zone = zone.to_owned();
                return Err(ScheduleError::Zone { zone });
            }
            schedule = rest.trim();
        }
    }
    if schedule.starts_with('@') {
        return descriptor(schedule);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(ScheduleError::Fields {
            count: fields.len(),
            fields: fields.join(" "),
        });
    }
    for (field, bounds) in fields.iter().zip(&FIELDS) {
        for range in field.split(',').filter(|range| !range.is_empty()) {
            check_range(range, bounds)?;
        }
    }
    Ok(())
}

fn descriptor(text: &str) -> Result<(), ScheduleError> {
    if DESCRIPTORS.contains(&text) {
        return Ok(());
    }
    match text.strip_prefix("@every ") {
        Some(duration) if is_duration(duration) => Ok(()),
        Some(duration) => Err(ScheduleError::Duration(
            text.to_owned(),
            duration.to_owned(),
        )),
        None => Err(ScheduleError::Descriptor(text.to_owned())),
    }
}

/// `1h30m`, `1.5s`, `-2m`: a duration as Go writes it.
fn is_duration(text: &str) -> bool {
    let mut left = text.strip_prefix(['-', '+']).unwrap_or(text);
    if left == "0" {
        return true;
    }
    if left.is_empty() {
        return false;
    }
    while !left.is_empty() {
        let end = left
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(left.len());
        let (number, rest) = left.split_at(end);
        if number.matches('.').count() > 1 || !number.bytes().any(|byte| byte.is_ascii_digit()) {
            return false;
        }
        // The longer names first: `ms` is not a minute.
        let units = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"];
        let Some(rest) = units.iter().find_map(|unit| rest.strip_prefix(unit)) else {
            return false;
        };
        left = rest;
    }
    true
}

/// `*`, `5`, `1-5`, and each of them with a step: `*/10`.
fn check_range(text: &str, bounds: &Bounds) -> Result<(), ScheduleError> {
    let mut parts = text.split('/');
    let (range, step) = (parts.next().unwrap_or_default(), parts.next());
    let mut ends = range.split('-');
    let (low, high) = (ends.next().unwrap_or_default(), ends.next());
    let (start, mut end) = if matches!(low, "*" | "?") {
        (bounds.min, bounds.max)
    } else {
        let start = value(low, bounds)?;
        let end = high.map_or(Ok(start), |high| value(high, bounds))?;
        if ends.next().is_some() {
            return Err(ScheduleError::Hyphens(text.to_owned()));
        }
        (start, end)
    };
    let step = match step {
        None => 1,
        Some(step) => {
            let step = number(step)?;
            if high.is_none() {
                end = bounds.max;
            }
            step
        }
    };
    let text = || text.to_owned();
    if parts.next().is_some() {
        return Err(ScheduleError::Slashes(text()));
    }
    let (min, max) = (bounds.min, bounds.max);
    if start < min {
        let text = text();
        return Err(ScheduleError::BelowMinimum { start, min, text });
    }
    if end > max {
        let text = text();
        return Err(ScheduleError::AboveMaximum { end, max, text });
    }
    if start > end {
        let text = text();
        return Err(ScheduleError::Backwards { start, end, text });
    }
    if step == 0 {
        return Err(ScheduleError::Step(text()));
    }
    Ok(())
}

fn value(text: &str, bounds: &Bounds) -> Result<i64, ScheduleError> {
    let named = bounds
        .names
        .iter()
        .zip(bounds.min..)
        .find(|(name, _)| name.eq_ignore_ascii_case(text));
    named.map_or_else(|| number(text), |(_, value)| Ok(value))
}

fn number(text: &str) -> Result<i64, ScheduleError> {
    let number: i64 = text
        .parse()
        .map_err(|_| ScheduleError::Number(text.to_owned()))?;
    if number < 0 {
        let text = text.to_owned();
        return Err(ScheduleError::Negative { number, text });
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accepts_what_cron_accepts() {
        for text in [
            "* * * * *",
            "*/5 * * * ?",
            "0 0 1 1 *",
            "5,10-20/2 0-23 1 JAN-dec Sun",
            "0 0 31 12 6",
            "7/10 * * * *",
            "@hourly",
            "@every 1h30m",
            "@every 1.5ms",
            "  1   2\t3 4 5 ",
            "TZ=Europe/Berlin 0 0 * * *",
            "CRON_TZ=UTC @daily",
            ", * * * *",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_five_numbers_within_bounds_are_a_schedule(
            minute in 0..60, hour in 0..24, day in 1..32, month in 1..13, weekday in 0..7, step in 1..99,
        ) {
            let text = format!("{minute}/{step} {hour} {day}-31/{step} */{step},{month} {weekday}");
            prop_assert_eq!(check(&text), Ok(()));
        }

        #[test]
        fn survives_any_text(text in "([0-9*/,?@TZ=a-z-]{1,9} ?){0,6}", other in ".{0,20}") {
            let _ = (check(&text), check(&other));
        }
    }

    #[test]
    fn refuses_the_rest_in_crons_words() {
        for (text, message) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("@often", "unrecognized descriptor: @often"),
            (
                "@every day",
                "failed to parse duration @every day: time: invalid duration \"day\"",
            ),
            (
                "a * * * *",
                "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax",
            ),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            (
                "5-1 * * * *",
                "beginning of range (5) beyond end of range (1): 5-1",
            ),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            (
                "*/0 * * * *",
                "step of range should be a positive number: */0",
            ),
            (
                "TZ=Mars/Base * * * * *",
                "provided bad location Mars/Base: unknown time zone Mars/Base",
            ),
        ] {
            assert_eq!(check(text).unwrap_err().to_string(), message, "{text}");
        }
    }
}
