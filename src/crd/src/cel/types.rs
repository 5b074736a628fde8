//! The types of expressions, and those of the values that a schema describes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::structural::{Additional, JsonType, ListType, Node};

/// A type that has functions and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opaque {
    /// A quantity such as `1.5Gi`.
    Quantity,
    /// A URL.
    Url,
    /// An IP address.
    Ip,
    /// A range of IP addresses.
    Cidr,
    /// A semantic version.
    Semver,
    /// A named format that texts can be held against.
    Format,
}

/// The type of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Ty {
    /// Known when it is evaluated only.
    Dyn,
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Int,
    /// A whole number that is not negative.
    Uint,
    /// A floating-point number.
    Double,
    /// Text.
    Str,
    /// Bytes.
    Bytes,
    /// A span of time.
    Duration,
    /// A moment.
    Timestamp,
    /// A type.
    Type,
    /// A list, and how its items are told apart.
    List(Arc<Ty>, ListType),
    /// A map of keys to values.
    Map(Arc<Ty>, Arc<Ty>),
    /// An object with known fields.
    Object(Arc<ObjectTy>),
    /// A value that may be missing.
    Optional(Arc<Ty>),
    /// One of the types with functions of their own.
    Opaque(Opaque),
    /// A value that says its type by the one field that it has: `{"int": 4}`, `{"version": "1.2.0"}`. So have the
    /// attributes of devices. To expressions, it is of a type that is known when it is evaluated only.
    Tagged,
    /// A map that has an entry, of this type, for every text: the ones that are not there are empty maps.
    Complete(Arc<Ty>),
}

/// An object with known fields.
#[derive(Debug, Default, PartialEq)]
pub struct ObjectTy {
    /// By their names in JSON.
    fields: BTreeMap<String, Ty>,
    /// From the names in expressions to those in JSON.
    names: HashMap<String, String>,
}

impl ObjectTy {
    /// One with these fields.
    pub fn new(fields: impl IntoIterator<Item = (&'static str, Ty)>) -> Self {
        let mut object = Self::default();
        for (name, ty) in fields {
            object.add(name, ty);
        }
        object
    }

    fn add(&mut self, name: &str, ty: Ty) {
        if let Some(escaped) = escape(name) {
            self.names.insert(escaped, name.to_owned());
        }
        self.fields.insert(name.to_owned(), ty);
    }

    /// The field that an expression calls `name`: its name in JSON, and its type.
    pub(super) fn field(&self, name: &str) -> Option<(&str, &Ty)> {
        let json = self.names.get(name)?;
        Some((json, self.fields.get(json)?))
    }

    /// The type of the field with this name in JSON.
    pub(super) fn json_field(&self, name: &str) -> Option<&Ty> {
        self.fields.get(name)
    }
}

/// The words that expressions can't use as names.
const RESERVED: [&str; 20] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
];

/// The name of a property in expressions; `None` if it can't be named at all.
pub fn escape(name: &str) -> Option<String> {
    let starts_well = |c: char| c.is_ascii_alphabetic() || c == '_';
    if RESERVED.contains(&name) || name == "while" {
        return Some(format!("__{name}__"));
    }
    if !name.starts_with(|c: char| starts_well(c) || matches!(c, '.' | '-' | '/')) {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let (piece, len) = match c {
            '_' if rest.starts_with("__") => ("__underscores__", 2),
            '.' => ("__dot__", 1),
            '-' => ("__dash__", 1),
            '/' => ("__slash__", 1),
            c if c.is_ascii_alphanumeric() || c == '_' => ("", 1),
            _ => return None,
        };
        if piece.is_empty() {
            out.push(c);
        } else {
            out.push_str(piece);
        }
        rest = rest.get(len..)?;
    }
    Some(out)
}

impl Ty {
    /// A list of `item`.
    pub(super) fn list(item: Self) -> Self {
        Self::List(Arc::new(item), ListType::Atomic)
    }

