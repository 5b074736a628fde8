//! Services inside the fabric.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use vaquita_net::{Affinity, Fabric, Listener, PodNetwork, ServiceSpec};

use crate::tools::*;

fn servers(fabric: &Fabric, count: usize) -> (Vec<PodNetwork>, Vec<Listener>) {
    let pods: Vec<_> = (0..count).map(|_| fabric.attach(None).unwrap()).collect();
    let listeners = pods
        .iter()
        .map(|pod| pod.listen(addr("0.0.0.0:80")).unwrap())
        .collect();
    (pods, listeners)
}

fn web(pods: &[PodNetwork]) -> ServiceSpec {
    let endpoints: Vec<_> = pods.iter().map(|pod| at(pod, 80)).collect();
    service("10.96.0.1", vec![port(8080, &endpoints)])
}

fn set(fabric: &Fabric, spec: &ServiceSpec) {
    assert!(fabric.services().set(&key("web"), spec).is_empty());
}

#[tokio::test]
async fn endpoints_take_turns() {
    let fabric = fabric();
    let (pods, listeners) = servers(&fabric, 3);
    set(&fabric, &web(&pods));
    let client = fabric.attach(None).unwrap();
    let mut turns = Vec::new();
    for _ in 0..6 {
        let near = client.connect(addr("10.96.0.1:8080")).await.unwrap();
        assert_eq!(near.peer_addr(), addr("10.96.0.1:8080"));
        turns.push(reached(&listeners));
    }
    assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
    // A change of something else does not begin the turns anew.
    client.connect(addr("10.96.0.1:8080")).await.unwrap();
    assert_eq!(reached(&listeners), 0);
    set(
        &fabric,
        &ServiceSpec {
            ports: [web(&pods).ports, vec![port(9090, &[])]].concat(),
            ..web(&pods)
        },
    );
    client.connect(addr("10.96.0.1:8080")).await.unwrap();
    assert_eq!(reached(&listeners), 1);
}

#[tokio::test]
async fn a_connection_stays_where_it_is() {
    let fabric = fabric();
    let (pods, listeners) = servers(&fabric, 2);
    set(&fabric, &web(&pods[..1]));
    let client = fabric.attach(None).unwrap();
    let (near, far) = join(&client, &listeners[0], addr("10.96.0.1:8080")).await;
    assert_eq!(far.local_addr(), at(&pods[0], 80));
    set(&fabric, &web(&pods[1..]));
    pass(&near, &far, "still you").await;
    join(&client, &listeners[1], addr("10.96.0.1:8080")).await;
    fabric.services().remove(&key("web"));
    pass(&near, &far, "still you").await;
}

#[tokio::test]
async fn dead_endpoints_are_passed_over() {
    let fabric = fabric();
    let (mut pods, mut listeners) = servers(&fabric, 4);
    set(&fabric, &web(&pods));
    drop(pods.remove(0));
    drop(listeners.drain(..2));
    let client = fabric.attach(None).unwrap();
    let mut got = HashSet::new();
    for _ in 0..8 {
        client.connect(addr("10.96.0.1:8080")).await.unwrap();
        got.insert(reached(&listeners));
    }
    assert_eq!(got, HashSet::from([0, 1]));
    drop(listeners);
    assert!(is_refused(client.connect(addr("10.96.0.1:8080")).await));
}

#[tokio::test]
async fn full_endpoints_are_passed_over_while_others_have_room() {
    let fabric = impatient(|config| config.backlog = 2);
    let (pods, listeners) = servers(&fabric, 2);
    set(&fabric, &web(&pods));
    let client = fabric.attach(None).unwrap();
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(client.connect(at(&pods[0], 80)).await.unwrap());
    }
    for _ in 0..2 {
        open.push(client.connect(addr("10.96.0.1:8080")).await.unwrap());
    }
    assert_eq!([listeners[0].pending(), listeners[1].pending()], [2, 2]);
    // All are full: one of them is waited for.
    let error = client.connect(addr("10.96.0.1:8080")).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    let mut waiting = Box::pin(client.connect(addr("10.96.0.1:8080")));
    assert!(futures::poll!(&mut waiting).is_pending());
    for listener in &listeners {
        listener.accept().await.unwrap();
    }
    waiting.await.unwrap();
}

