//! What the daemon is told: flags and their environment, read here and nowhere else.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;

/// The command line. Every flag can be given as an environment variable too.
#[derive(Debug, Parser)]
#[command(
    name = "ztunnel",
    version,
    about = "Ambit's node daemon: mutual TLS for the pods of one node"
)]
struct Flags {
    /// Name of the node this daemon serves.
    #[arg(long, env = "AMBIT_NODE")]
    node: String,
    /// The controller: `https://HOST:PORT`, for configuration and certificates.
    #[arg(
        long,
        env = "AMBIT_CONTROLLER",
        default_value = "https://ambit-controller.ambit-system.svc:15012"
    )]
    controller: String,
    /// Name the controller's certificate must show; the host of --controller when absent.
    #[arg(long, env = "AMBIT_CONTROLLER_NAME")]
    controller_name: Option<String>,
    /// Roots the controller's certificate must chain to (PEM).
    #[arg(
        long,
        env = "AMBIT_ROOT_CERT",
        default_value = "/var/run/secrets/istio/root-cert.pem"
    )]
    root_cert: PathBuf,
    /// Token that proves which node this is; read again for every call.
    #[arg(
        long,
        env = "AMBIT_TOKEN",
        default_value = "/var/run/secrets/tokens/istio-token"
    )]
    token: PathBuf,
    /// Pod name and namespace of the daemon itself, for its node id.
    #[arg(long, env = "POD_NAME", default_value = "ztunnel")]
    pod_name: String,
    #[arg(long, env = "POD_NAMESPACE", default_value = "ambit-system")]
    pod_namespace: String,
    /// Address of the daemon, for its node id.
    #[arg(long, env = "INSTANCE_IP", default_value = "127.0.0.1")]
    instance_ip: std::net::IpAddr,
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    cluster_id: String,
    /// Network of this node's pods.
    #[arg(long, env = "NETWORK", default_value = "")]
    network: String,
    /// The cgroup2 folder whose processes are steered.
    #[arg(long, env = "AMBIT_CGROUP", default_value = "/sys/fs/cgroup")]
    cgroup: PathBuf,
    /// Folder on a bpffs where links and maps are pinned, so that they outlive the daemon.
    #[arg(long, env = "AMBIT_PIN_DIR", default_value = "/sys/fs/bpf/ambit")]
    pin_dir: PathBuf,
    /// Folder of what is remembered about enrolments.
    #[arg(long, env = "AMBIT_STATE_DIR", default_value = "/var/run/ambit/pods")]
    state_dir: PathBuf,
    /// The eBPF object.
    #[arg(
        long,
        env = "AMBIT_EBPF",
        default_value = "/usr/lib/ambit/ambit-ebpf.o"
    )]
    ebpf: PathBuf,
    /// From which level on the kernel programs write log lines.
    #[arg(long, env = "AMBIT_EBPF_LOG", value_enum, default_value = "off")]
    ebpf_log: EbpfLog,
    /// cgroup2 folder of a prober such as the kubelet; its probes pass. May be given again.
    #[arg(
        long = "prober-cgroup",
        env = "AMBIT_PROBER_CGROUPS",
        value_delimiter = ','
    )]
    prober_cgroups: Vec<PathBuf>,
    /// The socket on which pods are enrolled.
    #[arg(
        long,
        env = "AMBIT_ENROL_SOCKET",
        default_value = "/var/run/ambit/enrol.sock"
    )]
    enrol_socket: PathBuf,
    /// Loopback address of the admin interface.
    #[arg(long, env = "AMBIT_ADMIN", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    #[arg(long, env = "AMBIT_METRICS", default_value = "[::]:15020")]
    metrics: SocketAddr,
    #[arg(long, env = "AMBIT_READY", default_value = "[::]:15021")]
    ready: SocketAddr,
    /// Data-plane threads; the machine's cores when absent.
    #[arg(long, env = "ZTUNNEL_WORKER_THREADS")]
    workers: Option<NonZeroUsize>,
    /// Seconds that open connections get once the daemon is told to end, such as `30s`.
    #[arg(long, env = "AMBIT_DRAIN_DEADLINE", default_value = "30s", value_parser = duration)]
    drain_deadline: Duration,
    /// Connections a pod may have open through the daemon, each way together.
    #[arg(long, env = "AMBIT_POD_CONNECTIONS", default_value = "20000")]
    pod_connections: usize,
    /// Connections of a pod that may be handshaking or connecting at one time.
    #[arg(long, env = "AMBIT_POD_HANDSHAKES", default_value = "1024")]
    pod_handshakes: usize,
    /// Join pods of this node inside the daemon, or send them through the tunnel like all others.
    #[arg(long, env = "AMBIT_SAME_NODE", value_enum, default_value = "join")]
    same_node: SameNode,
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log: String,
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "plain")]
    log_format: LogFormat,
}

/// What the kernel programs log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EbpfLog {
    Off,
    /// What needs an operator.
    Warn,
    /// Each connection.
    Debug,
}

