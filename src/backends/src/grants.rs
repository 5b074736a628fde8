//! What a module may do, whoever said so.

use vaquita_runtime::Capabilities;

use crate::Resources;

/// What the modules of a pod may do. Each list is of patterns; `None` grants all that there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// Interfaces and imports.
    pub imports: Option<Vec<String>>,
    /// Hosts that may be called.
    pub hosts: Option<Vec<String>>,
    /// Names that may be looked up.
    pub names: Option<Vec<String>>,
    /// Names of environment variables.
    pub environment: Option<Vec<String>>,
    /// Bytes that a container may have.
    pub memory: Option<u64>,
    /// How many files may be open.
    pub open_files: Option<u32>,
    /// How many threads there may be, the first included.
    pub threads: Option<u32>,
    /// Kind and names of the policies, for messages.
    pub by: String,
}

impl Grants {
    /// Refuses the first import that is not granted, in words for the module's author.
    pub fn check(&self, imports: &[String]) -> Result<(), String> {
        let Some(granted) = &self.imports else {
            return Ok(());
        };
        let is_granted = |import: &String| granted.iter().any(|pattern| matches(pattern, import));
        match imports.iter().find(|import| !is_granted(import)) {
            Some(refused) => Err(format!("import {refused} is not granted by {}", self.by)),
            None => Ok(()),
        }
    }

    /// What is left to the runtime to enforce.
    pub fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.hosts.clone_from(&self.hosts);
        capabilities.names.clone_from(&self.names);
        capabilities.granted_by.clone_from(&self.by);
        capabilities
    }

    /// Removes the variables that the modules are not to see.
    pub fn filter(&self, environment: &mut Vec<(String, String)>) {
        if let Some(granted) = &self.environment {
            environment.retain(|(name, _)| granted.iter().any(|pattern| begins(pattern, name)));
        }
    }

    /// Bounds what a container gets. Who asks for more than there may be gets nothing, and is told.
    pub fn bound(&self, mut resources: Resources) -> Result<Resources, String> {
        let Some(bound) = self.memory else {
            return Ok(resources);
        };
        match resources.memory_limit {
            Some(limit) if limit > bound => {
                return Err(format!(
                    "a memory limit of {limit} bytes is more than the {bound} that {} allows",
                    self.by
                ));
            }
            Some(_) => {}
            None => resources.memory_limit = Some(bound),
        }
        Ok(resources)
    }
}

/// A pattern is an import's name, or its beginning followed by `*`. The version may be left away.
fn matches(pattern: &str, import: &str) -> bool {
    let unversioned = import.split_once('@').map_or(import, |(name, _)| name);
    begins(pattern, import) || pattern == unversioned
}

/// A pattern is a name, or its beginning followed by `*`.
fn begins(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}
