//! Kinds that are declared while the server runs: from a `CustomResourceDefinition` to what is served, and back.
//!
//! [`load`] serves what was declared before the server started. [`follow`] then looks at the definitions whenever one
//! changes: it decides about their names, serves those that have all of theirs, and only then says so in their status, so
//! that whoever has waited for `Established` finds the kind there. A definition that is deleted waits until all its
//! objects are gone.

mod reach;
mod removal;
mod webhook;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionNames, CustomResourceDefinitionStatus,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use vaquita_api::{
    Object, meta,
    registry::{Resource, Verb},
};
use vaquita_crd::naming::{self, Taken};

use self::webhook::Webhook;
use super::{Server, catalog::Served, update::modify_at};
use vaquita_cache::{entry::Entry, feed::LoadError};

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

/// When a definition is looked at again of which something went wrong.
const RETRY: Duration = Duration::from_secs(1);

/// Where the definitions are.
fn definitions(server: &Server) -> Option<Arc<Served>> {
    server.served(GROUP, "v1", PLURAL)
}

/// A definition, as it is stored and by its type.
#[derive(Clone)]
struct Definition {
    entry: Arc<Entry>,
    object: Object,
    typed: CustomResourceDefinition,
}

impl Definition {
    fn read(entry: &Arc<Entry>) -> Option<Self> {
        let object = entry.value().ok()?;
        let typed = serde_json::from_value(Value::Object(object.clone()));
        let typed = typed.inspect_err(|error| {
            let name = meta::name(&object);
            tracing::error!(name, %error, "a definition cannot be read");
        });
        Some(Self {
            entry: entry.clone(),
            typed: typed.ok()?,
            object,
        })
    }

    fn name(&self) -> &str {
        meta::name(&self.object)
    }

    fn group(&self) -> &str {
        &self.typed.spec.group
    }

    fn plural(&self) -> &str {
        &self.typed.spec.names.plural
    }

    fn is_terminating(&self) -> bool {
        meta::deletion_timestamp(&self.object).is_some()
    }

    /// Everything that what is served depends on.
    fn fingerprint(&self) -> Value {
        json!([
            meta::uid(&self.object),
            self.object.get("spec"),
            meta::at(&self.object, &["status", "acceptedNames"]),
            meta::at(&self.object, &["status", "storedVersions"]),
            self.is_terminating(),
        ])
    }
}

/// All definitions as they are now, by their names.
fn all(server: &Server) -> BTreeMap<String, Definition> {
    let Some(served) = definitions(server) else {
        return BTreeMap::new();
    };
    let snapshot = served.collection.snapshot();
    let entries = snapshot.range(served.collection.prefix(), None);
    entries
        .filter_map(Definition::read)
        .map(|definition| (definition.name().to_owned(), definition))
        .collect()
}

/// Serves the kinds that have been established before. What comes back is for [`follow`].
pub(crate) async fn load(server: &Arc<Server>) -> Result<Follower, LoadError> {
    let mut follower = Follower::default();
    let mut resources = Vec::new();
    for (name, definition) in all(server) {
        if !naming::is_true(&definition.typed, "Established") || definition.is_terminating() {
            continue;
        }
        match compile(server, &definition).await {
            Ok(compiled) => {
                resources.extend(compiled);
                follower.installed.insert(name, Installed::of(&definition));
            }
            Err(error) => tracing::error!(name, error, "a definition cannot be served"),
        }
    }
    server.install(resources).await?;
    Ok(follower)
}

/// Keeps what is served in step with the definitions, for as long as it is polled.
pub(crate) async fn follow(server: Arc<Server>, mut follower: Follower) {
    let Some(served) = definitions(&server) else {
        return;
    };
    loop {
        let changed = served.collection.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if follower.look(&server, &served).await {
            let _ = tokio::time::timeout(RETRY, changed).await;
        } else {
            changed.await;
        }
    }
}

/// What is served of a definition.
struct Installed {
    group: String,
    plural: String,
    fingerprint: Value,
}

impl Installed {
    fn of(definition: &Definition) -> Self {
        Self {
            group: definition.group().to_owned(),
            plural: definition.plural().to_owned(),
            fingerprint: definition.fingerprint(),
        }
    }
}

/// What is known of the definitions.
#[derive(Default)]
pub(crate) struct Follower {
    installed: HashMap<String, Installed>,
    /// By their names, the definitions whose objects are being deleted.
    removals: HashMap<String, String>,
    removing: JoinSet<String>,
}

impl Follower {
    /// Looks at all definitions once. Whether it should do so again soon.
    async fn look(&mut self, server: &Arc<Server>, served: &Served) -> bool {
        while let Some(done) = self.removing.try_join_next() {
            if let Ok(name) = done {
                self.removals.remove(&name);
            }
        }
        let mut found = all(server);
        let gone: Vec<String> = self
            .installed
            .keys()
            .filter(|name| !found.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(old) = self.installed.remove(&name) {
                server.uninstall(&old.group, &old.plural).await;
            }
        }
        let mut again = false;
        let names: Vec<String> = found.keys().cloned().collect();
        for name in names {
            let Some(definition) = found.get(&name).cloned() else {
                continue;
            };
            match self.one(server, served, &definition, &found).await {
                // The next one in the group has to know which names are taken now.
                Ok(decided) => {
                    found.insert(name, decided);
                }
                Err(error) => {
                    tracing::warn!(name, error, "a definition cannot be followed; trying again");
                    again = true;
                }
            }
        }
        again
    }

