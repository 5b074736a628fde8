//! `resource.Quantity`: fixed-point numbers with unit suffixes, such as `100m`, `1.5Gi` or `3e6`.
//!
//! Parsing, comparison and the canonical printed form follow k8s.io/apimachinery `pkg/api/resource`: at most nano
//! precision (finer values are rounded up, away from zero), magnitudes capped at 2^63-1, and a value keeps the family of
//! suffixes that it was written with.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;

/// The family of suffixes in which a quantity prints itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `m`, none, `k`, `M`, `G`, ...: powers of 1000.
    DecimalSi,
    /// `Ki`, `Mi`, `Gi`, ...: powers of 1024.
    BinarySi,
    /// `e3`, `e6`, ...
    DecimalExponent,
}

/// A quantity. Equality and order are those of the value; the format plays no part.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    /// In units of 10^-9; magnitude at most [`MAX`].
    nano: i128,
    format: Format,
}

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a number with a suffix at all.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The number is malformed.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// The suffix is not known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// What a suffix multiplies by: `2^binary * 10^decimal`.
struct Unit {
    binary: u32,
    decimal: i32,
    format: Format,
}

fn unit(suffix: &str) -> Option<Unit> {
    let (binary, decimal) = match suffix {
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let decimal = exponent.parse().ok()?;
            return Some(Unit {
                binary: 0,
                decimal,
                format: Format::DecimalExponent,
            });
        }
    };
    let format = if binary > 0 {
        Format::BinarySi
    } else {
        Format::DecimalSi
    };
    Some(Unit {
        binary,
        decimal,
        format,
    })
}

/// `mantissa * 10^exponent`, and whether digits too small to keep were dropped from it.
struct Decimal {
    mantissa: i128,
    exponent: i32,
    inexact: bool,
}

impl Decimal {
    /// Reads `digits[.digits]`. However long the text, the work is one pass over it.
    fn parse(text: &str) -> Result<Self, ParseError> {
        // Enough for 2^63-1 with nine digits behind the point.
        const KEPT: i128 = 10_i128.pow(28);
        let mut number = Self {
            mantissa: 0,
            exponent: 0,
            inexact: false,
        };
        let (mut digits, mut fraction) = (false, false);
        for byte in text.bytes() {
            match byte {
                b'0'..=b'9' => {
                    digits = true;
                    if number.mantissa < KEPT {
                        number.mantissa = number.mantissa * 10 + i128::from(byte - b'0');
                        number.exponent -= i32::from(fraction);
                    } else {
                        number.inexact |= byte != b'0';
                        number.exponent = number.exponent.saturating_add(i32::from(!fraction));
                    }
                }
                b'.' if !fraction => fraction = true,
                _ => return Err(ParseError::Number),
            }
        }
        if digits {
            Ok(number)
        } else {
            Err(ParseError::Number)
        }
    }

    /// The value in nanos, rounded up and capped.
    fn nanos(mut self, unit: &Unit) -> i128 {
        while self.mantissa.leading_zeros() <= unit.binary {
            self.inexact |= self.mantissa % 10 != 0;
            self.mantissa /= 10;
            self.exponent += 1;
        }
        let scaled = self.mantissa << unit.binary;
        let exponent = self.exponent.saturating_add(unit.decimal).saturating_add(9);
        let power = 10_i128.checked_pow(exponent.unsigned_abs());
        let nanos = match (power, exponent >= 0) {
            _ if scaled == 0 => 0,
            (Some(power), true) => scaled.saturating_mul(power),
            (None, true) => MAX,
            (Some(power), false) => {
                scaled / power + i128::from(scaled % power != 0 || self.inexact)
            }
            (None, false) => 1,
        };
        nanos.min(MAX)
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned
            .bytes()
            .position(|byte| !byte.is_ascii_digit() && byte != b'.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let known = |c: char| c.is_ascii_digit() || "eEinumkKMGTP+-".contains(c);
        if number.is_empty() || !suffix.chars().all(known) {
            return Err(ParseError::Format);
        }
        let number = Decimal::parse(number)?;
        let unit = unit(suffix).ok_or(ParseError::Suffix)?;
        let nano = number.nanos(&unit);
        let format = match unit.format {
            Format::BinarySi if nano < NANO => Format::DecimalSi,
            format => format,
        };
        Ok(Self {
            nano: if negative { -nano } else { nano },
            format,
        })
    }
}

impl Quantity {
    /// Zero.
    pub const ZERO: Self = Self {
        nano: 0,
        format: Format::DecimalSi,
    };

    fn new(nano: i128, format: Format) -> Self {
        Self {
            nano: nano.clamp(-MAX, MAX),
            format,
        }
    }

    /// A whole number.
    pub fn whole(value: i64, format: Format) -> Self {
        Self::new(i128::from(value) * NANO, format)
    }

    /// Thousandths, as CPUs are counted.
    pub fn milli(value: i64) -> Self {
        Self::new(i128::from(value) * (NANO / 1000), Format::DecimalSi)
    }

    /// The value rounded up (away from zero) to a whole number.
    pub fn value(self) -> i64 {
        self.scaled(NANO)
    }

    /// The value in thousandths, rounded up (away from zero).
    pub fn milli_value(self) -> i64 {
        self.scaled(NANO / 1000)
    }

    fn scaled(self, unit: i128) -> i64 {
        let up = i128::from(self.nano % unit != 0) * self.nano.signum();
        let rounded = self.nano / unit + up;
        i64::try_from(rounded).unwrap_or(if rounded > 0 { i64::MAX } else { i64::MIN })
    }

    /// Whether it is whole.
    pub fn is_whole(self) -> bool {
        self.nano % NANO == 0
    }

