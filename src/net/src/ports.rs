//! A pod's port space for one protocol: all modules of the pod share it, as processes share a host's.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::{Bound, RangeInclusive},
    sync::Arc,
};

const LOWEST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// A port and the address that it is bound on.
pub(crate) type Key = (u16, IpAddr);

/// Who holds which port. `T` is what hears connections or datagrams that arrive there.
#[derive(Debug)]
pub(crate) struct Ports<T> {
    bound: BTreeMap<Key, Option<Arc<T>>>,
    ephemeral: RangeInclusive<u16>,
    next: u16,
}

/// Why a port can't be had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unbindable {
    InUse,
    NoneFree,
}

impl<T> Ports<T> {
    /// An empty port space. `seed` says where in the range of ephemeral ports to begin: a fresh pod should not reuse
    /// the ports that the one before it had just used.
    pub(crate) fn new(ephemeral: RangeInclusive<u16>, seed: u16) -> Self {
        let count = ephemeral.end() - ephemeral.start();
        let next = ephemeral.start()
            + if count == u16::MAX {
                seed
            } else {
                seed % (count + 1)
            };
        Self {
            bound: BTreeMap::new(),
            ephemeral,
            next,
        }
    }

    /// Binds a port; 0 picks one.
    pub(crate) fn bind(&mut self, address: SocketAddr) -> Result<Key, Unbindable> {
        let ip = address.ip();
        let key = if address.port() == 0 {
            (self.pick(ip)?, ip)
        } else {
            (address.port(), ip)
        };
        if address.port() != 0 && self.is_taken(key) {
            return Err(Unbindable::InUse);
        }
        self.bound.insert(key, None);
        Ok(key)
    }

    /// Sets who hears what arrives at a port that is bound.
    pub(crate) fn hear(&mut self, key: Key, hearer: Arc<T>) {
        self.bound.insert(key, Some(hearer));
    }

    pub(crate) fn release(&mut self, key: Key) -> Option<Arc<T>> {
        self.bound.remove(&key).flatten()
    }

    /// Who hears what arrives for `ip` and `port`: who bound that address, else who bound all of its family, else who
    /// bound all of both.
    pub(crate) fn find(&self, ip: IpAddr, port: u16) -> Option<&Arc<T>> {
        let any = if ip.is_ipv4() { ANY_V4 } else { ANY_V6 };
        [ip, any, ANY_V6]
            .into_iter()
            .find_map(|ip| self.bound.get(&(port, ip))?.as_ref())
    }

    /// Empties the port space.
    pub(crate) fn clear(&mut self) -> impl Iterator<Item = Arc<T>> + use<T> {
        std::mem::take(&mut self.bound).into_values().flatten()
    }

    fn is_taken(&self, (port, ip): Key) -> bool {
        let from = Bound::Included((port, LOWEST));
        let to = port
            .checked_add(1)
            .map_or(Bound::Unbounded, |next| Bound::Excluded((next, LOWEST)));
        self.bound
            .range((from, to))
            .any(|(&(_, other), _)| overlap(ip, other))
    }

    fn pick(&mut self, ip: IpAddr) -> Result<u16, Unbindable> {
        for _ in self.ephemeral.clone() {
            let port = self.next;
            self.next = if port == *self.ephemeral.end() {
                *self.ephemeral.start()
            } else {
                port + 1
            };
            if !self.is_taken((port, ip)) {
                return Ok(port);
            }
        }
        Err(Unbindable::NoneFree)
    }
}

/// Whether two sockets can't have the same port, on Linux without `SO_REUSEPORT`: on the same address, or where one of
/// them is bound on all addresses. `::` means those of IPv4 too, as by default.
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    let covers =
        |wide: IpAddr, other: IpAddr| wide == ANY_V6 || (wide == ANY_V4 && other.is_ipv4());
    a == b || covers(a, b) || covers(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: [&str; 6] = ["0.0.0.0", "127.0.0.1", "127.0.0.2", "10.0.0.2", "::", "::1"];

    fn at(ip: &str, port: u16) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), port)
    }

    #[test]
    fn conflicts_as_the_kernel_has_them() {
        // Rows and columns as in ADDRESSES: what Linux answers to a bind after another one, on the same port.
        let conflicts = [
            [true, true, true, true, true, false],
            [true, true, false, false, true, false],
            [true, false, true, false, true, false],
            [true, false, false, true, true, false],
            [true, true, true, true, true, true],
            [false, false, false, false, true, true],
        ];
        for (first, row) in ADDRESSES.iter().zip(conflicts) {
            for (second, conflict) in ADDRESSES.iter().zip(row) {
                let mut ports = Ports::<()>::new(1000..=1001, 0);
                ports.bind(at(first, 80)).unwrap();
                assert_eq!(
                    ports.bind(at(second, 80)).is_err(),
                    conflict,
                    "{first} then {second}"
                );
                ports.bind(at(second, 81)).unwrap();
            }
        }
    }

    #[test]
    fn the_most_particular_listener_hears() {
        let mut ports = Ports::new(1000..=1001, 0);
        for (ip, name) in [
            ("127.0.0.1", "loopback"),
            ("10.0.0.2", "pod"),
            ("::1", "loopback 6"),
        ] {
            let key = ports.bind(at(ip, 80)).unwrap();
            ports.hear(key, Arc::new(name));
        }
        let key = ports.bind(at("::", 81)).unwrap();
        ports.hear(key, Arc::new("all"));
        let find = |ip: &str, port| ports.find(ip.parse().unwrap(), port).map(|name| **name);
        assert_eq!(find("127.0.0.1", 80), Some("loopback"));
        assert_eq!(find("10.0.0.2", 80), Some("pod"));
        assert_eq!(find("::1", 80), Some("loopback 6"));
        assert_eq!(find("127.0.0.2", 80), None);
        assert_eq!(find("10.0.0.2", 81), Some("all"));
        assert_eq!(find("::1", 81), Some("all"));
        assert_eq!(find("10.0.0.2", 82), None);
    }

    #[test]
    fn ephemeral_ports_run_out_and_come_back() {
        let mut ports = Ports::<()>::new(1000..=1003, 2);
        ports.bind(at("0.0.0.0", 1003)).unwrap();
        let picked: Vec<_> = (0..3)
            .map(|_| ports.bind(at("10.0.0.2", 0)).unwrap())
            .collect();
        assert_eq!(
            picked.iter().map(|key| key.0).collect::<Vec<_>>(),
            [1002, 1000, 1001]
        );
        assert_eq!(ports.bind(at("10.0.0.2", 0)), Err(Unbindable::NoneFree));
        assert_eq!(ports.bind(at("127.0.0.1", 0)).unwrap().0, 1002);
        ports.release(picked[1]);
        assert_eq!(ports.bind(at("10.0.0.2", 0)).unwrap().0, 1000);
    }

    #[test]
    fn the_last_port_of_all_is_a_port_too() {
        let mut ports = Ports::<()>::new(1..=65535, 65534);
        assert_eq!(ports.bind(at("0.0.0.0", 0)).unwrap().0, 65535);
        assert_eq!(ports.bind(at("127.0.0.1", 65535)), Err(Unbindable::InUse));
        assert_eq!(ports.bind(at("0.0.0.0", 0)).unwrap().0, 1);
    }
}
