//! Readiness, metrics and the list of objects, over plain HTTP for operators.
//!
//! Changes nothing. The configuration allows it on loopback only: the list names everything.

use std::sync::{Arc, Weak};

use http::StatusCode;
use lifecycle::http::{Page, json as json_page, page, text};
use serde_json::{Value, json};
use xds::server::{Publisher, Rejection};

use super::{State, metrics};
use crate::watch::{DocumentState, DocumentStatus, Instead};

/// What the pages show.
pub(crate) struct Admin {
    pub(crate) state: Arc<State>,
    /// Weak: streams end when the publisher does, and these pages must not hold them up.
    pub(crate) publisher: Weak<Publisher>,
    pub(crate) signatures: Arc<metrics::Signatures>,
}

impl Admin {
    /// The page at a path.
    pub(crate) fn page(&self, path: &str) -> Page {
        match path {
            // Listening begins after the first configuration is published.
            "/healthz/ready" => text(StatusCode::OK, "ready\n"),
            "/metrics" => page(StatusCode::OK, "text/plain; version=0.0.4", self.metrics()),
            "/debug/objects" => json_page(self.objects()),
            _ => text(
                StatusCode::NOT_FOUND,
                "/healthz/ready /metrics /debug/objects\n",
            ),
        }
    }

    fn metrics(&self) -> String {
        let Some(publisher) = self.publisher.upgrade() else {
            return String::new();
        };
        let rejections = publisher.rejections().borrow().iter().count();
        metrics::render(
            publisher.statistics(),
            rejections,
            &self.state.documents.load(),
            &self.signatures,
        )
    }

    fn objects(&self) -> String {
        let documents = self.state.documents.load();
        let documents: Vec<Value> = documents.iter().map(document).collect();
        let notes = self.state.policy_notes.load();
        let notes = notes
            .iter()
            .map(|(policy, note)| json!({"policy": policy.to_string(), "note": note.to_string()}));
        let publisher = self.publisher.upgrade();
        let rejections: Vec<Value> = publisher.map_or_else(Vec::new, |publisher| {
            let rejections = publisher.rejections();
            let rejections = rejections.borrow();
            rejections.iter().map(rejection).collect()
        });
        let page = json!({
            "documents": documents,
            "policies": notes.collect::<Vec<_>>(),
            "rejections": rejections,
        });
        format!("{page:#}\n")
    }
}

fn document(status: &DocumentStatus) -> Value {
    let (state, message, instead) = match &status.state {
        DocumentState::Accepted => ("accepted", None, None),
        DocumentState::Ignored(what) => ("ignored", Some(what.clone()), None),
        DocumentState::Refused { fault, instead } => {
            let instead = match instead {
                Instead::Nothing => "nothing",
                Instead::LastGoodVersion => "the last good version",
                Instead::Denial => "a denial of all it could cover",
            };
            ("refused", Some(fault.to_string()), Some(instead))
        }
    };
    json!({
        "place": status.place.to_string(),
        "object": status.object.as_ref().map(ToString::to_string),
        "state": state,
        "message": message,
        "holds": instead,
    })
}

fn rejection(held: &Rejection) -> Value {
    json!({
        "client": &*held.caller.0,
        "type": held.kind.url(),
        "resource": held.resource,
        "reason": held.reason,
    })
}
