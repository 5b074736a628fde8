//! Which endpoint a client gets.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::Affinity;
use crate::{sync::lock, wake::Sleeper};

/// Clients that one port of a Service remembers.
const MAX_CLIENTS: usize = 8192;

/// Picks endpoints for one port of a Service, for those who come from inside or for those who come from outside.
#[derive(Debug)]
pub(crate) struct Balancer {
    /// If endpoints can be had when they are needed.
    pub(crate) sleeper: Option<Arc<Sleeper>>,
    pub(super) endpoints: Vec<SocketAddr>,
    pub(super) affinity: Affinity,
    pub(super) turns: Arc<Turns>,
}

/// What a balancer hands on to the one that takes its place.
#[derive(Debug, Default)]
pub(super) struct Turns {
    next: AtomicUsize,
    clients: Mutex<HashMap<IpAddr, Client>>,
}

#[derive(Clone, Copy, Debug)]
struct Client {
    endpoint: SocketAddr,
    last: Instant,
}

impl Balancer {
    /// The endpoints in the order in which this client is to try them.
    pub(crate) fn order(
        &self,
        client: Option<IpAddr>,
    ) -> impl Iterator<Item = SocketAddr> + use<'_> {
        let first = match (self.affinity, client) {
            (Affinity::ClientIp { timeout }, Some(client)) => self.favourite(client, timeout),
            _ => self.turn(),
        };
        self.endpoints[first..]
            .iter()
            .chain(&self.endpoints[..first])
            .copied()
    }

    /// Notes which endpoint a client got in the end, if clients are to stay.
    pub(crate) fn settle(&self, client: Option<IpAddr>, endpoint: SocketAddr) {
        let (Affinity::ClientIp { timeout }, Some(client)) = (self.affinity, client) else {
            return;
        };
        let now = Instant::now();
        let mut clients = lock(&self.turns.clients);
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, known| now.duration_since(known.last) < timeout);
            if clients.len() >= MAX_CLIENTS {
                return;
            }
        }
        clients.insert(
            client,
            Client {
                endpoint,
                last: now,
            },
        );
    }

    /// Whether this is one of the endpoints.
    pub(crate) fn contains(&self, endpoint: SocketAddr) -> bool {
        self.endpoints.contains(&endpoint)
    }

    fn turn(&self) -> usize {
        self.turns
            .next
            .fetch_add(1, Ordering::Relaxed)
            .checked_rem(self.endpoints.len())
            .unwrap_or(0)
    }

    /// The endpoint that this client had, if that is not too long ago; else the next in turn. A client for which there is
    /// no room in the table gets the endpoint that scores highest with it (rendezvous hashing): when an endpoint goes,
    /// only its own clients move.
    fn favourite(&self, client: IpAddr, timeout: Duration) -> usize {
        let known = {
            let clients = lock(&self.turns.clients);
            let known = clients.get(&client).copied();
            if known.is_none() && clients.len() >= MAX_CLIENTS {
                drop(clients);
                return self.by_score(client);
            }
            known
        };
        known
            .filter(|known| known.last.elapsed() < timeout)
            .and_then(|known| self.endpoints.iter().position(|one| *one == known.endpoint))
            .unwrap_or_else(|| self.turn())
    }

    fn by_score(&self, client: IpAddr) -> usize {
        let score = |endpoint: &SocketAddr| {
            let mut hasher = DefaultHasher::new();
            (client, endpoint).hash(&mut hasher);
            hasher.finish()
        };
        self.endpoints
            .iter()
            .enumerate()
            .max_by_key(|(_, endpoint)| score(endpoint))
            .map_or(0, |(index, _)| index)
    }
}

#[cfg(test)]
mod tests;
