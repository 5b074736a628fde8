//! Policies are asked once for each connection, about the endpoint that was chosen.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::net::{TcpListener, TcpStream};
use vaquita_net::{Attempt, ConnectPolicy, NetError, Origin, Protocol};

use crate::tools::*;

/// Notes what it is asked, and forbids one destination.
struct Guard {
    asked: Arc<Mutex<Vec<Attempt>>>,
    forbidden: SocketAddr,
}

impl ConnectPolicy for Guard {
    fn allows(&self, attempt: &Attempt) -> bool {
        self.asked.lock().unwrap().push(*attempt);
        attempt.to != self.forbidden
    }
}

#[tokio::test]
async fn a_policy_decides() {
    let fabric = fabric();
    let pods = [fabric.attach(None).unwrap(), fabric.attach(None).unwrap()];
    let _listeners = pods
        .each_ref()
        .map(|pod| pod.listen(addr("0.0.0.0:80")).unwrap());
    let client = fabric.attach(None).unwrap();
    let endpoints = pods.each_ref().map(|pod| at(pod, 80));
    assert!(
        fabric
            .services()
            .set(
                &key("web"),
                &service("10.96.0.1", vec![port(80, &endpoints)])
            )
            .is_empty()
    );
    let asked = Arc::new(Mutex::new(Vec::new()));
    fabric.set_policy(Some(Box::new(Guard {
        asked: asked.clone(),
        forbidden: endpoints[1],
    })));

    client.connect(endpoints[0]).await.unwrap();
    assert!(
        matches!(client.connect(endpoints[1]).await, Err(NetError::Denied(to)) if to == endpoints[1])
    );
    // By a Service, it is about the endpoint; nobody else takes the place of one that is forbidden.
    client.connect(addr("10.96.0.1:80")).await.unwrap();
    assert!(matches!(
        client.connect(addr("10.96.0.1:80")).await,
        Err(NetError::Denied(_))
    ));
    let from = Origin::Pod(client.ip());
    let attempt = |to| Attempt {
        from,
        to,
        protocol: Protocol::Tcp,
    };
    let expected = [0, 1, 0, 1].map(|index| attempt(endpoints[index]));
    assert_eq!(*asked.lock().unwrap(), expected);
    assert_eq!(fabric.metrics().connects_denied, 2);

    fabric.dial(endpoints[0]).await.unwrap();
    assert_eq!(asked.lock().unwrap().pop().unwrap().from, Origin::Node);
    let outer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(outer.local_addr().unwrap())
        .await
        .unwrap();
    let (socket, peer) = outer.accept().await.unwrap();
    assert!(matches!(
        fabric.deliver(endpoints[1], socket, peer).await,
        Err(NetError::Denied(_))
    ));
    assert_eq!(
        asked.lock().unwrap().pop().unwrap().from,
        Origin::Outside(peer.ip())
    );

    // Nobody is kept from himself.
    let before = asked.lock().unwrap().len();
    pods[1].connect(endpoints[1]).await.unwrap();
    pods[1].connect(addr("127.0.0.1:80")).await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), before);
    fabric.set_policy(None);
    client.connect(endpoints[1]).await.unwrap();
}
