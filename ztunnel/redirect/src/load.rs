//! Puts the kernel programs in place for the node, or takes over those an earlier daemon pinned.

use std::{
    collections::HashMap,
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aya::EbpfError;
use nix::{
    fcntl::{Flock, FlockArg},
    sys::statfs::{CGROUP2_SUPER_MAGIC, statfs},
};
use thiserror::Error;

use crate::{
    bpffs::{self, BpffsError},
    capture::{Capture, MapFault},
    enrol::Pod,
    log::{EbpfLog, EbpfLogs},
    netns::Home,
    program::{self, Constants, Object, Probers, ProgramFault, Tier},
    record::Records,
};

/// Where things are.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cgroup2 under which all pods run; its root to have them all.
    pub cgroup: PathBuf,
    /// A folder on a bpf file system, this node's own.
    pub pin_dir: PathBuf,
    /// A folder on a disk that forgets at the latest with the kernel, this node's own.
    pub state_dir: PathBuf,
    /// What `cargo xtask ebpf` built.
    pub object: PathBuf,
    /// The cgroups whose processes may probe pods in clear: kubelet's.
    pub prober_cgroups: Vec<PathBuf>,
    pub ebpf_log: EbpfLog,
}

#[derive(Debug, Error)]
pub enum LoadError {
    #[error("cannot read the eBPF object {}: build it with `cargo xtask ebpf`", path.display())]
    Object { path: PathBuf, source: io::Error },
    #[error("cannot load the eBPF object (does the daemon have CAP_BPF and CAP_NET_ADMIN?)")]
    Load(#[source] Box<EbpfError>),
    #[error("{} is not a cgroup2 folder", path.display())]
    NotACgroup { path: PathBuf },
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot prepare the pin folder")]
    PinDir(#[from] BpffsError),
    /// The last of the tiers, so the least this daemon can do with.
    #[error("this kernel does not suffice, not even for {tier:?}")]
    Program {
        tier: Tier,
        #[source]
        source: ProgramFault,
    },
    #[error("cannot attach the programs")]
    Attach(#[source] ProgramFault),
    #[error("the kernel maps cannot be used")]
    Map(#[from] MapFault),
    #[error("cannot read the programs' log")]
    Log(#[source] aya_log::Error),
}

/// The node's interception. Dropping it leaves everything in place.
pub struct Redirect {
    pub(crate) object: Object,
    pub(crate) log: EbpfLog,
    pub(crate) capture: Capture,
    pub(crate) records: Records,
    pub(crate) home: Home,
    pub(crate) pod_pins: PathBuf,
    pub(crate) pods: HashMap<String, Pod>,
    tier: Tier,
    logs: Option<EbpfLogs>,
}

impl Redirect {
    /// Loads the programs and puts them into the pinned links, or attaches and pins them.
    ///
    /// Pods that an earlier daemon enrolled stay captured throughout; see
    /// [`Redirect::recorded`]. Call it on a thread in the node's own network namespace.
    ///
    /// # Errors
    /// Names what is missing and what would be left unenforced.
    pub fn load(config: Config) -> Result<Self, LoadError> {
        let bytes = fs::read(&config.object).map_err(|source| LoadError::Object {
            path: config.object.clone(),
            source,
        })?;
        let cgroup = open_cgroup(&config.cgroup)?;
        let probers = config
            .prober_cgroups
            .iter()
            .map(|path| cgroup_id(path))
            .collect::<Result<Vec<_>, _>>()?;
        let records = Records::open(&config.state_dir).map_err(|source| LoadError::Open {
            path: config.state_dir.clone(),
            source,
        })?;
        // Two daemons that start at once would both find nothing pinned.
        let _one_at_a_time = lock(&config.state_dir)?;
        let (pin_maps, pin_links, pod_pins) = pin_folders(&config.pin_dir)?;
        let mut object = Object::new(bytes, &pin_maps);
        let (mut loaded, tier) = load_best_tier(&mut object, &config)?;
        let mut capture = Capture::take_from(&mut loaded)?;
        capture.set_probers(&probers)?;
        let logs = match config.ebpf_log {
            EbpfLog::Off => None,
            EbpfLog::Warn | EbpfLog::Debug => {
                Some(EbpfLogs::open(&mut loaded).map_err(LoadError::Log)?)
            }
        };
        program::attach_to_cgroup(&mut loaded, &cgroup, &pin_links).map_err(LoadError::Attach)?;
        let home = Home::of_this_thread().map_err(|source| LoadError::Open {
            path: PathBuf::from("/proc/thread-self/ns/net"),
            source,
        })?;
        tracing::info!(?tier, cgroup = %config.cgroup.display(), "interception is in place");
        Ok(Self {
            object,
            log: config.ebpf_log,
            capture,
            records,
            home,
            pod_pins,
            pods: HashMap::new(),
            tier,
            logs,
        })
    }

    /// What this kernel allowed.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// The programs' log lines, once, if they were switched on.
    pub fn take_logs(&mut self) -> Option<EbpfLogs> {
        self.logs.take()
    }
}

impl fmt::Debug for Redirect {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Redirect")
            .field("tier", &self.tier)
            .field("pods", &self.pods.keys())
            .finish_non_exhaustive()
    }
}

fn load_best_tier(object: &mut Object, config: &Config) -> Result<(aya::Ebpf, Tier), LoadError> {
    let probers = if config.prober_cgroups.is_empty() {
        Probers::None
    } else {
        Probers::Known
    };
    let mut failure = None;
    for tier in Tier::ALL {
        object.set_constants(Constants {
            tier,
            log: config.ebpf_log,
            probers,
        });
        let mut loaded = object.load().map_err(LoadError::Load)?;
        match program::verify_all(&mut loaded) {
            Ok(()) => return Ok((loaded, tier)),
            Err(source) => {
                tracing::debug!(?tier, error = %source, "the kernel refuses this tier");
                failure = Some(LoadError::Program { tier, source });
            }
        }
    }
    Err(failure.expect("there is at least one tier"))
}

fn pin_folders(pin_dir: &Path) -> Result<(PathBuf, PathBuf, PathBuf), BpffsError> {
    bpffs::prepare(pin_dir)?;
    let folders = (
        pin_dir.join("maps"),
        pin_dir.join("links"),
        pin_dir.join("pods"),
    );
    for folder in [&folders.0, &folders.1, &folders.2] {
        bpffs::create(folder)?;
    }
    Ok(folders)
}

fn lock(state_dir: &Path) -> Result<Flock<File>, LoadError> {
    let path = state_dir.join("lock");
    let fault = |source| LoadError::Open {
        path: path.clone(),
        source,
    };
    let file = File::create(&path).map_err(fault)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| fault(error.into()))
}

fn open_cgroup(path: &Path) -> Result<File, LoadError> {
    let fault = |source| LoadError::Open {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(fault)?;
    let kind = statfs(path).map_err(|error| fault(error.into()))?;
    if kind.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(LoadError::NotACgroup {
            path: path.to_owned(),
        });
    }
    Ok(file)
}

/// On cgroup2 the id of a cgroup is the inode of its folder.
fn cgroup_id(path: &Path) -> Result<u64, LoadError> {
    let metadata = open_cgroup(path)?.metadata();
    Ok(metadata
        .map_err(|source| LoadError::Open {
            path: path.to_owned(),
            source,
        })?
        .ino())
}
