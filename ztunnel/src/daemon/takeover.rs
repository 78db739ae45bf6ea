//! The enrolment socket's requests, and the two sides of a take-over.
//!
//! Order: the successor announces itself, opens its own listeners in every pod and puts them in
//! the kernel's slots; then the predecessor lets go of ports and socket, acknowledges, and drains.

use std::{os::fd::OwnedFd, path::Path};

use anyhow::Context as _;
use enrolment::{Client, Enrol, Listener, Peer, Received, Reply, Request};
use model::chain;
use redirect::{EnrolRequest, FailMode, FailPolicy};
use tracing::{info, warn};

use crate::enrol::{EnrolError, Enroller};

/// The daemon that has served the pods so far, if one runs.
pub(crate) struct Predecessor(Option<Client>);

impl Predecessor {
    /// Finds it, and has it refuse changes from here on.
    pub(crate) fn find(socket: &Path) -> anyhow::Result<Self> {
        match Client::connect(socket) {
            Ok(client) => {
                client
                    .prepare()
                    .context("the running ztunnel cannot be taken over from")?;
                info!("taking over from the ztunnel that runs");
                Ok(Self(Some(client)))
            }
            Err(error) if error.is_absent() => Ok(Self(None)),
            Err(error) => Err(error).context("cannot tell whether a ztunnel runs already"),
        }
    }

    /// Asks it to let go of ports and socket.
    pub(crate) fn release(&mut self) -> anyhow::Result<()> {
        match self.0.take() {
            Some(client) => client
                .release()
                .context("the running ztunnel does not let go"),
            None => Ok(()),
        }
    }
}

/// What answering a request leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Answered {
    Serving,
    /// The pods are a successor's.
    Released,
}

impl Answered {
    pub(crate) fn is_released(self) -> bool {
        self == Self::Released
    }
}

/// The enrolment socket.
pub(crate) struct Requests {
    listener: Listener,
    successor: Option<Peer>,
}

impl Requests {
    pub(crate) fn listen(socket: &Path) -> anyhow::Result<Self> {
        let listener = Listener::bind(socket).context("cannot take enrolments")?;
        Ok(Self {
            listener,
            successor: None,
        })
    }

    /// The next request. Cancel safe.
    pub(crate) async fn next(&mut self) -> Received {
        self.listener.next().await
    }

    /// Acts on a request and answers it; a release is answered by [`released`](Self::released).
    pub(crate) async fn answer(&mut self, received: Received, enroller: &mut Enroller) -> Answered {
        let (peer, reply) = match received {
            Received::Other {
                peer,
                request: Request::Pods,
            } => {
                list(&peer, enroller).await;
                return Answered::Serving;
            }
            Received::Closed { peer } => {
                self.closed(&peer, enroller);
                return Answered::Serving;
            }
            Received::Other {
                peer,
                request: Request::Release,
            } => {
                if self.is_successor(&peer) {
                    return Answered::Released;
                }
                (peer, Reply::Refused("release without prepare".to_owned()))
            }
            Received::Other {
                peer,
                request: Request::Prepare,
            } => {
                self.successor = Some(peer.clone());
                (peer, Reply::Ack)
            }
            Received::Other {
                peer,
                request: Request::Unenrol(pod),
            } => {
                let done = match self.successor {
                    Some(_) => Err(EnrolError::HandingOver),
                    None => enroller.unenrol(&pod.namespace, &pod.name).await,
                };
                (peer, reply(done))
            }
            // The listener passes an enrolment on only with its descriptor.
            Received::Other {
                peer,
                request: Request::Enrol(_),
            } => (
                peer,
                Reply::Refused("an enrolment without a namespace".to_owned()),
            ),
            Received::Enrol { peer, enrol, netns } => {
                let done = match self.successor {
                    Some(_) => Err(EnrolError::HandingOver),
                    None => enroller.enrol(request(enrol, netns)),
                };
                (peer, reply(done))
            }
        };
        if let Err(error) = peer.reply(&reply).await {
            warn!(%error, "cannot answer an enrolment request");
        }
        Answered::Serving
    }

    fn is_successor(&self, peer: &Peer) -> bool {
        self.successor
            .as_ref()
            .is_some_and(|successor| successor.is(peer))
    }

    /// A successor that dies half-way leaves its dead listeners in the slots: ours go back in.
    fn closed(&mut self, peer: &Peer, enroller: &mut Enroller) {
        if self.is_successor(peer) {
            warn!("the successor has gone before it took over; going on");
            self.successor = None;
            enroller.restore();
        }
    }

    /// Gives the socket's name up and tells the successor that everything is let go of.
    pub(crate) async fn released(&mut self) {
        let Some(successor) = self.successor.take() else {
            return;
        };
        self.listener.unlink();
        if let Err(error) = successor.reply(&Reply::Ack).await {
            warn!(%error, "the successor has gone while it took over");
        }
    }
}

async fn list(peer: &Peer, enroller: &Enroller) {
    if let Err(error) = peer.reply_pods(enroller.pods()).await {
        warn!(%error, "cannot answer with the list of pods");
    }
}

fn reply(done: Result<(), EnrolError>) -> Reply {
    match done {
        Ok(()) => Reply::Ack,
        Err(error) => Reply::Refused(chain(&error)),
    }
}

fn request(enrol: Enrol, netns: OwnedFd) -> EnrolRequest {
    let mode = |open| {
        if open {
            FailMode::Open
        } else {
            FailMode::Closed
        }
    };
    EnrolRequest {
        uid: enrol.uid,
        namespace: enrol.namespace,
        name: enrol.name,
        netns,
        netns_path: enrol.netns_path,
        addresses: enrol.addresses,
        fail: FailPolicy {
            outbound: mode(enrol.fail_open_outbound),
            inbound: mode(enrol.fail_open_inbound),
        },
    }
}
