//! The shape of a kind, as data: which fields each struct has, of which types, and how a strategic merge treats them.
//!
//! A [`Schema`] is what decoding, pruning and strategic merging walk along. For a built-in kind it is read off the Rust
//! type itself ([`Schema::of`]), so there is no second description of a type which could disagree with the first. For a
//! custom kind a [`Builder`] makes it.

mod builder;
mod decode;
mod merge_keys;
mod omitted;
mod reflect;
mod topology;

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use builder::Builder;
pub use decode::{DecodeError, Normalised};

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// A JSON string.
    String,
    /// A JSON boolean.
    Bool,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// Any JSON number.
    Float,
    /// An RFC 3339 time with a precision of seconds.
    Time,
    /// An RFC 3339 time with a precision of microseconds.
    MicroTime,
    /// A `resource.Quantity`: a string, or a number which becomes one.
    Quantity,
    /// A whole number of 32 bits, or a string.
    IntOrString,
    /// Bytes as a base64 string.
    Bytes,
    /// Any JSON at all. Server-side apply takes its objects as granular and its lists as atomic.
    Any,
    /// A list of values.
    List(Box<Type>, ListType),
    /// Values by arbitrary keys.
    Map(Box<Type>, Grain),
    /// An object with known fields.
    Struct(StructId, Grain),
    /// A schema of a custom kind, or what may stand for one. Server-side apply takes it as [`Type::Any`].
    SchemaOr(SchemaOr, Box<Type>),
}

/// What may stand for a schema inside of one (the type of [`Type::SchemaOr`] is that of schemas).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaOr {
    /// Whether anything or nothing is allowed.
    Bool,
    /// A list of schemas.
    List,
    /// A list of names.
    Names,
}

/// Whether the parts of an object may have different owners in server-side apply (`x-kubernetes-map-type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grain {
    /// Each field or entry may.
    #[default]
    Granular,
    /// The object is one value.
    Atomic,
}

/// What the items of a list are to server-side apply (`x-kubernetes-list-type`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// Parts of one value.
    #[default]
    Atomic,
    /// Single values, each with owners of its own.
    Set,
    /// Objects told apart by some of their fields, each with owners of its own. The keys are sorted by name.
    Map(Arc<[ListKey]>),
}

/// One of the fields that tell the items of a [`ListType::Map`] apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListKey {
    /// The field's name.
    pub name: String,
    /// The value where an item has none.
    pub default: Option<Value>,
}

impl Type {
    /// Whether no struct is inside.
    fn is_plain(&self) -> bool {
        match self {
            Self::Struct(..) | Self::SchemaOr(..) => false,
            Self::List(inner, _) | Self::Map(inner, _) => inner.is_plain(),
            _ => true,
        }
    }
}

/// Names a [`Struct`] within its [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StructId(usize);

/// An object type with known fields.
#[derive(Clone, Debug)]
pub struct Struct {
    /// The type's name, such as `PodSpec`.
    pub name: String,
    /// Whether fields that are not known stay, as [`Type::Any`] (`x-kubernetes-preserve-unknown-fields`).
    pub open: bool,
    /// Sorted by name.
    fields: Vec<Field>,
}

/// A field of a [`Struct`].
#[derive(Clone, Debug)]
pub struct Field {
    /// The name in JSON.
    pub name: String,
    /// The type of the value.
    pub ty: Type,
    /// An empty string, `0` or `false` means the same as no value, and is dropped.
    pub omit_zero: bool,
    /// The field counts as there, though empty, wherever its struct is: what is put into it makes nobody the owner of
    /// the field itself.
    pub always: bool,
    /// How a strategic merge combines two values.
    pub merge: Merge,
}

/// How a strategic merge treats a field (`patchStrategy` and `patchMergeKey`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Merge {
    /// The type's usual way: structs and maps merge by key; lists and single values are replaced.
    #[default]
    Usual,
    /// A struct or map is replaced as a whole.
    Replace,
    /// A list of single values: the union.
    Set,
    /// A list of structs, whose items are paired by the value of this field.
    ByKey(&'static str),
    /// As [`Merge::Usual`], and a patch may say by `$retainKeys` which keys remain.
    RetainKeys,
    /// As [`Merge::ByKey`], and items may use `$retainKeys`.
    ByKeyRetainKeys(&'static str),
}

impl Field {
    /// A field that merges in its type's usual way and tells empty values from absent ones.
    pub fn new(name: impl Into<String>, ty: Type) -> Self {
        Self {
            name: name.into(),
            ty,
            omit_zero: false,
            always: false,
            merge: Merge::Usual,
        }
    }
}

impl Merge {
    /// The field that pairs the items of a list of structs.
    pub fn key(self) -> Option<&'static str> {
        match self {
            Self::ByKey(key) | Self::ByKeyRetainKeys(key) => Some(key),
            _ => None,
        }
    }
}

impl Struct {
    /// The field of this JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self
            .fields
            .binary_search_by(|field| field.name.as_str().cmp(name))
            .ok()?;
        self.fields.get(at)
    }

    /// All fields, sorted by name.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }
}

/// The shape of one kind, or of any other type that travels as JSON.
#[derive(Clone, Debug)]
pub struct Schema {
    structs: Vec<Struct>,
    root: Type,
    /// Made by a [`Builder`].
    built: bool,
}

impl Schema {
    /// Reads the schema off a type of `k8s-openapi`.
    ///
    /// Costs a few hundred microseconds for the largest kinds; keep the result.
    pub fn of<T: DeserializeOwned>() -> Self {
        let (structs, root) = reflect::reflect::<T>();
        Self {
            structs,
            root,
            built: false,
        }
    }

    /// Whether it may be another one tomorrow, as those of custom kinds may.
    pub(crate) fn may_change(&self) -> bool {
        self.built
    }

    /// The type of the whole.
    pub fn root(&self) -> &Type {
        &self.root
    }

    /// The struct behind an id of this schema.
    pub fn get(&self, id: StructId) -> &Struct {
        &self.structs[id.0]
    }

    /// The struct that `ty` is, if it is one.
    pub fn structure(&self, ty: &Type) -> Option<&Struct> {
        match ty {
            Type::Struct(id, _) => Some(self.get(*id)),
            _ => None,
        }
    }
}
