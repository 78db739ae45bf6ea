//! The daemon's own pages: metrics, readiness, and admin on loopback only.

use std::sync::Arc;

use anyhow::Context as _;
use http::StatusCode;
use lifecycle::{
    Readiness,
    http::{Page, Server, page, text},
};
use telemetry::log::Log;

use crate::{admin, config::Config, node::Node};

/// The running servers.
pub(crate) struct Servers([Server; 3]);

impl Servers {
    /// Frees the ports.
    pub(crate) async fn stop(self) {
        for server in self.0 {
            server.stop().await;
        }
    }
}

pub(crate) async fn start(
    config: &Config,
    node: &Arc<Node>,
    xds: &xds::client::Handle,
    readiness: &Readiness,
    log: &Log,
) -> anyhow::Result<Servers> {
    let scraped = admin::Scrape::new(node.clone(), xds.clone(), log.handle());
    let metrics = Server::start(config.metrics, move |request| match request.uri().path() {
        "/metrics" | "/stats/prometheus" => {
            page(StatusCode::OK, telemetry::CONTENT_TYPE, scraped.expose())
        }
        _ => text(StatusCode::NOT_FOUND, "try /metrics\n"),
    });
    let readiness = readiness.clone();
    let ready = Server::start(config.ready, move |request| match request.uri().path() {
        "/healthz/ready" => ready_page(&readiness),
        _ => text(StatusCode::NOT_FOUND, "try /healthz/ready\n"),
    });
    let pages = admin::Admin::new(node.clone(), log.handle());
    let admin = Server::start(config.admin, move |request| pages.route(request));
    Ok(Servers([
        metrics
            .await
            .with_context(|| format!("--metrics {}", config.metrics))?,
        ready
            .await
            .with_context(|| format!("--ready {}", config.ready))?,
        admin
            .await
            .with_context(|| format!("--admin {}", config.admin))?,
    ]))
}

fn ready_page(readiness: &Readiness) -> Page {
    let pending = readiness.pending();
    if pending.is_empty() {
        return text(StatusCode::OK, "ready\n");
    }
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("waiting for {}\n", pending.join(", ")),
    )
}
