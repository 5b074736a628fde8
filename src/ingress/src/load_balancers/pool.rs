//! The addresses that Services of type LoadBalancer can have, and who has which. Pure.
//!
//! An address may be shared by Services whose ports differ, which matters when there are few; as long as there
//! are unused ones, each Service gets its own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use ipnet::IpNet;
use vaquita_reconcile::ObjectKey;

/// A port with its protocol, as a Service writes it.
pub(super) type Port = (String, u16);

/// Ranges of addresses. Written as `FIRST-LAST`, `NETWORK/BITS` or `ADDRESS`, several separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool(Vec<(IpAddr, IpAddr)>);

/// Why a text is no pool.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is neither an address, nor a network such as 127.1.0.0/16, nor a range such as 192.0.2.10-192.0.2.20"
)]
pub struct ParsePoolError(String);

impl Default for Pool {
    fn default() -> Self {
        let (first, last) = if cfg!(target_os = "linux") {
            (Ipv4Addr::new(127, 1, 0, 1), Ipv4Addr::new(127, 1, 255, 254))
        } else {
            (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST)
        };
        Self(vec![(first.into(), last.into())])
    }
}

impl FromStr for Pool {
    type Err = ParsePoolError;

    fn from_str(text: &str) -> Result<Self, ParsePoolError> {
        let ranges = text.split(',').map(|part| {
            let part = part.trim();
            range(part).ok_or_else(|| ParsePoolError(part.to_owned()))
        });
        Ok(Self(ranges.collect::<Result<_, _>>()?))
    }
}

fn range(text: &str) -> Option<(IpAddr, IpAddr)> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some((ip, ip));
    }
    if let Some((first, last)) = text.split_once('-') {
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        let same_family = matches!(
            (first, last),
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_))
        );
        return (same_family && first <= last).then_some((first, last));
    }
    let net: IpNet = text.parse().ok()?;
    let (first, last) = (net.network(), net.broadcast());
    // The first and the last of an IPv4 network are nobody's.
    let inner = match (first, last) {
        (IpAddr::V4(low), IpAddr::V4(high)) if net.prefix_len() < 31 => {
            let (low, high) = (u32::from(low) + 1, u32::from(high) - 1);
            (Ipv4Addr::from(low).into(), Ipv4Addr::from(high).into())
        }
        whole => whole,
    };
    Some(inner)
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl Pool {
    /// Its addresses: first and last of each range.
    pub fn ranges(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> + '_ {
        self.0.iter().copied()
    }

    fn contains(&self, ip: IpAddr) -> bool {
        self.0
            .iter()
            .any(|(first, last)| same_family(*first, ip) && (*first..=*last).contains(&ip))
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.0.iter().flat_map(|(first, last)| {
            std::iter::successors(Some(*first), |ip| next(*ip)).take_while(move |ip| ip <= last)
        })
    }
}

fn same_family(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
}

fn next(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => Some(Ipv4Addr::from(u32::from(ip).checked_add(1)?).into()),
        IpAddr::V6(ip) => Some(std::net::Ipv6Addr::from(u128::from(ip).checked_add(1)?).into()),
    }
}

/// Why a Service gets no address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Unavailable {
    #[error("the address {0} that is asked for is not in the pool {1}")]
    NotOurs(IpAddr, String),
    #[error("the address {0} that is asked for is taken: Service {1} has one of the ports there")]
    Taken(IpAddr, ObjectKey),
    #[error("no address of the pool {0} has all of these ports free")]
    Exhausted(String),
}

/// Who has which address.
#[derive(Debug)]
pub(super) struct Allocations {
    pool: Pool,
    by_service: HashMap<ObjectKey, Claim>,
    /// Which ports of an address are whose.
    by_address: BTreeMap<IpAddr, HashMap<Port, ObjectKey>>,
    /// Where the search for an unused address starts: all before it are in use.
    unused_from: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    ip: IpAddr,
    ports: BTreeSet<Port>,
}

impl Allocations {
    pub(super) fn new(pool: Pool) -> Self {
        Self {
            pool,
            by_service: HashMap::new(),
            by_address: BTreeMap::new(),
            unused_from: None,
        }
    }

    /// Gives a Service an address on which all its ports are free: the one that it asks for, else the one that it
    /// has, else an unused one, else one that it can share.
    pub(super) fn allocate(
        &mut self,
        service: &ObjectKey,
        ports: &BTreeSet<Port>,
        asked: Option<IpAddr>,
        has: Option<IpAddr>,
    ) -> Result<IpAddr, Unavailable> {
        let known = self.by_service.get(service).map(|claim| claim.ip);
        self.release(service);
        let chosen = match asked {
            Some(ip) if !self.pool.contains(ip) => {
                return Err(Unavailable::NotOurs(ip, self.pool.to_string()));
            }
            Some(ip) => match self.in_the_way(ip, ports) {
                Some(other) => return Err(Unavailable::Taken(ip, other)),
                None => ip,
            },
            None => {
                let keep = [known, has].into_iter().flatten();
                let mut keep = keep.filter(|ip| self.pool.contains(*ip));
                keep.find(|ip| self.in_the_way(*ip, ports).is_none())
                    .or_else(|| self.unused())
                    .or_else(|| self.shareable(ports))
                    .ok_or_else(|| Unavailable::Exhausted(self.pool.to_string()))?
            }
        };
        let taken = self.by_address.entry(chosen).or_default();
        taken.extend(ports.iter().map(|port| (port.clone(), service.clone())));
        let claim = Claim {
            ip: chosen,
            ports: ports.clone(),
        };
        self.by_service.insert(service.clone(), claim);
        Ok(chosen)
    }

    /// Whether a Service has an address.
    pub(super) fn has(&self, service: &ObjectKey) -> bool {
        self.by_service.contains_key(service)
    }

