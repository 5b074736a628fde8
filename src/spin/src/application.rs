//! The locked description of an application.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Hosts, RouteError, Routes, Values, Variable, VariableError, hosts, variables::check_name,
};

/// How many components and triggers an application may have, files a component, and variables either.
const MOST_COMPONENTS: usize = 256;
const MOST_FILES: usize = 10_000;
const MOST_VARIABLES: usize = 1000;

/// An application that answers HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// Its name, if it has one.
    pub name: String,
    /// Those components that answer requests, each once.
    pub components: Vec<Component>,
    /// Which of them (by index) answers what.
    pub routes: Routes<usize>,
    /// What whoever runs it may set, by name.
    pub variables: BTreeMap<String, Variable>,
}

/// A component of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// What the application calls it.
    pub id: String,
    /// The digest of its module.
    pub module: String,
    /// What it finds in its environment.
    pub env: BTreeMap<String, String>,
    /// Files that it may read.
    pub files: Vec<File>,
    /// Key-value stores that it may open.
    pub stores: Vec<String>,
    /// Its own variables by name, as texts that mention the application's.
    templates: BTreeMap<String, String>,
    /// Hosts that it may send to, as such texts.
    hosts: Vec<String>,
}

/// A file that a component may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// What it holds.
    pub content: Content,
    /// Where it is for the component, from the root on.
    pub path: String,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// What has this digest: a layer of the image, or a file in an archive that is one.
    Digest(String),
    /// These bytes: what is small stands in the description.
    Bytes(Vec<u8>),
}

