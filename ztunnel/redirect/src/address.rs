//! A pod's addresses, and the words the kernel programs compare them by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ambit_ebpf_common::ADDRESSES;

/// The pod's own addresses, the first of each family being its source address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) ipv4: Vec<Ipv4Addr>,
    pub(crate) ipv6: Vec<Ipv6Addr>,
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(all: I) -> Self {
        let mut addresses = Self::default();
        for ip in all {
            match ip.to_canonical() {
                IpAddr::V4(ip) => addresses.ipv4.push(ip),
                IpAddr::V6(ip) => addresses.ipv6.push(ip),
            }
        }
        addresses
    }
}

impl Addresses {
    pub(crate) fn iter(&self) -> impl Iterator<Item = IpAddr> {
        let ipv4 = self.ipv4.iter().copied().map(IpAddr::from);
        ipv4.chain(self.ipv6.iter().copied().map(IpAddr::from))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ipv4.is_empty() && self.ipv6.is_empty()
    }

    /// Whether the kernel programs have room for all.
    pub(crate) fn fit(&self) -> bool {
        self.ipv4.len() <= ADDRESSES && self.ipv6.len() <= ADDRESSES
    }

    pub(crate) fn ipv4_words(&self) -> [u32; ADDRESSES] {
        let mut words = [0; ADDRESSES];
        for (word, ip) in words.iter_mut().zip(&self.ipv4) {
            *word = u32::from_ne_bytes(ip.octets());
        }
        words
    }

    pub(crate) fn ipv6_words(&self) -> [[u32; 4]; ADDRESSES] {
        let mut words = [[0; 4]; ADDRESSES];
        for (words, ip) in words.iter_mut().zip(&self.ipv6) {
            for (word, octets) in words.iter_mut().zip(ip.octets().as_chunks::<4>().0) {
                *word = u32::from_ne_bytes(*octets);
            }
        }
        words
    }
}
