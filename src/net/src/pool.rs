//! The pool of pod addresses.
//!
//! Fresh addresses go first, then those released longest ago: a client that still talks to a pod which is gone should
//! not find another one behind the same address soon.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;

use crate::AttachError;

/// Reserved at the start of the network: its own address, and the node's.
const RESERVED: u32 = 2;

/// The addresses of one network. They are kept as offsets from the network's own.
#[derive(Debug)]
pub(crate) struct AddressPool {
    cidr: Ipv4Net,
    /// One bit for each offset up to the highest one ever in use.
    in_use: Vec<u64>,
    used: usize,
    /// The lowest offset that may never have been in use.
    fresh: u32,
    /// Offsets that were released, longest ago first.
    released: VecDeque<u32>,
}

impl AddressPool {
    /// A pool over a network of /8 to /30.
    pub(crate) fn new(cidr: Ipv4Net) -> Self {
        let cidr = cidr.trunc();
        Self {
            cidr,
            in_use: Vec::new(),
            used: 0,
            fresh: RESERVED,
            released: VecDeque::new(),
        }
    }

    /// How many pods the network can hold.
    pub(crate) fn capacity(&self) -> usize {
        (self.broadcast() - RESERVED) as usize
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// The node's own address in the network.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.at(1)
    }

    /// Takes an address.
    pub(crate) fn take(&mut self) -> Result<Ipv4Addr, AttachError> {
        while self.fresh < self.broadcast() && self.is_in_use(self.fresh) {
            self.fresh += 1;
        }
        let offset = if self.fresh < self.broadcast() {
            self.fresh += 1;
            Some(self.fresh - 1)
        } else {
            self.released.pop_front()
        };
        let offset = offset.ok_or(AttachError::Exhausted {
            cidr: self.cidr,
            capacity: self.capacity(),
        })?;
        self.mark(offset, true);
        Ok(self.at(offset))
    }

    /// Takes this very address.
    pub(crate) fn take_this(&mut self, ip: IpAddr) -> Result<Ipv4Addr, AttachError> {
        let offset = self
            .offset(ip)
            .ok_or(AttachError::NotAvailable(ip, self.cidr))?;
        if self.is_in_use(offset) {
            return Err(AttachError::InUse(ip));
        }
        if offset < self.fresh {
            self.released.retain(|&other| other != offset);
        }
        self.mark(offset, true);
        Ok(self.at(offset))
    }

    /// Gives an address back that was taken.
    pub(crate) fn release(&mut self, ip: Ipv4Addr) {
        let Some(offset) = self.offset(IpAddr::V4(ip)) else {
            return;
        };
        if !self.is_in_use(offset) {
            return;
        }
        self.mark(offset, false);
        // One that was asked for by name, ahead of the others, is fresh still as far as the order goes.
        if offset < self.fresh {
            self.released.push_back(offset);
        }
    }

    fn broadcast(&self) -> u32 {
        u32::from(self.cidr.broadcast()) - u32::from(self.cidr.network())
    }

