//! What nodes have reported of the pods they capture, kept on disk.
//!
//! A controller that starts again publishes what it published before, not a mesh in clear.
//! Decides nothing: whether a captured pod is published as HBONE is `compile`'s to say.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    compile::Input,
    store,
    watch::{ObjectName, PodOnNode},
};

const FILE: &str = "enrolments.json";

/// The reports cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    #[error("{path} cannot be read or written")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a list of enrolments: restore it, or delete it and restart all nodes")]
    Content {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// What a node says about its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// These, with their uids, are all it captures.
    Snapshot(BTreeMap<ObjectName, Arc<str>>),
    Enrolled(ObjectName, Arc<str>),
    /// About to be released, or gone.
    Released(ObjectName),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    node: String,
    namespace: String,
    name: String,
    uid: String,
}

/// All reports that hold.
#[derive(Debug)]
pub(crate) struct Enrolments {
    path: PathBuf,
    pods: BTreeMap<PodOnNode, Arc<str>>,
}

impl Enrolments {
    /// Reads what an earlier controller kept in `folder`.
    pub(crate) fn load(folder: &Path) -> Result<Self, EnrolmentError> {
        let path = folder.join(FILE);
        let text = store::read(&path).map_err(|source| EnrolmentError::File {
            path: path.clone(),
            source,
        })?;
        let records: Vec<Record> = match text {
            None => Vec::new(),
            Some(text) => {
                serde_json::from_str(&text).map_err(|source| EnrolmentError::Content {
                    path: path.clone(),
                    source,
                })?
            }
        };
        let pods = records.into_iter().map(|record| {
            let place = PodOnNode {
                pod: ObjectName::new(&record.namespace, &record.name),
                node: record.node.into(),
            };
            (place, record.uid.into())
        });
        Ok(Self {
            path,
            pods: pods.collect(),
        })
    }

    /// All that is captured, for a compiler that begins.
    pub(crate) fn inputs(&self) -> Vec<Input> {
        let pods = self.pods.iter();
        pods.map(|(place, uid)| Input::Enrolled(place.clone(), uid.clone()))
            .collect()
    }

    /// Takes in what a node says and keeps it; returns what that changes.
    pub(crate) fn apply(
        &mut self,
        node: &Arc<str>,
        report: Report,
    ) -> Result<Vec<Input>, EnrolmentError> {
        let place = |pod: ObjectName| PodOnNode {
            pod,
            node: node.clone(),
        };
        let mut inputs = Vec::new();
        match report {
            Report::Snapshot(pods) => {
                let unlisted =
                    |held: &&PodOnNode| held.node == *node && !pods.contains_key(&held.pod);
                let gone: Vec<PodOnNode> = self.pods.keys().filter(unlisted).cloned().collect();
                for place in gone {
                    self.release(place, &mut inputs);
                }
                for (pod, uid) in pods {
                    self.enrol(place(pod), uid, &mut inputs);
                }
            }
            Report::Enrolled(pod, uid) => self.enrol(place(pod), uid, &mut inputs),
            Report::Released(pod) => self.release(place(pod), &mut inputs),
        }
        if !inputs.is_empty() {
            self.save()?;
        }
        Ok(inputs)
    }

    fn enrol(&mut self, place: PodOnNode, uid: Arc<str>, inputs: &mut Vec<Input>) {
        if self.pods.get(&place) != Some(&uid) {
            self.pods.insert(place.clone(), uid.clone());
            inputs.push(Input::Enrolled(place, uid));
        }
    }

    fn release(&mut self, place: PodOnNode, inputs: &mut Vec<Input>) {
        if self.pods.remove(&place).is_some() {
            inputs.push(Input::Released(place));
        }
    }

    fn save(&self) -> Result<(), EnrolmentError> {
        let record = |(place, uid): (&PodOnNode, &Arc<str>)| Record {
            node: place.node.to_string(),
            namespace: place.pod.namespace.to_string(),
            name: place.pod.name.to_string(),
            uid: uid.to_string(),
        };
        let records: Vec<Record> = self.pods.iter().map(record).collect();
        let text =
            serde_json::to_vec_pretty(&records).map_err(|source| EnrolmentError::Content {
                path: self.path.clone(),
                source,
            })?;
        store::replace(&self.path, &text).map_err(|source| EnrolmentError::File {
            path: self.path.clone(),
            source,
        })
    }
}
