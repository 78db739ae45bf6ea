//! Flags and environment of the controller, checked as a whole: every fault is told at once.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use model::{Network, TrustDomain};

use crate::compile::Settings;

/// As in sysexits.h: the command was used incorrectly.
const EX_USAGE: u8 = 64;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// What any key of the mesh may live without being replaced.
const LONGEST_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
const SERVICE: &str = "ambit-controller";

/// What the binary is asked to do.
#[derive(Debug)]
pub enum Command {
    Run(Box<Config>),
    /// Print a token for a node.
    Token {
        node: String,
        ttl: Duration,
        data_dir: PathBuf,
    },
}

/// Where objects come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Directory(PathBuf),
}

/// How a controller runs.
#[derive(Debug, Clone)]
pub struct Config {
    pub source: Source,
    /// xDS, certificates and reports, in TLS.
    pub listen: SocketAddr,
    /// Readiness, metrics and objects, in clear: a loopback address.
    pub admin: SocketAddr,
    /// Keys, and what must survive a restart.
    pub data_dir: PathBuf,
    pub settings: Settings,
    /// The longest life of a workload's certificate.
    pub certificate_ttl: Duration,
    /// DNS names and addresses daemons know the controller by.
    pub server_names: Vec<String>,
    /// A filter for log lines, as in `RUST_LOG`.
    pub log: String,
}

impl fmt::Display for Config {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings {
            trust_domain,
            root_namespace,
            cluster_id,
            cluster_domain,
            network,
        } = &self.settings;
        let Source::Directory(folder) = &self.source;
        write!(
            out,
            "source=dir:{} listen={} admin={} data-dir={} trust-domain={trust_domain} \
             root-namespace={root_namespace} cluster-id={cluster_id} \
             cluster-domain={cluster_domain} network={:?} certificate-ttl={:?} names={} log={}",
            folder.display(),
            self.listen,
            self.admin,
            self.data_dir.display(),
            network.0,
            self.certificate_ttl,
            self.server_names.join(","),
            self.log,
        )
    }
}

/// Turns manifests into what the daemons need, and signs their certificates.
#[derive(Debug, Parser)]
#[command(
    name = "ambit-controller",
    version,
    args_conflicts_with_subcommands = true
)]
struct CommandLine {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print a token that proves to this controller which node a daemon is
    Token {
        /// The node, as pods name it in spec.nodeName
        #[arg(long)]
        node: String,
        /// How long the token holds, such as 24h
        #[arg(long, default_value = "24h")]
        ttl: String,
        /// The controller's folder of keys
        #[arg(
            long,
            env = "AMBIT_DATA_DIR",
            default_value = "/var/lib/ambit/controller"
        )]
        data_dir: PathBuf,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Where objects come from: dir:PATH, a folder of manifests
    #[arg(long, env = "AMBIT_SOURCE")]
    source: Option<String>,
    /// Address of xDS, certificates and reports
    #[arg(long, env = "AMBIT_LISTEN", default_value = "[::]:15012")]
    listen: String,
    /// Loopback address of readiness, metrics and objects
    #[arg(long, env = "AMBIT_ADMIN", default_value = "127.0.0.1:15014")]
    admin: String,
    /// Folder of keys and reports; only its owner can read it
    #[arg(
        long,
        env = "AMBIT_DATA_DIR",
        default_value = "/var/lib/ambit/controller"
    )]
    data_dir: PathBuf,
    /// Trust domain of all identities
    #[arg(long, env = "AMBIT_TRUST_DOMAIN", default_value = "cluster.local")]
    trust_domain: String,
    /// Namespace whose policies hold for the whole mesh
    #[arg(long, env = "AMBIT_ROOT_NAMESPACE", default_value = "ambit-system")]
    root_namespace: String,
    /// Name of this cluster
    #[arg(long, env = "AMBIT_CLUSTER_ID", default_value = "Kubernetes")]
    cluster_id: String,
    /// Network of workloads that name none
    #[arg(long, env = "AMBIT_NETWORK", default_value = "")]
    network: String,
    /// Suffix of service host names
    #[arg(long, env = "AMBIT_CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// Longest life of a workload's certificate, at most 90d
    #[arg(long, env = "AMBIT_CERTIFICATE_TTL", default_value = "24h")]
    certificate_ttl: String,
    /// A further DNS name or address daemons know the controller by
    #[arg(long = "san", env = "AMBIT_SAN", value_delimiter = ',')]
    sans: Vec<String>,
    /// Filter of log lines
    #[arg(long, env = "AMBIT_LOG", default_value = "info")]
    log: String,
}

/// A flag whose value cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    flag: &'static str,
    reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "--{}: {}", self.flag, self.reason)
    }
}

/// Why there is nothing to do.
#[derive(Debug)]
pub enum Faults {
    /// Help was asked for, or the command line makes no sense.
    CommandLine(clap::Error),
    Values(Vec<Fault>),
}

impl Faults {
    /// Prints them and gives the status to exit with.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::CommandLine(error) => {
                // Where even this cannot be printed, the status still tells.
                error.print().ok();
                match error.exit_code() {
                    0 => ExitCode::SUCCESS,
                    _ => ExitCode::from(EX_USAGE),
                }
            }
            Self::Values(faults) => {
                for fault in faults {
                    eprintln!("ambit-controller: {fault}");
                }
                ExitCode::from(EX_USAGE)
            }
        }
    }
}

