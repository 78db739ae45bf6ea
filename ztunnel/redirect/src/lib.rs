//! Hop 1 of 7, from user space: loads the kernel programs and opens a pod's sockets.
//!
//! [`Redirect`] owns what is pinned in the kernel; [`PodSockets`] makes sockets inside a pod.
//! Everything unsafe, netlink and aya of the daemon lives here. This crate accepts no connection,
//! starts no task and decides nothing about traffic. Dropping it removes nothing: interception
//! outlives the daemon, and only [`Redirect::remove`] ends it.
#![expect(
    unsafe_code,
    reason = "raw bpf(2), socket options and setns have no safe form"
)]

mod address;
mod bpffs;
mod capture;
mod enrol;
mod established;
mod load;
mod log;
mod netlink;
mod netns;
mod policy_route;
mod program;
mod record;
mod sockets;
mod sys;

pub use crate::{
    capture::Counters,
    enrol::{EnrolError, EnrolRequest, Enrolled, UnenrolError, Verified, VerifyError},
    load::{Config, LoadError, Redirect},
    log::{EbpfLog, EbpfLogs},
    program::Tier,
    record::{FailMode, FailPolicy, Recorded, Stage},
    sockets::{Family, PodListeners, PodSockets},
};
