//! Reads a [`Schema`](super::Schema) off a type by deserializing it once from nothing.
//!
//! The generated types of `k8s-openapi` tell their [`Deserializer`] everything: a struct its name and fields, a
//! leaf its type. [`Probe`] is a deserializer that writes this down and answers with the
//! smallest value that pleases: each struct is given every field once, each list one item, each map one entry.

use std::cell::RefCell;
use std::collections::VecDeque;

use serde::de::value::{BorrowedStrDeserializer, Error, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, Expected, MapAccess, SeqAccess,
    Visitor,
};

use super::{
    Field, Grain, ListType, SchemaOr, Struct, StructId, Type, merge_keys, omitted, topology,
};

/// The structs met on the way, and the root's type.
pub(super) fn reflect<T: DeserializeOwned>() -> (Vec<Struct>, Type) {
    let seen = Seen::default();
    let found = RefCell::new(Type::Any);
    // The value itself is of no interest, and an error only says that a leaf wanted another example than it got.
    let outcome = T::deserialize(Probe {
        seen: &seen,
        found: &found,
    });
    debug_assert!(
        outcome.is_ok(),
        "{:?} while reading {}",
        outcome.err(),
        std::any::type_name::<T>()
    );
    let root = found.into_inner();
    (
        seen.structs
            .into_inner()
            .into_iter()
            .map(|(_, built)| built)
            .collect(),
        root,
    )
}

/// Name and field list together identify a struct: two groups may each have a type of one name.
type Fields = &'static [&'static str];

#[derive(Default)]
struct Seen {
    structs: RefCell<Vec<(Fields, Struct)>>,
}

impl Seen {
    fn find(&self, name: &str, fields: Fields) -> Option<usize> {
        self.structs
            .borrow()
            .iter()
            .position(|(of, built)| *of == fields && built.name == name)
    }

    fn named(&self, name: &str) -> Option<usize> {
        let structs = self.structs.borrow();
        structs.iter().position(|(_, built)| built.name == name)
    }

    /// The fields of a struct which hold no other structs.
    fn plain_fields(&self, id: usize) -> Vec<&'static str> {
        let structs = self.structs.borrow();
        let (names, built) = &structs[id];
        let plain = |name: &&&str| built.field(name).is_some_and(|field| field.ty.is_plain());
        names.iter().filter(plain).copied().collect()
    }

    fn add(&self, name: &str, fields: Fields) -> usize {
        let mut structs = self.structs.borrow_mut();
        structs.push((
            fields,
            Struct {
                name: name.to_owned(),
                open: false,
                fields: Vec::new(),
            },
        ));
        structs.len() - 1
    }
}

#[derive(Clone, Copy)]
struct Probe<'p> {
    seen: &'p Seen,
    /// Where the type that was found is written to.
    found: &'p RefCell<Type>,
}

impl Probe<'_> {
    fn is(self, ty: Type) {
        self.found.replace(ty);
    }

    /// Probes what is inside of a list, map or field; gives its type besides the value.
    fn inner<T>(
        self,
        probe: impl FnOnce(Probe<'_>) -> Result<T, Error>,
    ) -> Result<(T, Type), Error> {
        let found = RefCell::new(Type::Any);
        let value = probe(Probe {
            seen: self.seen,
            found: &found,
        })?;
        Ok((value, found.into_inner()))
    }
}

macro_rules! leaves {
    ($($method:ident => $ty:expr, $visit:ident($($value:expr)?);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.is($ty);
            visitor.$visit($($value)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    leaves! {
        deserialize_bool => Type::Bool, visit_bool(false);
        deserialize_i8 => Type::Int32, visit_i8(0);
        deserialize_i16 => Type::Int32, visit_i16(0);
        deserialize_i32 => Type::Int32, visit_i32(0);
        deserialize_i64 => Type::Int64, visit_i64(0);
        deserialize_u8 => Type::Int32, visit_u8(0);
        deserialize_u16 => Type::Int32, visit_u16(0);
        deserialize_u32 => Type::Int64, visit_u32(0);
        deserialize_u64 => Type::Int64, visit_u64(0);
        deserialize_f32 => Type::Float, visit_f32(0.0);
        deserialize_f64 => Type::Float, visit_f64(0.0);
        deserialize_char => Type::String, visit_char('x');
        deserialize_str => Type::String, visit_str("");
        deserialize_string => Type::String, visit_str("");
        deserialize_identifier => Type::String, visit_str("");
        deserialize_unit => Type::Any, visit_unit();
        deserialize_ignored_any => Type::Any, visit_unit();
    }

    /// A few ask for "whatever is there": `IntOrString`, what may be a schema or something else, and free JSON.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let alternative = match expecting(&visitor).as_str() {
            "IntOrString" => {
                self.is(Type::IntOrString);
                return visitor.visit_i32(0);
            }
            "JSONSchemaPropsOrBool" => SchemaOr::Bool,
            "JSONSchemaPropsOrArray" => SchemaOr::List,
            "JSONSchemaPropsOrStringArray" => SchemaOr::Names,
            _ => {
                self.is(Type::Any);
                return visitor.visit_unit();
            }
        };
        let schema = self.seen.named("JSONSchemaProps");
        let inner = schema.map_or(Type::Any, |id| Type::Struct(StructId(id), Grain::Granular));
        self.is(Type::SchemaOr(alternative, Box::new(inner)));
        visitor.visit_map(OneEntry(None))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // `ByteString` reads itself through an option, too, and says so.
        if expecting(&visitor) == "a base64-encoded string" {
            self.is(Type::Bytes);
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        const MOMENT: &str = "1970-01-01T00:00:00Z";
        match name {
            "Time" | "MicroTime" => {
                self.is(if name == "Time" {
                    Type::Time
                } else {
                    Type::MicroTime
                });
                visitor.visit_newtype_struct(BorrowedStrDeserializer::new(MOMENT))
            }
            "Quantity" => {
                self.is(Type::Quantity);
                visitor.visit_newtype_struct(StrDeserializer::new("0"))
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let (value, item) = self.inner(|probe| visitor.visit_seq(OneItem(Some(probe))))?;
        self.is(Type::List(Box::new(item), ListType::Atomic));
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let (value, entry) = self.inner(|probe| visitor.visit_map(OneEntry(Some(probe))))?;
        self.is(Type::Map(Box::new(entry), Grain::Granular));
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: Fields,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let known = self.seen.find(name, fields);
        let id = known.unwrap_or_else(|| self.seen.add(name, fields));
        self.is(Type::Struct(StructId(id), topology::grain(name, fields)));
        // A struct seen before gets its plain fields only, which ends the recursion of types that contain themselves.
        let left = if known.is_some() {
            self.seen.plain_fields(id)
        } else {
            fields.to_vec()
        };
        let mut of = Vec::new();
        let value = visitor.visit_map(EachField {
            probe: self,
            owner: name,
            siblings: fields,
            left: left.into(),
            of: &mut of,
        })?;
        if known.is_none() {
            of.sort_by(|a, b| a.name.cmp(&b.name));
            self.seen.structs.borrow_mut()[id].1.fields = of;
        }
        Ok(value)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("raw bytes do not occur in JSON"))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        Err(Error::custom(format_args!(
            "{name}: Rust enums do not occur in the API's types"
        )))
    }
}

fn expecting<'de>(visitor: &impl Visitor<'de>) -> String {
    let expected: &dyn Expected = visitor;
    expected.to_string()
}

struct OneItem<'p>(Option<Probe<'p>>);

impl<'de> SeqAccess<'de> for OneItem<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.0
            .take()
            .map(|probe| seed.deserialize(probe))
            .transpose()
    }
}