    /// Whether it is less than zero.
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    /// The family of suffixes.
    pub fn format(self) -> Format {
        self.format
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

/// Saturates at 2^63-1; the result prints in the format of the left side, unless that is zero.
impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let format = if self.nano == 0 {
            other.format
        } else {
            self.format
        };
        Self::new(self.nano + other.nano, format)
    }
}

/// See [`Quantity::add`].
impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + Self {
            nano: -other.nano,
            format: other.format,
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        if self.nano == 0 {
            return f.write_str("0");
        }
        let small = self.nano.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && self.is_whole() && !small {
            return self.fmt_binary(f);
        }
        let (mut mantissa, mut thousands) = (self.nano, -3_i32);
        while mantissa % 1000 == 0 {
            mantissa /= 1000;
            thousands += 1;
        }
        write!(f, "{mantissa}")?;
        if self.format == Format::DecimalExponent {
            return if thousands == 0 {
                Ok(())
            } else {
                write!(f, "e{}", thousands * 3)
            };
        }
        let suffix = usize::try_from(thousands + 3)
            .ok()
            .and_then(|at| SUFFIXES.get(at));
        f.write_str(suffix.copied().unwrap_or_default())
    }
}

impl Quantity {
    fn fmt_binary(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let (mut mantissa, mut power) = (self.nano / NANO, 0);
        while mantissa % 1024 == 0 && power + 1 < SUFFIXES.len() {
            mantissa /= 1024;
            power += 1;
        }
        write!(f, "{mantissa}{}", SUFFIXES[power])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().unwrap().to_string()
    }

    #[test]
    fn prints_the_canonical_form() {
        let cases = [
            ("0", "0"),
            ("0Mi", "0"),
            ("1.5", "1500m"),
            ("0.5", "500m"),
            ("1500m", "1500m"),
            ("1000m", "1"),
            ("100m", "100m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1Gi", "1Gi"),
            ("512Ki", "512Ki"),
            ("1023Ki", "1023Ki"),
            ("0.5Ki", "512"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e-1", "1200e-3"),
            ("1E", "1E"),
            ("1Ei", "1Ei"),
            ("+5", "5"),
            ("-5", "-5"),
            ("-1.5Gi", "-1536Mi"),
            (".5", "500m"),
            ("5.", "5"),
            ("100000", "100k"),
            ("0.0000000001", "1n"),
            ("1.1Ki", "1126400m"),
            ("9223372036854775807", "9223372036854775807"),
            ("99999999999999999999", "9223372036854775807"),
            ("10Ei", "9223372036854775807"),
            ("1e-30", "1e-9"),
            (
                "1234567890123456789.123456789",
                "1234567890123456789123456789n",
            ),
            ("00012", "12"),
            ("1u", "1u"),
        ];
        for (text, want) in cases {
            assert_eq!(canonical(text), want, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_none() {
        let cases = [
            ("", ParseError::Format),
            ("x", ParseError::Format),
            ("1x", ParseError::Format),
            ("-", ParseError::Format),
            ("1.2.3", ParseError::Number),
            (".", ParseError::Number),
            ("1mm", ParseError::Suffix),
            ("1e", ParseError::Suffix),
            ("1kk", ParseError::Suffix),
            ("1K", ParseError::Suffix),
            ("1e99999999999", ParseError::Suffix),
            (" 1", ParseError::Format),
            ("1 ", ParseError::Format),
            ("--1", ParseError::Format),
            ("1-", ParseError::Suffix),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse::<Quantity>().unwrap_err(), want, "{text:?}");
        }
    }

    #[test]
    fn bounds_what_a_hostile_number_costs() {
        assert_eq!(canonical(&"9".repeat(1 << 20)), "9223372036854775807");
        assert_eq!(canonical(&format!("0.{}1", "0".repeat(1 << 20))), "1n");
        assert_eq!(canonical("1e2147483647"), "9223372036854775807");
        assert_eq!(canonical("1e-2147483648"), "1e-9");
    }

    #[test]
    fn rounds_away_from_zero() {
        let q: Quantity = "1100m".parse().unwrap();
        assert_eq!((q.value(), q.milli_value()), (2, 1100));
        let q: Quantity = "-1100m".parse().unwrap();
        assert_eq!((q.value(), q.milli_value()), (-2, -1100));
    }

    fn quantity() -> impl Strategy<Value = Quantity> {
        let suffix = prop::sample::select(vec![
            "n", "u", "m", "", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "e-2",
        ]);
        (-1_000_000_000_i64..1_000_000_000, 0_u32..1000, suffix).prop_map(
            |(whole, milli, suffix)| format!("{whole}.{milli:03}{suffix}").parse().unwrap(),
        )
    }

    proptest! {
        #[test]
        fn printing_loses_nothing(q in quantity()) {
            let again: Quantity = q.to_string().parse().unwrap();
            prop_assert_eq!(again, q);
            prop_assert_eq!(again.to_string(), q.to_string());
        }

        #[test]
        fn order_is_that_of_the_numbers(a in any::<i32>(), b in any::<i32>()) {
            let (qa, qb): (Quantity, Quantity) = (a.to_string().parse().unwrap(), b.to_string().parse().unwrap());
            prop_assert_eq!(qa.cmp(&qb), a.cmp(&b));
        }

        #[test]
        fn addition_and_subtraction_undo_each_other(a in quantity(), b in quantity()) {
            prop_assert_eq!(a + b - b, a);
            prop_assert_eq!(a + b, b + a);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9.eEinumkKMGTP+-]{0,40}") {
            if let Ok(q) = text.parse::<Quantity>() {
                prop_assert_eq!(q.to_string().parse::<Quantity>().unwrap(), q);
            }
        }
    }
}
