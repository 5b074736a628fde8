//! The values of expressions. What comes from an object stays in the object and is looked at when it is needed.

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::LazyLock;

use base64::Engine as _;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use vaquita_api::quantity::Quantity;

use super::types::{Opaque, Ty};
use super::{
    Machine, duration,
    functions::{formats::Format, urls::Url, versions::Semver},
};
use crate::structural::{ListType, lists};

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It takes more steps than are allowed.
    #[error("operation cancelled: actual cost limit exceeded")]
    TooExpensive,
    /// No operator or function takes these values.
    #[error("no such overload")]
    NoSuchOverload,
    /// Anything else: a division by zero, a key that is not there.
    #[error("{0}")]
    Failed(String),
}

impl Fault {
    pub(super) fn failed(what: impl Into<String>) -> Self {
        Self::Failed(what.into())
    }

    pub(super) fn no_such_key(key: &str) -> Self {
        Self::Failed(format!("no such key: {key}"))
    }
}

/// Text of an object or of one's own making.
#[derive(Clone, Debug)]
pub(super) enum Text<'a> {
    Borrowed(&'a str),
    Shared(Rc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(Text<'a>),
    Bytes(Rc<[u8]>),
    Duration(SignedDuration),
    Timestamp(Timestamp),
    Type(Rc<str>),
    /// A list that an expression made.
    List(Rc<Vec<Val<'a>>>),
    /// A map that an expression made; few entries, searched one by one.
    Map(Rc<Vec<(Val<'a>, Val<'a>)>>),
    /// A list or object of the resource.
    Json(&'a Value, &'a Ty),
    Optional(Option<Rc<Val<'a>>>),
    Quantity(Quantity),
    Url(Rc<Url>),
    Ip(IpAddr),
    Cidr(IpNet),
    Semver(Rc<Semver>),
    Format(&'static Format),
}

/// What is not known about a value of the resource.
pub(super) static ANY: Ty = Ty::Dyn;

/// What a [`Ty::Complete`] map has where it has nothing.
static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(serde_json::Map::new()));

impl<'a> Val<'a> {
    pub(super) fn text(text: impl Into<Rc<str>>) -> Self {
        Self::Str(Text::Shared(text.into()))
    }

    pub(super) fn list(items: Vec<Self>) -> Self {
        Self::List(Rc::new(items))
    }

    pub(super) fn some(value: Self) -> Self {
        Self::Optional(Some(Rc::new(value)))
    }

    /// A value of the resource, of which the schema says `ty`.
    pub(super) fn view(value: &'a Value, ty: &'a Ty) -> Self {
        match (value, ty) {
            (Value::Null, _) => Self::Null,
            (Value::Bool(set), _) => Self::Bool(*set),
            (Value::Number(number), Ty::Double) => {
                Self::Double(number.as_f64().unwrap_or_default())
            }
            (Value::Number(number), _) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => Self::Int(whole),
                #[allow(clippy::cast_possible_truncation, reason = "a whole number within i64")]
                (None, Some(float)) if *ty == Ty::Int && float.abs() < 9e18 => {
                    Self::Int(float as i64)
                }
                (None, float) => Self::Double(float.unwrap_or_default()),
            },
            (Value::String(text), Ty::Timestamp) => {
                moment(text).map_or_else(|| Self::Str(Text::Borrowed(text)), Self::Timestamp)
            }
            (Value::String(text), Ty::Duration) => duration::parse(text)
                .map_or_else(|| Self::Str(Text::Borrowed(text)), Self::Duration),
            (Value::String(text), Ty::Bytes) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(text);
                bytes.map_or_else(
                    |_| Self::Str(Text::Borrowed(text)),
                    |bytes| Self::Bytes(bytes.into()),
                )
            }
            (Value::String(text), Ty::Opaque(Opaque::Quantity)) => text
                .parse()
                .map_or_else(|_| Self::Str(Text::Borrowed(text)), Self::Quantity),
            (Value::String(text), Ty::Opaque(Opaque::Semver)) => Semver::parse(text).map_or_else(
                || Self::Str(Text::Borrowed(text)),
                |version| Self::Semver(Rc::new(version)),
            ),
            (Value::Object(map), Ty::Tagged) => tagged(map),
            (Value::String(text), _) => Self::Str(Text::Borrowed(text)),
            (Value::Array(_) | Value::Object(_), _) => Self::Json(value, ty),
        }
    }

    /// The type, as far as the value itself tells.
    pub(super) fn ty(&self) -> Ty {
        match self {
            Self::Null => Ty::Null,
            Self::Bool(_) => Ty::Bool,
            Self::Int(_) => Ty::Int,
            Self::Uint(_) => Ty::Uint,
            Self::Double(_) => Ty::Double,
            Self::Str(_) => Ty::Str,
            Self::Bytes(_) => Ty::Bytes,
            Self::Duration(_) => Ty::Duration,
            Self::Timestamp(_) => Ty::Timestamp,
            Self::Type(_) => Ty::Type,
            Self::List(_) | Self::Json(Value::Array(_), _) => Ty::list(Ty::Dyn),
            Self::Map(_) => Ty::Map(Ty::Dyn.into(), Ty::Dyn.into()),
            Self::Json(_, Ty::Object(object)) => Ty::Object(object.clone()),
            Self::Json(..) => Ty::map(Ty::Dyn),
            Self::Optional(_) => Ty::Optional(Ty::Dyn.into()),
            Self::Quantity(_) => Ty::Opaque(Opaque::Quantity),
            Self::Url(_) => Ty::Opaque(Opaque::Url),
            Self::Ip(_) => Ty::Opaque(Opaque::Ip),
            Self::Cidr(_) => Ty::Opaque(Opaque::Cidr),
            Self::Semver(_) => Ty::Opaque(Opaque::Semver),
            Self::Format(_) => Ty::Opaque(Opaque::Format),
        }
    }

    /// The name of the type, as `type()` and messages have it.
    pub(super) fn type_name(&self) -> String {
        match self {
            Self::Null => "null_type".to_owned(),
            Self::List(_) | Self::Json(Value::Array(_), _) => "list".to_owned(),
            Self::Json(_, Ty::Object(_)) => "object".to_owned(),
            Self::Map(_) | Self::Json(..) => "map".to_owned(),
            Self::Optional(_) => "optional_type".to_owned(),
            other => other.ty().to_string(),
        }
    }

    pub(super) fn as_str(&self) -> Result<&str, Fault> {
        match self {
            Self::Str(text) => Ok(text),
            _ => Err(Fault::NoSuchOverload),
        }
    }

    pub(super) fn as_int(&self) -> Result<i64, Fault> {
        match self {
            Self::Int(number) => Ok(*number),
            _ => Err(Fault::NoSuchOverload),
        }
    }

    /// The items of a list, or the keys of a map.
    pub(super) fn items(&self, machine: &mut Machine<'_>) -> Result<Vec<Self>, Fault> {
        let count = self.len().ok_or(Fault::NoSuchOverload)?;
        machine.spend(count)?;
        Ok(match self {
            Self::List(items) => items.to_vec(),
            Self::Map(entries) => entries.iter().map(|(key, _)| key.clone()).collect(),
            Self::Json(Value::Array(items), ty) => {
                let item = item_type(ty);
                items.iter().map(|value| Self::view(value, item)).collect()
            }
            Self::Json(Value::Object(map), _) => map
                .keys()
                .map(|key| Self::Str(Text::Borrowed(key)))
                .collect(),
            _ => return Err(Fault::NoSuchOverload),
        })
    }

    /// The entries of a list by their index, or of a map by their key.
    pub(super) fn entries(&self, machine: &mut Machine<'_>) -> Result<Vec<(Self, Self)>, Fault> {
        let count = self.len().ok_or(Fault::NoSuchOverload)?;
        machine.spend(count)?;
        Ok(match self {
            Self::Map(entries) => entries.to_vec(),
            Self::Json(Value::Object(map), ty) => map
                .iter()
                .map(|(key, value)| {
                    let key_text = Self::Str(Text::Borrowed(key));
                    (key_text, Self::view(value, field_type(ty, key)))
                })
                .collect(),
            _ => {
                let items = self.items(machine)?;
                (0_i64..).map(Self::Int).zip(items).collect()
            }
        })
    }

    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Self::List(items) => Some(items.len()),
            Self::Map(entries) => Some(entries.len()),
            Self::Json(Value::Array(items), _) => Some(items.len()),
            Self::Json(Value::Object(map), _) => Some(map.len()),
            _ => None,
        }
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::List(_) | Self::Json(Value::Array(_), _))
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self, Self::Map(_) | Self::Json(Value::Object(_), _))
    }

    /// The field or entry of this name. `Err` for what has no fields.
    pub(super) fn select(&self, name: &str) -> Result<Option<Self>, Fault> {
        match self {
            Self::Json(Value::Object(map), ty) => {
                let missing = || matches!(ty, Ty::Complete(_)).then(|| &*EMPTY);
                let found = map.get(name).or_else(missing);
                Ok(found.map(|value| Self::view(value, field_type(ty, name))))
            }
            Self::Map(entries) => Ok(entries
                .iter()
                .find(|(key, _)| matches!(key, Self::Str(key) if **key == *name))
                .map(|(_, value)| value.clone())),
            Self::Optional(Some(value)) => value.select(name),
            Self::Optional(None) => Ok(None),
            _ => Err(Fault::NoSuchOverload),
        }
    }

    /// The item at a place of a list, or the entry of a map.
    pub(super) fn index(
        &self,
        key: &Self,
        machine: &mut Machine<'_>,
    ) -> Result<Option<Self>, Fault> {
        match (self, key) {
            (Self::Optional(Some(value)), _) => value.index(key, machine),
            (Self::Optional(None), _) => Ok(None),
            (Self::Json(Value::Object(_), _), Self::Str(key)) => self.select(key),
            (Self::Map(entries), _) => {
                for (found, value) in entries.iter() {
                    if equal(found, key, machine)? {
                        return Ok(Some(value.clone()));
                    }
                }
                Ok(None)
            }
            _ if self.is_list() => {
                let at = match key {
                    Self::Int(at) => usize::try_from(*at).ok(),
                    Self::Uint(at) => usize::try_from(*at).ok(),
                    #[allow(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "a whole number that is not negative"
                    )]
                    Self::Double(at) if at.fract() == 0.0 && *at >= 0.0 => Some(*at as usize),
                    _ => return Err(Fault::NoSuchOverload),
                };
                Ok(at.and_then(|at| self.item(at)))
            }
            _ => Err(Fault::NoSuchOverload),
        }
    }

    fn item(&self, at: usize) -> Option<Self> {
        match self {
            Self::List(items) => items.get(at).cloned(),
            Self::Json(Value::Array(items), ty) => {
                items.get(at).map(|value| Self::view(value, item_type(ty)))
            }
            _ => None,
        }
    }

    fn list_type(&self) -> &ListType {
        match self {
            Self::Json(_, Ty::List(_, ty)) => ty,
            _ => &ListType::Atomic,
        }
    }

    /// Whether it is the empty value of its type.
    pub(super) fn is_zero(&self) -> bool {
        match self {
            Self::Null
            | Self::Bool(false)
            | Self::Int(0)
            | Self::Uint(0)
            | Self::Optional(None) => true,
            Self::Double(number) => *number == 0.0,
            Self::Str(text) => text.is_empty(),
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Duration(span) => span.is_zero(),
            other => other.len() == Some(0),
        }
    }

    /// The text that `string()` and formats make of it.
    pub(super) fn to_text(&self) -> Option<String> {
        Some(match self {
            Self::Bool(set) => set.to_string(),
            Self::Int(number) => number.to_string(),
            Self::Uint(number) => number.to_string(),
            Self::Double(number) => number.to_string(),
            Self::Str(text) => text.to_string(),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.to_owned(),
            Self::Duration(span) => duration::print(*span),
            Self::Timestamp(time) => time.to_string(),
            Self::Type(name) => name.to_string(),
            Self::Quantity(quantity) => quantity.to_string(),
            Self::Url(url) => url.text().to_owned(),
            Self::Ip(ip) => ip.to_string(),
            Self::Cidr(cidr) => cidr.to_string(),
            Self::Semver(version) => version.to_string(),
            _ => return None,
        })
    }

    /// The text that `%s` makes of it, lists and maps included.
    pub(super) fn to_display(&self, machine: &mut Machine<'_>) -> Result<String, Fault> {
        if let Some(text) = self.to_text() {
            machine.spend(text.len() / 10)?;
            return Ok(text);
        }
        if self.is_list() {
            let items = self.items(machine)?;
            let mut texts = Vec::with_capacity(items.len());
            for item in items {
                texts.push(item.to_display(machine)?);
            }
            return Ok(format!("[{}]", texts.join(", ")));
        }
        if self.is_map() {
            let mut out = String::from("{");
            for (key, value) in self.entries(machine)? {
                if out.len() > 1 {
                    out.push_str(", ");
                }
                let (key, value) = (key.to_display(machine)?, value.to_display(machine)?);
                let _ = write!(out, "{key}: {value}");
            }
            out.push('}');
            return Ok(out);
        }
        match self {
            Self::Null => Ok("null".to_owned()),
            _ => Err(Fault::failed("no such overload for string formatting")),
        }
    }
}

