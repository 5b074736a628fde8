//! The paths of a resource, and what can be done at each.

use serde_json::{Map, Value, json};
use vaquita_api::patch::PatchType;
use vaquita_api::registry::{Resource, Subresource, Verb};

use crate::base;
use crate::definitions::{Definitions, gvk};

const JSON_YAML_PROTOBUF: [&str; 3] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const STREAMS: [&str; 2] = [
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];

/// The paths below which nothing is stored: what is sent there flows on to a pod, a service or a node.
const CONNECTIONS: [&str; 4] = ["attach", "exec", "portforward", "proxy"];

/// Each path of a resource with its item, in the common form of `dialect`.
pub(crate) fn paths(resource: &Resource, definitions: &mut Definitions) -> Vec<(String, Value)> {
    let base = base(&resource.group, &resource.version);
    let everywhere = format!("/{base}/{}", resource.plural);
    let collection = if resource.namespaced {
        format!("/{base}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        everywhere.clone()
    };
    let object = format!("{collection}/{{name}}");
    let mut writer = Writer {
        resource,
        definitions,
    };
    let mut paths = Vec::new();
    if resource.namespaced {
        paths.push((everywhere.clone(), &[Verb::List][..], Scope::Everywhere));
    }
    paths.push((
        collection,
        &[Verb::List, Verb::Create, Verb::DeleteCollection],
        Scope::Own,
    ));
    paths.push((
        object.clone(),
        &[Verb::Get, Verb::Update, Verb::Patch, Verb::Delete],
        Scope::Own,
    ));
    let mut items: Vec<(String, Value)> = paths
        .into_iter()
        .map(|(path, verbs, scope)| {
            let mut item = Map::new();
            for verb in verbs.iter().filter(|verb| resource.verbs.contains(verb)) {
                item.insert(method(*verb).to_owned(), writer.operation(*verb, scope));
            }
            (path, item)
        })
        .filter(|(_, item)| !item.is_empty())
        .map(|(path, item)| finished(path, item, resource))
        .collect();
    for subresource in &resource.subresources {
        let path = format!("{object}/{}", subresource.name);
        let item = writer.subresource(subresource);
        items.push(finished(path, item, resource));
    }
    items
}

fn method(verb: Verb) -> &'static str {
    match verb {
        Verb::Get | Verb::List | Verb::Watch => "get",
        Verb::Create => "post",
        Verb::Update => "put",
        Verb::Patch => "patch",
        Verb::Delete | Verb::DeleteCollection => "delete",
    }
}

/// Adds the parameters that stand in the path.
fn finished(path: String, mut item: Map<String, Value>, resource: &Resource) -> (String, Value) {
    let mut parameters = Vec::new();
    for (name, description) in [
        ("name", format!("name of the {}", resource.kind)),
        ("namespace", "the namespace of the object".to_owned()),
    ] {
        if path.contains(&format!("{{{name}}}")) {
            parameters.push(json!({
                "name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true,
                "description": description,
            }));
        }
    }
    item.insert("parameters".to_owned(), parameters.into());
    (path, item.into())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// One namespace, or the cluster for what has none.
    Own,
    /// All namespaces.
    Everywhere,
}

struct Writer<'w> {
    resource: &'w Resource,
    definitions: &'w mut Definitions,
}