#[tokio::test]
async fn nothing_ready_means_refused() {
    let fabric = fabric();
    let client = fabric.attach(None).unwrap();
    set(&fabric, &web(&[]));
    assert!(is_refused(client.connect(addr("10.96.0.1:8080")).await));
    // A port that the Service does not have.
    assert!(is_refused(client.connect(addr("10.96.0.1:8081")).await));
    fabric.services().remove(&key("web"));
    fabric.services().remove(&key("web"));
    assert!(
        client
            .connect(addr("10.96.0.1:8080"))
            .await
            .is_err_and(|e| e.kind() == std::io::ErrorKind::NetworkUnreachable)
    );
    assert_eq!(fabric.services().count(), 0);
}

#[tokio::test]
async fn a_pod_may_be_its_own_endpoint() {
    let fabric = fabric();
    let (pods, listeners) = servers(&fabric, 1);
    set(&fabric, &web(&pods));
    let (near, far) = join(&pods[0], &listeners[0], addr("10.96.0.1:8080")).await;
    pass(&near, &far, "myself").await;
}

#[tokio::test]
async fn one_service_does_not_take_anothers_address_away() {
    let fabric = fabric();
    let (pods, listeners) = servers(&fabric, 2);
    set(&fabric, &web(&pods[..1]));
    assert!(
        fabric
            .services()
            .set(&key("late"), &web(&pods[1..]))
            .is_empty()
    );
    fabric.services().remove(&key("web"));
    let client = fabric.attach(None).unwrap();
    join(&client, &listeners[1], addr("10.96.0.1:8080")).await;
}

#[tokio::test]
async fn with_affinity_a_client_stays() {
    let fabric = fabric();
    let (pods, listeners) = servers(&fabric, 4);
    let sticky = |pods: &[PodNetwork]| ServiceSpec {
        affinity: Affinity::ClientIp {
            timeout: std::time::Duration::from_mins(1),
        },
        ..web(pods)
    };
    set(&fabric, &sticky(&pods));
    let clients: Vec<_> = (0..64).map(|_| fabric.attach(None).unwrap()).collect();
    let mut favourites = BTreeMap::new();
    for _ in 0..3 {
        for client in &clients {
            client.connect(addr("10.96.0.1:8080")).await.unwrap();
            let got = reached(&listeners);
            assert_eq!(*favourites.entry(client.ip()).or_insert(got), got);
        }
    }
    assert_eq!(
        favourites.values().collect::<HashSet<_>>().len(),
        4,
        "all endpoints have clients"
    );
    // When an endpoint goes, only its own clients move.
    set(&fabric, &sticky(&pods[1..]));
    for client in &clients {
        client.connect(addr("10.96.0.1:8080")).await.unwrap();
        let (got, before) = (reached(&listeners), favourites[&client.ip()]);
        assert_ne!(got, 0);
        assert!(got == before || before == 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the number of endpoints and whichever are alive: each live one gets its fair share, a dead one nothing.
    #[test]
    fn turns_are_fair(alive in prop::collection::vec(any::<bool>(), 1..12), rounds in 1..4usize) {
        let fabric = fabric();
        let pods: Vec<_> = alive.iter().map(|_| fabric.attach(None).unwrap()).collect();
        let listen = |(pod, alive): (&PodNetwork, &bool)| alive.then(|| pod.listen(addr("0.0.0.0:80")).unwrap());
        let listeners: Vec<_> = pods.iter().zip(&alive).filter_map(listen).collect();
        set(&fabric, &web(&pods));
        let client = fabric.attach(None).unwrap();
        let mut open = Vec::new();
        for _ in 0..rounds * alive.len() {
            let connected = futures::executor::block_on(client.connect(addr("10.96.0.1:8080")));
            prop_assert_eq!(connected.is_ok(), !listeners.is_empty());
            open.extend(connected);
        }
        for listener in &listeners {
            // Its own turns, and at most those of all the dead.
            let dead = alive.len() - listeners.len();
            prop_assert!((rounds..=rounds * (dead + 1)).contains(&listener.pending()));
        }
        prop_assert_eq!(listeners.iter().map(Listener::pending).sum::<usize>(), open.len());
    }
}
