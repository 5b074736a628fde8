//! Quantities, such as `1.5Gi`.

use std::cmp::Ordering;

use vaquita_api::quantity::{Format, Quantity};

use super::super::types::{Opaque, P};
use super::super::value::{Fault, Val};
use super::{Overload, arg, global, int, member, text};

const Q: P = P::Of(Opaque::Quantity);

/// The functions of quantities.
pub(super) static TABLE: &[Overload] = &[
    global("quantity", &[P::Str], Q, |args, _| {
        let text = text(args, 0)?;
        text.parse()
            .map(Val::Quantity)
            .map_err(|error: vaquita_api::quantity::ParseError| Fault::failed(error.to_string()))
    }),
    global("isQuantity", &[P::Str], P::Bool, |args, _| {
        Ok(Val::Bool(text(args, 0)?.parse::<Quantity>().is_ok()))
    }),
    member("sign", &[Q], P::Int, |args, _| {
        Ok(Val::Int(
            match quantity(args, 0)?.partial_cmp(&Quantity::ZERO) {
                Some(Ordering::Less) => -1,
                Some(Ordering::Greater) => 1,
                _ => 0,
            },
        ))
    }),
    member("isInteger", &[Q], P::Bool, |args, _| {
        let value = quantity(args, 0)?;
        Ok(Val::Bool(
            Quantity::whole(value.value(), Format::DecimalSi) == value,
        ))
    }),
    member("asInteger", &[Q], P::Int, |args, _| {
        let value = quantity(args, 0)?;
        if Quantity::whole(value.value(), Format::DecimalSi) != value {
            return Err(Fault::failed("cannot convert value to integer"));
        }
        Ok(Val::Int(value.value()))
    }),
    member("asApproximateFloat", &[Q], P::Double, |args, _| {
        let value = quantity(args, 0)?;
        #[allow(clippy::cast_precision_loss, reason = "approximate, as the name says")]
        let float = if value.value().abs() < 1_000_000_000_000 {
            value.milli_value() as f64 / 1000.0
        } else {
            value.value() as f64
        };
        Ok(Val::Double(float))
    }),
    member("isGreaterThan", &[Q, Q], P::Bool, |args, _| {
        Ok(Val::Bool(quantity(args, 0)? > quantity(args, 1)?))
    }),
    member("isLessThan", &[Q, Q], P::Bool, |args, _| {
        Ok(Val::Bool(quantity(args, 0)? < quantity(args, 1)?))
    }),
    member("compareTo", &[Q, Q], P::Int, |args, _| {
        let order = quantity(args, 0)?.partial_cmp(&quantity(args, 1)?);
        Ok(Val::Int(order.map_or(0, |order| order as i64)))
    }),
    member("add", &[Q, Q], Q, |args, _| {
        Ok(Val::Quantity(quantity(args, 0)? + quantity(args, 1)?))
    }),
    member("add", &[Q, P::Int], Q, |args, _| {
        let other = Quantity::whole(int(args, 1)?, Format::DecimalSi);
        Ok(Val::Quantity(quantity(args, 0)? + other))
    }),
    member("sub", &[Q, Q], Q, |args, _| {
        Ok(Val::Quantity(quantity(args, 0)? - quantity(args, 1)?))
    }),
    member("sub", &[Q, P::Int], Q, |args, _| {
        let other = Quantity::whole(int(args, 1)?, Format::DecimalSi);
        Ok(Val::Quantity(quantity(args, 0)? - other))
    }),
];

fn quantity(args: &[Val<'_>], at: usize) -> Result<Quantity, Fault> {
    match arg(args, at)? {
        Val::Quantity(quantity) => Ok(*quantity),
        _ => Err(Fault::NoSuchOverload),
    }
}
