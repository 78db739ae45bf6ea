//! The authority's folder: `root-N.pem`, its key `root-N.key.pem`, and `active`, the number of
//! the root that signs. A root without a key is trusted and never signs.
//!
//! Every file appears whole or not at all, the key before its certificate.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rcgen::{Issuer, KeyPair};

use super::{AuthorityError, Root, RootNumber, Roots};
use crate::{CertificateInfo, LeafError, leaf, pem};

pub(super) struct Home {
    folder: PathBuf,
}

impl Home {
    pub(super) fn open(folder: &Path) -> Result<Self, AuthorityError> {
        fs::create_dir_all(folder).map_err(failed("create", folder))?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// What is kept; none at the first start.
    pub(super) fn load(&self) -> Result<Option<Roots>, AuthorityError> {
        let mut all = Vec::new();
        for number in self.numbers(".pem")? {
            all.push(self.load_root(number)?);
        }
        if all.is_empty() {
            return Ok(None);
        }
        let active = match self.load_active()? {
            Some(active) => active,
            // Interrupted between the first root and its activation.
            None => all
                .iter()
                .rfind(|root| root.issuer.is_some())
                .map_or(0, |root| root.number),
        };
        let roots = Roots { all, active };
        match roots.find(active) {
            Some(root) if root.issuer.is_some() => Ok(Some(roots)),
            Some(_) | None => Err(AuthorityError::NoSuchRoot { root: active }),
        }
    }

    fn load_root(&self, number: RootNumber) -> Result<Root, AuthorityError> {
        let path = self.root_path(number);
        let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
        let bad = |source| AuthorityError::Root {
            path: path.clone(),
            source,
        };
        let der = pem::certificates(&text)
            .ok()
            .and_then(|held| held.into_iter().next())
            .ok_or_else(|| bad(LeafError::Encoding))?;
        let info = CertificateInfo::parse(&der).map_err(bad)?;
        let issuer = match self.load_key(number)? {
            None => None,
            Some(key) => {
                if leaf::public_key(&der).map_err(bad)? != key.public_key_raw() {
                    return Err(AuthorityError::KeyMismatch { path });
                }
                let usable = Issuer::from_ca_cert_der(&der, key);
                Some(usable.map_err(|source| AuthorityError::Key { path, source })?)
            }
        };
        Ok(Root {
            number,
            pem: pem::blocks(&text).collect(),
            info,
            issuer,
        })
    }

    fn load_key(&self, number: RootNumber) -> Result<Option<KeyPair>, AuthorityError> {
        let path = self.key_path(number);
        let mode = match fs::metadata(&path) {
            Ok(held) => held.permissions().mode() & 0o777,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        if mode & 0o077 != 0 {
            return Err(AuthorityError::ExposedKey { path, mode });
        }
        let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
        match KeyPair::from_pem(&text) {
            Ok(key) => Ok(Some(key)),
            Err(source) => Err(AuthorityError::Key { path, source }),
        }
    }

    fn load_active(&self) -> Result<Option<RootNumber>, AuthorityError> {
        let path = self.active_path();
        match fs::read_to_string(&path) {
            Ok(text) => match text.trim().parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(AuthorityError::ActiveFile { path }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    pub(super) fn save_root(&self, root: &Root) -> Result<(), AuthorityError> {
        if let Some(issuer) = &root.issuer {
            let key = issuer.key().serialize_pem();
            write_whole(&self.key_path(root.number), key.as_bytes(), 0o600)?;
        }
        write_whole(&self.root_path(root.number), root.pem.as_bytes(), 0o644)
    }

    pub(super) fn save_active(&self, number: RootNumber) -> Result<(), AuthorityError> {
        write_whole(&self.active_path(), format!("{number}\n").as_bytes(), 0o644)
    }

    /// The certificate goes first: a key alone is no root.
    pub(super) fn remove_root(&self, number: RootNumber) -> Result<(), AuthorityError> {
        for path in [self.root_path(number), self.key_path(number)] {
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("remove", &path)(error)),
            }
        }
        Ok(())
    }

    /// The highest number in use, that of a key without its certificate too.
    pub(super) fn highest_number(&self) -> Result<RootNumber, AuthorityError> {
        let roots = self.numbers(".pem")?;
        let keys = self.numbers(".key.pem")?;
        Ok(roots.into_iter().chain(keys).max().unwrap_or(0))
    }

    fn numbers(&self, suffix: &str) -> Result<Vec<RootNumber>, AuthorityError> {
        let listed = fs::read_dir(&self.folder).map_err(failed("list", &self.folder))?;
        let mut numbers = Vec::new();
        for file in listed {
            let name = file.map_err(failed("list", &self.folder))?.file_name();
            let name = name.to_string_lossy();
            let number = name
                .strip_prefix("root-")
                .and_then(|rest| rest.strip_suffix(suffix));
            numbers.extend(number.and_then(|number| number.parse::<RootNumber>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn root_path(&self, number: RootNumber) -> PathBuf {
        self.folder.join(format!("root-{number}.pem"))
    }

    fn key_path(&self, number: RootNumber) -> PathBuf {
        self.folder.join(format!("root-{number}.key.pem"))
    }

    fn active_path(&self) -> PathBuf {
        self.folder.join("active")
    }
}

/// Writes beside, flushes, renames, and flushes the folder.
fn write_whole(path: &Path, content: &[u8], mode: u32) -> Result<(), AuthorityError> {
    let beside = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // Left by a crash, perhaps with another mode.
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(failed("write", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::File {
        action,
        path,
        source,
    }
}
