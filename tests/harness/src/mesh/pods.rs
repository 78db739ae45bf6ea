//! The pods of the shop: who runs where, what each serves, and the manifests that say so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Mesh, Replica};
use crate::app::App;
use crate::fabric::PodNet;
use crate::manifests::{self, PodManifest, Ready};
use crate::protocol::Mode;

pub(super) const CART_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 92, 0, 10));
pub(super) const CART_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd92, 0, 0, 0, 0, 0, 0, 0x10));
pub(super) const GREETER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 92, 0, 11));
pub(super) const SIX: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd92, 0, 0, 0, 0, 0, 0, 0x11));

/// What every application serves, and where.
pub mod ports {
    pub const GREET: u16 = 7000;
    pub const TELL: u16 = 8080;
    pub const SINK: u16 = 8081;
    pub const SOURCE: u16 = 8082;
    pub const RESET: u16 = 8083;
    pub const ECHO: u16 = 8084;
    pub const HTTP: u16 = 8085;
    pub const DISCARD: u16 = 8086;
    /// All of them: none may be seen on the fabric.
    pub const ALL: [u16; 8] = [GREET, TELL, SINK, SOURCE, RESET, ECHO, HTTP, DISCARD];
}

/// Bytes a connection to `ports::SOURCE` receives.
pub(super) const SOURCE_BYTES: u64 = 32 * 1024 * 1024;

/// A pod as the scenario lists it.
#[derive(Debug, Clone, Copy)]
pub struct PodSpec {
    pub name: &'static str,
    pub namespace: &'static str,
    pub node: Replica,
    /// Its service account, and the app label Services select.
    pub account: &'static str,
    pub families: Families,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    Both,
    OnlyV6,
}

const fn pod(
    name: &'static str,
    namespace: &'static str,
    node: Replica,
    account: &'static str,
) -> PodSpec {
    PodSpec {
        name,
        namespace,
        node,
        account,
        families: Families::Both,
    }
}

/// The pods of the scenario.
pub const PODS: [PodSpec; 10] = [
    pod("web", "shop", Replica::A, "web"),
    pod("other", "shop", Replica::A, "other"),
    pod("late", "shop", Replica::A, "late"),
    pod("cart-a", "shop", Replica::A, "cart"),
    pod("cart-b", "shop", Replica::B, "cart"),
    pod("greeter", "shop", Replica::B, "greeter"),
    PodSpec {
        name: "six",
        namespace: "shop",
        node: Replica::B,
        account: "six",
        families: Families::OnlyV6,
    },
    pod("old-client", "legacy", Replica::A, "default"),
    pod("old-server", "legacy", Replica::B, "default"),
    pod("old-neighbour", "legacy", Replica::A, "default"),
];

/// A pod with its application.
#[derive(Debug)]
pub struct Pod {
    pub spec: PodSpec,
    pub app: App,
    pub net: PodNet,
}

impl Mesh {
    pub(super) fn lay_out_pods(&mut self) -> Result<()> {
        for spec in PODS {
            let scope = self.scope.clone();
            let net = self.node_mut(spec.node).host.pod(&scope, spec.name)?;
            let app = App::start(&self.options.binaries.app(), spec.name, net.place())?;
            let serves = [
                (ports::GREET, Mode::Greet),
                (ports::TELL, Mode::Tell),
                (ports::SINK, Mode::Sink),
                (
                    ports::SOURCE,
                    Mode::Source {
                        bytes: SOURCE_BYTES,
                    },
                ),
                (ports::RESET, Mode::Reset),
                (ports::ECHO, Mode::Echo),
                (ports::HTTP, Mode::Http),
                (ports::DISCARD, Mode::Discard),
            ];
            for (port, mode) in serves {
                app.serve(port, mode)?;
            }
            self.pods.insert(spec.name, Pod { spec, app, net });
        }
        Ok(())
    }

    pub(super) fn write_manifests(&self) -> Result<()> {
        self.manifests
            .namespace("shop", &[("istio.io/dataplane-mode", "ambient")])?;
        self.manifests.namespace("legacy", &[])?;
        let cart = [
            (80, ports::TELL),
            (81, ports::SINK),
            (82, ports::SOURCE),
            (83, ports::RESET),
            (84, ports::ECHO),
            (86, ports::DISCARD),
            (8000, ports::HTTP),
        ];
        self.manifests.service("cart", &[CART_V4, CART_V6], &cart)?;
        self.manifests
            .service("greeter", &[GREETER], &[(ports::GREET, ports::GREET)])?;
        self.manifests
            .service("six", &[SIX], &[(80, ports::TELL)])?;
        for spec in &PODS {
            self.write_pod(spec.name, Ready::Yes, &[])?;
        }
        Ok(())
    }

    /// Writes a pod's manifest again, with another readiness or with annotations.
    pub fn write_pod(&self, name: &str, ready: Ready, annotations: &[&str]) -> Result<()> {
        let Pod { spec, net, .. } = self.pod(name);
        let addresses = match spec.families {
            Families::Both => vec![net.v4, net.v6],
            Families::OnlyV6 => vec![net.v6],
        };
        self.manifests.pod(&PodManifest {
            namespace: spec.namespace,
            name: spec.name,
            app: spec.account,
            node: spec.node.name(),
            service_account: spec.account,
            addresses: &addresses,
            ready,
            annotations,
        })
    }

    /// A further pod of `shop` without an application, enrolled and known.
    pub fn add_idle_pod(&mut self, node: Replica, name: &str) -> Result<PodNet> {
        let scope = self.scope.clone();
        let net = self.node_mut(node).host.pod(&scope, name)?;
        self.manifests.pod(&PodManifest {
            namespace: "shop",
            name,
            app: name,
            node: node.name(),
            service_account: "idle",
            addresses: &[net.v4, net.v6],
            ready: Ready::Yes,
            annotations: &[],
        })?;
        self.enrol_into(node, "shop", name, &net)?;
        self.await_protocol(name, "HBONE")?;
        Ok(net)
    }

    /// `ambit enrol`, as an operator runs it.
    pub fn enrol(&self, name: &str) -> Result<()> {
        let Pod { spec, net, .. } = self.pod(name);
        self.enrol_into(spec.node, spec.namespace, spec.name, net)
    }

    fn enrol_into(&self, node: Replica, namespace: &str, name: &str, net: &PodNet) -> Result<()> {
        let path = net.namespace.path().display().to_string();
        let uid = manifests::uid(namespace, name);
        let pod = ["--namespace", namespace, "--name", name];
        let words = [&pod[..], &["--uid", &uid, "--netns", &path]].concat();
        self.ambit(node, "enrol", &words).map(drop)
    }

    /// `ambit unenrol`.
    pub fn unenrol(&self, name: &str) -> Result<()> {
        let spec = self.pod(name).spec;
        let words = ["--namespace", spec.namespace, "--name", spec.name];
        self.ambit(spec.node, "unenrol", &words).map(drop)
    }

    /// Runs the operator's tool on a node and returns what it printed.
    pub fn ambit(&self, node: Replica, command: &str, arguments: &[&str]) -> Result<String> {
        let socket = self.enrol_socket(node);
        let output = Command::new(self.options.binaries.cli())
            .arg(command)
            .arg("--socket")
            .arg(&socket)
            .args(arguments)
            .output()
            .context("run ambit")?;
        ensure!(
            output.status.success(),
            "ambit {command} {}: {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
