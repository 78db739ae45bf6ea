//! The owner of the configuration: takes what sources and nodes say, compiles, publishes.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use xds::server::Publisher;

use super::State;
use crate::{
    compile::{Compiler, Input, Settings},
    enrolments::{EnrolmentError, Enrolments, Report},
    watch::{Kind, ObjectChange, follow::Look},
};

/// Something the configuration follows from.
pub(crate) enum Event {
    /// A source was looked at.
    Look(Look),
    /// A node reports; `published` is told when the state it leads to is served.
    Report {
        node: Arc<str>,
        report: Report,
        published: oneshot::Sender<Result<(), EnrolmentError>>,
    },
}

/// Owns the compiler, the reports and the snapshot that is served.
pub(crate) struct Pipeline {
    compiler: Compiler,
    enrolments: Enrolments,
    publisher: Arc<Publisher>,
    state: Arc<State>,
}

impl Pipeline {
    /// Compiles and publishes the whole configuration: what nodes reported before the controller
    /// was restarted is part of it, so that a restart changes nothing.
    pub(crate) fn start(
        settings: Settings,
        enrolments: Enrolments,
        first: Look,
        publisher: Arc<Publisher>,
        state: Arc<State>,
    ) -> Self {
        let (mut compiler, mut change) = Compiler::new(Arc::new(settings));
        let reports = enrolments.inputs().into_iter();
        let objects = first.update.changes.into_iter().map(Input::Object);
        let compiled = compiler.apply(reports.chain(objects));
        change.upsert.extend(compiled.upsert);
        for fault in &first.update.faults {
            tracing::error!(%fault, "document refused");
        }
        let pipeline = Self {
            compiler,
            enrolments,
            publisher,
            state,
        };
        pipeline.state.documents.store(first.listing);
        pipeline.show();
        pipeline.note_policies();
        pipeline.publisher.publish(&change);
        tracing::info!(resources = change.upsert.len(), "configuration compiled");
        pipeline
    }

    /// Works until all senders of events are gone.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        while let Some(event) = events.recv().await {
            match event {
                Event::Look(look) => self.look(look),
                Event::Report {
                    node,
                    report,
                    published,
                } => {
                    let outcome = self.report(&node, report);
                    // A node that hung up reports again when it is back.
                    published.send(outcome).ok();
                }
            }
        }
    }

    fn look(&mut self, look: Look) {
        for fault in &look.update.faults {
            tracing::error!(%fault, "document refused");
        }
        self.state.documents.store(look.listing);
        let changes = look.update.changes;
        let policies = changes.iter().any(touches_policy);
        self.apply(changes.into_iter().map(Input::Object).collect());
        if policies {
            self.note_policies();
        }
    }

    fn report(&mut self, node: &Arc<str>, report: Report) -> Result<(), EnrolmentError> {
        let inputs = self.enrolments.apply(node, report)?;
        self.apply(inputs);
        Ok(())
    }

    fn apply(&mut self, inputs: Vec<Input>) {
        if inputs.is_empty() {
            return;
        }
        let change = self.compiler.apply(inputs);
        // Before publishing: a daemon that learns of a pod asks for its certificate at once.
        self.show();
        tracing::info!(
            set = change.upsert.len(),
            removed = change.remove.len(),
            "configuration changed"
        );
        self.publisher.publish(&change);
    }

    fn show(&self) {
        self.state
            .view
            .store(Arc::new(self.compiler.view().clone()));
    }

    fn note_policies(&self) {
        let notes = self.compiler.policy_notes();
        let before = self.state.policy_notes.load();
        for (policy, note) in notes.iter().filter(|noted| !before.contains(noted)) {
            tracing::warn!(%policy, %note, "policy is not enforced as it is written");
        }
        self.state.policy_notes.store(Arc::new(notes));
    }
}

fn touches_policy(change: &ObjectChange) -> bool {
    let key = match change {
        ObjectChange::Set(object) => object.key(),
        ObjectChange::Removed(key) => key.clone(),
    };
    key.kind == Kind::AuthorizationPolicy
}
