//! A mesh on this machine: two nodes, their daemons, a controller, and the pods of a small shop.
//!
//! A test says what it does to the mesh (`enrol`, `kill_ztunnel`, `manifests.allow_only`) and looks
//! at it from outside. Everything ends with the value.

mod commands;
mod daemons;
mod pods;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::binaries::Binaries;
use crate::daemon::{self, Daemon};
use crate::fabric::{Fabric, Host};
use crate::manifests::Manifests;
use crate::namespace::Namespace;
use crate::scope::{self, Scope};

pub use commands::{PROBER, ZtunnelSettings};
pub use daemons::{ADMIN, Served};
pub use pods::{PODS, Pod, PodSpec, ports};

/// The node of a pod: `a` or `b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replica {
    A,
    B,
}

impl Replica {
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// What a mesh is started with.
#[derive(Debug, Clone)]
pub struct MeshOptions {
    /// Names everything the mesh makes.
    pub test: String,
    pub binaries: Binaries,
    pub certificate_ttl: Duration,
    pub ztunnel: ZtunnelSettings,
    /// Further flags of the controller, from its next start on.
    pub controller_flags: Vec<String>,
    /// Pods that stay outside the mesh although their namespace is in it.
    pub leave_out: Vec<&'static str>,
}

impl MeshOptions {
    /// For a test: the binaries built beside it.
    pub fn for_test(test: &str) -> Result<Self> {
        Ok(Self::new(test, Binaries::beside_this_test()?))
    }

    #[must_use]
    pub fn new(test: &str, binaries: Binaries) -> Self {
        Self {
            test: test.to_owned(),
            binaries,
            certificate_ttl: Duration::from_secs(20),
            ztunnel: ZtunnelSettings::default(),
            controller_flags: Vec::new(),
            leave_out: vec!["late"],
        }
    }
}

/// A node: a host with its daemon.
#[derive(Debug)]
pub struct Node {
    pub host: Host,
    pub ztunnel: Option<Daemon>,
    folder: PathBuf,
}

/// The whole of it.
#[derive(Debug)]
pub struct Mesh {
    pub manifests: Manifests,
    pub options: MeshOptions,
    pods: BTreeMap<&'static str, Pod>,
    controller: Option<Daemon>,
    nodes: Vec<Node>,
    control: Host,
    fabric: Fabric,
    scope: Scope,
    folder: PathBuf,
}

impl Mesh {
    /// Brings the scenario up: returns when every node is ready and every pod enrolled.
    pub fn start(options: MeshOptions) -> Result<Self> {
        options.binaries.ensure_built()?;
        let mut mesh = Self::lay_out(options)?;
        match mesh.bring_up() {
            Ok(()) => Ok(mesh),
            Err(error) => Err(error.context(mesh.diagnosis())),
        }
    }

    /// The network, the pods and their applications, with no daemon running.
    pub fn lay_out(options: MeshOptions) -> Result<Self> {
        let scope = Scope::new(&options.test)?;
        let folder = scope.folder();
        std::fs::create_dir_all(folder.join("logs"))
            .with_context(|| format!("make {}", folder.display()))?;
        let manifests = Manifests::create(&folder.join("manifests"))?;
        let mut fabric = Fabric::create(&scope)?;
        let control = fabric.host("control", 100)?;
        let mut mesh = Self {
            manifests,
            options,
            pods: BTreeMap::new(),
            controller: None,
            nodes: Vec::new(),
            control,
            fabric,
            scope,
            folder,
        };
        mesh.lay_out_nodes()?;
        mesh.lay_out_pods()?;
        Ok(mesh)
    }

    fn bring_up(&mut self) -> Result<()> {
        self.write_manifests()?;
        self.start_controller()?;
        for replica in Replica::BOTH {
            self.start_ztunnel(replica)?;
        }
        for spec in &PODS {
            if spec.namespace == "shop" && !self.options.leave_out.contains(&spec.name) {
                self.enrol(spec.name)?;
            }
        }
        self.await_published()
    }

    fn lay_out_nodes(&mut self) -> Result<()> {
        for (number, replica) in (1..).zip(Replica::BOTH) {
            let host = self.fabric.host(replica.name(), number)?;
            let folder = self.folder.join(replica.name());
            std::fs::create_dir_all(folder.join("state"))?;
            // Where a kubelet would run: its probes are let through.
            host.daemon_cgroup(commands::PROBER)?;
            self.nodes.push(Node {
                host,
                ztunnel: None,
                folder,
            });
        }
        let [a, b] = &self.nodes[..] else {
            unreachable!("two were made")
        };
        a.host.route_to_pods_of(&b.host)?;
        b.host.route_to_pods_of(&a.host)?;
        self.mount_bpf()
    }

