//! What a component of a Spin application is started with: what its description says, as far as the pod and the namespace's policies
//! allow it.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use vaquita_image::{FileSource, Image, ImageFiles, PlacedFile};
use vaquita_runtime::{
    Capabilities, Destination, KeyValue, LogSink, MemoryStore, ModuleKind, Mount, OutputSink,
    ProcessConfig,
};
use vaquita_spin::{Component, Content, File, Hosts, Values, VariableError};

use super::{
    super::{WasmSandbox, root, set_http},
    blocking,
};
use crate::{ContainerConfig, Grants, HttpSettings, StartError, with_causes};

/// Bytes that each key-value store of an application may hold. They are in memory.
const MOST_STORED: u64 = 64 << 20;
/// Variables of an application are set by such variables of the environment.
const VARIABLES: &str = "SPIN_VARIABLE_";

/// What all components of an application are started with.
pub(super) struct Shared<'s> {
    sandbox: &'s WasmSandbox,
    image: &'s Image,
    name: String,
    grants: Grants,
    env: Vec<(String, String)>,
    memory_limit: Option<u64>,
    cpu_limit: Option<u32>,
    cpu_request: Option<u32>,
    http: HttpSettings,
    mounts: Vec<Mount>,
    working_dir: Option<String>,
    values: Values,
    output: Option<Arc<dyn OutputSink>>,
    log: Arc<dyn LogSink>,
}

impl<'s> Shared<'s> {
    pub(super) fn new(
        sandbox: &'s WasmSandbox,
        image: &'s Image,
        container: ContainerConfig,
        values: Values,
    ) -> Self {
        Self {
            sandbox,
            image,
            name: container.name,
            grants: container.grants,
            env: container.env,
            memory_limit: container.memory_limit,
            cpu_limit: container.cpu_limit,
            cpu_request: container.cpu_request,
            http: container.http,
            mounts: container.mounts,
            working_dir: container.working_dir,
            values,
            output: container.output,
            log: container.log,
        }
    }
}

impl Shared<'_> {
    /// What to run for a component, and the directory of its files, if it has any.
    pub(super) async fn config(
        &self,
        component: &Component,
    ) -> Result<(ProcessConfig, Option<ImageFiles>), StartError> {
        let (images, image) = (self.sandbox.backend.images.clone(), self.image.clone());
        let digest = component.module.clone();
        let wasm = blocking(move || images.part(&image, &digest)).await?;
        let module = self.sandbox.backend.loaded(wasm.into()).await?;
        let id = &component.id;
        if module.kind() != ModuleKind::HttpHandler {
            return Err(StartError::Create(format!(
                "the component {id:?} does not export wasi:http/incoming-handler"
            )));
        }
        let granted = self.grants.check(module.imports());
        granted.map_err(StartError::Create)?;
        let name = format!("{}/{}", self.name, component.id);
        let mut config = ProcessConfig::new(name, module);
        config.container = Some(self.name.clone());
        config.env = environment(component, &self.env);
        config.memory_limit = self.memory_limit;
        config.cpu_limit = self.cpu_limit;
        config.cpu_request = self.cpu_request;
        config.log = self.log.clone();
        config.output = self.output.clone();
        config.mounts = self.mounts.clone();
        config.working_dir = self.working_dir.clone();
        let of_component = |error: VariableError| {
            StartError::Create(format!("the component {id:?}: {}", with_causes(&error)))
        };
        let hosts = component.hosts(&self.values).map_err(of_component)?;
        config.capabilities = capabilities(&self.grants, &hosts);
        let values = component.variables(&self.values).map_err(of_component)?;
        config.settings.values = values;
        config.settings.stores = self.stores(component);
        // Requests come by way of the entrance.
        config.listen = Vec::new();
        set_http(&mut config.http, &self.http);
        let files = self.files(component).await?;
        config.root = files.as_ref().map(root).transpose()?;
        Ok((config, files))
    }

    async fn files(&self, component: &Component) -> Result<Option<ImageFiles>, StartError> {
        if component.files.is_empty() {
            return Ok(None);
        }
        let (images, image) = (self.sandbox.backend.images.clone(), self.image.clone());
        let files: Vec<_> = component.files.iter().map(placed).collect();
        let place = move || images.placed_files(&image, &files);
        blocking(place).await.map(Some)
    }

    /// The stores that a component may open. Components of one application have them in common, and they stay as long as the
    /// pod does.
    fn stores(&self, component: &Component) -> BTreeMap<String, Arc<dyn KeyValue>> {
        let stores = self.sandbox.stores.lock();
        let mut stores = stores.unwrap_or_else(PoisonError::into_inner);
        let mut open = |label: &String| {
            let store = stores.entry((self.name.clone(), label.clone()));
            let store = store.or_insert_with(|| Arc::new(MemoryStore::new(MOST_STORED)));
            (label.clone(), store.clone() as Arc<dyn KeyValue>)
        };
        component.stores.iter().map(&mut open).collect()
    }
}