/// Why an application cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplicationError {
    /// It is not a description of an application.
    #[error("the description of the Spin application makes no sense")]
    Json(#[from] serde_json::Error),
    /// It has a version that is not known.
    #[error("the Spin application has the lock version {0}: 0 and 1 are known")]
    Version(u64),
    /// It wants something of its host that there is not.
    #[error("the Spin application needs {0}, which is not supported")]
    Unsupported(String),
    /// It has a trigger of another kind than HTTP.
    #[error("the Spin application has a trigger of the kind {0:?}: only HTTP is supported")]
    Trigger(String),
    /// A trigger names a component that there is not.
    #[error("the Spin application has no component {0:?}, of which it speaks")]
    NoComponent(String),
    /// Something has neither digest nor content.
    #[error("the component {0:?} has a source or file that is not in the image")]
    Elsewhere(String),
    /// A route makes no sense.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A variable makes no sense.
    #[error(transparent)]
    Variable(#[from] VariableError),
    /// There is nothing that answers.
    #[error("the Spin application has no HTTP trigger")]
    NoTrigger,
    /// It is larger than is taken.
    #[error("the Spin application has more than {limit} {what}")]
    TooMuch {
        /// How much there may be.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
}

#[derive(Deserialize)]
struct Locked {
    spin_lock_version: u64,
    #[serde(default)]
    must_understand: Vec<String>,
    #[serde(default)]
    metadata: BTreeMap<String, Value>,
    #[serde(default)]
    variables: BTreeMap<String, Variable>,
    triggers: Vec<LockedTrigger>,
    components: Vec<LockedComponent>,
}

#[derive(Deserialize)]
struct LockedTrigger {
    trigger_type: String,
    #[serde(default)]
    trigger_config: Value,
}

#[derive(Deserialize)]
struct LockedComponent {
    id: String,
    #[serde(default)]
    metadata: BTreeMap<String, Value>,
    source: Reference,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    config: BTreeMap<String, String>,
    #[serde(default)]
    files: Vec<LockedFile>,
    #[serde(default)]
    dependencies: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Reference {
    #[serde(default)]
    digest: Option<String>,
    /// The content itself, in base64.
    #[serde(default)]
    inline: Option<String>,
}

#[derive(Deserialize)]
struct LockedFile {
    #[serde(flatten)]
    content: Reference,
    path: String,
}

impl Application {
    /// Reads a locked description.
    pub fn from_json(json: &[u8]) -> Result<Self, ApplicationError> {
        let locked: Locked = serde_json::from_slice(json)?;
        if locked.spin_lock_version > 1 {
            return Err(ApplicationError::Version(locked.spin_lock_version));
        }
        // What is listed there changes what the rest means.
        if let Some(needed) = locked.must_understand.first() {
            return Err(ApplicationError::Unsupported(needed.clone()));
        }
        at_most(MOST_COMPONENTS, "triggers", locked.triggers.len())?;
        at_most(MOST_COMPONENTS, "components", locked.components.len())?;
        at_most(MOST_VARIABLES, "variables", locked.variables.len())?;
        for name in locked.variables.keys() {
            check_name(name)?;
        }
        let mut components: Vec<Component> = Vec::new();
        let mut routes = Routes::default();
        for trigger in &locked.triggers {
            if trigger.trigger_type != "http" {
                return Err(ApplicationError::Trigger(trigger.trigger_type.clone()));
            }
            let config = &trigger.trigger_config;
            // Others are no components: they speak CGI.
            match config["executor"]["type"].as_str() {
                None | Some("http" | "spin" | "wasi") => {}
                Some(other) => {
                    return Err(ApplicationError::Unsupported(format!(
                        "the executor {other:?}"
                    )));
                }
            }
            let id = config["component"].as_str().unwrap_or_default();
            let known = components.iter().position(|component| component.id == id);
            let index = if let Some(index) = known {
                index
            } else {
                components.push(component(&locked.components, id)?);
                components.len() - 1
            };
            match &config["route"] {
                Value::String(route) => routes.add(&based(&locked.metadata, route), index)?,
                // Only other components may call it, which is not done over the network.
                Value::Object(route) if route.get("private") == Some(&Value::Bool(true)) => {}
                _ => return Err(RouteError::Malformed(config["route"].to_string()).into()),
            }
        }
        if routes.is_empty() {
            return Err(ApplicationError::NoTrigger);
        }
        let name = locked.metadata.get("name").and_then(Value::as_str);
        Ok(Self {
            name: name.unwrap_or_default().to_owned(),
            components,
            routes,
            variables: locked.variables,
        })
    }

    /// What its variables are, where the environment says `provided` of a name.
    pub fn values(&self, provided: impl Fn(&str) -> Option<String>) -> Values {
        Values::of(&self.variables, provided)
    }
}

impl Component {
    /// The component's own variables.
    pub fn variables(&self, values: &Values) -> Result<BTreeMap<String, String>, VariableError> {
        let texts = self.templates.iter();
        let filled = texts.map(|(name, text)| Ok((name.clone(), values.fill(text)?)));
        filled.collect()
    }

    /// What of the network outside is open to it.
    pub fn hosts(&self, values: &Values) -> Result<Hosts, VariableError> {
        hosts::allowed(&self.hosts, values)
    }
}

/// A route below the application's base, which older ones have.
fn based(metadata: &BTreeMap<String, Value>, route: &str) -> String {
    let trigger = metadata.get("trigger");
    let base = trigger.and_then(|trigger| trigger["base"].as_str());
    match base.map(|base| base.trim_end_matches('/')) {
        Some(base) if !base.is_empty() => format!("{base}/{}", route.trim_start_matches('/')),
        _ => route.to_owned(),
    }
}

fn component(all: &[LockedComponent], id: &str) -> Result<Component, ApplicationError> {
    let found = all.iter().find(|component| component.id == id);
    let found = found.ok_or_else(|| ApplicationError::NoComponent(id.to_owned()))?;
    if !found.dependencies.is_empty() {
        let needed = "composition of components when it is started".to_owned();
        return Err(ApplicationError::Unsupported(needed));
    }
    at_most(MOST_FILES, "files of a component", found.files.len())?;
    at_most(
        MOST_VARIABLES,
        "variables of a component",
        found.config.len(),
    )?;
    for name in found.config.keys() {
        check_name(name)?;
    }
    let elsewhere = || ApplicationError::Elsewhere(id.to_owned());
    let files = found.files.iter().map(|file| {
        Ok(File {
            content: content(&file.content).ok_or_else(elsewhere)?,
            path: file.path.clone(),
        })
    });
    let stores = found.metadata.get("key_value_stores");
    let stores = stores.and_then(Value::as_array).into_iter().flatten();
    Ok(Component {
        id: id.to_owned(),
        module: found.source.digest.clone().ok_or_else(elsewhere)?,
        env: found.env.clone(),
        files: files.collect::<Result<_, ApplicationError>>()?,
        stores: stores
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        templates: found.config.clone(),
        hosts: hosts::patterns(&found.metadata),
    })
}

/// What a reference refers to; `None` for what is only where the application was made.
fn content(reference: &Reference) -> Option<Content> {
    let inline = reference.inline.as_ref().map(|text| STANDARD.decode(text));
    match inline {
        Some(bytes) => bytes.ok().map(Content::Bytes),
        None => reference.digest.clone().map(Content::Digest),
    }
}

fn at_most(limit: usize, what: &'static str, found: usize) -> Result<(), ApplicationError> {
    if found <= limit {
        return Ok(());
    }
    Err(ApplicationError::TooMuch { limit, what })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn application(change: impl FnOnce(&mut Value)) -> Result<Application, ApplicationError> {
        let mut locked = json!({
            "spin_lock_version": 1,
            "metadata": {"name": "shop", "version": "1.0.0"},
            "variables": {"who": {"default": "world"}},
            "triggers": [
                {"id": "one", "trigger_type": "http", "trigger_config": {"component": "api", "route": "/api/..."}},
                {"id": "two", "trigger_type": "http", "trigger_config": {"component": "site", "route": "/..."}},
                {"id": "three", "trigger_type": "http", "trigger_config": {"component": "inner", "route": {"private": true}}},
            ],
            "components": [
                {"id": "api", "source": {"content_type": "application/wasm", "digest": "sha256:a"},
                 "config": {"greeting": "hello {{ who }}"},
                 "metadata": {"allowed_outbound_hosts": ["https://{{ who }}.example"], "key_value_stores": ["default"]}},
                {"id": "site", "source": {"content_type": "application/wasm", "digest": "sha256:b"},
                 "env": {"COLOUR": "grey"}, "files": [
                     {"digest": "sha256:c", "path": "/index.html"},
                     {"digest": "sha256:d", "inline": "c21hbGw=", "path": "small"}]},
                {"id": "inner", "source": {"digest": "sha256:d"}},
                {"id": "unused", "source": {}},
            ],
        });
        change(&mut locked);
        Application::from_json(locked.to_string().as_bytes())
    }

    #[test]
    fn components_are_those_that_answer() {
        let app = application(|_| {}).unwrap();
        assert_eq!(app.name, "shop");
        let ids: Vec<_> = app.components.iter().map(|it| it.id.as_str()).collect();
        assert_eq!(ids, ["api", "site", "inner"]);
        let answers = |path| app.routes.find(path).map(|found| *found.target);
        assert_eq!(answers("/api/x"), Some(0));
        assert_eq!(answers("/anything"), Some(1));
        assert_eq!(app.components[1].env["COLOUR"], "grey");
        let [page, small] = &app.components[1].files[..] else {
            panic!("{:?}", app.components[1].files);
        };
        assert_eq!(page.path, "/index.html");
        assert_eq!(page.content, Content::Digest("sha256:c".to_owned()));
        assert_eq!(small.content, Content::Bytes(b"small".to_vec()));
        assert_eq!(app.components[0].stores, ["default"]);
        assert!(app.components[1].stores.is_empty());
    }

    #[test]
    fn variables_are_part_of_texts_and_of_hosts() {
        let app = application(|_| {}).unwrap();
        let of = |values: &Values| {
            let api = &app.components[0];
            let greeting = api.variables(values).unwrap()["greeting"].clone();
            (greeting, api.hosts(values).unwrap().http)
        };
        let (greeting, hosts) = of(&app.values(|_| None));
        assert_eq!(greeting, "hello world");
        assert_eq!(hosts, ["world.example:443"]);
        let (greeting, hosts) =
            of(&app.values(|name| (name == "SPIN_VARIABLE_WHO").then(|| "you".to_owned())));
        assert_eq!(greeting, "hello you");
        assert_eq!(hosts, ["you.example:443"]);
    }

    #[test]
    fn older_applications_have_a_base() {
        let app = application(|locked| locked["metadata"]["trigger"] = json!({"base": "/shop/"}));
        let app = app.unwrap();
        assert!(app.routes.find("/api/x").is_none());
        assert_eq!(*app.routes.find("/shop/api/x").unwrap().target, 0);
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_the_reason() {
        for (change, part) in [
            (("/spin_lock_version", json!(2)), "version 2"),
            (
                ("/must_understand", json!(["host_requirements"])),
                "host_requirements",
            ),
            (("/triggers/0/trigger_type", json!("redis")), "redis"),
            (
                ("/triggers/0/trigger_config/component", json!("absent")),
                "absent",
            ),
            (("/triggers/0/trigger_config/route", json!(7)), "7"),
            (("/triggers", json!([])), "no HTTP trigger"),
            (
                (
                    "/triggers/0/trigger_config/executor",
                    json!({"type": "wagi"}),
                ),
                "wagi",
            ),
            (("/variables", json!({"Bad": {}})), "Bad"),
            (("/components/0/config", json!({"a-b": ""})), "a-b"),
            (
                ("/components/1/files", json!([{"inline": "?", "path": "x"}])),
                "not in the image",
            ),
            (
                ("/components/0/source", json!({"source": "file:///x"})),
                "not in the image",
            ),
            (
                ("/components/0/dependencies", json!({"a:b/c": {}})),
                "composition",
            ),
            (("/components", json!("x")), "makes no sense"),
        ] {
            let (pointer, value) = change;
            let refused = application(|locked| {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                locked.pointer_mut(parent).unwrap()[key] = value;
            });
            let error = refused.unwrap_err().to_string();
            assert!(error.contains(part), "{pointer}: {error}");
        }
    }
}
