//! The command lines of the daemons: the one place that knows their flags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Mesh, Replica};

/// Settings of a node's daemon that tests vary.
#[derive(Debug, Clone)]
pub struct ZtunnelSettings {
    pub drain_deadline: Duration,
    /// `join` or `tunnel`: what happens between pods of one node.
    pub same_node: &'static str,
    /// A filter for its log, as RUST_LOG takes it.
    pub log: &'static str,
}

impl Default for ZtunnelSettings {
    fn default() -> Self {
        Self {
            drain_deadline: Duration::from_secs(5),
            same_node: "join",
            log: "info",
        }
    }
}

pub(super) const CONTROL_PORT: u16 = 15012;
/// The cgroup of a node whose processes are probers.
pub const PROBER: &str = "kubelet";
const CONTROL_ADMIN: &str = "127.0.0.1:15014";

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn flags(pairs: &[(&str, String)]) -> Vec<String> {
    pairs
        .iter()
        .flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()])
        .collect()
}

impl Mesh {
    pub(super) fn controller_data(&self) -> PathBuf {
        self.folder.join("controller")
    }

    pub(super) fn controller_arguments(&self) -> Vec<String> {
        let ttl = self.options.certificate_ttl.as_secs();
        let listen = SocketAddr::new(self.control_address(), CONTROL_PORT);
        let mut arguments = flags(&[
            (
                "--source",
                format!("dir:{}", self.manifests.folder().display()),
            ),
            ("--listen", listen.to_string()),
            ("--admin", CONTROL_ADMIN.to_owned()),
            ("--data-dir", path(&self.controller_data())),
            ("--san", self.control_address().to_string()),
            ("--certificate-ttl", format!("{ttl}s")),
        ]);
        arguments.extend(self.options.controller_flags.iter().cloned());
        arguments
    }

    pub(super) fn control_admin(&self) -> SocketAddr {
        CONTROL_ADMIN.parse().expect("a constant address")
    }

    /// `ambit-controller token`, whose output is the node's token.
    pub(super) fn token_arguments(&self, replica: Replica) -> Vec<String> {
        let mut arguments = vec!["token".to_owned()];
        arguments.extend(flags(&[
            ("--node", replica.name().to_owned()),
            ("--data-dir", path(&self.controller_data())),
        ]));
        arguments
    }

    #[must_use]
    pub fn enrol_socket(&self, replica: Replica) -> PathBuf {
        self.node(replica).folder.join("enrol.sock")
    }

    #[must_use]
    pub fn pin_folder(&self, replica: Replica) -> PathBuf {
        self.folder.join("bpf").join(replica.name())
    }

    pub(super) fn token_file(&self, replica: Replica) -> PathBuf {
        self.node(replica).folder.join("token")
    }

    pub(super) fn root_file(&self) -> PathBuf {
        self.controller_data().join("root-cert.pem")
    }

    pub(super) fn ztunnel_arguments(&self, replica: Replica) -> Vec<String> {
        let node = self.node(replica);
        let control = SocketAddr::new(self.control_address(), CONTROL_PORT);
        let settings = &self.options.ztunnel;
        flags(&[
            ("--node", replica.name().to_owned()),
            ("--controller", format!("https://{control}")),
            ("--root-cert", path(&self.root_file())),
            ("--token", path(&self.token_file(replica))),
            ("--cgroup", path(&node.host.cgroup)),
            ("--pin-dir", path(&self.pin_folder(replica))),
            ("--state-dir", path(&node.folder.join("state"))),
            ("--ebpf", path(self.options.binaries.ebpf())),
            ("--enrol-socket", path(&self.enrol_socket(replica))),
            ("--admin", "127.0.0.1:15000".to_owned()),
            ("--metrics", "[::]:15020".to_owned()),
            ("--ready", "[::]:15021".to_owned()),
            (
                "--drain-deadline",
                format!("{}ms", settings.drain_deadline.as_millis()),
            ),
            ("--prober-cgroup", path(&node.host.cgroup.join(PROBER))),
            ("--same-node", settings.same_node.to_owned()),
            ("--log", settings.log.to_owned()),
        ])
    }
}
