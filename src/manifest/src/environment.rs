//! A container's environment and arguments, from its manifest and what that refers to.
//!
//! The order and the rules of expansion are upstream's `makeEnvironmentVariables`: `envFrom` first, then `env`, each of
//! which may use those before it as `$(NAME)`, then the variables of Services, as far as nobody has set them.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvFromSource, EnvVar, EnvVarSource, Pod, ResourceFieldSelector, Secret,
};
use kube::ResourceExt as _;
use vaquita_volumes::{
    Sources,
    fields::{self, Machine},
};

use vaquita_image::StartConfig;

use crate::Capacity;

/// Why a container's configuration is not complete; the texts are upstream's where it has some.
#[derive(Debug, thiserror::Error)]
pub enum ConfigProblem {
    /// The object is not there.
    #[error("{kind} \"{name}\" not found")]
    Absent {
        /// What sort of object it is.
        kind: &'static str,
        /// The object's name.
        name: String,
    },
    /// The object does not have the key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        /// What sort of object it is.
        kind: &'static str,
        /// The object's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// The key in it.
        key: String,
    },
    /// The object cannot be read.
    #[error("cannot read {kind} {namespace}/{name}: {source}")]
    Api {
        /// What sort of object it is.
        kind: &'static str,
        /// The object's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// The value is no text.
    #[error("environment variable {variable}: the value of {kind} {name} is not valid UTF-8")]
    NotText {
        /// For which variable.
        variable: String,
        /// What sort of object it is.
        kind: &'static str,
        /// The object's name.
        name: String,
    },
    /// There is no such field.
    #[error("environment variable {variable}: unsupported fieldPath: {path}")]
    Field {
        /// For which variable.
        variable: String,
        /// The path of the field.
        path: String,
    },
    /// There is no such resource.
    #[error("environment variable {variable}: unsupported container resource: {resource}")]
    Resource {
        /// For which variable.
        variable: String,
        /// The resource's name.
        resource: String,
    },
    /// There is no such source.
    #[error("environment variable {variable}: {what} is not supported")]
    Unsupported {
        /// For which variable.
        variable: String,
        /// What it is.
        what: &'static str,
    },
}

/// What fields of the pod can refer to beyond its object.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The pod's address.
    pub pod_ip: IpAddr,
    /// The machine's addresses, the preferred one first.
    pub host_ips: &'a [IpAddr],
    /// What the node's pods can have together: the limit of a container without one.
    pub capacity: &'a Capacity,
}

