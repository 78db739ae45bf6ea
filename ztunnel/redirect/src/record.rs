//! Enrolments on disk: what a restarted daemon needs to find its pods again.
//!
//! One file for each pod, mode 0600, in the state folder; the kernel's part is pinned elsewhere.
//! A record never keeps a namespace alive, and is believed only if inode and cookie still agree.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::netns::Identity;

/// What happens to new connections while the daemon is dead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailMode {
    /// They are refused.
    #[default]
    Closed,
    /// They go directly, in clear and without policy.
    Open,
}

/// [`FailMode`] of each direction. Opening inbound exposes the application past policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailPolicy {
    pub outbound: FailMode,
    pub inbound: FailMode,
}

/// How far a pod is on its way through the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    Capturing,
    /// Capture has stopped; its last tunnels were being served.
    Draining,
}

/// An enrolment that outlived its daemon.
#[derive(Debug)]
pub struct Recorded {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// Open until the caller drops it: enrol again, or let go.
    pub netns: OwnedFd,
    pub netns_path: PathBuf,
    pub addresses: Vec<IpAddr>,
    pub fail: FailPolicy,
    pub stage: Stage,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) netns_path: Option<PathBuf>,
    pub(crate) inode: u64,
    pub(crate) cookie: u64,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) fail: FailPolicy,
    pub(crate) stage: Stage,
    /// Connections that were open before the pod was first enrolled.
    pub(crate) older: Vec<(SocketAddr, SocketAddr)>,
}

impl Record {
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            inode: self.inode,
            cookie: self.cookie,
        }
    }
}

#[derive(Debug, Error)]
pub enum RecordError {
    #[error("pod uid {uid:?} cannot name a file: want letters, digits, '-', '_' or '.'")]
    Uid { uid: String },
    #[error("cannot write the record {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read the record {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the record {} is damaged: un-enrol the pod or delete it", path.display())]
    Damaged {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// The folder of records.
#[derive(Debug, Clone)]
pub(crate) struct Records(PathBuf);

impl Records {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self(folder.to_owned()))
    }

    /// Writes a record so that a crash leaves the old one or the new one.
    pub(crate) fn save(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.path(&record.uid)?;
        let text = serde_json::to_vec_pretty(record).map_err(|source| RecordError::Damaged {
            path: path.clone(),
            source,
        })?;
        let new = path.with_extension("new");
        write_private(&new, &text)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| RecordError::Write { path, source })
    }

    pub(crate) fn forget(&self, uid: &str) -> Result<(), RecordError> {
        let path = self.path(uid)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RecordError::Write {
                path,
                source: error,
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn find(&self, uid: &str) -> Result<Option<Record>, RecordError> {
        let path = self.path(uid)?;
        match fs::read(&path) {
            Ok(text) => parse(&path, &text).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RecordError::Read { path, source }),
        }
    }

    /// All records; a damaged one is an error of its own and hides no other.
    pub(crate) fn all(&self) -> Result<Vec<Result<Record, RecordError>>, RecordError> {
        let failed = |source| RecordError::Read {
            path: self.0.clone(),
            source,
        };
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                all.push(match fs::read(&path) {
                    Ok(text) => parse(&path, &text),
                    Err(source) => Err(RecordError::Read { path, source }),
                });
            }
        }
        Ok(all)
    }

    fn path(&self, uid: &str) -> Result<PathBuf, RecordError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if uid.is_empty() || uid.len() > 200 || uid.starts_with('.') || !uid.bytes().all(plain) {
            return Err(RecordError::Uid {
                uid: uid.to_owned(),
            });
        }
        Ok(self.0.join(format!("{uid}.json")))
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Record, RecordError> {
    serde_json::from_slice(text).map_err(|source| RecordError::Damaged {
        path: path.to_owned(),
        source,
    })
}

fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file: File = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn record(uid: &str) -> Record {
        Record {
            uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            netns_path: None,
            inode: 1,
            cookie: 2,
            addresses: vec!["10.0.0.1".parse().unwrap()],
            fail: FailPolicy::default(),
            stage: Stage::Capturing,
            older: Vec::new(),
        }
    }

    #[test]
    fn a_record_survives_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        records.save(&record("one")).unwrap();
        assert_eq!(records.find("one").unwrap().unwrap().cookie, 2);
        let mode = fs::metadata(folder.path().join("one.json")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        records.forget("one").unwrap();
        records.forget("one").unwrap();
        assert!(records.find("one").unwrap().is_none());
    }

    #[test]
    fn a_damaged_record_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        records.save(&record("good")).unwrap();
        fs::write(folder.path().join("bad.json"), "{").unwrap();
        let all = records.all().unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all.iter().filter(|record| record.is_ok()).count(), 1);
    }

    #[test]
    fn a_uid_cannot_leave_the_folder() {
        let records = Records(PathBuf::from("/nowhere"));
        for uid in ["", "..", "a/b", ".hidden", "a\0b"] {
            assert!(records.find(uid).is_err(), "{uid:?}");
        }
    }
}
