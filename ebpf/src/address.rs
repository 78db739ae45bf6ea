//! Addresses as the programs compare them: four words in network order, IPv4 in the first.
//!
//! An IPv4-mapped address is IPv4 here, so that a dual-stack application is told by where it
//! goes and not by the family of its socket.

use ambit_ebpf_common::PodEntry;

/// One end of a connection.
#[derive(Clone, Copy)]
pub enum Address {
    V4(u32),
    V6([u32; 4]),
}

impl Address {
    #[inline(always)]
    pub fn from_v6(words: [u32; 4]) -> Self {
        if words[0] == 0 && words[1] == 0 && words[2] == u32::to_be(0xffff) {
            Self::V4(words[3])
        } else {
            Self::V6(words)
        }
    }

    #[inline(always)]
    pub fn words(self) -> [u32; 4] {
        match self {
            Self::V4(word) => [word, 0, 0, 0],
            Self::V6(words) => words,
        }
    }

    /// 127/8 and ::1, and the unspecified address, which connect() reads as loopback.
    #[inline(always)]
    pub fn is_loopback(self) -> bool {
        match self {
            Self::V4(word) => {
                word == 0 || word & u32::to_be(0xff00_0000) == u32::to_be(0x7f00_0000)
            }
            Self::V6(words) => {
                words[0] == 0
                    && words[1] == 0
                    && words[2] == 0
                    && (words[3] == 0 || words[3] == u32::to_be(1))
            }
        }
    }

    /// fe80::/10, which no policy route can loop because it is bound to its device.
    #[inline(always)]
    pub fn is_link_local(self) -> bool {
        match self {
            Self::V4(_) => false,
            Self::V6(words) => words[0] & u32::to_be(0xffc0_0000) == u32::to_be(0xfe80_0000),
        }
    }

    /// Whether this is one of the pod's own, loopback included.
    #[inline(always)]
    pub fn is_own(self, pod: &PodEntry) -> bool {
        if self.is_loopback() {
            return true;
        }
        match self {
            Self::V4(word) => word == pod.ip4[0] || word == pod.ip4[1],
            Self::V6(words) => same(words, pod.ip6[0]) || same(words, pod.ip6[1]),
        }
    }
}

#[inline(always)]
fn same(left: [u32; 4], right: [u32; 4]) -> bool {
    left[0] == right[0] && left[1] == right[1] && left[2] == right[2] && left[3] == right[3]
}
