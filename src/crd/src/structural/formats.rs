//! The formats of strings that are checked; any other is a remark for people.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine as _;
use regex::Regex;
use vaquita_api::names;

macro_rules! patterns {
    ($($name:ident = $pattern:literal;)*) => {$(
        static $name: LazyLock<Option<Regex>> = LazyLock::new(|| super::compile_pattern($pattern).ok());
    )*};
}

patterns! {
    UUID = "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
    UUID3 = "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
    UUID4 = "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$";
    UUID5 = "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$";
    EMAIL = r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$";
    CARD = r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11})$";
    SSN = r"^\d{3}[- ]?\d{2}[- ]?\d{4}$";
    HEX_COLOR = "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$";
    RGB_COLOR = r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$";
    MAC = "^([0-9A-Fa-f]{2}[:-]){5}([0-9A-Fa-f]{2})$|^([0-9A-Fa-f]{2}[:-]){7}([0-9A-Fa-f]{2})$|^([0-9A-Fa-f]{4}\\.){2}[0-9A-Fa-f]{4}$";
    URI = "^([A-Za-z][A-Za-z0-9+.-]*:|/)[^\\s\\x00-\\x1f\\x7f]*$";
}

fn matches(pattern: &LazyLock<Option<Regex>>, text: &str) -> bool {
    pattern
        .as_ref()
        .is_some_and(|pattern| pattern.is_match(text))
}