    /// A map of texts to `value`.
    pub(super) fn map(value: Self) -> Self {
        Self::Map(Arc::new(Self::Str), Arc::new(value))
    }

    /// The type of what a schema describes; `None` if expressions can't see it.
    pub fn of(node: &Node, is_resource: bool) -> Option<Self> {
        if node.int_or_string {
            return Some(Self::Dyn);
        }
        Some(match node.ty? {
            JsonType::Boolean => Self::Bool,
            JsonType::Integer => Self::Int,
            JsonType::Number => Self::Double,
            JsonType::String => match node.constraints.format.as_deref() {
                Some("byte") => Self::Bytes,
                Some("duration") => Self::Duration,
                Some("date" | "date-time") => Self::Timestamp,
                _ => Self::Str,
            },
            JsonType::Array => {
                let items = node.items.as_deref()?;
                let item = Self::of(items, items.embedded)?;
                Self::List(Arc::new(item), node.list.clone())
            }
            JsonType::Object => match &node.additional {
                Some(Additional::Of(value)) => Self::map(Self::of(value, value.embedded)?),
                Some(Additional::Any) => Self::map(Self::Dyn),
                _ => Self::Object(Arc::new(object(node, is_resource))),
            },
        })
    }
}

fn object(node: &Node, is_resource: bool) -> ObjectTy {
    let mut object = ObjectTy::default();
    for (name, property) in &node.properties {
        if let Some(ty) = Ty::of(property, property.embedded) {
            object.add(name, ty);
        }
    }
    if is_resource {
        let mut metadata = ObjectTy::default();
        metadata.add("name", Ty::Str);
        metadata.add("generateName", Ty::Str);
        object.add("apiVersion", Ty::Str);
        object.add("kind", Ty::Str);
        object.add("metadata", Ty::Object(Arc::new(metadata)));
    }
    object
}

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quantity => "kubernetes.Quantity",
            Self::Url => "kubernetes.URL",
            Self::Ip => "net.IP",
            Self::Cidr => "net.CIDR",
            Self::Semver => "kubernetes.Semver",
            Self::Format => "kubernetes.NamedFormat",
        })
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn | Self::Tagged => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::Str => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Duration => f.write_str("google.protobuf.Duration"),
            Self::Timestamp => f.write_str("google.protobuf.Timestamp"),
            Self::Type => f.write_str("type"),
            Self::List(item, _) => write!(f, "list({item})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Object(_) => f.write_str("object"),
            Self::Optional(inner) => write!(f, "optional_type({inner})"),
            Self::Opaque(opaque) => opaque.fmt(f),
            Self::Complete(value) => write!(f, "map(string, {value})"),
        }
    }
}

