//! Services that sleep, and how busy pods are.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::yield_now;
use vaquita_net::{Fabric, FabricConfig, NetError, ServiceKey, ServiceSpec, Wake};

use crate::tools::*;

const VIP: &str = "10.96.0.1:80";

#[derive(Clone, Default)]
struct Calls(Arc<AtomicUsize>);

impl Wake for Calls {
    fn wake(&self, service: &ServiceKey) {
        assert_eq!(service.name, "web");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn asleep() -> ServiceSpec {
    ServiceSpec {
        wakes: true,
        ..service("10.96.0.1", vec![port(80, &[])])
    }
}

fn set(fabric: &Fabric, spec: &ServiceSpec) {
    assert!(fabric.services().set(&key("web"), spec).is_empty());
}

fn sleeping(config: FabricConfig) -> (Fabric, Calls) {
    let fabric = Fabric::new(config).unwrap();
    let calls = Calls::default();
    fabric.set_waker(Some(Box::new(calls.clone())));
    set(&fabric, &asleep());
    (fabric, calls)
}

#[tokio::test(start_paused = true)]
async fn a_connect_is_held_until_there_is_an_endpoint() {
    let (fabric, calls) = sleeping(FabricConfig::default());
    let client = fabric.attach(None).unwrap();
    let connecting = tokio::spawn(async move {
        let near = client.connect(addr(VIP)).await;
        (client, near)
    });
    yield_now().await;
    assert_eq!(calls.0.load(Ordering::Relaxed), 1);
    assert_eq!(fabric.metrics().held, 1);

    let pod = fabric.attach(None).unwrap();
    let listener = pod.listen(addr("0.0.0.0:80")).unwrap();
    let awake = ServiceSpec {
        ports: vec![port(80, &[at(&pod, 80)])],
        ..asleep()
    };
    set(&fabric, &awake);
    let (_client, near) = connecting.await.unwrap();
    near.unwrap();
    listener.accept().await.unwrap();
    let metrics = fabric.metrics();
    assert_eq!((metrics.held, metrics.woken, metrics.not_woken), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn holding_has_bounds() {
    let (fabric, _) = sleeping(FabricConfig {
        held: 1,
        wake_timeout: Duration::from_secs(3),
        ..FabricConfig::default()
    });
    let first = tokio::spawn(fabric.dial(addr(VIP)));
    yield_now().await;
    let second = fabric.dial(addr(VIP)).await;
    assert!(matches!(second, Err(NetError::TooMany { limit: 1, .. })));
    let first = first.await.unwrap();
    assert!(matches!(first, Err(NetError::TimedOut(_))));
    assert_eq!(fabric.metrics().not_woken, 2);
}

#[tokio::test]
async fn who_will_not_be_woken_any_more_refuses() {
    let (fabric, _) = sleeping(FabricConfig::default());
    for change in [true, false] {
        set(&fabric, &asleep());
        let held = tokio::spawn(fabric.dial(addr(VIP)));
        yield_now().await;
        if change {
            set(&fabric, &service("10.96.0.1", vec![port(80, &[])]));
        } else {
            fabric.services().remove(&key("web"));
        }
        let held = held.await.unwrap();
        assert!(matches!(held, Err(NetError::ConnectionRefused(_))));
    }
    set(&fabric, &asleep());
    fabric.set_waker(None);
    let refused = fabric.dial(addr(VIP)).await;
    assert!(matches!(refused, Err(NetError::ConnectionRefused(_))));
}

#[tokio::test(start_paused = true)]
async fn activity_is_what_others_do() {
    let fabric = fabric();
    let (server, client) = (fabric.attach(None).unwrap(), fabric.attach(None).unwrap());
    let listener = server.listen(addr("0.0.0.0:80")).unwrap();
    let start = fabric.activity(server.ip()).unwrap();
    assert_eq!(start.open, 0);
    tokio::time::advance(Duration::from_secs(5)).await;

    let own = server.connect(at(&server, 80)).await.unwrap();
    let probe = fabric.probe(at(&server, 80)).await.unwrap();
    assert_eq!(fabric.activity(server.ip()).unwrap(), start);
    drop((own, probe));
    while listener.try_accept().unwrap().is_some() {}

    let arrival = fabric.arrival(server.ip());
    let (near, far) = join(&client, &listener, at(&server, 80)).await;
    arrival.await;
    let busy = fabric.activity(server.ip()).unwrap();
    assert_eq!(
        (busy.open, busy.since - start.since),
        (1, Duration::from_secs(5))
    );
    tokio::time::advance(Duration::from_secs(5)).await;
    drop((near, far));
    let idle = fabric.activity(server.ip()).unwrap();
    assert_eq!(
        (idle.open, idle.since - busy.since),
        (0, Duration::from_secs(5))
    );
    assert_eq!(fabric.activity(client.ip()).unwrap().open, 0);
    let gone = server.ip();
    server.close();
    assert_eq!(fabric.activity(gone), None);
    fabric.arrival(gone).await;
}
