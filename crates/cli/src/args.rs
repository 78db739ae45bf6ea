//! The command line, and the only place that reads the environment.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args as Group, Parser, Subcommand, ValueEnum};

#[derive(Debug, Parser)]
#[command(
    name = "ambit",
    version,
    about = "Talk to Ambit's ztunnel on this node"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take a pod into the mesh; returns once its traffic is captured
    Enrol(Enrol),
    /// Let a pod go; returns once its new connections go direct
    Unenrol(Unenrol),
    /// List the enrolled pods, and their connections that are older than their enrolment
    Pods(Pods),
    /// Change what ztunnel logs: a level, or TARGET=LEVEL joined by commas
    Log(Log),
    /// Show all that ztunnel knows, as JSON
    Config(Admin),
}

/// Where the daemon is.
#[derive(Debug, Group)]
pub(crate) struct Daemon {
    /// ztunnel's enrolment socket
    #[arg(long, env = "AMBIT_ENROL_SOCKET", default_value = enrolment::DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
}

/// Where its admin pages are.
#[derive(Debug, Group)]
pub(crate) struct Admin {
    /// ztunnel's admin address
    #[arg(long = "admin", env = "AMBIT_ADMIN", default_value = "127.0.0.1:15000")]
    pub(crate) address: SocketAddr,
}

#[derive(Debug, Group)]
pub(crate) struct Enrol {
    #[arg(long)]
    pub(crate) namespace: String,
    #[arg(long)]
    pub(crate) name: String,
    /// The pod's metadata.uid; made of its names and network namespace if absent
    #[arg(long)]
    pub(crate) uid: Option<String>,
    /// The pod's network namespace, such as /run/netns/NAME or /proc/PID/ns/net
    #[arg(long)]
    pub(crate) netns: PathBuf,
    /// An address of the pod; read from its interfaces if absent
    #[arg(long = "address")]
    pub(crate) addresses: Vec<IpAddr>,
    /// With ztunnel dead, let through unprotected what goes out, what comes in, or both
    #[arg(long, value_enum)]
    pub(crate) fail_open: Vec<Way>,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

/// A way of traffic, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    Outbound,
    Inbound,
}

#[derive(Debug, Group)]
pub(crate) struct Unenrol {
    #[arg(long)]
    pub(crate) namespace: String,
    #[arg(long)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Debug, Group)]
pub(crate) struct Pods {
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) daemon: Daemon,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

#[derive(Debug, Group)]
pub(crate) struct Log {
    /// Such as `debug`, or `info,access=debug`
    pub(crate) filter: String,
    #[command(flatten)]
    pub(crate) admin: Admin,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_pod_may_have_several_addresses() {
        let line = "ambit enrol --namespace shop --name web --netns /run/netns/web \
                    --address 10.0.0.1 --address fd00::1 --fail-open outbound --socket /tmp/s";
        let Command::Enrol(asked) = Args::parse_from(line.split_whitespace()).command else {
            panic!("not an enrolment");
        };
        assert_eq!(asked.addresses.len(), 2);
        assert_eq!(asked.fail_open, [Way::Outbound]);
        assert_eq!(asked.daemon.socket, PathBuf::from("/tmp/s"));
    }
}