    /// A bpffs of the mesh's own: unmounting it detaches everything pinned there.
    fn mount_bpf(&self) -> Result<()> {
        let point = self.folder.join("bpf");
        std::fs::create_dir_all(&point)?;
        nix::mount::mount(
            Some("bpf"),
            &point,
            Some("bpf"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("mount a bpffs at {}", point.display()))
    }

    #[must_use]
    pub fn node(&self, replica: Replica) -> &Node {
        &self.nodes[replica as usize]
    }

    fn node_mut(&mut self, replica: Replica) -> &mut Node {
        &mut self.nodes[replica as usize]
    }

    #[must_use]
    pub fn fabric(&self) -> &Namespace {
        &self.fabric.namespace
    }

    #[must_use]
    pub fn pod(&self, name: &str) -> &Pod {
        self.pods
            .get(name)
            .unwrap_or_else(|| panic!("the scenario has no pod {name}"))
    }

    /// The Service `cart` by its IPv4 address.
    #[must_use]
    pub fn cart(&self, port: u16) -> SocketAddr {
        SocketAddr::new(pods::CART_V4, port)
    }

    #[must_use]
    pub fn cart_v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(pods::CART_V6, port)
    }

    /// The Service `greeter`, which speaks first.
    #[must_use]
    pub fn greeter(&self) -> SocketAddr {
        SocketAddr::new(pods::GREETER, ports::GREET)
    }

    /// The Service `six`, which has only IPv6.
    #[must_use]
    pub fn six(&self) -> SocketAddr {
        SocketAddr::new(pods::SIX, 80)
    }

    #[must_use]
    pub fn address_of(&self, pod: &str, port: u16) -> SocketAddr {
        SocketAddr::new(self.pod(pod).net.v4, port)
    }

    #[must_use]
    pub fn v6_address_of(&self, pod: &str, port: u16) -> SocketAddr {
        SocketAddr::new(self.pod(pod).net.v6, port)
    }

    #[must_use]
    pub fn log_of(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{name}.log"))
    }

    /// The lines a node's daemon logged that hold all of the words.
    pub fn log_lines(&self, replica: Replica, words: &[&str]) -> Result<Vec<String>> {
        let log = self.log_of(replica.name());
        let text = std::fs::read(&log).with_context(|| format!("read {}", log.display()))?;
        let text = String::from_utf8_lossy(&text);
        let matching = text
            .lines()
            .filter(|line| words.iter().all(|word| line.contains(word)));
        Ok(matching.map(str::to_owned).collect())
    }

    /// What the daemons said last, for a failure's report.
    #[must_use]
    pub fn diagnosis(&self) -> String {
        let mut text = String::from("the mesh failed; its daemons said last:\n");
        for name in ["controller", "a", "b"] {
            let log = self.log_of(name);
            let tail = daemon::tail(&log, 6000);
            // Writing to a String cannot fail.
            writeln!(text, "--- {name} ({})\n{tail}", log.display()).ok();
        }
        text
    }

    /// Copies the logs to a folder that outlives the mesh.
    pub fn keep_logs(&self) -> Result<PathBuf> {
        let kept = std::env::temp_dir().join(format!("{}-logs", self.scope.as_str()));
        std::fs::create_dir_all(&kept)?;
        for entry in std::fs::read_dir(self.folder.join("logs"))? {
            let entry = entry?;
            std::fs::copy(entry.path(), kept.join(entry.file_name()))?;
        }
        Ok(kept)
    }

    /// Where the policy files and all other manifests lie.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    #[must_use]
    pub fn control_namespace(&self) -> &Namespace {
        &self.control.namespace
    }

    fn control_address(&self) -> IpAddr {
        self.control.v4()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            match self.keep_logs() {
                Ok(folder) => eprintln!("the daemons' logs are in {}", folder.display()),
                Err(error) => eprintln!("the daemons' logs could not be kept: {error:#}"),
            }
        }
        self.pods.clear();
        for node in &mut self.nodes {
            node.ztunnel = None;
        }
        self.controller = None;
        if let Err(error) = scope::remove(&self.scope) {
            eprintln!("{} was not removed whole: {error:#}", self.scope.as_str());
        }
    }
}
