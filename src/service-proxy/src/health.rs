//! `healthCheckNodePort`: what load balancers ask to learn whether a node has endpoints of a Service whose traffic stays on
//! the node that it comes to.
//!
//! Whatever is asked, the answer is 200 if there are any and 503 if there are none, with the number in JSON.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::AbortHandle,
};
use vaquita_net::ServiceKey;

/// Askers of one port at a time; more wait in the kernel.
const MAX_ASKERS: usize = 16;
/// How long an asker may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How soon to try again after a failure to listen or to accept.
const REST: Duration = Duration::from_secs(5);

/// The ports that are served.
pub(crate) struct HealthChecks {
    ip: Option<IpAddr>,
    open: HashMap<ServiceKey, Check>,
}

struct Check {
    port: u16,
    endpoints: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthChecks {
    /// Serves on this address of the host; none: nowhere.
    pub(crate) fn new(ip: Option<IpAddr>) -> Self {
        Self {
            ip,
            open: HashMap::new(),
        }
    }

    /// Answers for a Service at this port, that it has so many endpoints here. Must be called within a tokio runtime.
    pub(crate) fn set(&mut self, key: &ServiceKey, port: Option<u16>, endpoints: usize) {
        let (Some(port), Some(ip)) = (port, self.ip) else {
            self.open.remove(key);
            return;
        };
        if let Some(check) = self.open.get(key).filter(|check| check.port == port) {
            check.endpoints.store(endpoints, Ordering::Relaxed);
            return;
        }
        // The port is free again before it is wanted anew.
        self.open.remove(key);
        let endpoints = Arc::new(AtomicUsize::new(endpoints));
        let serving = serve(SocketAddr::new(ip, port), key.clone(), endpoints.clone());
        let check = Check {
            port,
            endpoints,
            task: tokio::spawn(serving).abort_handle(),
        };
        self.open.insert(key.clone(), check);
    }
}

async fn serve(address: SocketAddr, key: ServiceKey, endpoints: Arc<AtomicUsize>) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!(service = %key, %address, %error, "cannot serve a health check; trying on");
                tokio::time::sleep(REST).await;
            }
        }
    };
    let places = Arc::new(Semaphore::new(MAX_ASKERS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let Ok((asker, _)) = listener.accept().await else {
            tokio::time::sleep(REST).await;
            continue;
        };
        let answer = answer(&key, endpoints.load(Ordering::Relaxed));
        tokio::spawn(async move {
            let _place = place;
            // An asker who does not wait for the answer does not need it.
            let _gone = tokio::time::timeout(PATIENCE, tell(asker, answer)).await;
        });
    }
}

fn answer(key: &ServiceKey, endpoints: usize) -> String {
    let status = if endpoints > 0 {
        "200 OK"
    } else {
        "503 Service Unavailable"
    };
    let body = json!({
        "service": {"namespace": key.namespace, "name": key.name},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": true,
    })
    .to_string();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Reads a request's head, of which nothing matters but its end, and answers.
async fn tell(mut asker: TcpStream, answer: String) -> std::io::Result<()> {
    let mut head = [0; 4096];
    let mut length = 0;
    while length < head.len() && !head[..length].ends_with(b"\r\n\r\n") {
        match asker.read(&mut head[length..]).await? {
            0 => return Ok(()),
            more => length += more,
        }
    }
    asker.write_all(answer.as_bytes()).await?;
    asker.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(port: u16) -> String {
        let mut socket = loop {
            match TcpStream::connect(("127.0.0.1", port)).await {
                Ok(socket) => break socket,
                Err(_not_yet) => tokio::task::yield_now().await,
            }
        };
        socket
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn load_balancers_learn_whether_there_are_endpoints() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let key = ServiceKey {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
        };
        let mut checks = HealthChecks::new(Some("127.0.0.1".parse().unwrap()));
        checks.set(&key, Some(port), 2);
        let answer = ask(port).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("\"localEndpoints\":2"), "{answer}");
        checks.set(&key, Some(port), 0);
        let answer = ask(port).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        checks.set(&key, None, 0);
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