/// The value of an object that says its type by the one field that it has.
fn tagged<'a>(map: &'a serde_json::Map<String, Value>) -> Val<'a> {
    static VERSION: Ty = Ty::Opaque(Opaque::Semver);
    let of = |tag: &str, value: &'a Value| match tag {
        "version" | "versions" => Val::view(value, &VERSION),
        _ => Val::view(value, &ANY),
    };
    match map.iter().next() {
        Some((tag, Value::Array(items))) => {
            Val::list(items.iter().map(|item| of(tag, item)).collect())
        }
        Some((tag, value)) => of(tag, value),
        None => Val::Null,
    }
}

/// A date-time, or a date as its first moment in UTC.
fn moment(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let date: jiff::civil::Date = text.parse().ok()?;
    let zoned = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(zoned.timestamp())
}

fn item_type(ty: &Ty) -> &Ty {
    match ty {
        Ty::List(item, _) => item,
        _ => &ANY,
    }
}

fn field_type<'t>(ty: &'t Ty, name: &str) -> &'t Ty {
    match ty {
        Ty::Object(object) => object.json_field(name).unwrap_or(&ANY),
        Ty::Map(_, value) | Ty::Complete(value) => value,
        _ => &ANY,
    }
}

/// Numbers of all types by their value.
fn compare_numbers(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    #[allow(clippy::cast_precision_loss, reason = "as the language has it")]
    let double = |value: &Val<'_>| match value {
        Val::Int(number) => Some(*number as f64),
        Val::Uint(number) => Some(*number as f64),
        Val::Double(number) => Some(*number),
        _ => None,
    };
    let whole = |value: &Val<'_>| match value {
        Val::Int(number) => Some(i128::from(*number)),
        Val::Uint(number) => Some(i128::from(*number)),
        _ => None,
    };
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => double(a)?.partial_cmp(&double(b)?),
    }
}

