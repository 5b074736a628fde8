//! The objects, their history, and what each verb does to them.

use std::collections::{BTreeMap, HashMap};

use http::Method;
use serde_json::{Value, json};

use super::route::Route;

type Key = (String, String, String);

/// A refused request.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn failure(code: u16, reason: &'static str, message: impl Into<String>) -> Failure {
    Failure {
        code,
        reason,
        message: message.into(),
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) revision: u64,
    pub(super) writes: Vec<String>,
    pub(super) refused: HashMap<String, (u16, &'static str, &'static str)>,
    /// (collection, namespace, name) → object.
    objects: BTreeMap<Key, Value>,
    /// Every event: the revision, the collection, what happened, the object.
    log: Vec<(u64, String, &'static str, Value)>,
}

impl State {
    pub(super) fn get(&self, path: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects
            .get(&(path.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    pub(super) fn list<'s>(
        &'s self,
        path: &str,
        namespace: Option<&str>,
    ) -> impl Iterator<Item = &'s Value> {
        let of_collection = self
            .objects
            .iter()
            .filter(move |((collection, space, _), _)| {
                collection == path && namespace.is_none_or(|wanted| space == wanted)
            });
        of_collection.map(|(_, object)| object)
    }

    pub(super) fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.revision += 1;
        let metadata = &mut object["metadata"];
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("uid-{}", self.revision));
        }
        metadata["resourceVersion"] = json!(self.revision.to_string());
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let key = (path.to_owned(), text("namespace"), text("name"));
        let kind = if self.objects.contains_key(&key) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        self.log
            .push((self.revision, path.to_owned(), kind, object.clone()));
        self.objects.insert(key, object.clone());
        object
    }

    pub(super) fn remove(&mut self, path: &str, namespace: &str, name: &str) {
        let key = (path.to_owned(), namespace.to_owned(), name.to_owned());
        let Some(mut object) = self.objects.remove(&key) else {
            return;
        };
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.log
            .push((self.revision, path.to_owned(), "DELETED", object));
    }

    /// What happened to a collection after a revision, and the revision of now.
    pub(super) fn events(&self, route: &Route, after: u64) -> (Vec<(&'static str, Value)>, u64) {
        let of_route = self.log.iter().filter(|(revision, collection, _, object)| {
            let namespace = object["metadata"]["namespace"].as_str();
            *revision > after
                && *collection == route.collection
                && route
                    .namespace
                    .as_deref()
                    .is_none_or(|wanted| namespace == Some(wanted))
        });
        (
            of_route
                .map(|(_, _, kind, object)| (*kind, object.clone()))
                .collect(),
            self.revision,
        )
    }

    pub(super) fn handle(
        &mut self,
        method: &Method,
        route: &Route,
        body: &Value,
    ) -> Result<Value, Failure> {
        if method != Method::GET {
            let part = |part: &Option<String>| {
                part.as_ref()
                    .map(|part| format!("/{part}"))
                    .unwrap_or_default()
            };
            let path = format!(
                "{}{}{}",
                route.collection,
                part(&route.name),
                part(&route.subresource)
            );
            self.writes.push(format!("{method} {path}"));
        }
        let namespace = route.namespace.clone().unwrap_or_default();
        let Some(name) = &route.name else {
            return match *method {
                Method::POST => self.create(route, &namespace, body.clone()),
                Method::DELETE => Ok(self.delete_collection(route, &namespace)),
                _ => Ok(self.list_answer(route)),
            };
        };
        let found = self.get(&route.collection, &namespace, name);
        let current = found
            .cloned()
            .ok_or_else(|| failure(404, "NotFound", format!("{name} not found")))?;
        if route.subresource.as_deref() == Some("scale") {
            if *method != Method::GET {
                let mut scaled = current.clone();
                scaled["spec"]["replicas"] = body["spec"]["replicas"].clone();
                scaled["metadata"]["resourceVersion"] = body["metadata"]["resourceVersion"].clone();
                let scaled = self.update(route, current, scaled)?;
                return Ok(scale_of(&scaled));
            }
            return Ok(scale_of(&current));
        }
        match *method {
            Method::GET => Ok(current),
            Method::PUT => self.update(route, current, body.clone()),
            Method::PATCH => {
                let mut patched = current.clone();
                merge(&mut patched, body);
                self.update(route, current, patched)
            }
            _ => self.delete(route, current, body),
        }
    }

    fn list_answer(&self, route: &Route) -> Value {
        let items: Vec<_> = self
            .list(&route.collection, route.namespace.as_deref())
            .collect();
        let metadata = json!({ "resourceVersion": self.revision.to_string() });
        json!({ "kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items })
    }

    fn create(
        &mut self,
        route: &Route,
        namespace: &str,
        mut object: Value,
    ) -> Result<Value, Failure> {
        if let Some((code, reason, message)) = self.refused.get(&route.collection) {
            return Err(failure(*code, reason, *message));
        }
        if let Some(prefix) = object["metadata"]["generateName"].as_str()
            && object["metadata"]["name"].is_null()
        {
            object["metadata"]["name"] = json!(format!("{prefix}{:05}", self.revision + 1));
        }
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        object["metadata"]["generation"] = json!(1);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if self.get(&route.collection, namespace, name).is_some() {
            return Err(failure(
                409,
                "AlreadyExists",
                format!("{name} already exists"),
            ));
        }
        Ok(self.put(&route.collection, object))
    }

    fn update(
        &mut self,
        route: &Route,
        current: Value,
        mut updated: Value,
    ) -> Result<Value, Failure> {
        for field in ["uid", "resourceVersion"] {
            let given = &updated["metadata"][field];
            if !given.is_null() && *given != current["metadata"][field] {
                return Err(failure(
                    409,
                    "Conflict",
                    format!("{field} is {}", current["metadata"][field]),
                ));
            }
        }
        match route.subresource.as_deref() {
            Some("status") => {
                let status = updated["status"].take();
                updated = current.clone();
                updated["status"] = status;
            }
            Some("finalize") => {
                let finalizers = updated["spec"]["finalizers"].take();
                updated = current.clone();
                updated["spec"]["finalizers"] = finalizers;
            }
            _ => {
                if updated.get("status") != current.get("status") {
                    updated["status"] = current["status"].clone();
                }
                if updated["spec"] != current["spec"] {
                    let generation = current["metadata"]["generation"].as_i64().unwrap_or(1);
                    updated["metadata"]["generation"] = json!(generation + 1);
                }
            }
        }
        if updated == current {
            return Ok(current);
        }
        Ok(self.store_or_remove(route, updated))
    }

    /// An object that is going goes when its last finalizer is taken away.
    fn store_or_remove(&mut self, route: &Route, object: Value) -> Value {
        let some = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
        let held = some(&object["metadata"]["finalizers"])
            || (route.collection == "api/v1/namespaces" && some(&object["spec"]["finalizers"]));
        if object["metadata"]["deletionTimestamp"].is_null() || held {
            return self.put(&route.collection, object);
        }
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        self.remove(&route.collection, text("namespace"), text("name"));
        object
    }

    fn delete(
        &mut self,
        route: &Route,
        mut object: Value,
        options: &Value,
    ) -> Result<Value, Failure> {
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && *wanted != object["metadata"][field] {
                return Err(failure(409, "Conflict", format!("precondition: {field}")));
            }
        }
        let finalizer = match options["propagationPolicy"].as_str() {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        if let Some(finalizer) = finalizer {
            let mut finalizers = object["metadata"]["finalizers"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            finalizers.retain(|known| known != finalizer);
            finalizers.push(json!(finalizer));
            object["metadata"]["finalizers"] = json!(finalizers);
        }
        if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        }
        Ok(self.store_or_remove(route, object))
    }

    fn delete_collection(&mut self, route: &Route, namespace: &str) -> Value {
        let objects: Vec<_> = self
            .list(&route.collection, Some(namespace))
            .cloned()
            .collect();
        for object in objects {
            // Without options nothing can be refused.
            let _ = self.delete(route, object, &Value::Null);
        }
        self.list_answer(route)
    }
}

/// The `scale` of an object whose selector is a map, or has `matchLabels` alone.
fn scale_of(object: &Value) -> Value {
    let selector = &object["spec"]["selector"];
    let labels = selector.get("matchLabels").unwrap_or(selector).as_object();
    let labels = labels.into_iter().flatten();
    let labels: Vec<_> = labels
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let mut metadata = object["metadata"].clone();
    metadata.as_object_mut().unwrap().retain(|field, _| {
        ["name", "namespace", "uid", "resourceVersion"].contains(&field.as_str())
    });
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": { "replicas": object["spec"]["replicas"].as_i64().unwrap_or(0) },
        "status": { "replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": labels.join(",") },
    })
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}