impl Command {
    /// Reads the command line and the environment of the process.
    pub fn load() -> Result<Self, Faults> {
        Self::parse(std::env::args_os())
    }

    fn parse<T: Into<std::ffi::OsString> + Clone>(
        words: impl IntoIterator<Item = T>,
    ) -> Result<Self, Faults> {
        let line = CommandLine::try_parse_from(words).map_err(Faults::CommandLine)?;
        match line.action {
            None => line.run.check().map(Box::new).map(Self::Run),
            Some(Action::Token {
                node,
                ttl,
                data_dir,
            }) => {
                let mut faults = Vec::new();
                let ttl = check(&mut faults, "ttl", duration(&ttl));
                let node = check(&mut faults, "node", node_name(node));
                match (node, ttl) {
                    (Some(node), Some(ttl)) => Ok(Self::Token {
                        node,
                        ttl,
                        data_dir,
                    }),
                    (_, _) => Err(Faults::Values(faults)),
                }
            }
        }
    }
}

impl RunArgs {
    fn check(self) -> Result<Config, Faults> {
        let mut faults = Vec::new();
        let source = check(&mut faults, "source", source(self.source.as_deref()));
        let listen = check(&mut faults, "listen", address(&self.listen));
        let admin = check(&mut faults, "admin", loopback(&self.admin));
        let trust_domain = self.trust_domain.parse::<TrustDomain>();
        let trust_domain = trust_domain.map_err(|error| error.to_string());
        let trust_domain = check(&mut faults, "trust-domain", trust_domain);
        let ttl = check(&mut faults, "certificate-ttl", ttl(&self.certificate_ttl));
        let root = check(&mut faults, "root-namespace", word(&self.root_namespace));
        let cluster_id = check(&mut faults, "cluster-id", word(&self.cluster_id));
        let domain = check(&mut faults, "cluster-domain", word(&self.cluster_domain));
        let (Some(source), Some(listen), Some(admin), Some(trust_domain), Some(ttl)) =
            (source, listen, admin, trust_domain, ttl)
        else {
            return Err(Faults::Values(faults));
        };
        let (Some(root_namespace), Some(cluster_id), Some(cluster_domain)) =
            (root, cluster_id, domain)
        else {
            return Err(Faults::Values(faults));
        };
        let mut server_names = vec![
            format!("{SERVICE}.{root_namespace}.svc"),
            format!("{SERVICE}.ambit-system.svc"),
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ];
        server_names.extend(self.sans);
        server_names.sort();
        server_names.dedup();
        Ok(Config {
            source,
            listen,
            admin,
            data_dir: self.data_dir,
            settings: Settings {
                trust_domain,
                root_namespace,
                cluster_id,
                cluster_domain,
                network: Network(self.network.into()),
            },
            certificate_ttl: ttl,
            server_names,
            log: self.log,
        })
    }
}

fn check<T>(faults: &mut Vec<Fault>, flag: &'static str, value: Result<T, String>) -> Option<T> {
    value
        .map_err(|reason| faults.push(Fault { flag, reason }))
        .ok()
}

fn source(text: Option<&str>) -> Result<Source, String> {
    match text.map(|text| text.split_once(':').unwrap_or((text, ""))) {
        Some(("dir", "")) => Err("dir: needs a path".to_owned()),
        Some(("dir", path)) => Ok(Source::Directory(path.into())),
        Some(("kube", _)) => Err("kube is not there yet: use dir:PATH".to_owned()),
        Some(_) | None => Err("is needed: dir:PATH".to_owned()),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an address and port"))
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    let is_loopback = match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    };
    if is_loopback {
        Ok(address)
    } else {
        Err(format!(
            "{address} can be reached from outside: use a loopback address"
        ))
    }
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if ttl > LONGEST_TTL {
        return Err(format!("{text} is longer than 90d"));
    }
    Ok(ttl)
}

fn word(text: &str) -> Result<Arc<str>, String> {
    if text.is_empty() || text.contains(|letter: char| letter.is_whitespace() || letter == '/') {
        return Err(format!("{text:?} is not a name"));
    }
    Ok(text.into())
}

fn node_name(text: String) -> Result<String, String> {
    word(&text).map(|_| text)
}

/// Such as `90s`, `15m`, `24h` or `30d`.
fn duration(text: &str) -> Result<Duration, String> {
    let unit = |suffix: char| match suffix {
        's' => Some(Duration::from_secs(1)),
        'm' => Some(Duration::from_secs(60)),
        'h' => Some(Duration::from_secs(3600)),
        'd' => Some(DAY),
        _ => None,
    };
    let parse = || {
        let suffix = text.chars().next_back()?;
        let count: u32 = text.strip_suffix(suffix)?.parse().ok()?;
        unit(suffix)?.checked_mul(count).filter(|it| !it.is_zero())
    };
    parse().ok_or_else(|| format!("{text:?} is not a time such as 90s, 15m, 24h or 30d"))
}

#[cfg(test)]
mod tests;