/// The order of two values; `None` if there is none.
pub(super) fn compare(a: &Val<'_>, b: &Val<'_>) -> Result<Option<Ordering>, Fault> {
    Ok(match (a, b) {
        (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
        (Val::Str(a), Val::Str(b)) => Some((**a).cmp(&**b)),
        (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
        (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
        (Val::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
        (
            Val::Int(_) | Val::Uint(_) | Val::Double(_),
            Val::Int(_) | Val::Uint(_) | Val::Double(_),
        ) => compare_numbers(a, b),
        _ => return Err(Fault::NoSuchOverload),
    })
}

/// Whether two values are equal. Values of different types are not, except for numbers.
pub(super) fn equal(a: &Val<'_>, b: &Val<'_>, machine: &mut Machine<'_>) -> Result<bool, Fault> {
    machine.spend(1)?;
    Ok(match (a, b) {
        (Val::Null, Val::Null) | (Val::Optional(None), Val::Optional(None)) => true,
        (Val::Str(a), Val::Str(b)) => {
            machine.spend(a.len().min(b.len()) / 10)?;
            **a == **b
        }
        (Val::Type(a), Val::Type(b)) => a == b,
        (Val::Optional(Some(a)), Val::Optional(Some(b))) => equal(a, b, machine)?,
        (Val::Quantity(a), Val::Quantity(b)) => a == b,
        (Val::Url(a), Val::Url(b)) => a.text() == b.text(),
        (Val::Ip(a), Val::Ip(b)) => a == b,
        (Val::Cidr(a), Val::Cidr(b)) => a == b,
        (Val::Semver(a), Val::Semver(b)) => a.compare(b) == Ordering::Equal,
        (Val::Format(a), Val::Format(b)) => std::ptr::eq(*a, *b),
        _ if a.is_list() && b.is_list() => equal_lists(a, b, machine)?,
        _ if a.is_map() && b.is_map() => equal_maps(a, b, machine)?,
        _ => matches!(compare(a, b), Ok(Some(Ordering::Equal))),
    })
}

fn equal_lists(a: &Val<'_>, b: &Val<'_>, machine: &mut Machine<'_>) -> Result<bool, Fault> {
    if a.len() != b.len() {
        return Ok(false);
    }
    // In sets and maps the order of the items plays no part.
    if let (Val::Json(a_value, _), Val::Json(b_value, _), true) =
        (a, b, *a.list_type() != ListType::Atomic)
    {
        let sorted = |value: &Value| {
            let items = value.as_array().into_iter().flatten();
            let mut texts: Vec<String> = items.map(lists::canonical).collect();
            texts.sort_unstable();
            texts
        };
        let (a, b) = (sorted(a_value), sorted(b_value));
        machine.spend(a.iter().map(String::len).sum::<usize>() / 10)?;
        return Ok(a == b);
    }
    let (a, b) = (a.items(machine)?, b.items(machine)?);
    for (a, b) in a.iter().zip(&b) {
        if !equal(a, b, machine)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn equal_maps(a: &Val<'_>, b: &Val<'_>, machine: &mut Machine<'_>) -> Result<bool, Fault> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for (key, value) in a.entries(machine)? {
        match b.index(&key, machine) {
            Ok(Some(other)) if equal(&value, &other, machine)? => {}
            Err(Fault::TooExpensive) => return Err(Fault::TooExpensive),
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// The union of two lists whose items are told apart, or one behind the other.
pub(super) fn concatenated<'a>(
    a: &Val<'a>,
    b: &Val<'a>,
    machine: &mut Machine<'_>,
) -> Result<Val<'a>, Fault> {
    let mut items = a.items(machine)?;
    let added = b.items(machine)?;
    match a.list_type() {
        ListType::Atomic => items.extend(added),
        ListType::Set => {
            for item in added {
                if find(&items, &item, machine)?.is_none() {
                    items.push(item);
                }
            }
        }
        ListType::Map(keys) => {
            for item in added {
                let mut place = None;
                for (at, present) in items.iter().enumerate() {
                    if same_keys(present, &item, keys, machine)? {
                        place = Some(at);
                        break;
                    }
                }
                match place.and_then(|at| items.get_mut(at)) {
                    Some(present) => *present = item,
                    None => items.push(item),
                }
            }
        }
    }
    Ok(Val::list(items))
}

fn same_keys(
    a: &Val<'_>,
    b: &Val<'_>,
    keys: &[String],
    machine: &mut Machine<'_>,
) -> Result<bool, Fault> {
    for key in keys {
        match (a.select(key)?, b.select(key)?) {
            (Some(a), Some(b)) if equal(&a, &b, machine)? => {}
            (None, None) => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// The place of an item.
pub(super) fn find(
    items: &[Val<'_>],
    wanted: &Val<'_>,
    machine: &mut Machine<'_>,
) -> Result<Option<usize>, Fault> {
    for (at, item) in items.iter().enumerate() {
        if equal(item, wanted, machine)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}
