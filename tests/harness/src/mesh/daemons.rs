//! Starting, stopping and killing the daemons, and looking at the pages they serve.

use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{Mesh, PODS, Replica};
use crate::app::App;
use crate::daemon::Daemon;
use crate::http;
use crate::metrics::Metrics;
use crate::process::Place;
use crate::wait;

/// A node's admin interface.
pub const ADMIN: &str = "127.0.0.1:15000";
const METRICS: &str = "127.0.0.1:15020";
const READY: &str = "127.0.0.1:15021";
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a page is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    Admin,
    Metrics,
    Ready,
}

impl Served {
    fn address(self) -> SocketAddr {
        let text = match self {
            Self::Admin => ADMIN,
            Self::Metrics => METRICS,
            Self::Ready => READY,
        };
        text.parse().expect("a constant address")
    }
}

impl Mesh {
    /// Starts the controller and waits until it can be asked; makes the nodes' tokens.
    pub fn start_controller(&mut self) -> Result<()> {
        let data = self.controller_data();
        std::fs::create_dir_all(&data)?;
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700))?;
        let cgroup = self.control.daemon_cgroup("controller")?;
        let place = Place {
            namespace: &self.control.namespace,
            cgroup: &cgroup,
        };
        let program = self.options.binaries.controller();
        let arguments = self.controller_arguments();
        let log = self.log_of("controller");
        self.controller = Some(Daemon::start(
            "the controller",
            &program,
            &arguments,
            &log,
            place,
        )?);
        let admin = self.control_admin();
        let (alive, _) = wait::until("the controller to serve its metrics", PATIENCE, || {
            let daemon = self.controller.as_mut().expect("started above");
            if let Err(dead) = daemon.ensure_alive() {
                return Ok(Some(Err(dead)));
            }
            http::get(&self.control.namespace, admin, "/metrics").map(|_| Some(Ok(())))
        })?;
        alive?;
        for replica in Replica::BOTH {
            self.write_token(replica)?;
        }
        Ok(())
    }

    fn write_token(&self, replica: Replica) -> Result<()> {
        use std::io::Write;
        let output = Command::new(self.options.binaries.controller())
            .args(self.token_arguments(replica))
            .output()
            .context("run ambit-controller token")?;
        ensure!(
            output.status.success(),
            "ambit-controller token: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let file = self.token_file(replica);
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&file)?;
        file.write_all(output.stdout.trim_ascii())?;
        Ok(())
    }

    pub fn stop_controller(&mut self) -> Result<()> {
        let controller = self.controller.take().context("the controller runs")?;
        controller.stop(PATIENCE).map(drop)
    }

    /// Holds the controller still without ending it, or lets it go on.
    pub fn signal_controller(&self, signal: Signal) -> Result<()> {
        self.controller
            .as_ref()
            .context("the controller runs")?
            .signal(signal)
    }

    pub fn controller_metrics(&self) -> Result<Metrics> {
        let page = http::get(&self.control.namespace, self.control_admin(), "/metrics")?;
        Ok(Metrics::parse(&page))
    }

    /// Starts a node's daemon and waits until it says it is ready; returns how long that took.
    pub fn start_ztunnel(&mut self, replica: Replica) -> Result<Duration> {
        let start = Instant::now();
        let daemon = self.another_ztunnel(replica)?;
        self.node_mut(replica).ztunnel = Some(daemon);
        self.await_ready(replica)?;
        Ok(start.elapsed())
    }

    /// An application of the node itself, in the cgroup of its probers or in another.
    pub fn host_app(&self, replica: Replica, cgroup: &str) -> Result<App> {
        let node = self.node(replica);
        let cgroup = node.host.daemon_cgroup(cgroup)?;
        let place = Place {
            namespace: &node.host.namespace,
            cgroup: &cgroup,
        };
        App::start(&self.options.binaries.app(), "host", place)
    }

    /// A plain relay of (listen, to) pairs in a node's own namespace, to compare with.
    pub fn start_relay(
        &self,
        replica: Replica,
        routes: &[(SocketAddr, SocketAddr)],
    ) -> Result<Daemon> {
        let name = format!("relay-{}", replica.name());
        let node = self.node(replica);
        let cgroup = node.host.daemon_cgroup("relay")?;
        let place = Place {
            namespace: &node.host.namespace,
            cgroup: &cgroup,
        };
        let mut arguments = vec!["relay".to_owned()];
        arguments.extend(
            routes
                .iter()
                .flat_map(|(listen, to)| [listen.to_string(), to.to_string()]),
        );
        let log = self.log_of(&name);
        let daemon = Daemon::start(&name, &self.options.binaries.app(), &arguments, &log, place)?;
        for (listen, _) in routes {
            let what = format!("{name} to listen on {listen}");
            wait::until(&what, PATIENCE, || {
                let connected = node
                    .host
                    .namespace
                    .within(|| std::net::TcpStream::connect(listen))?;
                Ok(connected.ok().map(drop))
            })?;
        }
        Ok(daemon)
    }

    /// Starts a daemon beside the one that runs, and leaves it to the caller.
    pub fn another_ztunnel(&self, replica: Replica) -> Result<Daemon> {
        let name = format!("ztunnel of node {}", replica.name());
        let node = self.node(replica);
        let cgroup = node.host.daemon_cgroup("ztunnel")?;
        let place = Place {
            namespace: &node.host.namespace,
            cgroup: &cgroup,
        };
        let program = self.options.binaries.ztunnel();
        let arguments = self.ztunnel_arguments(replica);
        Daemon::start(
            &name,
            &program,
            &arguments,
            &self.log_of(replica.name()),
            place,
        )
    }

    pub fn await_ready(&mut self, replica: Replica) -> Result<()> {
        let what = format!("node {} to be ready", replica.name());
        let (alive, _) = wait::until(&what, PATIENCE, || {
            let node = self.node_mut(replica);
            let daemon = node.ztunnel.as_mut().context("the node's daemon runs")?;
            if let Err(dead) = daemon.ensure_alive() {
                return Ok(Some(Err(dead)));
            }
            let ready = Served::Ready.address();
            http::get(&node.host.namespace, ready, "/healthz/ready").map(|_| Some(Ok(())))
        })?;
        alive
    }

    /// Puts another daemon in the place of a node's own; returns the one that was there.
    pub fn replace_ztunnel(&mut self, replica: Replica, daemon: Daemon) -> Option<Daemon> {
        self.node_mut(replica).ztunnel.replace(daemon)
    }

    pub fn take_ztunnel(&mut self, replica: Replica) -> Result<Daemon> {
        self.node_mut(replica)
            .ztunnel
            .take()
            .context("the node's daemon runs")
    }

    /// kill -9.
    pub fn kill_ztunnel(&mut self, replica: Replica) -> Result<()> {
        self.take_ztunnel(replica)?.kill()
    }

    /// SIGTERM, and the wait until it has drained.
    pub fn stop_ztunnel(&mut self, replica: Replica) -> Result<()> {
        self.take_ztunnel(replica)?.stop(PATIENCE).map(drop)
    }

    /// A page of a node's daemon, asked from inside the node.
    pub fn page(&self, replica: Replica, served: Served, path: &str) -> Result<String> {
        http::get(&self.node(replica).host.namespace, served.address(), path)
    }

    pub fn post(&self, replica: Replica, path: &str) -> Result<String> {
        http::post(
            &self.node(replica).host.namespace,
            Served::Admin.address(),
            path,
        )
    }

    pub fn metrics(&self, replica: Replica) -> Result<Metrics> {
        Ok(Metrics::parse(&self.page(
            replica,
            Served::Metrics,
            "/metrics",
        )?))
    }

    /// The admin page with everything a node knows.
    pub fn config_dump(&self, replica: Replica) -> Result<serde_json::Value> {
        let page = self.page(replica, Served::Admin, "/config_dump")?;
        serde_json::from_str(&page).context("read /config_dump")
    }

    /// Waits until every node reaches a pod the given way: `HBONE` or `TCP`.
    pub fn await_protocol(&self, pod: &str, protocol: &str) -> Result<()> {
        self.await_workload(pod, "protocol", protocol)
    }

    /// Waits until every node knows this of a pod, as its admin page shows it.
    pub fn await_workload(&self, pod: &str, field: &str, value: &str) -> Result<()> {
        for replica in Replica::BOTH {
            let what = format!("node {} to see {field} {value} of {pod}", replica.name());
            wait::until(&what, PATIENCE, || {
                let dump = self.config_dump(replica)?;
                let workloads = dump["workloads"]
                    .as_array()
                    .context("config_dump.workloads")?;
                let found = workloads.iter().find(|one| one["name"] == pod);
                Ok(found.filter(|one| one[field] == value).map(drop))
            })?;
        }
        Ok(())
    }

    /// Starts a second daemon beside the first, which it returns.
    pub fn start_successor(&mut self, replica: Replica) -> Result<Daemon> {
        let second = self.another_ztunnel(replica)?;
        self.replace_ztunnel(replica, second)
            .context("a daemon runs")
    }

    /// Waits until the first of two daemons has handed over, drained and ended.
    pub fn await_succession(&mut self, replica: Replica, first: Daemon) -> Result<()> {
        let drained = self.options.ztunnel.drain_deadline + PATIENCE;
        let status = first
            .wait(drained)
            .context("the first daemon did not hand over")?;
        ensure!(status.success(), "the first daemon ended with {status}");
        self.await_ready(replica)
    }

    /// Waits until what was enrolled at the start is known everywhere.
    pub fn await_published(&self) -> Result<()> {
        for spec in &PODS {
            let enrolled = spec.namespace == "shop" && !self.options.leave_out.contains(&spec.name);
            self.await_protocol(spec.name, if enrolled { "HBONE" } else { "TCP" })?;
        }
        Ok(())
    }
}