impl Writer<'_> {
    /// `CoreV1`, `AppsV1`: how operations are told apart.
    fn tag(&self) -> (String, String) {
        let group = match self.resource.group.as_str() {
            "" => "core",
            group => group.strip_suffix(".k8s.io").unwrap_or(group),
        };
        let version = &self.resource.version;
        let title: String = group.split(['.', '-']).map(capitalised).collect();
        let tag = group
            .split('.')
            .enumerate()
            .map(|(at, word)| {
                if at == 0 {
                    word.to_owned()
                } else {
                    capitalised(word)
                }
            })
            .collect::<String>();
        (
            format!("{title}{}", capitalised(version)),
            format!("{tag}_{version}"),
        )
    }

    fn operation(&mut self, verb: Verb, scope: Scope) -> Value {
        let resource = self.resource;
        let (title, tag) = self.tag();
        let kind = &resource.kind;
        let namespaced = match scope {
            Scope::Own if resource.namespaced => "Namespaced",
            _ => "",
        };
        let everywhere = match scope {
            Scope::Everywhere => "ForAllNamespaces",
            Scope::Own => "",
        };
        let id = match verb {
            Verb::DeleteCollection => format!("delete{title}Collection{namespaced}{kind}"),
            _ => format!("{}{title}{namespaced}{kind}{everywhere}", word(verb)),
        };
        let own = (&*resource.group, &*resource.version, &**kind);
        let (body, answer) = self.bodies(verb, own);
        let mut operation = json!({
            "description": description(verb, kind),
            "operationId": id,
            "tags": [tag],
            "x-kubernetes-action": action(verb),
            "x-kubernetes-group-version-kind": gvk(own.0, own.1, own.2),
            "parameters": query(verb),
            "produces": produces(verb),
            "responses": responses(verb, &answer),
        });
        if let Some(body) = body {
            operation["requestBody"] = body;
        }
        operation
    }

    fn subresource(&mut self, subresource: &Subresource) -> Map<String, Value> {
        let resource = self.resource;
        let (title, tag) = self.tag();
        let namespaced = if resource.namespaced {
            "Namespaced"
        } else {
            ""
        };
        let name = capitalised(&subresource.name);
        let kind = (
            &*subresource.group,
            &*subresource.version,
            &*subresource.kind,
        );
        let connects = CONNECTIONS.contains(&subresource.name.as_str());
        let mut item = Map::new();
        for verb in &subresource.verbs {
            let what = if connects {
                format!("connect{title}{}", capitalised(method(*verb)))
            } else {
                format!("{}{title}", word(*verb))
            };
            let (body, answer) = if connects || subresource.name == "log" {
                (None, json!({"type": "string"}))
            } else {
                self.bodies(*verb, kind)
            };
            let mut operation = json!({
                "description": format!("{} {} of the specified {}", word(*verb), subresource.name, resource.kind),
                "operationId": format!("{what}{namespaced}{}{name}", resource.kind),
                "tags": [tag],
                "x-kubernetes-action": if connects { "connect" } else { action(*verb) },
                "x-kubernetes-group-version-kind": gvk(kind.0, kind.1, kind.2),
                "parameters": if connects { Vec::new() } else { query(*verb) },
                "produces": if connects { vec!["*/*"] } else { produces(*verb) },
                "responses": responses(*verb, &answer),
            });
            if let Some(body) = body {
                operation["requestBody"] = body;
            }
            item.insert(method(*verb).to_owned(), operation);
        }
        item
    }

    /// What is sent, if anything, and what comes back.
    fn bodies(&mut self, verb: Verb, kind: (&str, &str, &str)) -> (Option<Value>, Value) {
        let resource = self.resource;
        match verb {
            Verb::Get => (None, self.definitions.of_kind(resource, kind)),
            Verb::List | Verb::Watch => (None, self.definitions.list_of(resource)),
            Verb::Create | Verb::Update => {
                let schema = self.definitions.of_kind(resource, kind);
                let body = json!({"required": true, "consumes": ["*/*"], "schema": schema});
                (Some(body), schema)
            }
            Verb::Patch => {
                let strategic = resource.merges_strategically();
                let kinds: Vec<&str> = [
                    "application/json-patch+json",
                    "application/merge-patch+json",
                    "application/strategic-merge-patch+json",
                    "application/apply-patch+yaml",
                ]
                .into_iter()
                .filter(|kind| strategic || !kind.contains("strategic"))
                .collect();
                debug_assert!(
                    PatchType::MEDIA_TYPES
                        .iter()
                        .all(|known| !strategic || kinds.contains(known))
                );
                let body = json!({"required": true, "consumes": kinds, "schema": self.definitions.patch()});
                (Some(body), self.definitions.of_kind(resource, kind))
            }
            Verb::Delete | Verb::DeleteCollection => {
                let schema = self.definitions.delete_options(resource);
                let body = json!({"required": false, "consumes": ["*/*"], "schema": schema});
                (Some(body), self.definitions.status())
            }
        }
    }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

/// What an operation's name begins with.
fn word(verb: Verb) -> &'static str {
    match verb {
        Verb::Get => "read",
        Verb::Update => "replace",
        Verb::DeleteCollection => "delete",
        other => other.as_str(),
    }
}

fn action(verb: Verb) -> &'static str {
    match verb {
        Verb::Create => "post",
        Verb::Update => "put",
        other => other.as_str(),
    }
}