fn placed(file: &File) -> PlacedFile {
    PlacedFile {
        source: match &file.content {
            Content::Digest(digest) => FileSource::Digest(digest.clone()),
            Content::Bytes(bytes) => FileSource::Bytes(bytes.clone()),
        },
        path: file.path.clone(),
    }
}

/// What both a component's description and the namespace's policies allow.
fn capabilities(grants: &Grants, hosts: &Hosts) -> Capabilities {
    let mut capabilities = grants.capabilities();
    let names = hosts.http.iter().map(|host| split_port(host).0.to_owned());
    let names: Vec<String> = names.collect();
    capabilities.names = Some(narrowed(&names, capabilities.names.as_deref()));
    capabilities.hosts = Some(narrowed(&hosts.http, capabilities.hosts.as_deref()));
    let sockets = hosts.sockets.iter().map(|allowed| Destination {
        tcp: allowed.tcp,
        network: allowed.network,
        ports: allowed.ports.clone(),
    });
    capabilities.destinations = Some(sockets.collect());
    capabilities
}

/// The component's own environment, unless the pod says otherwise. What the application's variables are is no part of it: not every
/// component is meant to know all of them.
fn environment(component: &Component, pod: &[(String, String)]) -> Vec<(String, String)> {
    let own = component.env.iter();
    let own = own.filter(|(name, _)| pod.iter().all(|(known, _)| known != *name));
    let own = own.map(|(name, value)| (name.clone(), value.clone()));
    let pods = pod.iter().filter(|(name, _)| !name.starts_with(VARIABLES));
    own.chain(pods.cloned()).collect()
}

/// The hosts that both a component's description and the namespace's policies allow. Of patterns that overlap in part, nothing
/// is left.
fn narrowed(own: &[String], policies: Option<&[String]>) -> Vec<String> {
    let Some(policies) = policies else {
        return own.to_vec();
    };
    let covers = |wide: &str, narrow: &str| {
        let ((wide_name, wide_port), (name, port)) = (split_port(wide), split_port(narrow));
        let has_name = match wide_name.strip_prefix('*') {
            Some(end) => name.len() > end.len() && name.ends_with(end),
            None => wide_name == name,
        };
        wide == narrow || has_name && (wide_port.is_none() || wide_port == port)
    };
    let is_allowed = |own: &&String| policies.iter().any(|wide| covers(wide, own));
    own.iter().filter(is_allowed).cloned().collect()
}

fn split_port(pattern: &str) -> (&str, Option<&str>) {
    match pattern.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some(port)),
        _ => (pattern, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_may_call_what_its_description_and_the_policies_allow() {
        let own = ["a.example:443", "b.example", "*.c.example:80", "*"].map(str::to_owned);
        let narrowed = |policies: &[&str]| {
            let policies: Vec<String> = policies.iter().map(|&it| it.to_owned()).collect();
            narrowed(&own, Some(&policies))
        };
        assert_eq!(super::narrowed(&own, None), own);
        assert_eq!(narrowed(&["*"]), own);
        assert_eq!(narrowed(&["a.example"]), ["a.example:443"]);
        assert_eq!(narrowed(&["*.example"]), own[..3]);
        assert_eq!(narrowed(&["b.example:443"]), Vec::<String>::new());
        assert_eq!(narrowed(&["*.c.example"]), ["*.c.example:80"]);
    }
}