/// The type of a parameter or result, as the table of functions has it.
#[derive(Clone, Copy, Debug)]
pub(super) enum P {
    /// Anything; each use the same where it stands more than once.
    A,
    /// Another anything.
    B,
    Dyn,
    Bool,
    Int,
    Uint,
    Double,
    Str,
    Bytes,
    Duration,
    Timestamp,
    Type,
    List(&'static P),
    Map(&'static P, &'static P),
    Optional(&'static P),
    Of(Opaque),
}

/// What [`P::A`] and [`P::B`] stand for in one call.
#[derive(Clone, Debug, Default)]
pub(super) struct Bindings {
    a: Option<Ty>,
    b: Option<Ty>,
}

/// Whether one type may stand where another is expected, when `null` and what is not known may stand anywhere.
pub(super) fn compatible(a: &Ty, b: &Ty) -> bool {
    match (a, b) {
        (Ty::Dyn | Ty::Null, _) | (_, Ty::Dyn | Ty::Null) => true,
        (Ty::List(a, _), Ty::List(b, _)) | (Ty::Optional(a), Ty::Optional(b)) => compatible(a, b),
        (Ty::Map(a, x), Ty::Map(b, y)) => compatible(a, b) && compatible(x, y),
        _ => a == b,
    }
}

/// What two branches have in common.
pub(super) fn joined(a: Ty, b: Ty) -> Ty {
    if a == b {
        return a;
    }
    match (&a, &b) {
        (Ty::Null, _) => b,
        (_, Ty::Null) => a,
        (Ty::List(x, _), Ty::List(y, _)) if compatible(x, y) => {
            if **x == Ty::Dyn {
                b
            } else {
                a
            }
        }
        _ => Ty::Dyn,
    }
}

impl P {
    /// Whether an argument of type `ty` fits, given what the parameters before it were.
    pub(super) fn accepts(self, ty: &Ty, bindings: &mut Bindings) -> bool {
        let bind = |slot: &mut Option<Ty>| match slot {
            Some(Ty::Dyn | Ty::Null) | None => {
                *slot = Some(ty.clone());
                true
            }
            Some(bound) => compatible(bound, ty),
        };
        match (self, ty) {
            (Self::A, _) => bind(&mut bindings.a),
            (Self::B, _) => bind(&mut bindings.b),
            (Self::Dyn, _)
            | (_, Ty::Dyn | Ty::Tagged)
            | (Self::Bool, Ty::Bool)
            | (Self::Int, Ty::Int)
            | (Self::Uint, Ty::Uint)
            | (Self::Double, Ty::Double)
            | (Self::Str, Ty::Str)
            | (Self::Bytes, Ty::Bytes)
            | (Self::Duration, Ty::Duration)
            | (Self::Timestamp, Ty::Timestamp)
            | (Self::Type, Ty::Type) => true,
            (Self::List(item), Ty::List(found, _)) => item.accepts(found, bindings),
            (Self::Map(key, value), Ty::Map(found_key, found)) => {
                key.accepts(found_key, bindings) && value.accepts(found, bindings)
            }
            (Self::Map(key, value), Ty::Complete(found)) => {
                key.accepts(&Ty::Str, bindings) && value.accepts(found, bindings)
            }
            (Self::Optional(inner), Ty::Optional(found)) => inner.accepts(found, bindings),
            (Self::Of(opaque), Ty::Opaque(found)) => opaque == *found,
            _ => false,
        }
    }

    /// The type that a result of this form has.
    pub(super) fn result(self, bindings: &Bindings) -> Ty {
        match self {
            Self::A => bindings.a.clone().unwrap_or(Ty::Dyn),
            Self::B => bindings.b.clone().unwrap_or(Ty::Dyn),
            Self::Dyn => Ty::Dyn,
            Self::Bool => Ty::Bool,
            Self::Int => Ty::Int,
            Self::Uint => Ty::Uint,
            Self::Double => Ty::Double,
            Self::Str => Ty::Str,
            Self::Bytes => Ty::Bytes,
            Self::Duration => Ty::Duration,
            Self::Timestamp => Ty::Timestamp,
            Self::Type => Ty::Type,
            Self::List(item) => Ty::list(item.result(bindings)),
            Self::Map(key, value) => Ty::Map(
                Arc::new(key.result(bindings)),
                Arc::new(value.result(bindings)),
            ),
            Self::Optional(inner) => Ty::Optional(Arc::new(inner.result(bindings))),
            Self::Of(opaque) => Ty::Opaque(opaque),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn escapes_the_names_of_properties() {
        for (name, escaped) in [
            ("in", Some("__in__")),
            ("namespace", Some("__namespace__")),
            ("a.b-c/d", Some("a__dot__b__dash__c__slash__d")),
            ("a__b", Some("a__underscores__b")),
            ("a_b", Some("a_b")),
            ("int", Some("int")),
            ("1a", None),
            ("a b", None),
            ("ä", None),
        ] {
            assert_eq!(escape(name).as_deref(), escaped, "{name}");
        }
    }
}
