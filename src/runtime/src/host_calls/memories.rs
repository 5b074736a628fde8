//! `vaquita:ipc/shared-memory`

use std::sync::Arc;

use wasmtime::component::Resource;

use super::{OpenMemory, View, code_of, how, open, time};
use crate::bindings::vaquita::ipc::shared_memory::{self, Operation, Status};
use crate::bindings::vaquita::ipc::types::{ErrorCode, OpenFlags};
use crate::ipc::{self, Segment};

type Answer<T> = wasmtime::Result<Result<T, ErrorCode>>;

impl View<'_> {
    fn memory(&self, memory: &Resource<OpenMemory>) -> wasmtime::Result<Arc<Segment>> {
        Ok(Arc::clone(&self.table.get(memory)?.0))
    }
}

impl shared_memory::Host for View<'_> {
    fn unlink(&mut self, name: String) -> Answer<()> {
        Ok(self.ipc().memories().unlink(&name).map_err(code_of))
    }

    fn list(&mut self) -> wasmtime::Result<Vec<Status>> {
        let memories = self.ipc().memories().list().into_iter();
        let status = |(name, memory): (String, Arc<Segment>)| Status {
            name,
            size: memory.size(),
        };
        Ok(memories.map(status).collect())
    }
}

impl shared_memory::HostMemory for View<'_> {
    fn open(&mut self, name: String, flags: OpenFlags, size: u64) -> Answer<Resource<OpenMemory>> {
        open!(
            self,
            self.ipc().memory(&name, how(flags), size, self.purse),
            OpenMemory
        )
    }

    fn size(&mut self, memory: Resource<OpenMemory>) -> wasmtime::Result<u64> {
        Ok(self.memory(&memory)?.size())
    }

    fn read(&mut self, memory: Resource<OpenMemory>, offset: u64, length: u64) -> Answer<Vec<u8>> {
        Ok(self.memory(&memory)?.read(offset, length).map_err(code_of))
    }

    fn write(&mut self, memory: Resource<OpenMemory>, offset: u64, data: Vec<u8>) -> Answer<()> {
        Ok(self.memory(&memory)?.write(offset, &data).map_err(code_of))
    }

    fn atomic_load(&mut self, memory: Resource<OpenMemory>, offset: u64, width: u8) -> Answer<u64> {
        Ok(self.memory(&memory)?.load(offset, width).map_err(code_of))
    }

    fn atomic_store(
        &mut self,
        memory: Resource<OpenMemory>,
        offset: u64,
        width: u8,
        value: u64,
    ) -> Answer<()> {
        let stored = self.memory(&memory)?.store(offset, width, value);
        Ok(stored.map_err(code_of))
    }

    fn atomic_update(
        &mut self,
        memory: Resource<OpenMemory>,
        offset: u64,
        width: u8,
        operation: Operation,
        operand: u64,
    ) -> Answer<u64> {
        let operation = match operation {
            Operation::Add => ipc::Operation::Add,
            Operation::Sub => ipc::Operation::Sub,
            Operation::And => ipc::Operation::And,
            Operation::Or => ipc::Operation::Or,
            Operation::Xor => ipc::Operation::Xor,
            Operation::Exchange => ipc::Operation::Exchange,
        };
        let memory = self.memory(&memory)?;
        let updated = memory.update(offset, width, operation, operand);
        Ok(updated.map_err(code_of))
    }

    fn atomic_compare_exchange(
        &mut self,
        memory: Resource<OpenMemory>,
        offset: u64,
        width: u8,
        expected: u64,
        new: u64,
    ) -> Answer<u64> {
        let memory = self.memory(&memory)?;
        let exchanged = memory.compare_exchange(offset, width, expected, new);
        Ok(exchanged.map_err(code_of))
    }

    async fn wait(
        &mut self,
        memory: Resource<OpenMemory>,
        offset: u64,
        width: u8,
        expected: u64,
        timeout: Option<u64>,
    ) -> Answer<()> {
        let memory = self.memory(&memory)?;
        let woken = memory.wait(offset, width, expected, time(timeout)).await;
        Ok(woken.map_err(code_of))
    }

    fn notify(&mut self, memory: Resource<OpenMemory>, offset: u64, count: u32) -> Answer<u32> {
        Ok(self.memory(&memory)?.notify(offset, count).map_err(code_of))
    }

    fn drop(&mut self, memory: Resource<OpenMemory>) -> wasmtime::Result<()> {
        self.table.delete(memory)?;
        Ok(())
    }
}
