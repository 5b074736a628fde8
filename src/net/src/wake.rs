//! Services that sleep: connects to one without endpoints are held until it has some.
//!
//! Whoever sets a Service with [`ServiceSpec::wakes`](crate::ServiceSpec::wakes) says that it can be given endpoints when
//! they are needed. A connect that finds none then asks the [`Wake`] hook for them and waits, bounded in number
//! ([`FabricConfig::held`](crate::FabricConfig::held)) and in time
//! ([`FabricConfig::wake_timeout`](crate::FabricConfig::wake_timeout)), for the tables to change.

use std::{net::SocketAddr, pin::pin, sync::Arc};

use tokio::sync::Notify;

use crate::{
    NetError, ServiceKey,
    fabric::{Inner, Reserved, Source},
    service::Balancer,
};

/// Wakes Services.
pub trait Wake: Send + Sync + 'static {
    /// Somebody waits for an endpoint of this Service. Called for each connect that is held, and again whenever the
    /// Service has changed and it still is: it must be quick and must not block.
    fn wake(&self, service: &ServiceKey);
}

/// What the ports of a Service that may sleep have in common, over all its versions.
#[derive(Debug)]
pub(crate) struct Sleeper {
    key: ServiceKey,
    /// Told of each change.
    changed: Notify,
}

impl Sleeper {
    pub(crate) fn new(key: ServiceKey) -> Arc<Self> {
        Arc::new(Self {
            key,
            changed: Notify::new(),
        })
    }

    pub(crate) fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// The tables have changed: those who are held look again.
    pub(crate) fn tell(&self) {
        self.changed.notify_waiters();
    }
}

impl Inner {
    /// Finds a place at an endpoint of the Service port that `find` finds; if it sleeps, has it woken and waits.
    pub(crate) async fn reserve_awake(
        &self,
        from: Source,
        to: SocketAddr,
        find: impl Fn() -> Option<Arc<Balancer>> + Send,
    ) -> Result<Reserved, NetError> {
        let balancer = find().ok_or(NetError::ConnectionRefused(to))?;
        match self.reserve_endpoint(from, to, &balancer).await {
            Err(NetError::ConnectionRefused(_)) if balancer.sleeper.is_some() => {}
            done => return done,
        }
        let held = self.hold(from, to, find).await;
        self.counters.count_held(&held);
        held
    }

    async fn hold(
        &self,
        from: Source,
        to: SocketAddr,
        find: impl Fn() -> Option<Arc<Balancer>> + Send,
    ) -> Result<Reserved, NetError> {
        let limit = self.config.held;
        let _place = self
            .held
            .try_acquire()
            .map_err(|_no_permits| NetError::TooMany {
                what: "connections held for Services that sleep",
                limit,
            })?;
        let holding = async {
            loop {
                let balancer = find().ok_or(NetError::ConnectionRefused(to))?;
                let Some(sleeper) = &balancer.sleeper else {
                    return self.reserve_endpoint(from, to, &balancer).await;
                };
                // Heard of from here on: nothing that happens while we look is missed.
                let mut changed = pin!(sleeper.changed.notified());
                changed.as_mut().enable();
                let newest = find().ok_or(NetError::ConnectionRefused(to))?;
                match self.reserve_endpoint(from, to, &newest).await {
                    Err(NetError::ConnectionRefused(_)) => {}
                    done => return done,
                }
                match self.waker.load().as_ref() {
                    Some(waker) => waker.wake(&sleeper.key),
                    None => return Err(NetError::ConnectionRefused(to)),
                }
                changed.await;
            }
        };
        tokio::time::timeout(self.config.wake_timeout, holding)
            .await
            .unwrap_or(Err(NetError::TimedOut(to)))
    }
}
