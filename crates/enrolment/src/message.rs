//! The messages, as both ends see them.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// Take a pod into the mesh. The one request that carries a descriptor: the pod's namespace.
    Enrol(Enrol),
    /// Let a pod go.
    Unenrol(Unenrol),
    /// List the pods: one [`Reply::Pod`] each, then [`Reply::Ack`].
    Pods,
    /// A successor is about to open its own listeners: refuse changes from here on. Undone when
    /// the connection ends before [`Request::Release`].
    Prepare,
    /// The successor serves the pods: let go of listeners, ports and this socket.
    Release,
}

/// A pod to take in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Enrol {
    /// The pod's `metadata.uid`, or another name that is never used twice.
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// A path under which the namespace can be opened again after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_path: Option<PathBuf>,
    /// The pod's addresses; read from its interfaces when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// With the daemon dead, let the pod's own connections out in clear.
    #[serde(default)]
    pub fail_open_outbound: bool,
    /// With the daemon dead, let connections in without policy.
    #[serde(default)]
    pub fail_open_inbound: bool,
}

/// A pod to let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Unenrol {
    pub namespace: String,
    pub name: String,
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// Done.
    Ack,
    /// Not done, and why.
    Refused(String),
    /// One line of the list of pods.
    Pod(Box<PodStatus>),
}

/// Where a pod stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PodState {
    Enrolled,
    /// New connections go direct; tunnels that are open are still served.
    Leaving,
}

/// A TCP connection of a pod, from the pod's side.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Connection {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// What is known of an enrolled pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub state: PodState,
    pub addresses: Vec<IpAddr>,
    /// The kernel's cookie of the pod's network namespace.
    pub cookie: u64,
    /// Connections that were open when the pod was enrolled and still are: they bypass the mesh.
    pub connections_before_enrolment: Vec<Connection>,
    /// How many more there are than one packet can list.
    #[serde(default)]
    pub connections_not_listed: usize,
    /// Tunnelled connections to the pod.
    pub tunnels: usize,
}
