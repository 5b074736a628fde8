//! Taking over a container that runs on from before the node was started.

use std::sync::Arc;

use vaquita_backends::AdoptConfig;
use vaquita_docker::{Channel, Logged};
use vaquita_logs::{Entry, PodKey};
use vaquita_runtime::LogStream;

use super::{
    super::{board::State, wasm_policy},
    Runner, Running, standard_input,
};
use crate::exec::outlet::Hub;

impl Runner {
    /// The container that the board says is running, although this runner has not started it. `None`: there is none, or it
    /// cannot be had any more; then the board says that it is being made anew.
    pub(super) async fn take_over(&mut self) -> Option<Running> {
        let attempt = self.board.read(|facts| {
            let record = facts.containers.get(self.index)?;
            matches!(record.state, State::Running { .. }).then_some(record.restarts)
        })?;
        let adopted = self.adopt(attempt).await;
        if adopted.is_none() {
            self.wait_with("ContainerCreating", None);
        }
        adopted
    }

    async fn adopt(&self, attempt: u32) -> Option<Running> {
        let (pod, container) = (self.pod(), self.container());
        let name = container.image.as_deref().unwrap_or_default();
        let image = self.context.find_image(name).await.ok().flatten()?;
        let key = PodKey::of(&pod);
        let logged = self.context.logs.tail(&key, &container.name, attempt);
        let log = self.context.logs.begin(&key, &container.name, attempt);
        let grants = wasm_policy::grants(&self.context.client, &pod).await.ok()?;
        let hub = Arc::new(Hub::default());
        let (stdin, typed) = standard_input(&container);
        let config = AdoptConfig {
            name: container.name.clone(),
            attempt,
            logged: logged.into_iter().map(logged_line).collect(),
            stdin,
            output: hub.clone(),
            log: log.sink(),
        };
        let Some(instance) = self.sandbox.adopt(config).await else {
            log.close();
            return None;
        };
        let instance = self.enter(instance, image, (hub, typed));
        Some(Running {
            instance,
            log,
            container,
            grants,
        })
    }
}

/// A line of the node's log, as its engine knows lines.
fn logged_line(line: Entry) -> Logged {
    Logged {
        time: i64::try_from(line.time.as_nanosecond()).unwrap_or(i64::MAX),
        channel: match line.stream {
            LogStream::Stdout => Channel::Stdout,
            LogStream::Stderr => Channel::Stderr,
        },
        text: line.text,
    }
}
