//! Values that may be missing. What does not evaluate all of its arguments is not here but in the checker.

use super::super::types::P;
use super::super::value::{Fault, Val};
use super::{Overload, arg, global, member};

const OPTIONAL: P = P::Optional(&P::A);

/// The functions of optional values.
pub(super) static TABLE: &[Overload] = &[
    global("optional.none", &[], P::Optional(&P::Dyn), |_, _| {
        Ok(Val::Optional(None))
    }),
    global("optional.of", &[P::A], OPTIONAL, |args, _| {
        Ok(Val::some(arg(args, 0)?.clone()))
    }),
    global("optional.ofNonZeroValue", &[P::A], OPTIONAL, |args, _| {
        let value = arg(args, 0)?;
        Ok(if value.is_zero() {
            Val::Optional(None)
        } else {
            Val::some(value.clone())
        })
    }),
    member("hasValue", &[OPTIONAL], P::Bool, |args, _| {
        match arg(args, 0)? {
            Val::Optional(value) => Ok(Val::Bool(value.is_some())),
            _ => Err(Fault::NoSuchOverload),
        }
    }),
    member("value", &[OPTIONAL], P::A, |args, _| match arg(args, 0)? {
        Val::Optional(Some(value)) => Ok((**value).clone()),
        Val::Optional(None) => Err(Fault::failed("optional.none() dereference")),
        _ => Err(Fault::NoSuchOverload),
    }),
    // These two are looked at by the checker first; here for the sake of messages.
    member("orValue", &[OPTIONAL, P::A], P::A, |_, _| {
        Err(Fault::NoSuchOverload)
    }),
    member("or", &[OPTIONAL, OPTIONAL], OPTIONAL, |_, _| {
        Err(Fault::NoSuchOverload)
    }),
];