fn description(verb: Verb, kind: &str) -> String {
    match verb {
        Verb::Create => format!("create a {kind}"),
        Verb::List | Verb::Watch => format!("list or watch objects of kind {kind}"),
        Verb::DeleteCollection => format!("delete collection of {kind}"),
        Verb::Delete => format!("delete a {kind}"),
        Verb::Get => format!("read the specified {kind}"),
        Verb::Update => format!("replace the specified {kind}"),
        Verb::Patch => format!("partially update the specified {kind}"),
    }
}

fn produces(verb: Verb) -> Vec<&'static str> {
    let mut kinds = JSON_YAML_PROTOBUF.to_vec();
    if verb == Verb::List {
        kinds.extend(STREAMS);
    }
    kinds
}

fn responses(verb: Verb, schema: &Value) -> Value {
    let codes: &[(&str, &str)] = match verb {
        Verb::Create => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
        Verb::Update | Verb::Patch => &[("200", "OK"), ("201", "Created")],
        Verb::Delete => &[("200", "OK"), ("202", "Accepted")],
        _ => &[("200", "OK")],
    };
    let mut responses: Map<String, Value> = codes
        .iter()
        .map(|(code, description)| {
            (
                (*code).to_owned(),
                json!({"description": description, "schema": schema}),
            )
        })
        .collect();
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    responses.into()
}

/// A parameter of the query: name, type and what it is for.
type Parameter = (&'static str, &'static str, &'static str);

/// Of every operation.
const PRETTY: Parameter = ("pretty", "string", "'true' indents the answer");
/// Of lists and watches.
const SELECTION: [Parameter; 10] = [
    (
        "allowWatchBookmarks",
        "boolean",
        "whether a watch may tell by bookmarks how far it is",
    ),
    (
        "continue",
        "string",
        "where a list goes on, as its last part said",
    ),
    ("fieldSelector", "string", "which objects, by their fields"),
    ("labelSelector", "string", "which objects, by their labels"),
    ("limit", "integer", "the most objects that one answer lists"),
    (
        "resourceVersion",
        "string",
        "the state that is read, or after which a watch begins",
    ),
    (
        "resourceVersionMatch",
        "string",
        "how resourceVersion is meant: Exact or NotOlderThan",
    ),
    (
        "sendInitialEvents",
        "boolean",
        "whether a watch begins with the objects that are there",
    ),
    (
        "timeoutSeconds",
        "integer",
        "how long a list or watch may take",
    ),
    (
        "watch",
        "boolean",
        "changes as they come, instead of a list",
    ),
];
/// Of writes.
const WRITING: [Parameter; 3] = [
    (
        "dryRun",
        "string",
        "'All' does everything but store the result",
    ),
    (
        "fieldManager",
        "string",
        "the name under which the change is recorded",
    ),
    (
        "fieldValidation",
        "string",
        "what becomes of unknown and duplicate fields: Ignore, Warn or Strict",
    ),
];
/// Of patches.
const FORCE: Parameter = (
    "force",
    "boolean",
    "whether apply takes fields over from other managers",
);
/// Of deletions.
const DELETION: [Parameter; 4] = [
    ("dryRun", "string", "'All' does everything but delete"),
    (
        "gracePeriodSeconds",
        "integer",
        "how long the object may take to end by itself",
    ),
    (
        "orphanDependents",
        "boolean",
        "deprecated: say propagationPolicy",
    ),
    (
        "propagationPolicy",
        "string",
        "what becomes of dependents: Orphan, Background or Foreground",
    ),
];

/// The parameters of the query.
fn query(verb: Verb) -> Vec<Value> {
    let mut parameters = vec![PRETTY];
    match verb {
        Verb::Get => {}
        Verb::List | Verb::Watch => parameters.extend(SELECTION),
        Verb::Create | Verb::Update => parameters.extend(WRITING),
        Verb::Patch => {
            parameters.extend(WRITING);
            parameters.push(FORCE);
        }
        Verb::Delete => parameters.extend(DELETION),
        Verb::DeleteCollection => {
            parameters.extend(
                SELECTION
                    .into_iter()
                    .filter(|(name, ..)| !name.contains("atch") || *name == "resourceVersionMatch"),
            );
            parameters.extend(DELETION);
        }
    }
    parameters
        .into_iter()
        .map(|(name, kind, description)| {
            json!({"name": name, "in": "query", "type": kind, "uniqueItems": true, "description": description})
        })
        .collect()
}