/// What happens between two pods of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SameNode {
    /// Handed over inside the daemon: same identities, policy and records, nothing on any wire.
    Join,
    /// Through mutual TLS like pods of other nodes.
    Tunnel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    Plain,
    Json,
}

/// The daemon's configuration, checked.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) control: ControlConfig,
    pub(crate) redirect: redirect::Config,
    pub(crate) enrol_socket: PathBuf,
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) ready: SocketAddr,
    pub(crate) workers: NonZeroUsize,
    pub(crate) drain_deadline: Duration,
    pub(crate) data: DataConfig,
    pub(crate) log: telemetry::log::LogConfig,
}

/// How to reach the controller, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct ControlConfig {
    pub(crate) authority: String,
    pub(crate) server_name: String,
    pub(crate) root_cert: PathBuf,
    pub(crate) token: PathBuf,
    pub(crate) pod_name: String,
    pub(crate) pod_namespace: String,
    pub(crate) instance_ip: std::net::IpAddr,
    pub(crate) cluster_id: String,
    pub(crate) node: String,
}

/// What the data path needs to know.
#[derive(Debug, Clone)]
pub(crate) struct DataConfig {
    pub(crate) network: model::Network,
    pub(crate) pod_connections: usize,
    pub(crate) pod_handshakes: usize,
    pub(crate) same_node: SameNode,
}

/// Everything that is wrong with the configuration.
#[derive(Debug)]
pub(crate) struct Faults(Vec<String>);

impl Faults {
    /// Prints them all. 64 is `EX_USAGE` of sysexits.h.
    pub(crate) fn report(self) -> ExitCode {
        for fault in self.0 {
            eprintln!("ztunnel: {fault}");
        }
        ExitCode::from(64)
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text
        .find(|c: char| c.is_ascii_alphabetic())
        .map_or((text, "s"), |at| text.split_at(at));
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is not a number of seconds"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        _ => Err(format!("{text:?} has a unit other than ms, s and m")),
    }
}

impl Config {
    /// Reads flags and environment; tells every fault at once.
    pub(crate) fn load() -> Result<Self, Faults> {
        Self::check(Flags::parse())
    }

    fn check(flags: Flags) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let authority = controller_authority(&flags.controller, &mut faults);
        if !flags.admin.ip().is_loopback() {
            faults.push(format!(
                "--admin: {} is not a loopback address",
                flags.admin
            ));
        }
        if flags.pod_connections == 0 || flags.pod_handshakes == 0 {
            faults.push("--pod-connections and --pod-handshakes must be at least 1".to_owned());
        }
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            control: control(&flags, authority),
            redirect: redirect_config(&flags),
            data: DataConfig {
                network: model::Network(flags.network.as_str().into()),
                pod_connections: flags.pod_connections,
                pod_handshakes: flags.pod_handshakes,
                same_node: flags.same_node,
            },
            enrol_socket: flags.enrol_socket,
            admin: flags.admin,
            metrics: flags.metrics,
            ready: flags.ready,
            workers: flags.workers.unwrap_or(cores),
            drain_deadline: flags.drain_deadline,
            log: log_config(flags.log, flags.log_format),
        })
    }
}

fn controller_authority(url: &str, faults: &mut Vec<String>) -> String {
    let authority = url
        .strip_prefix("https://")
        .unwrap_or_default()
        .trim_end_matches('/');
    if authority.is_empty() || authority.contains('/') || !authority.contains(':') {
        faults.push(format!("--controller: {url:?} is not https://HOST:PORT"));
    }
    authority.to_owned()
}

fn control(flags: &Flags, authority: String) -> ControlConfig {
    let host = authority
        .rsplit_once(':')
        .map_or(authority.as_str(), |(host, _)| host);
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    ControlConfig {
        server_name: flags.controller_name.clone().unwrap_or(host),
        authority,
        root_cert: flags.root_cert.clone(),
        token: flags.token.clone(),
        pod_name: flags.pod_name.clone(),
        pod_namespace: flags.pod_namespace.clone(),
        instance_ip: flags.instance_ip,
        cluster_id: flags.cluster_id.clone(),
        node: flags.node.clone(),
    }
}

fn redirect_config(flags: &Flags) -> redirect::Config {
    redirect::Config {
        cgroup: flags.cgroup.clone(),
        pin_dir: flags.pin_dir.clone(),
        state_dir: flags.state_dir.clone(),
        object: flags.ebpf.clone(),
        prober_cgroups: flags.prober_cgroups.clone(),
        ebpf_log: match flags.ebpf_log {
            EbpfLog::Off => redirect::EbpfLog::Off,
            EbpfLog::Warn => redirect::EbpfLog::Warn,
            EbpfLog::Debug => redirect::EbpfLog::Debug,
        },
    }
}

fn log_config(filter: String, format: LogFormat) -> telemetry::log::LogConfig {
    telemetry::log::LogConfig {
        filter,
        format: match format {
            LogFormat::Plain => telemetry::log::Format::Plain,
            LogFormat::Json => telemetry::log::Format::Json,
        },
    }
}