struct OneEntry<'p>(Option<Probe<'p>>);

impl<'de> MapAccess<'de> for OneEntry<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.0
            .map(|_| seed.deserialize(StrDeserializer::new("key")))
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let probe = self
            .0
            .take()
            .ok_or_else(|| Error::custom("a value before its key"))?;
        seed.deserialize(probe)
    }
}

/// A map that holds each field of a struct once.
struct EachField<'p> {
    probe: Probe<'p>,
    owner: &'static str,
    siblings: Fields,
    /// The first of these is the one whose value comes next.
    left: VecDeque<&'static str>,
    of: &'p mut Vec<Field>,
}

impl EachField<'_> {
    fn add(&mut self, name: &str, mut ty: Type) {
        topology::refine(self.owner, self.siblings, name, &mut ty);
        self.of.push(Field {
            name: name.to_owned(),
            merge: merge_keys::find(self.owner, name),
            always: topology::always(self.owner, self.siblings, name),
            omit_zero: omitted::when_zero(self.owner, name),
            ty,
        });
    }
}

impl<'de> MapAccess<'de> for EachField<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        // The type of a whole object refuses any other name for itself, and everywhere else these are strings, too.
        while let Some(name) = self
            .left
            .pop_front_if(|name| matches!(*name, "apiVersion" | "kind"))
        {
            self.add(name, Type::String);
        }
        self.left
            .front()
            .map(|name| seed.deserialize(BorrowedStrDeserializer::new(name)))
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let name = self
            .left
            .pop_front()
            .ok_or_else(|| Error::custom("a value before its key"))?;
        let (value, ty) = self.probe.inner(|probe| seed.deserialize(probe))?;
        self.add(name, ty);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use crate::schema::{Grain, ListType, Merge, Schema, Type};

    #[test]
    fn reads_a_pod() {
        let schema = Schema::of::<Pod>();
        let pod = schema.structure(schema.root()).unwrap();
        assert_eq!(pod.name, "Pod");
        let spec = schema.structure(&pod.field("spec").unwrap().ty).unwrap();
        assert_eq!(spec.name, "PodSpec");
        let containers = spec.field("containers").unwrap();
        assert_eq!(containers.merge, Merge::ByKey("name"));
        let Type::List(container, ListType::Map(keys)) = &containers.ty else {
            panic!("{containers:?}")
        };
        assert_eq!(keys[0].name, "name");
        let container = schema.structure(container).unwrap();
        assert_eq!(container.field("stdin").unwrap().ty, Type::Bool);
        assert_eq!(
            container.field("args").unwrap().ty,
            Type::List(Box::new(Type::String), ListType::Atomic)
        );
        let resources = schema
            .structure(&container.field("resources").unwrap().ty)
            .unwrap();
        assert_eq!(
            resources.field("limits").unwrap().ty,
            Type::Map(Box::new(Type::Quantity), Grain::Granular)
        );
        let probe = schema
            .structure(&container.field("livenessProbe").unwrap().ty)
            .unwrap();
        let get = schema
            .structure(&probe.field("httpGet").unwrap().ty)
            .unwrap();
        assert_eq!(get.field("port").unwrap().ty, Type::IntOrString);
        assert_eq!(probe.field("periodSeconds").unwrap().ty, Type::Int32);
        let metadata = schema
            .structure(&pod.field("metadata").unwrap().ty)
            .unwrap();
        assert_eq!(metadata.field("creationTimestamp").unwrap().ty, Type::Time);
        assert_eq!(metadata.field("generation").unwrap().ty, Type::Int64);
    }
}
