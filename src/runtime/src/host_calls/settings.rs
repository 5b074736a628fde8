//! `wasi:config`, `wasi:keyvalue` and what Spin has in their place, for components.

use std::sync::Arc;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use crate::bindings::settings::fermyon::spin::{key_value, variables};
use crate::bindings::settings::wasi::config0_2_0_draft_2024_09_27::store as draft;
use crate::bindings::settings::wasi::config0_2_0_rc_1::store as config;
use crate::bindings::settings::wasi::keyvalue::store as keyvalue;
use crate::settings::{KeyValue, KeyValueError, Settings};
use crate::state::State;

/// Behind Spin's `store`.
#[expect(unreachable_pub, reason = "the bindings re-export it as `pub`")]
pub struct OpenStore(Arc<dyn KeyValue>);
/// Behind WASI's `bucket`.
#[expect(unreachable_pub, reason = "the bindings re-export it as `pub`")]
pub struct OpenBucket(Arc<dyn KeyValue>);

/// What the interfaces' functions work on.
pub(crate) struct View<'a> {
    table: &'a mut ResourceTable,
    settings: &'a Settings,
}

struct Given;

impl HasData for Given {
    type Data<'a> = View<'a>;
}

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    fn view(state: &mut State) -> View<'_> {
        View {
            table: &mut state.table,
            settings: &state.settings,
        }
    }
    config::add_to_linker::<State, Given>(linker, view)?;
    draft::add_to_linker::<State, Given>(linker, view)?;
    keyvalue::add_to_linker::<State, Given>(linker, view)?;
    variables::add_to_linker::<State, Given>(linker, view)?;
    key_value::add_to_linker::<State, Given>(linker, view)
}

impl View<'_> {
    fn all(&self) -> Vec<(String, String)> {
        let values = self.settings.values.iter();
        values
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

impl config::Host for View<'_> {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, config::Error>> {
        Ok(Ok(self.settings.values.get(&key).cloned()))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config::Error>> {
        Ok(Ok(self.all()))
    }
}

impl draft::Host for View<'_> {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, draft::Error>> {
        Ok(Ok(self.settings.values.get(&key).cloned()))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, draft::Error>> {
        Ok(Ok(self.all()))
    }
}

impl variables::Host for View<'_> {
    fn get(&mut self, name: String) -> wasmtime::Result<Result<String, variables::Error>> {
        let value = self.settings.values.get(&name).cloned();
        Ok(value.ok_or_else(|| variables::Error::Undefined(format!("no variable {name:?}"))))
    }
}

impl key_value::Host for View<'_> {}

impl key_value::HostStore for View<'_> {
    fn open(
        &mut self,
        label: String,
    ) -> wasmtime::Result<Result<Resource<OpenStore>, key_value::Error>> {
        match self.settings.stores.get(&label) {
            Some(store) => Ok(Ok(self.table.push(OpenStore(Arc::clone(store)))?)),
            // Whether there is one that others may open is not told.
            None => Ok(Err(key_value::Error::AccessDenied)),
        }
    }

    async fn get(
        &mut self,
        this: Resource<OpenStore>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, key_value::Error>> {
        let store = Arc::clone(&self.table.get(&this)?.0);
        Ok(store.get(&key).await.map_err(spin_error))
    }

    async fn set(
        &mut self,
        this: Resource<OpenStore>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), key_value::Error>> {
        let store = Arc::clone(&self.table.get(&this)?.0);
        Ok(store.set(&key, value).await.map_err(spin_error))
    }

    async fn delete(
        &mut self,
        this: Resource<OpenStore>,
        key: String,
    ) -> wasmtime::Result<Result<(), key_value::Error>> {
        let store = Arc::clone(&self.table.get(&this)?.0);
        Ok(store.delete(&key).await.map_err(spin_error))
    }

    async fn exists(
        &mut self,
        this: Resource<OpenStore>,
        key: String,
    ) -> wasmtime::Result<Result<bool, key_value::Error>> {
        let store = Arc::clone(&self.table.get(&this)?.0);
        let value = store.get(&key).await;
        Ok(value.map(|value| value.is_some()).map_err(spin_error))
    }

    async fn get_keys(
        &mut self,
        this: Resource<OpenStore>,
    ) -> wasmtime::Result<Result<Vec<String>, key_value::Error>> {
        let store = Arc::clone(&self.table.get(&this)?.0);
        Ok(store.keys().await.map_err(spin_error))
    }

    fn drop(&mut self, this: Resource<OpenStore>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "to be given to map_err")]
fn spin_error(error: KeyValueError) -> key_value::Error {
    key_value::Error::Other(error.to_string())
}

impl keyvalue::Host for View<'_> {
    fn open(
        &mut self,
        identifier: String,
    ) -> wasmtime::Result<Result<Resource<OpenBucket>, keyvalue::Error>> {
        match self.settings.stores.get(&identifier) {
            Some(store) => Ok(Ok(self.table.push(OpenBucket(Arc::clone(store)))?)),
            None => Ok(Err(keyvalue::Error::AccessDenied)),
        }
    }
}

impl keyvalue::HostBucket for View<'_> {
    async fn get(
        &mut self,
        this: Resource<OpenBucket>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, keyvalue::Error>> {
        let store = Arc::clone(&self.table.get(&this)?.0);
        Ok(store.get(&key).await.map_err(wasi_error))
    }

    async fn set(
        &mut self,
        this: Resource<OpenBucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), keyvalue::Error>> {
        let store = Arc::clone(&self.table.get(&this)?.0);
        Ok(store.set(&key, value).await.map_err(wasi_error))
    }

    async fn delete(
        &mut self,
        this: Resource<OpenBucket>,
        key: String,
    ) -> wasmtime::Result<Result<(), keyvalue::Error>> {
        let store = Arc::clone(&self.table.get(&this)?.0);
        Ok(store.delete(&key).await.map_err(wasi_error))
    }

    async fn exists(
        &mut self,
        this: Resource<OpenBucket>,
        key: String,
    ) -> wasmtime::Result<Result<bool, keyvalue::Error>> {
        let store = Arc::clone(&self.table.get(&this)?.0);
        let value = store.get(&key).await;
        Ok(value.map(|value| value.is_some()).map_err(wasi_error))
    }

    /// All of them at once: a store is small.
    async fn list_keys(
        &mut self,
        this: Resource<OpenBucket>,
        _cursor: Option<String>,
    ) -> wasmtime::Result<Result<keyvalue::KeyResponse, keyvalue::Error>> {
        let store = Arc::clone(&self.table.get(&this)?.0);
        let listed = store.keys().await.map_err(wasi_error);
        let cursor = None;
        Ok(listed.map(|keys| keyvalue::KeyResponse { keys, cursor }))
    }

    fn drop(&mut self, this: Resource<OpenBucket>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "to be given to map_err")]
fn wasi_error(error: KeyValueError) -> keyvalue::Error {
    keyvalue::Error::Other(error.to_string())
}
