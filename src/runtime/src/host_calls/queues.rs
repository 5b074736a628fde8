//! `vaquita:ipc/queues`

use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime_wasi::p2::DynPollable;

use super::{OpenQueue, View, Wait, code_of, how, open, time};
use crate::bindings::vaquita::ipc::queues::{self, Attributes, Message, Status};
use crate::bindings::vaquita::ipc::types::{ErrorCode, OpenFlags};
use crate::ipc::{self, Queue};

type Answer<T> = wasmtime::Result<Result<T, ErrorCode>>;

fn attributes(queue: &Queue) -> Attributes {
    let ipc::Attributes {
        max_messages,
        max_message_size,
    } = queue.attributes();
    Attributes {
        max_messages,
        max_message_size,
    }
}

fn status(name: String, queue: &Queue) -> Status {
    Status {
        name,
        attributes: attributes(queue),
        messages: queue.length(),
    }
}

fn told(message: ipc::Message) -> Message {
    Message {
        data: message.data.into(),
        priority: message.priority,
    }
}

fn sent(data: Vec<u8>, priority: u32) -> ipc::Message {
    ipc::Message {
        data: data.into(),
        priority,
    }
}

impl View<'_> {
    fn queue(&self, queue: &Resource<OpenQueue>) -> wasmtime::Result<Arc<Queue>> {
        Ok(Arc::clone(&self.table.get(queue)?.0))
    }
}

impl queues::Host for View<'_> {
    fn unlink(&mut self, name: String) -> Answer<()> {
        Ok(self.ipc().queues().unlink(&name).map_err(code_of))
    }

    fn list(&mut self) -> wasmtime::Result<Vec<Status>> {
        let queues = self.ipc().queues().list().into_iter();
        Ok(queues.map(|(name, queue)| status(name, &queue)).collect())
    }
}

impl queues::HostQueue for View<'_> {
    fn open(
        &mut self,
        name: String,
        flags: OpenFlags,
        attributes: Option<Attributes>,
    ) -> Answer<Resource<OpenQueue>> {
        let attributes =
            attributes.map_or_else(ipc::Attributes::default, |wanted| ipc::Attributes {
                max_messages: wanted.max_messages,
                max_message_size: wanted.max_message_size,
            });
        open!(
            self,
            self.ipc().queue(&name, how(flags), attributes, self.purse),
            OpenQueue
        )
    }

    fn status(&mut self, queue: Resource<OpenQueue>) -> wasmtime::Result<Status> {
        let queue = self.queue(&queue)?;
        let named = self.ipc().queues().list();
        let name = named
            .into_iter()
            .find(|(_, other)| Arc::ptr_eq(other, &queue));
        Ok(status(
            name.map(|(name, _)| name).unwrap_or_default(),
            &queue,
        ))
    }

    fn send(&mut self, queue: Resource<OpenQueue>, data: Vec<u8>, priority: u32) -> Answer<()> {
        let sent = self.queue(&queue)?.try_send(&sent(data, priority));
        Ok(sent.map_err(code_of))
    }

    async fn blocking_send(
        &mut self,
        queue: Resource<OpenQueue>,
        data: Vec<u8>,
        priority: u32,
        timeout: Option<u64>,
    ) -> Answer<()> {
        let queue = self.queue(&queue)?;
        let sent = queue.send(sent(data, priority), time(timeout)).await;
        Ok(sent.map_err(code_of))
    }

    fn receive(&mut self, queue: Resource<OpenQueue>) -> Answer<Message> {
        let received = self.queue(&queue)?.try_receive();
        Ok(received.map(told).map_err(code_of))
    }

    async fn blocking_receive(
        &mut self,
        queue: Resource<OpenQueue>,
        timeout: Option<u64>,
    ) -> Answer<Message> {
        let received = self.queue(&queue)?.receive(time(timeout)).await;
        Ok(received.map(told).map_err(code_of))
    }

    fn subscribe_send(
        &mut self,
        queue: Resource<OpenQueue>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        let queue = self.queue(&queue)?;
        self.wait_for(Wait::Sendable(queue))
    }

    fn subscribe_receive(
        &mut self,
        queue: Resource<OpenQueue>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        let queue = self.queue(&queue)?;
        self.wait_for(Wait::Receivable(queue))
    }

    fn drop(&mut self, queue: Resource<OpenQueue>) -> wasmtime::Result<()> {
        self.table.delete(queue)?;
        Ok(())
    }
}