/// Whether `text` has the format, or the format is not one that is checked.
pub(crate) fn check(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => date_time(text),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => duration(text),
        "byte" => base64::engine::general_purpose::STANDARD
            .decode(text)
            .is_ok(),
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "uri" => matches(&URI, text),
        "email" => matches(&EMAIL, text),
        "hostname" => hostname(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.contains(':') && text.parse::<Ipv6Addr>().is_ok(),
        "ip" => text.parse::<IpAddr>().is_ok(),
        "cidr" => text.contains('/') && text.parse::<ipnet::IpNet>().is_ok(),
        "mac" => matches(&MAC, text),
        "uuid" => matches(&UUID, text),
        "uuid3" => matches(&UUID3, text),
        "uuid4" => matches(&UUID4, text),
        "uuid5" => matches(&UUID5, text),
        "isbn" => isbn10(text) || isbn13(text),
        "isbn10" => isbn10(text),
        "isbn13" => isbn13(text),
        "creditcard" => card(text),
        "ssn" => matches(&SSN, text),
        "hexcolor" => matches(&HEX_COLOR, text),
        "rgbcolor" => matches(&RGB_COLOR, text),
        "k8s-short-name" => names::dns1123_label(text).is_empty(),
        "k8s-long-name" => names::dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

/// RFC 3339, of which the parts must be there in full.
fn date_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 20
        && bytes.get(4) == Some(&b'-')
        && matches!(bytes.get(10), Some(b'T' | b't'))
        && text.parse::<jiff::Timestamp>().is_ok()
}

/// A duration as Go writes it (`1h30m`), or a number with the name of its unit (`22 ns`, `3 days`).
fn duration(text: &str) -> bool {
    const UNITS: [&str; 27] = [
        "ns",
        "nano",
        "nanos",
        "nanosecond",
        "nanoseconds",
        "us",
        "µs",
        "micro",
        "micros",
        "microsecond",
        "microseconds",
        "ms",
        "milli",
        "millis",
        "millisecond",
        "milliseconds",
        "s",
        "sec",
        "secs",
        "second",
        "seconds",
        "m",
        "min",
        "minute",
        "minutes",
        "h",
        "hour",
    ];
    const LONG: [&str; 8] = ["hours", "hr", "d", "day", "days", "w", "week", "weeks"];
    if crate::cel::duration::parse(text).is_some() {
        return true;
    }
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_lowercase();
    !number.is_empty() && (UNITS.contains(&unit.as_str()) || LONG.contains(&unit.as_str()))
}

/// Labels of letters, digits, symbols and dashes, at most 63 characters each.
fn hostname(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let inner = |c: char| c.is_alphanumeric() || c == '-' || !c.is_ascii() && !c.is_whitespace();
    let label = |label: &str| {
        !label.is_empty()
            && label.chars().count() <= 63
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 255 && text.split('.').all(label)
}

fn isbn10(text: &str) -> bool {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !matches!(c, '-' | ' '))
        .enumerate()
        .map(|(at, c)| match c {
            'X' if at == 9 => 10,
            c => c.to_digit(10).unwrap_or(100),
        })
        .collect();
    digits.len() == 10
        && digits.iter().all(|digit| *digit <= 10)
        && (1..).zip(&digits).map(|(n, digit)| n * digit).sum::<u32>() % 11 == 0
}

fn isbn13(text: &str) -> bool {
    let digits: Option<Vec<u32>> = text
        .chars()
        .filter(|c| !matches!(c, '-' | ' '))
        .map(|c| c.to_digit(10))
        .collect();
    digits.is_some_and(|digits| {
        digits.len() == 13
            && digits
                .iter()
                .zip([1, 3].iter().cycle())
                .map(|(digit, weight)| digit * weight)
                .sum::<u32>()
                % 10
                == 0
    })
}

/// The number of a credit card: a known prefix, and the checksum of Luhn.
fn card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let sum: u32 = digits
        .chars()
        .rev()
        .filter_map(|c| c.to_digit(10))
        .enumerate()
        .map(|(at, digit)| match (at % 2, digit * 2) {
            (0, _) => digit,
            (_, double) if double > 9 => double - 9,
            (_, double) => double,
        })
        .sum();
    matches(&CARD, &digits) && sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn checks_what_is_known() {
        let cases: [(&str, &[&str], &[&str]); 22] = [
            (
                "date-time",
                &["2014-12-15T19:30:20.000Z", "2014-12-15T19:30:20+01:00"],
                &["2014-12-15", "x", ""],
            ),
            ("date", &["2014-12-15"], &["2014-13-15", "20141215", ""]),
            (
                "duration",
                &["22 ns", "1h30m", "3 days", "1.5s"],
                &["", "x", "3 apples"],
            ),
            ("byte", &["aGVsbG8=", ""], &["a", "*"]),
            ("email", &["a@b.c"], &["a", "@b"]),
            ("hostname", &["a.b", "example.com"], &["a..b", "-a", ""]),
            ("ipv4", &["10.0.0.1"], &["::1", "10.0.0"]),
            ("ipv6", &["::1"], &["10.0.0.1", ""]),
            (
                "cidr",
                &["10.0.0.0/8", "::/0"],
                &["10.0.0.0", "10.0.0.0/33"],
            ),
            ("mac", &["00:00:5e:00:53:01"], &["00:00:5e", "x"]),
            (
                "uuid",
                &["E11FC8B1-9C9F-4E1F-B4A5-4B9F24A4E5C6"],
                &["e11fc8b1"],
            ),
            (
                "uuid4",
                &["e11fc8b1-9c9f-4e1f-b4a5-4b9f24a4e5c6"],
                &["e11fc8b1-9c9f-1e1f-b4a5-4b9f24a4e5c6"],
            ),
            (
                "isbn",
                &["0321751043", "978-0321751041"],
                &["0321751044", "x"],
            ),
            (
                "creditcard",
                &["4111 1111 1111 1111"],
                &["4111 1111 1111 1112"],
            ),
            ("ssn", &["111-22-3333"], &["11-22-3333"]),
            ("hexcolor", &["#FFFFFF", "fff"], &["#ff"]),
            ("rgbcolor", &["rgb(255,0,1)"], &["rgb(256,0,1)"]),
            ("bsonobjectid", &["507f1f77bcf86cd799439011"], &["507f"]),
            ("uri", &["http://a/b?c", "/a"], &["a b", "a"]),
            ("k8s-short-name", &["a-b"], &["a.b"]),
            ("k8s-long-name", &["a.b"], &["A"]),
            ("password", &["", "anything"], &[]),
        ];
        for (format, good, bad) in cases {
            for text in good {
                assert!(check(format, text), "{format}: {text}");
            }
            for text in bad {
                assert!(!check(format, text), "{format}: {text}");
            }
        }
    }
}
