//! Checked expressions, as they are evaluated.

use super::functions::Overload;

/// A constant.
#[derive(Clone, Debug)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(String),
    Bytes(Vec<u8>),
    /// The name of a type.
    Type(&'static str),
}

/// How a field or item is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// It must be there.
    Get,
    /// Whether it is there.
    Has,
    /// It may be there.
    Optional,
}

/// What becomes of the items of a list or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loop {
    All,
    Exists,
    ExistsOne,
    Filter,
    /// Those that pass the test (if there is one), changed.
    Map,
    /// The same, into a map with the same keys.
    MapEntries,
}

/// An expression.
#[derive(Debug)]
pub(super) enum Ir {
    Literal(Literal),
    /// The variable in this place of the stack.
    Variable(usize),
    Select {
        of: Box<Ir>,
        field: String,
        access: Access,
    },
    Index {
        of: Box<Ir>,
        key: Box<Ir>,
        access: Access,
    },
    /// Items; those that are marked are optional values, and left out where they are missing.
    List(Vec<(Ir, bool)>),
    /// Entries, likewise.
    Map(Vec<(Ir, Ir, bool)>),
    And(Box<Ir>, Box<Ir>),
    Or(Box<Ir>, Box<Ir>),
    Conditional(Box<[Ir; 3]>),
    Call {
        /// Those of which the types fit as far as they are known.
        candidates: Vec<&'static Overload>,
        args: Vec<Ir>,
    },
    Loop {
        what: Loop,
        over: Box<Ir>,
        /// With a second variable, the first is the index or key.
        two: bool,
        test: Option<Box<Ir>>,
        body: Option<Box<Ir>>,
    },
    /// `body` with the value inside of an optional one; `flat` if the result is optional already.
    WithValue {
        of: Box<Ir>,
        body: Box<Ir>,
        flat: bool,
    },
    /// The value inside of an optional one, or another.
    OrElse {
        of: Box<Ir>,
        other: Box<Ir>,
        /// Whether the other is optional, too.
        optional: bool,
    },
    /// `body` with a variable of its own.
    Bind {
        value: Box<Ir>,
        body: Box<Ir>,
    },
}
