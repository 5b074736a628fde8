//! A cluster of a few objects, and requests against it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::Value;
use vaquita_api::registry::{Registry, Resource};
use vaquita_api::status::Status;
use vaquita_api::{Object, meta};

use crate::{Cluster, Operation, Plugin, Request, Requester};

/// Objects by group, plural, namespace and name.
#[derive(Default)]
pub(crate) struct World {
    objects: BTreeMap<[String; 4], Arc<Object>>,
    /// What plugins wanted to write.
    replaced: Mutex<Vec<Value>>,
    /// How many of these writes come too late.
    stale: usize,
}

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}

impl World {
    pub(crate) fn with(mut self, group: &str, plural: &str, value: Value) -> Self {
        let object = object(value);
        let key = [group, plural, meta::namespace(&object), meta::name(&object)].map(str::to_owned);
        self.objects.insert(key, Arc::new(object));
        self
    }

    /// Lets the first writes fail, as if others had been faster.
    pub(crate) fn stale(mut self, writes: usize) -> Self {
        self.stale = writes;
        self
    }

    /// All statuses that plugins wanted to write, those that came too late too.
    pub(crate) fn replaced(&self) -> Vec<Value> {
        self.replaced.lock().expect("no panic before").clone()
    }
}

#[async_trait]
impl Cluster for World {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let key = [group, plural, namespace, name].map(str::to_owned);
        self.objects.get(&key).cloned()
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Object>> {
        let wanted = |key: &[String; 4]| {
            key[0] == group && key[1] == plural && (namespace.is_empty() || key[2] == namespace)
        };
        let found = self.objects.iter().filter(|(key, _)| wanted(key));
        found.map(|(_, object)| object.clone()).collect()
    }

    async fn replace_status(&self, _: &str, _: &str, object: Object) -> Result<bool, Status> {
        let mut replaced = self.replaced.lock().expect("no panic before");
        replaced.push(Value::Object(object));
        Ok(replaced.len() > self.stale)
    }
}

/// A request that is about to be admitted.
pub(crate) struct Fixture {
    operation: Operation,
    resource: Arc<Resource>,
    namespace: String,
    name: String,
    object: Option<Object>,
    dry_run: bool,
}

impl Fixture {
    /// The creation of an object of a kind of the core family, in namespace `ns` if it is namespaced.
    pub(crate) fn creation(group: &str, plural: &str, value: Value) -> Self {
        let registry = Registry::new(vaquita_kinds::resources());
        let found = registry
            .iter()
            .find(|own| own.group == group && own.plural == plural);
        let resource = found.expect("a kind of this family").clone();
        let namespace = if resource.namespaced { "ns" } else { "" };
        Self {
            operation: Operation::Create,
            resource,
            namespace: namespace.to_owned(),
            name: String::new(),
            object: Some(object(value)),
            dry_run: false,
        }
    }

    pub(crate) fn pod(value: Value) -> Self {
        Self::creation("", "pods", value)
    }

    pub(crate) fn deletion(plural: &str, name: &str) -> Self {
        let mut fixture = Self::creation("", plural, Value::Object(Object::new()));
        fixture.operation = Operation::Delete;
        fixture.object = None;
        name.clone_into(&mut fixture.name);
        fixture
    }

    pub(crate) fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Nothing of it will be stored.
    pub(crate) fn rehearsed(mut self) -> Self {
        self.dry_run = true;
        self
    }

    pub(crate) fn object(&self) -> &Object {
        self.object.as_ref().expect("an object")
    }

    fn request(&mut self) -> Request<'_> {
        Request {
            operation: self.operation,
            resource: &self.resource,
            subresource: "",
            namespace: &self.namespace,
            name: &self.name,
            object: self.object.as_mut(),
            old: None,
            requester: Requester {
                name: "jane",
                groups: &[],
            },
            dry_run: self.dry_run,
            warnings: Vec::new(),
        }
    }

    pub(crate) async fn mutate(
        &mut self,
        plugin: &dyn Plugin,
        world: &World,
    ) -> Result<(), Status> {
        let mut request = self.request();
        assert!(plugin.handles(&request));
        plugin.mutate(&mut request, world).await
    }

    /// What a plugin warns of in an object that it lets pass.
    pub(crate) async fn warnings(&mut self, plugin: &dyn Plugin, world: &World) -> Vec<String> {
        let mut request = self.request();
        assert!(plugin.handles(&request));
        plugin.validate(&mut request, world).await.unwrap();
        request.warnings
    }

    pub(crate) async fn validate(
        mut self,
        plugin: &dyn Plugin,
        world: &World,
    ) -> Result<(), Status> {
        let mut request = self.request();
        assert!(plugin.handles(&request));
        plugin.validate(&mut request, world).await
    }
}