    /// Takes a Service's address back. Whether it had one.
    pub(super) fn release(&mut self, service: &ObjectKey) -> bool {
        let Some(claim) = self.by_service.remove(service) else {
            return false;
        };
        if let Some(taken) = self.by_address.get_mut(&claim.ip) {
            taken.retain(|_, owner| owner != service);
            if taken.is_empty() {
                self.by_address.remove(&claim.ip);
                self.unused_from = None;
            }
        }
        true
    }

    fn in_the_way(&self, ip: IpAddr, ports: &BTreeSet<Port>) -> Option<ObjectKey> {
        let taken = self.by_address.get(&ip)?;
        ports.iter().find_map(|port| taken.get(port)).cloned()
    }

    fn unused(&mut self) -> Option<IpAddr> {
        let skip = self.unused_from;
        let found = self
            .pool
            .addresses()
            .skip_while(|ip| skip.is_some_and(|skip| *ip != skip))
            .find(|ip| !self.by_address.contains_key(ip))?;
        self.unused_from = Some(found);
        Some(found)
    }

    fn shareable(&self, ports: &BTreeSet<Port>) -> Option<IpAddr> {
        let used = self.by_address.keys().copied();
        let mut used = used.filter(|ip| self.pool.contains(*ip));
        used.find(|ip| self.in_the_way(*ip, ports).is_none())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("shop", name)
    }

    fn ports(all: &[u16]) -> BTreeSet<Port> {
        all.iter().map(|port| ("TCP".to_owned(), *port)).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn pools_are_written_in_three_ways() {
        for (text, shown, count) in [
            ("192.0.2.7", "192.0.2.7", 1),
            ("192.0.2.8/29", "192.0.2.9-192.0.2.14", 6),
            ("192.0.2.8/31", "192.0.2.8-192.0.2.9", 2),
            (
                "192.0.2.1-192.0.2.3, 2001:db8::1",
                "192.0.2.1-192.0.2.3,2001:db8::1",
                4,
            ),
        ] {
            let pool: Pool = text.parse().unwrap();
            assert_eq!(pool.to_string(), shown);
            assert_eq!(pool.addresses().count(), count, "{text}");
        }
        for text in [
            "",
            "x",
            "192.0.2.3-192.0.2.1",
            "192.0.2.1-2001:db8::1",
            "192.0.2.0/33",
        ] {
            assert!(text.parse::<Pool>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_gets_its_own_until_they_have_to_share() {
        let mut all = Allocations::new("192.0.2.1-192.0.2.2".parse().unwrap());
        let mut get = |name, wanted: &[u16]| all.allocate(&key(name), &ports(wanted), None, None);
        assert_eq!(get("a", &[80]), Ok(ip("192.0.2.1")));
        assert_eq!(get("b", &[443]), Ok(ip("192.0.2.2")));
        assert_eq!(get("c", &[443]), Ok(ip("192.0.2.1")));
        assert!(matches!(
            get("d", &[80, 443]),
            Err(Unavailable::Exhausted(_))
        ));
        assert_eq!(get("d", &[8080]), Ok(ip("192.0.2.1")));
        // More ports than before, and not where it was: it moves.
        assert_eq!(
            get("c", &[443, 80]),
            Err(Unavailable::Exhausted("192.0.2.1-192.0.2.2".to_owned()))
        );
        assert!(all.release(&key("a")) && !all.release(&key("a")));
        assert_eq!(
            all.allocate(&key("c"), &ports(&[443, 80]), None, None),
            Ok(ip("192.0.2.1"))
        );
    }

    #[test]
    fn wishes_are_met_or_refused() {
        let mut all = Allocations::new("192.0.2.1-192.0.2.9".parse().unwrap());
        let wanted = Some(ip("192.0.2.5"));
        assert_eq!(
            all.allocate(&key("a"), &ports(&[80]), wanted, None),
            Ok(ip("192.0.2.5"))
        );
        assert_eq!(
            all.allocate(&key("b"), &ports(&[80]), wanted, None),
            Err(Unavailable::Taken(ip("192.0.2.5"), key("a")))
        );
        assert!(matches!(
            all.allocate(&key("b"), &ports(&[80]), Some(ip("10.0.0.1")), None),
            Err(Unavailable::NotOurs(..))
        ));
        // What is written in its status is kept after a restart.
        assert_eq!(
            all.allocate(&key("c"), &ports(&[80]), None, Some(ip("192.0.2.7"))),
            Ok(ip("192.0.2.7"))
        );
        assert_eq!(
            all.allocate(&key("d"), &ports(&[80]), None, Some(ip("192.0.2.7"))),
            Ok(ip("192.0.2.1"))
        );
    }

    proptest! {
        /// Whatever happens, no two Services have one port of one address.
        #[test]
        fn nothing_is_given_twice(
            steps in prop::collection::vec((0u8..8, prop::collection::btree_set(1u16..5, 1..3), any::<bool>()), 1..60),
        ) {
            let mut all = Allocations::new("192.0.2.1-192.0.2.3".parse().unwrap());
            for (service, wanted, keep) in steps {
                let service = key(&service.to_string());
                if keep {
                    let wanted: Vec<_> = wanted.into_iter().collect();
                    let _ = all.allocate(&service, &ports(&wanted), None, None);
                } else {
                    all.release(&service);
                }
                let mut seen = BTreeSet::new();
                for claim in all.by_service.values() {
                    for port in &claim.ports {
                        prop_assert!(seen.insert((claim.ip, port.clone())));
                    }
                }
                let indexed: usize = all.by_address.values().map(HashMap::len).sum();
                prop_assert_eq!(indexed, seen.len());
            }
        }
    }
}
