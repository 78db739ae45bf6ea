//! `ambit enrol` and `ambit unenrol`.

use std::{
    fs::File,
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use enrolment::{Client, ClientError};

use crate::args::{Enrol, Unenrol, Way};

#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolError {
    #[error("cannot open the network namespace {}; does it exist, and is this root?", path.display())]
    Namespace { path: PathBuf, source: io::Error },
    #[error("cannot make {} absolute", path.display())]
    Path { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Daemon(#[from] ClientError),
}

pub(crate) fn enrol(asked: Enrol) -> Result<String, EnrolError> {
    let (netns, inode) = open(&asked.netns)?;
    let names = format!("{}/{}", asked.namespace, asked.name);
    let client = Client::connect(&asked.daemon.socket)?;
    client.enrol(request(asked, inode)?, netns.as_fd())?;
    Ok(format!("{names} is enrolled\n"))
}

pub(crate) fn unenrol(asked: &Unenrol) -> Result<String, EnrolError> {
    let Unenrol {
        namespace,
        name,
        daemon,
    } = asked;
    Client::connect(&daemon.socket)?.unenrol(namespace, name)?;
    Ok(format!("{namespace}/{name} is un-enrolled\n"))
}

fn open(path: &Path) -> Result<(File, u64), EnrolError> {
    let failed = |source| EnrolError::Namespace {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let inode = file.metadata().map_err(failed)?.ino();
    Ok((file, inode))
}

fn request(asked: Enrol, inode: u64) -> Result<enrolment::Enrol, EnrolError> {
    let path = std::path::absolute(&asked.netns).map_err(|source| EnrolError::Path {
        path: asked.netns.clone(),
        source,
    })?;
    Ok(enrolment::Enrol {
        uid: asked
            .uid
            .unwrap_or_else(|| uid(&asked.namespace, &asked.name, inode)),
        namespace: asked.namespace,
        name: asked.name,
        // One below /proc/PID goes with the process, and could then name another's.
        netns_path: (!path.starts_with("/proc")).then_some(path),
        addresses: asked.addresses,
        fail_open_outbound: asked.fail_open.contains(&Way::Outbound),
        fail_open_inbound: asked.fail_open.contains(&Way::Inbound),
    })
}

/// A uid for a pod that has none: the same for the same namespace, so that enrolling it again is
/// seen as such. Kubernetes names hold no `_`, so different pods cannot meet.
fn uid(namespace: &str, name: &str, inode: u64) -> String {
    format!("{namespace}_{name}_{inode}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Daemon;

    fn asked(netns: &str) -> Enrol {
        Enrol {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: None,
            netns: netns.into(),
            addresses: Vec::new(),
            fail_open: vec![Way::Inbound],
            daemon: Daemon {
                socket: "/nowhere/enrol.sock".into(),
            },
        }
    }

    #[test]
    fn a_pod_without_uid_gets_one_that_can_name_a_file() {
        let made = request(asked("/run/netns/web"), 42).unwrap();
        assert_eq!(made.uid, "shop_web_42");
        assert_eq!(
            made.netns_path.as_deref(),
            Some(Path::new("/run/netns/web"))
        );
        assert!(made.fail_open_inbound && !made.fail_open_outbound);
    }

    #[test]
    fn a_path_that_goes_with_a_process_is_not_remembered() {
        assert_eq!(
            request(asked("/proc/1/ns/net"), 42).unwrap().netns_path,
            None
        );
    }

    #[test]
    fn without_a_daemon_the_error_tells_what_to_check() {
        let error = enrol(asked("/proc/self/ns/net")).unwrap_err();
        let told = crate::chain(&error);
        assert!(told.contains("/nowhere/enrol.sock"), "{told}");
        assert!(told.contains("does it run"), "{told}");
        let error = enrol(asked("/nowhere/netns")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/netns"), "{error}");
    }
}
