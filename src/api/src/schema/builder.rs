//! Makes a [`Schema`] of a kind that is known at run time only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Field, Grain, ListKey, ListType, Schema, Struct, StructId, Type, reflect};

/// Puts a [`Schema`] together from the inside out: structs first, then those that hold them, then [`Builder::finish`].
///
/// ```
/// use vaquita_api::schema::{Builder, Field, Grain, Type};
///
/// let mut builder = Builder::new();
/// let spec = builder.structure("spec", vec![Field::new("replicas", Type::Int64)], false);
/// let root = builder.resource("Web", vec![Field::new("spec", Type::Struct(spec, Grain::Granular))], false);
/// let schema = builder.finish(Type::Struct(root, Grain::Granular));
/// assert!(schema.structure(schema.root()).unwrap().field("metadata").is_some());
/// ```
///
/// What a structural schema says becomes:
///
/// | structural schema | type |
/// |---|---|
/// | `type: object` with `properties` | [`Builder::structure`], open with `x-kubernetes-preserve-unknown-fields` |
/// | ... and `x-kubernetes-embedded-resource` | [`Builder::resource`] |
/// | `type: object` with `additionalProperties` | [`Type::Map`] |
/// | `type: object` with neither, or no type | [`Type::Any`], or an atomic [`Type::Map`] of it |
/// | `type: array` | [`Type::List`], its keys by [`Builder::keys`] |
/// | `x-kubernetes-int-or-string` | [`Type::IntOrString`] |
/// | `integer`, `number`, `string`, `boolean` | [`Type::Int64`], [`Type::Float`], [`Type::String`], [`Type::Bool`] |
///
/// `nullable` makes no difference here: a `null` is a value like any other to a patch or an apply.
#[derive(Clone, Debug)]
pub struct Builder {
    structs: Vec<Struct>,
    metadata: Type,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// Knows `metav1.ObjectMeta` and nothing else.
    pub fn new() -> Self {
        let (structs, metadata) = reflect::reflect::<ObjectMeta>();
        Self { structs, metadata }
    }

    /// The type of `metadata`.
    pub fn metadata(&self) -> Type {
        self.metadata.clone()
    }

    /// Adds a struct; `open` if it keeps fields that are not known. Of two fields with one name the first counts.
    pub fn structure(
        &mut self,
        name: impl Into<String>,
        mut fields: Vec<Field>,
        open: bool,
    ) -> StructId {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        fields.dedup_by(|later, first| later.name == first.name);
        self.structs.push(Struct {
            name: name.into(),
            open,
            fields,
        });
        StructId(self.structs.len() - 1)
    }

    /// Adds the struct of a whole object, which is the root or an embedded one: `apiVersion`, `kind` and `metadata` are
    /// what they always are, whatever `fields` says of them.
    pub fn resource(
        &mut self,
        name: impl Into<String>,
        fields: Vec<Field>,
        open: bool,
    ) -> StructId {
        let mut all = vec![
            Field::new("apiVersion", Type::String),
            Field::new("kind", Type::String),
            Field::new("metadata", self.metadata()),
        ];
        all.extend(fields);
        self.structure(name, all, open)
    }

    /// The list type of lists whose items are told apart by fields, each with its default.
    pub fn keys(keys: impl IntoIterator<Item = ListKey>) -> ListType {
        let mut keys: Vec<ListKey> = keys.into_iter().collect();
        keys.sort_by(|a, b| a.name.cmp(&b.name));
        ListType::Map(keys.into())
    }

    /// A struct's type.
    pub fn granular(id: StructId) -> Type {
        Type::Struct(id, Grain::Granular)
    }

    /// The schema whose whole is a `root`.
    pub fn finish(self, root: Type) -> Schema {
        Schema {
            structs: self.structs,
            root,
            built: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn builds_what_a_structural_schema_says() {
        let mut builder = Builder::new();
        let port = builder.structure("ports", vec![Field::new("port", Type::IntOrString)], true);
        let keys = ["protocol", "port"].map(|name| ListKey {
            name: name.to_owned(),
            default: (name == "protocol").then(|| json!("TCP")),
        });
        let ports = Type::List(Box::new(Builder::granular(port)), Builder::keys(keys));
        let fields = vec![Field::new("kind", Type::Int64), Field::new("ports", ports)];
        let root = builder.resource("Web", fields, false);
        let schema = builder.finish(Builder::granular(root));
        let root = schema.structure(schema.root()).unwrap();
        assert_eq!(root.field("kind").unwrap().ty, Type::String);
        let metadata = schema
            .structure(&root.field("metadata").unwrap().ty)
            .unwrap();
        assert!(metadata.field("managedFields").is_some());
        let Type::List(_, ListType::Map(keys)) = &root.field("ports").unwrap().ty else {
            panic!("{root:?}")
        };
        assert_eq!([&*keys[0].name, &*keys[1].name], ["port", "protocol"]);

        let mut web = json!({"ports": [{"port": "http", "more": 1}], "less": 1});
        let normalised = schema.normalise(&mut web).unwrap();
        assert_eq!(normalised.unknown, ["less"]);
        assert_eq!(web, json!({"ports": [{"port": "http", "more": 1}]}));
    }
}
