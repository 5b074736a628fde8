//! `vaquita:pod`

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::Resource;
use wasmtime_wasi::p2::DynPollable;

use super::{View, Wait};
use crate::bindings::vaquita::pod::lifecycle::{self, Reason, Termination};
use crate::bindings::vaquita::pod::process::{self, ErrorCode, Info, Signal, State};
use crate::bindings::vaquita::pod::uts;
use crate::namespaces::Listed;

fn info(listed: &Listed) -> Info {
    let usage = listed.process.usage();
    let state = match listed.member.lifecycle.ending() {
        None => State::Running,
        Some(_) => State::Terminating,
    };
    Info {
        id: listed.member.id,
        container: listed.member.container.clone(),
        command: listed.member.command.clone(),
        state,
        cpu_time: nanoseconds(usage.cpu),
        memory: usage.memory,
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl process::Host for View<'_> {
    fn list(&mut self) -> wasmtime::Result<Vec<Info>> {
        Ok(self.member.visible().iter().map(info).collect())
    }

    fn own_id(&mut self) -> wasmtime::Result<u32> {
        Ok(self.member.id)
    }

    fn send_signal(&mut self, id: u32, signal: Signal) -> wasmtime::Result<Result<(), ErrorCode>> {
        let Some(process) = self.member.find(id) else {
            return Ok(Err(ErrorCode::NoSuchProcess));
        };
        match signal {
            // As with a kernel's: it says nothing about time.
            Signal::Term => process.terminate(Duration::MAX),
            Signal::Kill => process.kill(),
        }
        Ok(Ok(()))
    }

    async fn wait(&mut self, id: u32) -> wasmtime::Result<Result<i32, ErrorCode>> {
        // Who waits for itself would wait for ever, and learn nothing.
        let process = self.member.find(id).filter(|_| id != self.member.id);
        Ok(match process {
            Some(process) => Ok(process.wait().await.code()),
            None => Err(ErrorCode::NoSuchProcess),
        })
    }
}

impl uts::Host for View<'_> {
    fn hostname(&mut self) -> wasmtime::Result<String> {
        Ok(self.member.namespaces.hostname.clone())
    }

    fn domain(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.member.namespaces.domain.clone())
    }
}

impl lifecycle::Host for View<'_> {
    fn subscribe(&mut self) -> wasmtime::Result<Resource<DynPollable>> {
        self.member.lifecycle.heed();
        let member = Arc::clone(self.member);
        self.wait_for(Wait::Ending(member))
    }

    fn ending(&mut self) -> wasmtime::Result<Option<Termination>> {
        let ending = self.member.lifecycle.ending();
        Ok(ending.map(|remaining| Termination {
            reason: Reason::Requested,
            remaining: remaining.map(nanoseconds),
        }))
    }
}
