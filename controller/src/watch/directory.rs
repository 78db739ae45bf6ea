//! A folder of manifests as a set of objects: who holds which, and what was refused.
//!
//! Reads files when asked to and tells what changed; [`super::follow`] decides when. A refused
//! document keeps the last good version of its object; of two files that name one object, the
//! one that held it keeps it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    document::{self, Document, Fault, FaultPlace, Reading},
    object::{Object, ObjectChange, ObjectKey},
};

/// What became of one document, for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentStatus {
    pub place: FaultPlace,
    pub object: Option<ObjectKey>,
    pub state: DocumentState,
}

/// The state of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentState {
    Accepted,
    Ignored(String),
    /// Refused, and what holds in its place.
    Refused {
        fault: Fault,
        instead: Instead,
    },
}

/// What holds in place of a refused document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    Nothing,
    LastGoodVersion,
    /// A denial of everything the object could cover.
    Denial,
}

/// The outcome of one look at the folder.
#[derive(Debug, Default)]
pub(crate) struct Update {
    pub(crate) changes: Vec<ObjectChange>,
    /// What was refused in files read now.
    pub(crate) faults: Vec<Fault>,
}

/// A change of content changes this, without reading the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Debug)]
struct File {
    stamp: Option<Stamp>,
    documents: Vec<Document>,
    /// What this file contributes: read now, or kept from an earlier reading.
    objects: BTreeMap<ObjectKey, Object>,
}

/// The folder.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    files: BTreeMap<Arc<Path>, File>,
    claims: HashMap<ObjectKey, BTreeSet<Arc<Path>>>,
    held: HashMap<ObjectKey, (Arc<Path>, Object)>,
}

impl Directory {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self {
            root,
            files: BTreeMap::new(),
            claims: HashMap::new(),
            held: HashMap::new(),
        }
    }

    /// Looks at the folder again, but not at files that are being written.
    pub(crate) fn refresh(&mut self, being_written: &BTreeSet<PathBuf>) -> io::Result<Update> {
        let mut found = BTreeMap::new();
        find_manifests(&self.root, &mut found)?;
        let mut touched = BTreeSet::new();
        let mut reread = Vec::new();
        let gone = |path: &&Arc<Path>| !found.contains_key(&***path);
        let gone: Vec<Arc<Path>> = self.files.keys().filter(gone).cloned().collect();
        for path in gone {
            let file = self.files.remove(&path).expect("listed from the same map");
            touched.extend(self.unclaim(&path, &file));
        }
        for (path, stamp) in found {
            if being_written.contains(&path) {
                continue;
            }
            let path: Arc<Path> = path.into();
            if self
                .files
                .get(&path)
                .is_some_and(|file| file.stamp == Some(stamp))
            {
                continue;
            }
            touched.extend(self.load(path.clone(), stamp));
            reread.push(path);
        }
        let changes = touched
            .into_iter()
            .filter_map(|key| self.settle(key))
            .collect();
        let faults = reread.iter().flat_map(|path| self.faults(path)).collect();
        Ok(Update { changes, faults })
    }

    fn unclaim(&mut self, path: &Arc<Path>, file: &File) -> Vec<ObjectKey> {
        for key in file.objects.keys() {
            if let Some(claimants) = self.claims.get_mut(key) {
                claimants.remove(path);
                if claimants.is_empty() {
                    self.claims.remove(key);
                }
            }
        }
        file.objects.keys().cloned().collect()
    }

    fn load(&mut self, path: Arc<Path>, stamp: Stamp) -> Vec<ObjectKey> {
        let before = self.files.remove(&path);
        let mut touched = Vec::new();
        let mut earlier = BTreeMap::new();
        if let Some(before) = before {
            touched = self.unclaim(&path, &before);
            earlier = before.objects;
        }
        let (stamp, documents) = match fs::read_to_string(&path) {
            Ok(text) => (Some(stamp), document::read(&path, &text)),
            Err(error) => (None, vec![unreadable(&path, &error)]),
        };
        let file = File::from_documents(stamp, documents, earlier);
        for key in file.objects.keys() {
            self.claims
                .entry(key.clone())
                .or_default()
                .insert(path.clone());
            touched.push(key.clone());
        }
        self.files.insert(path, file);
        touched
    }

    /// Decides who holds an object, and tells if that changes it.
    fn settle(&mut self, key: ObjectKey) -> Option<ObjectChange> {
        let Some(claimants) = self.claims.get(&key) else {
            self.held.remove(&key)?;
            return Some(ObjectChange::Removed(key));
        };
        let before = self.held.get(&key);
        let holder = match before {
            Some((holder, _)) if claimants.contains(holder) => holder.clone(),
            Some(_) | None => claimants.first()?.clone(),
        };
        let object = self.files.get(&holder)?.objects.get(&key)?.clone();
        let changed = before.is_none_or(|(_, held)| *held != object);
        self.held.insert(key, (holder, object.clone()));
        changed.then_some(ObjectChange::Set(object))
    }

    fn faults(&self, path: &Arc<Path>) -> Vec<Fault> {
        let statuses = self.statuses(path);
        let fault = |status: DocumentStatus| match status.state {
            DocumentState::Refused { fault, .. } => Some(fault),
            DocumentState::Accepted | DocumentState::Ignored(_) => None,
        };
        statuses.into_iter().filter_map(fault).collect()
    }

    /// What became of every document.
    pub(crate) fn listing(&self) -> Vec<DocumentStatus> {
        let paths = self.files.keys();
        paths.flat_map(|path| self.statuses(path)).collect()
    }

    fn statuses(&self, path: &Arc<Path>) -> Vec<DocumentStatus> {
        let Some(file) = self.files.get(path) else {
            return Vec::new();
        };
        let mut seen = BTreeSet::new();
        let status = |document: &Document| {
            let (object, state) = self.state(path, file, document, &mut seen);
            DocumentStatus {
                place: document.place.clone(),
                object,
                state,
            }
        };
        file.documents.iter().map(status).collect()
    }

    fn state(
        &self,
        path: &Arc<Path>,
        file: &File,
        document: &Document,
        seen: &mut BTreeSet<ObjectKey>,
    ) -> (Option<ObjectKey>, DocumentState) {
        match &document.reading {
            Reading::Ignored(what) => (None, DocumentState::Ignored(what.clone())),
            Reading::Refused {
                fault,
                key,
                stand_in,
            } => {
                let held = key.as_ref().and_then(|key| file.objects.get(key));
                let instead = match held {
                    None => Instead::Nothing,
                    Some(object) if Some(object) == stand_in.as_ref() => Instead::Denial,
                    Some(_) => Instead::LastGoodVersion,
                };
                let fault = fault.clone();
                (key.clone(), DocumentState::Refused { fault, instead })
            }
            Reading::Object(object) => {
                let key = object.key();
                let repeated = !seen.insert(key.clone());
                let holder = self.held.get(&key).map(|(holder, _)| holder);
                let state = match holder {
                    Some(holder) if holder != path || repeated => DocumentState::Refused {
                        fault: self.duplicate(document, &key, holder),
                        instead: Instead::Nothing,
                    },
                    Some(_) | None => DocumentState::Accepted,
                };
                (Some(key), state)
            }
        }
    }

    fn duplicate(&self, document: &Document, key: &ObjectKey, holder: &Arc<Path>) -> Fault {
        let names = |held: &&Document| match &held.reading {
            Reading::Object(object) => object.key() == *key,
            Reading::Refused { key: refused, .. } => refused.as_ref() == Some(key),
            Reading::Ignored(_) => false,
        };
        let documents = self.files.get(holder).map(|file| &file.documents);
        let first = documents.and_then(|held| held.iter().find(names));
        let other = first.map_or_else(|| holder.display().to_string(), |it| it.place.to_string());
        Fault {
            place: document.place.clone(),
            field: Some("metadata.name".to_owned()),
            reason: format!("{key} is already defined at {other}"),
        }
    }
}

