use std::{collections::BTreeSet, net::Ipv4Addr};

use proptest::prelude::*;

use super::*;

const STAYS: Affinity = Affinity::ClientIp {
    timeout: Duration::from_mins(1),
};

fn endpoint(number: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 244, 0, number), 80))
}

fn client(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))
}

fn balancer(numbers: &BTreeSet<u8>, affinity: Affinity, turns: Option<&Arc<Turns>>) -> Balancer {
    Balancer {
        sleeper: None,
        endpoints: numbers.iter().copied().map(endpoint).collect(),
        affinity,
        turns: turns.cloned().unwrap_or_default(),
    }
}

fn first(balancer: &Balancer, number: u32) -> SocketAddr {
    balancer.order(Some(client(number))).next().unwrap()
}

/// Connects: the endpoint that the client gets is the first of those which are alive.
fn connect(balancer: &Balancer, number: u32, dead: &BTreeSet<u8>) -> Option<SocketAddr> {
    let is_alive = |at: &SocketAddr| !dead.iter().any(|&dead| endpoint(dead) == *at);
    let got = balancer.order(Some(client(number))).find(is_alive)?;
    balancer.settle(Some(client(number)), got);
    Some(got)
}

fn endpoints() -> impl Strategy<Value = BTreeSet<u8>> {
    prop::collection::btree_set(0..30u8, 0..20)
}

proptest! {
    /// Whoever asks is told every endpoint, and each once.
    #[test]
    fn every_endpoint_is_tried_once(numbers in endpoints(), stays: bool, clients in prop::collection::vec(0..9u32, 1..40)) {
        let balancer = balancer(&numbers, if stays { STAYS } else { Affinity::None }, None);
        for number in clients {
            let order: Vec<_> = balancer.order(Some(client(number))).collect();
            let distinct: BTreeSet<_> = order.iter().copied().collect();
            prop_assert_eq!(order.len(), numbers.len());
            prop_assert_eq!(distinct, numbers.iter().copied().map(endpoint).collect::<BTreeSet<_>>());
        }
    }

    /// Without affinity, after so many rounds everybody had as many turns.
    #[test]
    fn turns_are_even(numbers in endpoints(), rounds in 1..5usize, skipped in 0..50usize) {
        prop_assume!(!numbers.is_empty());
        let balancer = balancer(&numbers, Affinity::None, None);
        for _ in 0..skipped {
            let _taken = first(&balancer, 0);
        }
        let mut turns = HashMap::new();
        for _ in 0..rounds * numbers.len() {
            *turns.entry(first(&balancer, 0)).or_insert(0) += 1;
        }
        prop_assert!(numbers.iter().all(|&number| turns.get(&endpoint(number)) == Some(&rounds)));
    }

    /// A client stays with its endpoint over all versions of the Service that have it, while it is alive.
    #[test]
    fn clients_stay(
        versions in prop::collection::vec((endpoints(), endpoints()), 1..8),
        clients in prop::collection::vec(0..9u32, 1..20),
    ) {
        let turns = Arc::new(Turns::default());
        let mut had: HashMap<u32, SocketAddr> = HashMap::new();
        for (numbers, dead) in versions {
            let balancer = balancer(&numbers, STAYS, Some(&turns));
            for &number in &clients {
                let before = had.get(&number).copied().filter(|&at| {
                    balancer.contains(at) && !dead.iter().any(|&dead| endpoint(dead) == at)
                });
                let got = connect(&balancer, number, &dead);
                prop_assert_eq!(got.is_some(), numbers.difference(&dead).next().is_some());
                if let (Some(before), Some(got)) = (before, got) {
                    prop_assert_eq!(before, got);
                }
                if let Some(got) = got {
                    had.insert(number, got);
                }
            }
        }
    }

    /// When one goes, only those move of the clients for which there is no room whose endpoint it was.
    #[test]
    fn clients_beyond_the_table_stay_too(numbers in endpoints(), gone in any::<prop::sample::Index>()) {
        prop_assume!(numbers.len() > 1);
        let turns = Arc::new(Turns::default());
        let full = balancer(&numbers, STAYS, Some(&turns));
        let known = u32::try_from(MAX_CLIENTS).unwrap();
        for number in 0..known {
            full.settle(Some(client(number)), full.endpoints[0]);
        }
        let strangers = known..known + 50;
        let had: Vec<_> = strangers.clone().map(|number| first(&full, number)).collect();
        let gone = *gone.get(&numbers.iter().copied().collect::<Vec<_>>());
        let rest = numbers.iter().copied().filter(|&number| number != gone).collect();
        let fewer = balancer(&rest, STAYS, Some(&turns));
        for (number, had) in strangers.zip(had) {
            prop_assert_eq!(first(&full, number), had, "asking again changes nothing");
            if had != endpoint(gone) {
                prop_assert_eq!(first(&fewer, number), had);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn clients_are_forgotten_in_time() {
    let balancer = balancer(&(0..3).collect(), STAYS, None);
    let had = connect(&balancer, 1, &BTreeSet::new()).unwrap();
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(connect(&balancer, 1, &BTreeSet::new()), Some(had));
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(
        first(&balancer, 1),
        had,
        "the time runs from the last connect"
    );
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_ne!(first(&balancer, 1), had);
}
