//! The operators and functions: those of the language, and the libraries that Kubernetes adds.
//!
//! Each file has a table of [`Overload`]s. To add a function: a line in a table.

mod addresses;
mod conversions;
pub(super) mod formats;
mod lists;
mod operators;
mod optionals;
mod quantities;
mod regexes;
mod strings;
mod time;
pub(super) mod urls;
pub(super) mod versions;

use std::collections::HashMap;
use std::sync::LazyLock;

use super::Machine;
use super::types::P;
use super::value::{Fault, Val};

/// What a function does with its arguments. They have been found to fit its parameters, except for what is inside of lists
/// and maps.
pub(super) type Run = for<'a> fn(&[Val<'a>], &mut Machine<'_>) -> Result<Val<'a>, Fault>;

/// One form of a function.
pub(super) struct Overload {
    pub(super) name: &'static str,
    /// Whether it is called on its first argument.
    pub(super) member: bool,
    pub(super) params: &'static [P],
    pub(super) result: P,
    pub(super) run: Run,
}

impl std::fmt::Debug for Overload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}", self.name, self.params)
    }
}

const fn global(name: &'static str, params: &'static [P], result: P, run: Run) -> Overload {
    Overload {
        name,
        member: false,
        params,
        result,
        run,
    }
}

const fn member(name: &'static str, params: &'static [P], result: P, run: Run) -> Overload {
    Overload {
        member: true,
        ..global(name, params, result, run)
    }
}

type Table = HashMap<(&'static str, bool), Vec<&'static Overload>>;

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let tables = [
        operators::COMPARISONS,
        operators::TABLE,
        conversions::TABLE,
        strings::TABLE,
        lists::TABLE,
        regexes::TABLE,
        time::TABLE,
        urls::TABLE,
        quantities::TABLE,
        addresses::TABLE,
        formats::TABLE,
        versions::TABLE,
        optionals::TABLE,
    ];
    let mut table = Table::new();
    for overload in tables.into_iter().flatten() {
        let key = (overload.name, overload.member);
        table.entry(key).or_default().push(overload);
    }
    table
});

/// The forms of a function.
pub(super) fn named(name: &str, member: bool) -> impl Iterator<Item = &'static Overload> + use<> {
    let found = TABLE
        .iter()
        .find(|((known, kind), _)| *known == name && *kind == member);
    found
        .into_iter()
        .flat_map(|(_, overloads)| overloads.iter().copied())
}

/// Whether there is a function of this name at all.
pub(super) fn exists(name: &str) -> bool {
    TABLE.keys().any(|(known, _)| *known == name)
}

/// The argument at a place.
fn arg<'v, 'a>(args: &'v [Val<'a>], at: usize) -> Result<&'v Val<'a>, Fault> {
    args.get(at).ok_or(Fault::NoSuchOverload)
}

/// The text at a place.
fn text<'v>(args: &'v [Val<'_>], at: usize) -> Result<&'v str, Fault> {
    arg(args, at)?.as_str()
}

/// The whole number at a place.
fn int(args: &[Val<'_>], at: usize) -> Result<i64, Fault> {
    arg(args, at)?.as_int()
}

/// A length as a whole number.
fn count<'a>(len: usize) -> Val<'a> {
    Val::Int(i64::try_from(len).unwrap_or(i64::MAX))
}
