//! Spans of time as Go writes them: `1h30m`, `-1.5s`, `300ms`.

use jiff::SignedDuration;

/// Reads a span; `None` if it is none, or longer than 292 years.
pub(crate) fn parse(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() || text.len() > 256 {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let nanos: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let whole: i128 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        let fraction = fraction.get(..fraction.len().min(18)).unwrap_or_default();
        let digits: i128 = if fraction.is_empty() {
            0
        } else {
            fraction.parse().ok()?
        };
        let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        total = total
            .checked_add(whole.checked_mul(nanos)?)?
            .checked_add(digits.checked_mul(nanos)? / scale)?;
        rest = tail;
    }
    let nanos = i64::try_from(if negative { -total } else { total }).ok()?;
    Some(SignedDuration::from_nanos(nanos))
}

/// Prints a span in seconds: `5400s`, `1.5s`.
pub(crate) fn print(span: SignedDuration) -> String {
    let nanos = span.as_nanos();
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let (whole, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{whole}s");
    }
    let fraction = format!("{fraction:09}");
    format!("{sign}{whole}.{}s", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints() {
        for (text, printed) in [
            ("1h30m", "5400s"),
            ("-1.5s", "-1.5s"),
            ("300ms", "0.3s"),
            ("0", "0s"),
            ("1.5h", "5400s"),
            ("1us", "0.000001s"),
        ] {
            assert_eq!(print(parse(text).unwrap()), printed, "{text}");
        }
        for bad in ["", "1", "s", "1x", "1h1", ".s", "1..5s", "999999999999h"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