    /// Brings one definition and what is served of it in step. Gives the definition as it is then.
    async fn one(
        &mut self,
        server: &Arc<Server>,
        served: &Served,
        definition: &Definition,
        all: &BTreeMap<String, Definition>,
    ) -> Result<Definition, String> {
        if definition.is_terminating() {
            self.remove(server, definition).await?;
            return Ok(definition.clone());
        }
        let decision = naming::decide(&definition.typed, &taken(server, definition, all));
        let mut decided = definition.clone();
        let now = Timestamp::now();
        let news = decision.write(&mut decided.object, now);
        let status = decided.typed.status.get_or_insert_default();
        status.accepted_names = Some(decision.names.clone());
        if decision.established {
            self.install(server, &decided).await?;
        }
        if !news {
            return Ok(decided);
        }
        let revision = definition.entry.revision.to_string();
        let name = definition.name();
        let written = modify_at(
            server,
            served,
            &definition.entry.key,
            name,
            false,
            |object| {
                // Of a newer state something else may be to be said.
                if meta::resource_version(object) == revision {
                    decision.write(object, now);
                }
                Ok(())
            },
        );
        match written.await {
            Err(status) if status.code() != 404 => Err(status.to_string()),
            _ => Ok(decided),
        }
    }

    /// Serves what a definition declares, unless that is served already.
    async fn install(
        &mut self,
        server: &Arc<Server>,
        definition: &Definition,
    ) -> Result<(), String> {
        let now = Installed::of(definition);
        let name = definition.name();
        let before = self.installed.get(name);
        if before.is_some_and(|installed| installed.fingerprint == now.fingerprint) {
            return Ok(());
        }
        let mut resources = compile(server, definition).await?;
        if definition.is_terminating() {
            for resource in &mut resources {
                resource.verbs.retain(|verb| *verb != Verb::Create);
            }
        }
        if resources.is_empty() {
            server
                .uninstall(definition.group(), definition.plural())
                .await;
        } else {
            let installed = server.install(resources).await;
            installed.map_err(|error| error.to_string())?;
        }
        self.installed.insert(name.to_owned(), now);
        Ok(())
    }

    /// Begins to delete the objects of a definition that is being deleted.
    async fn remove(
        &mut self,
        server: &Arc<Server>,
        definition: &Definition,
    ) -> Result<(), String> {
        let finalizers = meta::finalizers(&definition.object);
        if !finalizers.into_iter().any(|name| name == naming::CLEANUP) {
            return Ok(());
        }
        if naming::is_true(&definition.typed, "Established") {
            // From now on nothing new is taken.
            self.install(server, definition).await?;
        }
        let (name, uid) = (definition.name().to_owned(), meta::uid(&definition.object));
        if self.removals.get(&name).is_some_and(|known| known == uid) {
            return Ok(());
        }
        self.removals.insert(name, uid.to_owned());
        self.removing
            .spawn(removal::remove(server.clone(), definition.clone()));
        Ok(())
    }
}

/// The names that others in the group have: built-in kinds, and other definitions.
fn taken(server: &Server, definition: &Definition, all: &BTreeMap<String, Definition>) -> Taken {
    let mut taken = Taken::default();
    let same_group = |other: &&Definition| {
        other.group() == definition.group() && other.name() != definition.name()
    };
    for other in all.values().filter(same_group) {
        if let Some(status) = &other.typed.status {
            taken.add(status);
        }
    }
    let registry = server.registry();
    for resource in registry.iter() {
        let built_in = resource.open_api().is_none() && resource.group == definition.group();
        if built_in {
            let names = CustomResourceDefinitionNames {
                plural: resource.plural.clone(),
                singular: Some(resource.singular.clone()),
                short_names: Some(resource.short_names.clone()),
                kind: resource.kind.clone(),
                list_kind: Some(resource.list_kind.clone()),
                categories: None,
            };
            taken.add(&CustomResourceDefinitionStatus {
                accepted_names: Some(names),
                ..CustomResourceDefinitionStatus::default()
            });
        }
    }
    taken
}

/// The resources of a definition. Its rules are parsed on a thread of their own: a large definition takes a while.
async fn compile(server: &Arc<Server>, definition: &Definition) -> Result<Vec<Resource>, String> {
    let typed = definition.typed.clone();
    let webhook = Webhook::of(server, &typed);
    let compiled = tokio::task::spawn_blocking(move || vaquita_crd::compile(&typed, webhook)).await;
    match compiled {
        Ok(Ok(compiled)) => Ok(compiled.resources),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
