//! How pods reach ztunnel: one Unix socket of packets, spoken by `ambit enrol`, the CNI plugin
//! and a successor that takes over.
//!
//! Every message is one packet of JSON; an enrolment carries the pod's network namespace as one
//! descriptor. This crate speaks the protocol and acts on nothing.

mod client;
mod listener;
mod message;
mod packet;

pub use client::{Client, ClientError};
pub use listener::{ListenError, Listener, Peer, Received};
pub use message::{Connection, Enrol, PodState, PodStatus, Reply, Request, Unenrol};
pub use packet::PacketError;

/// Where the daemon listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/ambit/enrol.sock";