    fn at(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.cidr.network()) + offset)
    }

    /// The offset of an address that a pod can have.
    fn offset(&self, ip: IpAddr) -> Option<u32> {
        let IpAddr::V4(ip) = ip.to_canonical() else {
            return None;
        };
        let offset = u32::from(ip).checked_sub(u32::from(self.cidr.network()))?;
        (RESERVED..self.broadcast())
            .contains(&offset)
            .then_some(offset)
    }

    fn is_in_use(&self, offset: u32) -> bool {
        let (word, bit) = (offset as usize / 64, offset % 64);
        self.in_use
            .get(word)
            .is_some_and(|bits| bits >> bit & 1 == 1)
    }

    fn mark(&mut self, offset: u32, used: bool) {
        let (word, bit) = (offset as usize / 64, offset % 64);
        if word >= self.in_use.len() {
            self.in_use.resize(word + 1, 0);
        }
        if used {
            self.in_use[word] |= 1 << bit;
            self.used += 1;
        } else {
            self.in_use[word] &= !(1 << bit);
            self.used -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;

    use super::*;

    fn pool(cidr: &str) -> AddressPool {
        AddressPool::new(cidr.parse().unwrap())
    }

    #[test]
    fn never_gives_the_reserved_ones() {
        let mut pool = pool("10.1.2.77/29");
        assert_eq!(pool.gateway(), Ipv4Addr::new(10, 1, 2, 73));
        assert_eq!(pool.capacity(), 5);
        let all: Vec<_> = std::iter::from_fn(|| pool.take().ok())
            .map(|ip| ip.octets()[3])
            .collect();
        assert_eq!(all, [74, 75, 76, 77, 78]);
        assert!(matches!(
            pool.take(),
            Err(AttachError::Exhausted { capacity: 5, .. })
        ));
        for reserved in [72, 73, 79, 80, 1] {
            let ip = IpAddr::V4(Ipv4Addr::new(10, 1, 2, reserved));
            assert!(
                matches!(pool.take_this(ip), Err(AttachError::NotAvailable(..))),
                "{ip}"
            );
        }
    }

    #[test]
    fn what_was_released_last_comes_last() {
        let mut pool = pool("10.0.0.0/29");
        let all: Vec<_> = std::iter::from_fn(|| pool.take().ok()).collect();
        for index in [3, 0, 4] {
            pool.release(all[index]);
        }
        assert_eq!(pool.take().unwrap(), all[3]);
        assert_eq!(pool.take().unwrap(), all[0]);
        pool.release(all[1]);
        assert_eq!(pool.take().unwrap(), all[4]);
        assert_eq!(pool.take().unwrap(), all[1]);
        pool.take().unwrap_err();
    }

    #[test]
    fn a_wanted_address_is_skipped_when_its_turn_comes() {
        let mut pool = pool("10.0.0.0/29");
        let wanted = Ipv4Addr::new(10, 0, 0, 3);
        assert_eq!(pool.take_this(IpAddr::V4(wanted)).unwrap(), wanted);
        assert_eq!(
            pool.take_this(IpAddr::V4(wanted)),
            Err(AttachError::InUse(IpAddr::V4(wanted)))
        );
        assert_eq!(pool.take().unwrap().octets()[3], 2);
        assert_eq!(pool.take().unwrap().octets()[3], 4);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Take,
        TakeThis(u8),
        Release(u8),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            Just(Op::Take),
            (0..20u8).prop_map(Op::TakeThis),
            (0..20u8).prop_map(Op::Release)
        ]
    }

    proptest! {
        #[test]
        fn no_address_twice_and_none_lost(ops in prop::collection::vec(op(), 0..200)) {
            let mut pool = pool("192.168.0.0/28");
            let mut held = BTreeSet::new();
            for op in ops {
                match op {
                    Op::Take => {
                        let taken = pool.take();
                        prop_assert_eq!(taken.is_err(), held.len() == pool.capacity());
                        if let Ok(ip) = taken {
                            prop_assert!(held.insert(ip));
                        }
                    }
                    Op::TakeThis(last) => {
                        let ip = Ipv4Addr::new(192, 168, 0, last);
                        let possible = (2..15).contains(&last) && !held.contains(&ip);
                        prop_assert_eq!(pool.take_this(IpAddr::V4(ip)).is_ok(), possible);
                        if possible {
                            held.insert(ip);
                        }
                    }
                    Op::Release(last) => {
                        let ip = Ipv4Addr::new(192, 168, 0, last);
                        pool.release(ip);
                        held.remove(&ip);
                    }
                }
                prop_assert_eq!(pool.used(), held.len());
            }
            while let Ok(ip) = pool.take() {
                prop_assert!(held.insert(ip));
            }
            prop_assert_eq!(held.len(), pool.capacity());
        }

        /// With `free` addresses to spare, a released one rests for at least `free` further attachments.
        #[test]
        fn a_released_address_rests(churn in prop::collection::vec(0..100usize, 1..200), held in 1..13usize) {
            let mut pool = pool("192.168.0.0/28");
            let mut live: Vec<_> = (0..held).map(|_| pool.take().unwrap()).collect();
            let rest = pool.capacity() - held;
            let mut released_at = HashMap::new();
            for (time, pick) in churn.into_iter().enumerate() {
                let index = pick % live.len();
                pool.release(live[index]);
                released_at.insert(live[index], time);
                live[index] = pool.take().unwrap();
                if let Some(at) = released_at.get(&live[index]) {
                    prop_assert!(time - at >= rest);
                }
            }
        }
    }
}