/// The environment. `services` are the variables of Services.
pub async fn environment(
    pod: &Pod,
    container: &Container,
    place: Place<'_>,
    services: Vec<(String, String)>,
    sources: &dyn Sources,
) -> Result<Vec<(String, String)>, ConfigProblem> {
    let mut resolver = Resolver {
        pod,
        container,
        place,
        sources,
        namespace: pod.namespace().unwrap_or_default(),
        config_maps: BTreeMap::new(),
        secrets: BTreeMap::new(),
    };
    let services: BTreeMap<String, String> = services.into_iter().collect();
    let mut variables = Variables::default();
    for source in container.env_from.iter().flatten() {
        for (name, value) in resolver.env_from(source).await? {
            variables.set(name, value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => resolver.value_from(variable, source).await?,
            None => Some(expand(
                variable.value.as_deref().unwrap_or_default(),
                |name| {
                    variables
                        .get(name)
                        .or_else(|| services.get(name).map(String::as_str))
                },
            )),
        };
        // An optional source that is absent leaves what was there before.
        if let Some(value) = value {
            variables.set(variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        if variables.get(&name).is_none() {
            variables.set(name, value);
        }
    }
    Ok(variables.list)
}

/// The variables of an image that nothing else has set.
pub fn add_image_variables(start: Option<&StartConfig>, variables: &mut Vec<(String, String)>) {
    for variable in start.into_iter().flat_map(|start| &start.env) {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        if !name.is_empty() && variables.iter().all(|(known, _)| known != name) {
            variables.push((name.to_owned(), value.to_owned()));
        }
    }
}

/// The argument vector: what the manifest says, in place of what the image says. A module is its own entry point, so
/// where neither says a command the program is called by the container's name.
pub fn arguments(
    container: &Container,
    start: Option<&StartConfig>,
    environment: &[(String, String)],
) -> Vec<String> {
    let lookup = |name: &str| {
        environment
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let command = container
        .command
        .as_deref()
        .filter(|command| !command.is_empty());
    let given = container.args.as_deref().filter(|args| !args.is_empty());
    // A command of the manifest's own takes the place of the image's arguments too.
    let image = start.filter(|_| command.is_none());
    let entrypoint = image.map(|start| start.entrypoint.as_slice());
    let own_args = image.map(|start| start.cmd.as_slice());
    let head = command.or(entrypoint).unwrap_or_default();
    let tail = given.or(own_args).unwrap_or_default();
    let expanded = |argument: &String| expand(argument, lookup);
    let (head, tail): (Vec<String>, Vec<String>) = if command.is_some() {
        (
            head.iter().map(expanded).collect(),
            tail.iter().map(expanded).collect(),
        )
    } else if given.is_some() {
        (head.to_vec(), tail.iter().map(expanded).collect())
    } else {
        // What the image says means what it says.
        (head.to_vec(), tail.to_vec())
    };
    if head.is_empty() && (tail.is_empty() || given.is_some()) {
        return [vec![container.name.clone()], tail].concat();
    }
    [head, tail].concat()
}

/// The argument vector of a Linux image: as above, but what neither says, nobody says.
pub fn native_arguments(
    container: &Container,
    start: Option<&StartConfig>,
    environment: &[(String, String)],
) -> Vec<String> {
    let says_nothing = container.command.as_ref().is_none_or(Vec::is_empty)
        && start.is_none_or(|start| start.entrypoint.is_empty());
    let mut args = arguments(container, start, environment);
    let given = container
        .args
        .as_deref()
        .is_some_and(|args| !args.is_empty());
    let has_cmd = start.is_some_and(|start| !start.cmd.is_empty());
    if says_nothing && (given || !has_cmd) {
        // The name that stands for a module.
        args.remove(0);
    }
    args
}

/// Variables in the order in which they were first set.
#[derive(Default)]
struct Variables {
    list: Vec<(String, String)>,
    places: BTreeMap<String, usize>,
}

impl Variables {
    fn get(&self, name: &str) -> Option<&str> {
        self.places
            .get(name)
            .map(|place| self.list[*place].1.as_str())
    }

    fn set(&mut self, name: String, value: String) {
        if let Some(place) = self.places.get(&name) {
            self.list[*place].1 = value;
        } else {
            self.places.insert(name.clone(), self.list.len());
            self.list.push((name, value));
        }
    }
}

/// Replaces `$(NAME)` by its value. What has no value stays as it is; `$$` is a dollar sign.
fn expand<'a>(text: &str, mut lookup: impl FnMut(&str) -> Option<&'a str>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        let reference = rest
            .strip_prefix('(')
            .and_then(|after| after.split_once(')'));
        match reference {
            Some((name, after)) => {
                match lookup(name) {
                    Some(value) => expanded.push_str(value),
                    None => expanded.extend(["$(", name, ")"]),
                }
                rest = after;
            }
            None => expanded.push('$'),
        }
    }
    expanded.push_str(rest);
    expanded
}

/// Replaces `$(NAME)` by its value. What has no value is an error, which is its name.
pub fn expand_strictly(text: &str, environment: &[(String, String)]) -> Result<String, String> {
    let mut missing = None;
    let expanded = expand(text, |name| {
        let found = environment.iter().find(|(key, _)| key == name);
        if found.is_none() {
            missing.get_or_insert_with(|| name.to_owned());
        }
        found.map(|(_, value)| value.as_str())
    });
    missing.map_or(Ok(expanded), Err)
}

struct Resolver<'a> {
    pod: &'a Pod,
    container: &'a Container,
    place: Place<'a>,
    sources: &'a dyn Sources,
    namespace: String,
    // Each is read once for a start, so that its keys belong together.
    config_maps: BTreeMap<String, Option<ConfigMap>>,
    secrets: BTreeMap<String, Option<Secret>>,
}

impl Resolver<'_> {
    async fn config_map(&mut self, name: &str) -> Result<Option<&ConfigMap>, ConfigProblem> {
        if !self.config_maps.contains_key(name) {
            let found = self.sources.config_map(&self.namespace, name).await;
            let found = found.map_err(|source| self.failed("ConfigMap", name, source))?;
            self.config_maps.insert(name.to_owned(), found);
        }
        Ok(self.config_maps.get(name).and_then(Option::as_ref))
    }

    async fn secret(&mut self, name: &str) -> Result<Option<&Secret>, ConfigProblem> {
        if !self.secrets.contains_key(name) {
            let found = self.sources.secret(&self.namespace, name).await;
            let found = found.map_err(|source| self.failed("Secret", name, source))?;
            self.secrets.insert(name.to_owned(), found);
        }
        Ok(self.secrets.get(name).and_then(Option::as_ref))
    }

    fn failed(&self, kind: &'static str, name: &str, source: kube::Error) -> ConfigProblem {
        ConfigProblem::Api {
            kind,
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            source: Box::new(source),
        }
    }

    async fn env_from(
        &mut self,
        source: &EnvFromSource,
    ) -> Result<Vec<(String, String)>, ConfigProblem> {
        let prefix = source.prefix.clone().unwrap_or_default();
        let mut variables = Vec::new();
        if let Some(wanted) = &source.config_map_ref {
            match self.config_map(&wanted.name).await? {
                Some(found) => variables.extend(found.data.clone().unwrap_or_default()),
                None if wanted.optional == Some(true) => {}
                None => {
                    return Err(ConfigProblem::Absent {
                        kind: "configmap",
                        name: wanted.name.clone(),
                    });
                }
            }
        }
        if let Some(wanted) = &source.secret_ref {
            match self.secret(&wanted.name).await? {
                Some(found) => {
                    for (key, value) in found.data.clone().unwrap_or_default() {
                        let value = text(&key, "Secret", &wanted.name, value.0)?;
                        variables.push((key, value));
                    }
                }
                None if wanted.optional == Some(true) => {}
                None => {
                    return Err(ConfigProblem::Absent {
                        kind: "secret",
                        name: wanted.name.clone(),
                    });
                }
            }
        }
        let is_name = |name: &str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=')
        };
        let variables = variables
            .into_iter()
            .map(|(key, value)| (format!("{prefix}{key}"), value));
        Ok(variables.filter(|(name, _)| is_name(name)).collect())
    }

    async fn value_from(
        &mut self,
        variable: &EnvVar,
        source: &EnvVarSource,
    ) -> Result<Option<String>, ConfigProblem> {
        let name = || variable.name.clone();
        if let Some(field) = &source.field_ref {
            let value = self.field(&field.field_path);
            return value.map(Some).ok_or_else(|| ConfigProblem::Field {
                variable: name(),
                path: field.field_path.clone(),
            });
        }
        if let Some(resource) = &source.resource_field_ref {
            let value = self.resource(resource);
            let problem = || ConfigProblem::Resource {
                variable: name(),
                resource: resource.resource.clone(),
            };
            return value
                .map(|value| Some(value.to_string()))
                .ok_or_else(problem);
        }
        if let Some(wanted) = &source.config_map_key_ref {
            let optional = wanted.optional == Some(true);
            let found = self.config_map(&wanted.name).await?;
            let exists = found.is_some();
            let value = found.and_then(|map| map.data.as_ref()?.get(&wanted.key).cloned());
            return self.key(
                value,
                exists,
                optional,
                ["configmap", "ConfigMap"],
                &wanted.name,
                &wanted.key,
            );
        }
        if let Some(wanted) = &source.secret_key_ref {
            let optional = wanted.optional == Some(true);
            let found = self.secret(&wanted.name).await?;
            let exists = found.is_some();
            let value = found.and_then(|secret| secret.data.as_ref()?.get(&wanted.key).cloned());
            let value = value
                .map(|value| text(&variable.name, "Secret", &wanted.name, value.0))
                .transpose()?;
            return self.key(
                value,
                exists,
                optional,
                ["secret", "Secret"],
                &wanted.name,
                &wanted.key,
            );
        }
        Err(ConfigProblem::Unsupported {
            variable: name(),
            what: "valueFrom.fileKeyRef",
        })
    }

    fn key(
        &self,
        value: Option<String>,
        exists: bool,
        optional: bool,
        kind: [&'static str; 2],
        name: &str,
        key: &str,
    ) -> Result<Option<String>, ConfigProblem> {
        match value {
            Some(value) => Ok(Some(value)),
            None if optional => Ok(None),
            None if !exists => Err(ConfigProblem::Absent {
                kind: kind[0],
                name: name.to_owned(),
            }),
            None => Err(ConfigProblem::NoKey {
                kind: kind[1],
                namespace: self.namespace.clone(),
                name: name.to_owned(),
                key: key.to_owned(),
            }),
        }
    }

    fn field(&self, path: &str) -> Option<String> {
        let spec = self.pod.spec.as_ref();
        let host_ips = || {
            self.place
                .host_ips
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        Some(match path {
            "metadata.name" => self.pod.name_any(),
            "metadata.namespace" => self.namespace.clone(),
            "metadata.uid" => self.pod.uid().unwrap_or_default(),
            "spec.nodeName" => spec?.node_name.clone().unwrap_or_default(),
            "spec.serviceAccountName" => spec?.service_account_name.clone().unwrap_or_default(),
            "status.hostIP" => host_ips().first().cloned().unwrap_or_default(),
            "status.hostIPs" => host_ips().join(","),
            "status.podIP" | "status.podIPs" => self.place.pod_ip.to_string(),
            _ => {
                let (map, key) = path.strip_suffix("']")?.split_once("['")?;
                match map {
                    "metadata.labels" => self.pod.labels().get(key).cloned().unwrap_or_default(),
                    "metadata.annotations" => {
                        self.pod.annotations().get(key).cloned().unwrap_or_default()
                    }
                    _ => return None,
                }
            }
        })
    }

    /// A limit or request in units of the divisor, rounded up. A limit that is not set is what the node has.
    fn resource(&self, field: &ResourceFieldSelector) -> Option<i64> {
        let machine = Machine {
            cpus: self.place.capacity.cpus,
            memory: self.place.capacity.memory,
        };
        fields::resource(self.pod, Some(self.container), field, machine)
    }
}

fn text(
    variable: &str,
    kind: &'static str,
    name: &str,
    value: Vec<u8>,
) -> Result<String, ConfigProblem> {
    let problem = |_| ConfigProblem::NotText {
        variable: variable.to_owned(),
        kind,
        name: name.to_owned(),
    };
    String::from_utf8(value).map_err(problem)
}

#[cfg(test)]
mod tests;
