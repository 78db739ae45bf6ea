//! What the daemon tells of itself: the configuration dump, the log level, the metrics.

mod dump;

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use identity::WorkloadCertificate;
use lifecycle::http::{Page, json, text};
use serde_json::{Map, Value, json};
use telemetry::log::LogHandle;
use xds::{ResourceType, client::Termination};

use crate::{node::Node, pod::Phase};

/// The admin pages; to be served on loopback only.
pub(crate) struct Admin {
    node: Arc<Node>,
    log: LogHandle,
}

impl Admin {
    pub(crate) fn new(node: Arc<Node>, log: LogHandle) -> Self {
        Self { node, log }
    }

    pub(crate) fn route<Body>(&self, request: &Request<Body>) -> Page {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/config_dump") => json(self.dump().to_string()),
            (&Method::POST, "/logging") => self.logging(request.uri().query().unwrap_or_default()),
            (_, "/logging") => text(
                StatusCode::METHOD_NOT_ALLOWED,
                "POST /logging?level=LEVEL\n",
            ),
            _ => text(
                StatusCode::NOT_FOUND,
                "GET /config_dump, POST /logging?level=LEVEL\n",
            ),
        }
    }

    fn logging(&self, query: &str) -> Page {
        let Some(level) = query.strip_prefix("level=") else {
            return text(StatusCode::BAD_REQUEST, "POST /logging?level=LEVEL\n");
        };
        // `,` and `=` come percent-encoded from some clients.
        let level = level.replace("%2C", ",").replace("%3D", "=");
        match self.log.set(&level) {
            Ok(()) => text(StatusCode::OK, format!("log filter is now {level}\n")),
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }

    fn dump(&self) -> Value {
        let mut dump = dump::index(&self.node.index());
        dump.insert("certificates".into(), self.certificates().into());
        dump.insert("workloadState".into(), self.pods().into());
        dump.insert(
            "version".into(),
            json!({ "version": env!("CARGO_PKG_VERSION") }),
        );
        dump.insert("config".into(), format!("{:?}", self.node.config).into());
        dump.into()
    }

    fn certificates(&self) -> Vec<Value> {
        let held = self.node.identities.snapshot().into_iter();
        held.map(|status| {
            let state = match (&status.certificate, &status.error) {
                (Some(_), _) => "Available".to_owned(),
                (None, Some(error)) => format!("Unavailable: {error}"),
                (None, None) => "Initializing".to_owned(),
            };
            let chain = status.certificate.as_deref().map(chain).unwrap_or_default();
            json!({ "identity": status.id.to_string(), "state": state, "certChain": chain })
        })
        .collect()
    }

    fn pods(&self) -> Map<String, Value> {
        let index = self.node.index();
        let pods = self.node.pods();
        pods.iter()
            .map(|pod| {
                let workload = pod.workload(&index, &self.node.config.network);
                let state = match *pod.phase().borrow() {
                    Phase::Serving => "Up",
                    Phase::Leaving | Phase::Closing | Phase::Gone => "Leaving",
                };
                let told = json!({
                    "state": state,
                    "connections": { "inbound": [], "outbound": [] },
                    "info": {
                        "name": &*pod.name,
                        "namespace": &*pod.namespace,
                        "trustDomain": workload.map(|held| held.trust_domain.to_string()),
                        "serviceAccount": workload.map(|held| &*held.service_account),
                    },
                });
                (pod.uid.to_string(), told)
            })
            .collect()
    }
}

/// The certificates of a chain; only the leaf's dates are known.
fn chain(certificate: &WorkloadCertificate) -> Vec<Value> {
    let info = certificate.info();
    let leaf = certificate.chain_pem().first();
    leaf.map(|pem| {
        json!({
            "pem": pem,
            "serialNumber": info.serial,
            "validFrom": humantime::format_rfc3339_seconds(info.not_before).to_string(),
            "expirationTime": humantime::format_rfc3339_seconds(info.not_after).to_string(),
        })
    })
    .into_iter()
    .collect()
}

/// What `/metrics` shows.
pub(crate) struct Scrape {
    node: Arc<Node>,
    xds: xds::client::Handle,
    log: LogHandle,
}

impl Scrape {
    pub(crate) fn new(node: Arc<Node>, xds: xds::client::Handle, log: LogHandle) -> Self {
        Self { node, xds, log }
    }

    pub(crate) fn expose(&self) -> String {
        let metrics = self.node.telemetry.metrics();
        metrics.pods(self.node.pods().iter().count(), 0);
        metrics.log_lines_dropped(self.log.dropped());
        let received = self.xds.statistics();
        for kind in ResourceType::ALL {
            metrics.xds_received(kind.url(), received.messages(kind), received.bytes(kind));
        }
        for reason in Termination::ALL {
            metrics.xds_terminations(reason.as_str(), received.terminations(reason));
        }
        self.node.telemetry.expose()
    }
}