impl File {
    fn from_documents(
        stamp: Option<Stamp>,
        documents: Vec<Document>,
        mut earlier: BTreeMap<ObjectKey, Object>,
    ) -> Self {
        let mut objects = BTreeMap::new();
        let mut nameless = false;
        for document in &documents {
            match &document.reading {
                Reading::Object(object) => {
                    objects
                        .entry(object.key())
                        .or_insert_with(|| object.clone());
                }
                Reading::Refused { key: None, .. } => nameless = true,
                Reading::Refused {
                    key: Some(key),
                    stand_in,
                    ..
                } => {
                    let kept = earlier.remove(key).or_else(|| stand_in.clone());
                    if let Some(object) = kept {
                        objects.entry(key.clone()).or_insert(object);
                    }
                }
                Reading::Ignored(_) => {}
            }
        }
        // Any object that is missing now may be the one that cannot be read.
        if nameless {
            for (key, object) in earlier {
                objects.entry(key).or_insert(object);
            }
        }
        Self {
            stamp,
            documents,
            objects,
        }
    }
}

fn unreadable(path: &Arc<Path>, error: &io::Error) -> Document {
    let place = FaultPlace {
        file: path.clone(),
        line: 1,
    };
    let fault = Fault {
        place: place.clone(),
        field: None,
        reason: format!("cannot be read: {error}"),
    };
    let reading = Reading::Refused {
        fault,
        key: None,
        stand_in: None,
    };
    Document { place, reading }
}

/// Hidden files are editors' and Kubernetes' own; a mounted ConfigMap reaches its content
/// through links, so links are followed.
fn find_manifests(folder: &Path, found: &mut BTreeMap<PathBuf, Stamp>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| {
            let name = name.to_string_lossy();
            name.starts_with(['.', '#'])
        });
        if hidden {
            continue;
        }
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            // It vanished since it was listed, or is a link to nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let extension = path.extension().and_then(|extension| extension.to_str());
        if metadata.is_dir() {
            find_manifests(&path, found)?;
        } else if matches!(extension, Some("yaml" | "yml" | "json")) {
            let stamp = Stamp {
                inode: metadata.ino(),
                size: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            };
            found.insert(path, stamp);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
