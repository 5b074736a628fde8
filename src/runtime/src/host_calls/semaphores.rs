//! `vaquita:ipc/semaphores`

use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime_wasi::p2::DynPollable;

use super::{OpenSemaphore, View, Wait, code_of, how, open, time};
use crate::bindings::vaquita::ipc::semaphores::{self, Status};
use crate::bindings::vaquita::ipc::types::{ErrorCode, OpenFlags};
use crate::ipc::Semaphore;

type Answer<T> = wasmtime::Result<Result<T, ErrorCode>>;

impl View<'_> {
    fn semaphore(&self, semaphore: &Resource<OpenSemaphore>) -> wasmtime::Result<Arc<Semaphore>> {
        Ok(Arc::clone(&self.table.get(semaphore)?.0))
    }
}

impl semaphores::Host for View<'_> {
    fn unlink(&mut self, name: String) -> Answer<()> {
        Ok(self.ipc().semaphores().unlink(&name).map_err(code_of))
    }

    fn list(&mut self) -> wasmtime::Result<Vec<Status>> {
        let semaphores = self.ipc().semaphores().list().into_iter();
        let status = |(name, semaphore): (String, Arc<Semaphore>)| Status {
            name,
            value: semaphore.value(),
        };
        Ok(semaphores.map(status).collect())
    }
}

impl semaphores::HostSemaphore for View<'_> {
    fn open(
        &mut self,
        name: String,
        flags: OpenFlags,
        value: u32,
    ) -> Answer<Resource<OpenSemaphore>> {
        open!(
            self,
            self.ipc().semaphore(&name, how(flags), value),
            OpenSemaphore
        )
    }

    fn value(&mut self, semaphore: Resource<OpenSemaphore>) -> wasmtime::Result<u32> {
        Ok(self.semaphore(&semaphore)?.value())
    }

    fn try_acquire(&mut self, semaphore: Resource<OpenSemaphore>) -> Answer<()> {
        Ok(self.semaphore(&semaphore)?.try_acquire().map_err(code_of))
    }

    async fn acquire(
        &mut self,
        semaphore: Resource<OpenSemaphore>,
        timeout: Option<u64>,
    ) -> Answer<()> {
        let acquired = self.semaphore(&semaphore)?.acquire(time(timeout)).await;
        Ok(acquired.map_err(code_of))
    }

    fn release(&mut self, semaphore: Resource<OpenSemaphore>, count: u32) -> Answer<()> {
        Ok(self.semaphore(&semaphore)?.release(count).map_err(code_of))
    }

    fn subscribe(
        &mut self,
        semaphore: Resource<OpenSemaphore>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        let semaphore = self.semaphore(&semaphore)?;
        self.wait_for(Wait::Acquirable(semaphore))
    }

    fn drop(&mut self, semaphore: Resource<OpenSemaphore>) -> wasmtime::Result<()> {
        self.table.delete(semaphore)?;
        Ok(())
    }
}
