//! Semantic versions (semver.org, 2.0.0).

use std::cmp::Ordering;
use std::fmt;
use std::rc::Rc;

use super::super::types::{Opaque, P};
use super::super::value::{Fault, Val};
use super::{Overload, arg, global, member, text};

const V: P = P::Of(Opaque::Semver);

/// A version.
#[derive(Debug)]
pub(in super::super) struct Semver {
    numbers: [u64; 3],
    /// What comes before the release, part by part.
    pre: Vec<String>,
    build: Option<String>,
}

/// The functions of versions.
pub(super) static TABLE: &[Overload] = &[
    global("semver", &[P::Str], V, |args, _| {
        version(text(args, 0)?, false)
    }),
    global("semver", &[P::Str, P::Bool], V, |args, _| {
        version(text(args, 0)?, flag(args)?)
    }),
    global("isSemver", &[P::Str], P::Bool, |args, _| {
        Ok(Val::Bool(Semver::parse(text(args, 0)?).is_some()))
    }),
    global("isSemver", &[P::Str, P::Bool], P::Bool, |args, _| {
        Ok(Val::Bool(version(text(args, 0)?, flag(args)?).is_ok()))
    }),
    member("major", &[V], P::Int, |args, _| number(args, 0)),
    member("minor", &[V], P::Int, |args, _| number(args, 1)),
    member("patch", &[V], P::Int, |args, _| number(args, 2)),
    member("isGreaterThan", &[V, V], P::Bool, |args, _| {
        Ok(Val::Bool(
            semver(args, 0)?.compare(semver(args, 1)?).is_gt(),
        ))
    }),
    member("isLessThan", &[V, V], P::Bool, |args, _| {
        Ok(Val::Bool(
            semver(args, 0)?.compare(semver(args, 1)?).is_lt(),
        ))
    }),
    member("compareTo", &[V, V], P::Int, |args, _| {
        Ok(Val::Int(semver(args, 0)?.compare(semver(args, 1)?) as i64))
    }),
];

fn flag(args: &[Val<'_>]) -> Result<bool, Fault> {
    match arg(args, 1)? {
        Val::Bool(set) => Ok(*set),
        _ => Err(Fault::NoSuchOverload),
    }
}

fn semver<'v>(args: &'v [Val<'_>], at: usize) -> Result<&'v Semver, Fault> {
    match arg(args, at)? {
        Val::Semver(version) => Ok(version),
        _ => Err(Fault::NoSuchOverload),
    }
}

fn number<'a>(args: &[Val<'a>], at: usize) -> Result<Val<'a>, Fault> {
    let number = semver(args, 0)?
        .numbers
        .get(at)
        .copied()
        .unwrap_or_default();
    Ok(Val::Int(i64::try_from(number).unwrap_or(i64::MAX)))
}

/// Reads a version; with `normalise` a leading `v`, missing numbers and leading zeros are forgiven.
fn version<'a>(text: &str, normalise: bool) -> Result<Val<'a>, Fault> {
    let fixed = if normalise {
        normalised(text)
    } else {
        text.to_owned()
    };
    Semver::parse(&fixed)
        .map(|version| Val::Semver(Rc::new(version)))
        .ok_or_else(|| Fault::failed(format!("No Major.Minor.Patch elements found in {text:?}")))
}

fn normalised(text: &str) -> String {
    let text = text.trim().trim_start_matches('v');
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let mut parts: Vec<&str> = numbers
        .split('.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0",
            part => part,
        })
        .collect();
    while parts.len() < 3 {
        parts.push("0");
    }
    format!("{}{rest}", parts.join("."))
}

impl Semver {
    pub(in crate::cel) fn parse(text: &str) -> Option<Self> {
        let (rest, build) = match text.split_once('+') {
            Some((rest, build)) => (rest, Some(build)),
            None => (text, None),
        };
        let (numbers, pre) = match rest.split_once('-') {
            Some((numbers, pre)) => (numbers, Some(pre)),
            None => (rest, None),
        };
        let no_zeros = |part: &str| part == "0" || !part.starts_with('0');
        let mut parts = numbers.split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            (digits && no_zeros(part))
                .then(|| part.parse().ok())
                .flatten()
        });
        let numbers = [parts.next()??, parts.next()??, parts.next()??];
        let word = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let pre: Vec<String> = pre
            .map(|pre| pre.split('.').map(str::to_owned).collect())
            .unwrap_or_default();
        let sound = pre
            .iter()
            .all(|part| word(part) && (!is_number(part) || no_zeros(part)))
            && build.is_none_or(|build| build.split('.').all(word));
        (parts.next().is_none() && sound).then(|| Self {
            numbers,
            pre,
            build: build.map(str::to_owned),
        })
    }

    /// The order by precedence, in which the build plays no part.
    pub(in super::super) fn compare(&self, other: &Self) -> Ordering {
        let release = self.numbers.cmp(&other.numbers);
        release.then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let parts = self
                    .pre
                    .iter()
                    .zip(&other.pre)
                    .map(|(a, b)| compare_parts(a, b));
                parts
                    .fold(Ordering::Equal, Ordering::then)
                    .then(self.pre.len().cmp(&other.pre.len()))
            }
        })
    }
}

fn compare_parts(a: &str, b: &str) -> Ordering {
    match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => a.cmp(b),
    }
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if !self.pre.is_empty() {
            write!(f, "-{}", self.pre.join("."))?;
        }
        match &self.build {
            Some(build) => write!(f, "+{build}"),
            None => Ok(()),
        }
    }
}
