//! Counters of the controller, in the Prometheus text format.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use xds::{ResourceType, server::Statistics};

use crate::watch::{DocumentState, DocumentStatus};

/// What the certificate authority did.
#[derive(Debug, Default)]
pub(crate) struct Signatures {
    pub(crate) issued: AtomicU64,
    /// By [`Denied`], in its order.
    denied: [AtomicU64; 5],
}

/// Why a certificate was not signed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Denied {
    Unauthenticated,
    TooFast,
    NotAllowed,
    BadRequest,
    Failed,
}

impl Denied {
    const ALL: [(Self, &str); 5] = [
        (Self::Unauthenticated, "unauthenticated"),
        (Self::TooFast, "too_fast"),
        (Self::NotAllowed, "not_allowed"),
        (Self::BadRequest, "bad_request"),
        (Self::Failed, "failed"),
    ];
}

impl Signatures {
    pub(crate) fn deny(&self, why: Denied) {
        self.denied[why as usize].fetch_add(1, Relaxed);
    }
}

/// All metrics, as one page.
pub(crate) fn render(
    statistics: &Statistics,
    rejections: usize,
    documents: &[DocumentStatus],
    signatures: &Signatures,
) -> String {
    let mut page = Page::default();
    let per_type = |value: fn(&Statistics, ResourceType) -> u64| {
        ResourceType::ALL.map(|kind| (label("type", kind.url()), value(statistics, kind)))
    };
    page.counter(
        "ambit_xds_resources_sent_total",
        "Resources sent to clients.",
        per_type(Statistics::resources),
    );
    page.counter(
        "ambit_xds_removals_sent_total",
        "Removals of resources sent to clients.",
        per_type(Statistics::removals),
    );
    page.counter(
        "ambit_xds_responses_sent_total",
        "Responses sent to clients.",
        per_type(Statistics::responses),
    );
    page.counter(
        "ambit_xds_bytes_sent_total",
        "Bytes of resources sent to clients.",
        per_type(Statistics::bytes),
    );
    page.gauge(
        "ambit_xds_streams",
        "Streams open.",
        [(String::new(), statistics.streams())],
    );
    page.gauge(
        "ambit_xds_rejections",
        "Resources that connected clients refuse (NACK).",
        [(String::new(), rejections as u64)],
    );
    page.counter(
        "ambit_ca_certificates_issued_total",
        "Certificates signed.",
        [(String::new(), signatures.issued.load(Relaxed))],
    );
    page.counter(
        "ambit_ca_requests_denied_total",
        "Certificate requests denied.",
        Denied::ALL.map(|(why, word)| {
            let count = signatures.denied[why as usize].load(Relaxed);
            (label("reason", word), count)
        }),
    );
    let states = ["accepted", "ignored", "refused"].map(|word| {
        let count = documents.iter().filter(|held| word_for(held) == word);
        (label("state", word), count.count() as u64)
    });
    page.gauge("ambit_documents", "Documents of the source.", states);
    page.0
}

fn word_for(document: &DocumentStatus) -> &'static str {
    match document.state {
        DocumentState::Accepted => "accepted",
        DocumentState::Ignored(_) => "ignored",
        DocumentState::Refused { .. } => "refused",
    }
}

/// Values here are words of our own: none needs escaping.
fn label(name: &str, value: &str) -> String {
    format!("{{{name}=\"{value}\"}}")
}

#[derive(Default)]
struct Page(String);

type Sample = (String, u64);

impl Page {
    fn counter(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        self.family(name, "counter", help, samples);
    }

    fn gauge(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        self.family(name, "gauge", help, samples);
    }

    fn family(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample>,
    ) {
        let mut line = |text: std::fmt::Arguments<'_>| {
            writeln!(self.0, "{text}").expect("writing to a string does not fail");
        };
        line(format_args!("# HELP {name} {help}"));
        line(format_args!("# TYPE {name} {kind}"));
        for (labels, value) in samples {
            line(format_args!("{name}{labels} {value}"));
        }
    }
}
