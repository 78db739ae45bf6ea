//! The object with the kernel programs: loading, attaching, pinning, replacing in place.
//!
//! Knows links and cgroups, not pods.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use ambit_ebpf_common::{globals, maps};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    pin::PinError,
    programs::{
        CgroupAttachMode, CgroupSockAddr, Program, ProgramError, SkLookup, SockOps,
        links::{FdLink, LinkError},
    },
};
use thiserror::Error;

use crate::{log::EbpfLog, sys};

const CONNECT: [&str; 2] = ["ambit_connect4", "ambit_connect6"];
const SOCK_OPS: &str = "ambit_sock_ops";
const SK_LOOKUP: [&str; 2] = ["ambit_sk_lookup", "ambit_sk_lookup_logged"];

/// How much this kernel can do; found by loading, never by its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// All of it (Linux 5.18 and backports).
    Full,
    /// A connect refused by the hook reads EPERM instead of ECONNREFUSED.
    WithoutRefusalReason,
}

impl Tier {
    /// From the best on.
    pub(crate) const ALL: [Self; 2] = [Self::Full, Self::WithoutRefusalReason];

    fn set_retval(self) -> &'static u32 {
        match self {
            Self::Full => &1,
            Self::WithoutRefusalReason => &0,
        }
    }
}

/// What is compiled into the programs when they are loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Constants {
    pub(crate) tier: Tier,
    pub(crate) log: EbpfLog,
    pub(crate) probers: Probers,
}

/// Whether any cgroup is known to probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probers {
    None,
    Known,
}

#[derive(Debug, Error)]
pub enum ProgramFault {
    #[error(
        "the object has no program {name} of the expected kind: rebuild it with `cargo xtask ebpf`"
    )]
    Missing { name: &'static str },
    #[error("the kernel does not take program {name}; without it {unenforced}")]
    Rejected {
        name: &'static str,
        unenforced: &'static str,
        source: Box<ProgramError>,
    },
    #[error("cannot attach program {name}: is another program attached exclusively there?")]
    Attach {
        name: &'static str,
        source: Box<ProgramError>,
    },
    #[error("cannot take the link of program {name}")]
    Link {
        name: &'static str,
        source: LinkError,
    },
    #[error("cannot pin the link at {}", path.display())]
    Pin { path: PathBuf, source: PinError },
    #[error("cannot replace the program of the link pinned at {}", path.display())]
    Replace { path: PathBuf, source: io::Error },
}

/// Loads copies of the object; kept, because making one costs 25 ms.
pub(crate) struct Object {
    bytes: Vec<u8>,
    loader: EbpfLoader<'static>,
}

impl Object {
    pub(crate) fn new(bytes: Vec<u8>, pin_maps: &Path) -> Self {
        let mut loader = EbpfLoader::new();
        // The programs need no types of the kernel's, and its own description takes 15 MiB.
        loader.btf(None);
        for name in maps::SHARED {
            loader.map_pin_path(name, pin_maps.join(name));
        }
        Self { bytes, loader }
    }

    pub(crate) fn set_constants(&mut self, constants: Constants) {
        let probers: &'static u32 = match constants.probers {
            Probers::None => &0,
            Probers::Known => &1,
        };
        self.loader
            .override_global(aya_log::LEVEL, constants.log.level(), true)
            .override_global(globals::SET_RETVAL, constants.tier.set_retval(), true)
            .override_global(globals::PROBERS_KNOWN, probers, true);
    }

    /// Maps are made or found by their pins; no program is in the kernel yet.
    pub(crate) fn load(&mut self) -> Result<Ebpf, Box<EbpfError>> {
        self.loader.load(&self.bytes).map_err(Box::new)
    }
}

/// Has the verifier look at every program.
pub(crate) fn verify_all(object: &mut Ebpf) -> Result<(), ProgramFault> {
    for name in CONNECT {
        connect_program(object, name)?
            .load()
            .map_err(|source| ProgramFault::Rejected {
                name,
                unenforced: "connections of pods would leave in clear",
                source: Box::new(source),
            })?;
    }
    sock_ops_program(object)?
        .load()
        .map_err(|source| ProgramFault::Rejected {
            name: SOCK_OPS,
            unenforced: "probes of the node could not be told from other plaintext",
            source: Box::new(source),
        })?;
    for name in SK_LOOKUP {
        load_sk_lookup(object, name)?;
    }
    Ok(())
}

fn load_sk_lookup(object: &mut Ebpf, name: &'static str) -> Result<(), ProgramFault> {
    sk_lookup_program(object, name)?
        .load()
        .map_err(|source| ProgramFault::Rejected {
            name,
            unenforced: "connections to pods would pass without policy \
                         (it needs ingress_ifindex, Linux 5.17)",
            source: Box::new(source),
        })
}

