//! The network: a bridge all nodes hang on, and pods behind their node, routed without NAT.
//!
//! Nodes are 10.90.0.N and fd90::N, their pods 10.91.N.0/24 and fd91:N::/64. Service addresses
//! (10.92.0.0/24, fd92::/64) lead to a fabric address where nobody answers: what escapes the mesh
//! towards one is seen on the wire rather than lost on the node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::Result;

use crate::cgroup;
use crate::namespace::Namespace;
use crate::process::Place;
use crate::scope::Scope;

const GATEWAY_V6: &str = "fe80::1";

/// The wire between the nodes.
#[derive(Debug)]
pub struct Fabric {
    pub namespace: Namespace,
    scope: Scope,
    hosts: Vec<u8>,
}

/// A host on the fabric: a node, or where the controller runs.
#[derive(Debug)]
pub struct Host {
    pub name: String,
    pub namespace: Namespace,
    pub cgroup: PathBuf,
    number: u8,
    pods: u8,
}

/// A pod's place: its namespace, cgroup and addresses.
#[derive(Debug)]
pub struct PodNet {
    pub namespace: Namespace,
    pub cgroup: PathBuf,
    pub v4: IpAddr,
    pub v6: IpAddr,
}

impl PodNet {
    #[must_use]
    pub fn place(&self) -> Place<'_> {
        Place {
            namespace: &self.namespace,
            cgroup: &self.cgroup,
        }
    }
}

impl Fabric {
    pub fn create(scope: &Scope) -> Result<Self> {
        let namespace = Namespace::create(scope, "fabric")?;
        namespace.ip(&["link", "add", "br0", "type", "bridge"])?;
        namespace.ip(&["addr", "add", "10.90.0.254/24", "dev", "br0"])?;
        namespace.ip(&["addr", "add", "fd90::fe/64", "dev", "br0", "nodad"])?;
        namespace.ip(&["link", "set", "br0", "up"])?;
        Ok(Self {
            namespace,
            scope: scope.clone(),
            hosts: Vec::new(),
        })
    }

    /// Hangs a host on the bridge, with routes to the pods of every other.
    pub fn host(&mut self, name: &str, number: u8) -> Result<Host> {
        let namespace = Namespace::create(&self.scope, name)?;
        let port = format!("to-{name}");
        let peer = namespace.name().to_owned();
        self.namespace.ip(&[
            "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &peer,
        ])?;
        self.namespace
            .ip(&["link", "set", &port, "master", "br0", "up"])?;
        namespace.ip(&[
            "addr",
            "add",
            &format!("10.90.0.{number}/24"),
            "dev",
            "eth0",
        ])?;
        namespace.ip(&[
            "addr",
            "add",
            &format!("fd90::{number}/64"),
            "dev",
            "eth0",
            "nodad",
        ])?;
        namespace.ip(&["link", "set", "eth0", "up"])?;
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            namespace.sysctl(key, "1")?;
        }
        namespace.ip(&["route", "add", "10.92.0.0/24", "via", "10.90.0.254"])?;
        namespace.ip(&["-6", "route", "add", "fd92::/64", "via", "fd90::fe"])?;
        let cgroup = cgroup::root()?.join(self.scope.as_str()).join(name);
        cgroup::create(&cgroup)?;
        self.hosts.push(number);
        Ok(Host {
            name: name.to_owned(),
            namespace,
            cgroup,
            number,
            pods: 0,
        })
    }
}

impl Host {
    #[must_use]
    pub fn v4(&self) -> IpAddr {
        Ipv4Addr::new(10, 90, 0, self.number).into()
    }

    /// Tells this host where another's pods are.
    pub fn route_to_pods_of(&self, other: &Host) -> Result<()> {
        let number = other.number;
        self.namespace.ip(&[
            "route",
            "add",
            &format!("10.91.{number}.0/24"),
            "via",
            &format!("10.90.0.{number}"),
        ])?;
        self.namespace.ip(&[
            "-6",
            "route",
            "add",
            &format!("fd91:{number}::/64"),
            "via",
            &format!("fd90::{number}"),
        ])
    }

    /// A cgroup of its own for a daemon of the host.
    pub fn daemon_cgroup(&self, name: &str) -> Result<PathBuf> {
        let path = self.cgroup.join(name);
        cgroup::create(&path)?;
        Ok(path)
    }

    /// Makes a pod's namespace and joins it to the host as a point-to-point CNI plugin does.
    pub fn pod(&mut self, scope: &Scope, name: &str) -> Result<PodNet> {
        self.pods += 1;
        let (node, pod) = (self.number, self.pods);
        let namespace = Namespace::create(scope, &format!("pod-{name}"))?;
        let link = format!("pod{pod}");
        let peer = namespace.name().to_owned();
        let v4: IpAddr = Ipv4Addr::new(10, 91, node, 10 + pod).into();
        let v6: IpAddr =
            Ipv6Addr::new(0xfd91, node.into(), 0, 0, 0, 0, 0, 0x10 + u16::from(pod)).into();
        let gateway = format!("10.91.{node}.1");

        let host = &self.namespace;
        host.ip(&[
            "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &peer,
        ])?;
        host.ip(&["addr", "add", &format!("{gateway}/32"), "dev", &link])?;
        host.ip(&["link", "set", &link, "up"])?;
        host.ip(&[
            "addr",
            "add",
            &format!("{GATEWAY_V6}/128"),
            "dev",
            &link,
            "nodad",
        ])?;
        namespace.ip(&["addr", "add", &format!("{v4}/32"), "dev", "eth0"])?;
        namespace.ip(&["addr", "add", &format!("{v6}/128"), "dev", "eth0", "nodad"])?;
        namespace.ip(&["link", "set", "eth0", "up"])?;
        namespace.ip(&["route", "add", &gateway, "dev", "eth0", "scope", "link"])?;
        namespace.ip(&["route", "add", "default", "via", &gateway, "dev", "eth0"])?;
        namespace.ip(&[
            "-6", "route", "add", "default", "via", GATEWAY_V6, "dev", "eth0",
        ])?;
        host.ip(&["route", "add", &format!("{v4}/32"), "dev", &link])?;
        host.ip(&["-6", "route", "add", &format!("{v6}/128"), "dev", &link])?;

        let cgroup = self.cgroup.join("pods").join(name);
        cgroup::create(&cgroup)?;
        Ok(PodNet {
            namespace,
            cgroup,
            v4,
            v6,
        })
    }
}
