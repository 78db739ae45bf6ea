//! The inbound connections of a worker, so that a changed policy reaches those already open.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use model::SpiffeId;
use policy::Denial;
use tokio::sync::oneshot;

use super::authorize::{self, Denied};
use crate::{node::Node, pod::Pod};

/// What a verdict on a connection depends on.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) source: Option<SpiffeId>,
    pub(crate) source_ip: IpAddr,
    pub(crate) target: SocketAddr,
}

struct Entry {
    pod: Arc<Pod>,
    subject: Subject,
    cut: oneshot::Sender<Denial>,
}

/// Open inbound connections.
#[derive(Default, Clone)]
pub(crate) struct Connections(Rc<RefCell<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    entries: HashMap<u64, Entry>,
}

/// A connection's place in the table, until it is dropped.
pub(crate) struct Registered {
    table: Connections,
    number: u64,
    /// Resolves when a changed policy denies the connection.
    pub(crate) denied: oneshot::Receiver<Denial>,
}

impl Connections {
    /// Enters a connection. To be done before it is judged, so that no change is missed.
    pub(crate) fn register(&self, pod: &Arc<Pod>, subject: Subject) -> Registered {
        let (cut, denied) = oneshot::channel();
        let mut table = self.0.borrow_mut();
        let number = table.next;
        table.next += 1;
        table.entries.insert(
            number,
            Entry {
                pod: pod.clone(),
                subject,
                cut,
            },
        );
        Registered {
            table: self.clone(),
            number,
            denied,
        }
    }

    /// Cuts what the policies as they are now no longer permit.
    pub(crate) fn judge_again(&self, node: &Node) {
        let index = node.index();
        let mut table = self.0.borrow_mut();
        let denied: Vec<(u64, Denial)> = table
            .entries
            .iter()
            .filter_map(|(number, entry)| {
                match authorize::judge(&index, &node.config.network, &entry.pod, &entry.subject) {
                    Err(Denied::Policy(denial)) => Some((*number, denial)),
                    // A workload that is gone from the index ends by its own death.
                    Ok(_) | Err(Denied::UnknownWorkload) => None,
                }
            })
            .collect();
        for (number, denial) in denied {
            if let Some(entry) = table.entries.remove(&number) {
                // Not heard: the connection is ending already.
                entry.cut.send(denial).ok();
            }
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.table.0.borrow_mut().entries.remove(&self.number);
    }
}