/// Attaches the verified programs to `cgroup`, in place of those pinned by an earlier daemon.
pub(crate) fn attach_to_cgroup(
    object: &mut Ebpf,
    cgroup: &File,
    links: &Path,
) -> Result<(), ProgramFault> {
    for name in CONNECT {
        let program = connect_program(object, name)?;
        let fd = program.fd().map_err(|source| attach_fault(name, source))?;
        let pin = links.join(name);
        if replaced(&pin, cgroup, fd)? {
            continue;
        }
        let link = program
            // The kernel wants no flags for links, which are always multiple.
            .attach(cgroup, CgroupAttachMode::Single)
            .and_then(|id| program.take_link(id))
            .map_err(|source| attach_fault(name, source))?;
        let link = FdLink::try_from(link).map_err(|source| ProgramFault::Link { name, source })?;
        pin_link(link, &pin)?;
    }
    let program = sock_ops_program(object)?;
    let fd = program
        .fd()
        .map_err(|source| attach_fault(SOCK_OPS, source))?;
    let pin = links.join(SOCK_OPS);
    if replaced(&pin, cgroup, fd)? {
        return Ok(());
    }
    let link = program
        .attach(cgroup, CgroupAttachMode::Single)
        .and_then(|id| program.take_link(id))
        .map_err(|source| attach_fault(SOCK_OPS, source))?;
    let link = FdLink::try_from(link).map_err(|source| ProgramFault::Link {
        name: SOCK_OPS,
        source,
    })?;
    pin_link(link, &pin)
}

/// Attaches this copy's `sk_lookup` to a namespace, in place of the one pinned at `pin`.
pub(crate) fn attach_to_netns(
    object: &mut Ebpf,
    log: EbpfLog,
    netns: &OwnedFd,
    pin: &Path,
) -> Result<(), ProgramFault> {
    let name = match log {
        EbpfLog::Off => SK_LOOKUP[0],
        EbpfLog::Warn | EbpfLog::Debug => SK_LOOKUP[1],
    };
    load_sk_lookup(object, name)?;
    let program = sk_lookup_program(object, name)?;
    let fd = program.fd().map_err(|source| attach_fault(name, source))?;
    if let Ok(link) = sys::pinned(pin) {
        // Fails if the link's namespace is gone, in which case the pin is worthless.
        if sys::update_link(&link, fd).is_ok() {
            return Ok(());
        }
    }
    let link = program
        .attach(netns)
        .and_then(|id| program.take_link(id))
        .map_err(|source| attach_fault(name, source))?;
    pin_link(FdLink::from(link), pin)
}

/// Puts `program` into the link pinned at `pin`, if that is a link to this very cgroup.
fn replaced(pin: &Path, cgroup: &File, program: impl AsFd) -> Result<bool, ProgramFault> {
    let fault = |source| ProgramFault::Replace {
        path: pin.to_owned(),
        source,
    };
    let link = match sys::pinned(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(fault(error)),
    };
    let attached_to = sys::link_info(&link).map_err(fault)?.cgroup();
    if attached_to != cgroup.metadata().map_err(fault)?.ino() {
        tracing::warn!(pin = %pin.display(), "pinned to another cgroup: attaching anew");
        return Ok(false);
    }
    sys::update_link(&link, program).map_err(fault)?;
    Ok(true)
}

/// Pins a link, taking the place of what was pinned there only once the new one stands.
fn pin_link(link: FdLink, pin: &Path) -> Result<(), ProgramFault> {
    // A bpf file system takes no dots in names.
    let mut new = pin.as_os_str().to_owned();
    new.push("_new");
    let new = PathBuf::from(new);
    if new.exists() {
        // Left by a daemon that died between the two steps.
        fs::remove_file(&new).map_err(|source| ProgramFault::Replace {
            path: new.clone(),
            source,
        })?;
    }
    link.pin(&new).map_err(|source| ProgramFault::Pin {
        path: new.clone(),
        source,
    })?;
    fs::rename(&new, pin).map_err(|source| ProgramFault::Replace {
        path: pin.to_owned(),
        source,
    })
}

fn attach_fault(name: &'static str, source: ProgramError) -> ProgramFault {
    ProgramFault::Attach {
        name,
        source: Box::new(source),
    }
}

fn connect_program<'a>(
    object: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut CgroupSockAddr, ProgramFault> {
    match object.program_mut(name) {
        Some(Program::CgroupSockAddr(program)) => Ok(program),
        _ => Err(ProgramFault::Missing { name }),
    }
}

fn sock_ops_program(object: &mut Ebpf) -> Result<&mut SockOps, ProgramFault> {
    match object.program_mut(SOCK_OPS) {
        Some(Program::SockOps(program)) => Ok(program),
        _ => Err(ProgramFault::Missing { name: SOCK_OPS }),
    }
}

fn sk_lookup_program<'a>(
    object: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SkLookup, ProgramFault> {
    match object.program_mut(name) {
        Some(Program::SkLookup(program)) => Ok(program),
        _ => Err(ProgramFault::Missing { name }),
    }
}

#[cfg(test)]
mod tests {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };

    use super::*;
    use crate::bpffs;

    #[test]
    #[ignore = "needs root: netns"]
    fn the_verifier_takes_every_combination_of_constants() {
        unshare(CloneFlags::CLONE_NEWNS).expect("needs root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let folder = tempfile::tempdir().unwrap();
        bpffs::prepare(folder.path()).unwrap();
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../target/ebpf/ambit-ebpf.o"
        );
        let bytes = fs::read(path).expect("built by `cargo xtask ebpf`");
        let mut object = Object::new(bytes, folder.path());
        for tier in Tier::ALL {
            for log in [EbpfLog::Off, EbpfLog::Warn, EbpfLog::Debug] {
                for probers in [Probers::None, Probers::Known] {
                    let constants = Constants { tier, log, probers };
                    object.set_constants(constants);
                    let mut loaded = object.load().unwrap();
                    verify_all(&mut loaded).unwrap_or_else(|fault| {
                        panic!("{constants:?}: {fault:?}");
                    });
                }
            }
        }
        nix::mount::umount2(folder.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}
