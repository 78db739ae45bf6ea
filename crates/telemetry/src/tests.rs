//! What is exposed, read back like a scraper does, and the log, read like an operator does.

use std::{
    io::Write,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use model::{PolicyKey, Workload};
use proptest::prelude::*;

use super::*;

/// One line of the text format.
#[derive(Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) value: f64,
}

impl Sample {
    pub(crate) fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(label, _)| label == name);
        &found
            .unwrap_or_else(|| panic!("no label {name} in {self:?}"))
            .1
    }
}

/// Reads the text format strictly: a family's samples are together, below its TYPE.
pub(crate) fn parse(text: &str) -> Vec<Sample> {
    let mut families = std::collections::HashSet::new();
    let mut family = "";
    let mut samples: Vec<Sample> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} is there twice");
        } else if !line.starts_with("# HELP ") {
            let sample = parse_sample(line);
            assert!(
                sample.name.starts_with(family),
                "{line} is not of family {family}"
            );
            let same = |other: &&Sample| other.name == sample.name && other.labels == sample.labels;
            assert!(samples.iter().find(same).is_none(), "{line} is there twice");
            samples.push(sample);
        }
    }
    samples
}

fn parse_sample(line: &str) -> Sample {
    let (head, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = match head.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
        None => (head, ""),
    };
    let mut parsed = Vec::new();
    let mut rest = labels.chars().peekable();
    while rest.peek().is_some() {
        let label: String = rest.by_ref().take_while(|next| *next != '=').collect();
        assert_eq!(rest.next(), Some('"'));
        let mut value = String::new();
        loop {
            match rest.next().expect("a value is closed") {
                '"' => break,
                '\\' => value.push(match rest.next().unwrap() {
                    'n' => '\n',
                    quoted @ ('"' | '\\') => quoted,
                    other => panic!("unknown escape {other}"),
                }),
                plain => value.push(plain),
            }
        }
        assert!(matches!(rest.next(), None | Some(',')));
        parsed.push((label, value));
    }
    Sample {
        name: name.to_owned(),
        labels: parsed,
        value: value.parse().unwrap(),
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn workload(name: &str) -> Arc<Workload> {
    let mut workload = Workload::new(&format!("Kubernetes//Pod/shop/{name}"), "shop", name);
    workload.workload_name = format!("{name}-deploy").as_str().into();
    workload.canonical_name = name.into();
    workload.canonical_revision = "v1".into();
    workload.service_account = name.into();
    Arc::new(workload)
}

pub(crate) fn flow(source: &Arc<Workload>, destination: &Arc<Workload>) -> Flow {
    Flow {
        reporter: Reporter::Source,
        source: Peer {
            addr: addr("10.0.0.1:40000"),
            who: Who::Workload(source.clone()),
            identity: source.identity().ok(),
        },
        destination: Peer {
            addr: addr("10.0.0.2:15008"),
            who: Who::Workload(destination.clone()),
            identity: None,
        },
        service: Some(ServiceName {
            name: "cart".into(),
            namespace: "shop".into(),
            hostname: "cart.shop.svc.cluster.local".into(),
        }),
        hbone_addr: Some(HboneAddr::Socket(addr("10.0.0.2:80"))),
        security: Security::MutualTls,
    }
}

pub(crate) fn value(telemetry: &Telemetry, name: &str, flag: &str) -> Option<f64> {
    let samples = parse(&telemetry.expose());
    let mut found = samples
        .iter()
        .filter(|sample| sample.name == name && sample.label("response_flags") == flag);
    let value = found.next().map(|sample| sample.value);
    assert!(found.next().is_none(), "{name} has several label sets");
    value
}

#[test]
fn labels_are_those_of_the_contract_in_its_order() {
    let telemetry = Telemetry::new();
    let flow = flow(&workload("web"), &workload("cart"));
    telemetry.open(flow).close(Outcome::Clean);
    let samples = parse(&telemetry.expose());
    let opened = samples
        .iter()
        .find(|sample| sample.name == "istio_tcp_connections_opened_total")
        .unwrap();
    let expected = [
        ("reporter", "source"),
        ("source_workload", "web-deploy"),
        ("source_canonical_service", "web"),
        ("source_canonical_revision", "v1"),
        ("source_workload_namespace", "shop"),
        ("source_principal", "spiffe://cluster.local/ns/shop/sa/web"),
        ("source_app", "web"),
        ("source_version", "v1"),
        ("source_cluster", "Kubernetes"),
        ("destination_service", "cart.shop.svc.cluster.local"),
        ("destination_service_namespace", "shop"),
        ("destination_service_name", "cart"),
        ("destination_workload", "cart-deploy"),
        ("destination_canonical_service", "cart"),
        ("destination_canonical_revision", "v1"),
        ("destination_workload_namespace", "shop"),
        (
            "destination_principal",
            "spiffe://cluster.local/ns/shop/sa/cart",
        ),
        ("destination_app", "cart"),
        ("destination_version", "v1"),
        ("destination_cluster", "Kubernetes"),
        ("request_protocol", "tcp"),
        ("response_flags", "-"),
        ("connection_security_policy", "mutual_tls"),
        ("source_region", "unknown"),
        ("source_zone", "unknown"),
        ("destination_region", "unknown"),
        ("destination_zone", "unknown"),
    ];
    let labels: Vec<_> = opened
        .labels
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(labels, expected);
    assert_eq!(opened.value, 1.0);
}

#[test]
fn what_is_not_known_is_unknown() {
    let telemetry = Telemetry::new();
    let source = Peer::unknown(addr("10.0.0.1:40000"));
    let destination = Peer::unknown(addr("192.0.2.1:443"));
    telemetry.refuse(
        Flow {
            reporter: Reporter::Destination,
            source,
            destination,
            service: None,
            hbone_addr: None,
            security: Security::Unknown,
        },
        Refusal::new(ResponseFlag::Connect, "no route"),
    );
    let samples = parse(&telemetry.expose());
    let failed = samples
        .iter()
        .find(|sample| sample.name == "istio_tcp_connections_failed_total")
        .unwrap();
    for (name, value) in &failed.labels {
        let expected = match name.as_str() {
            "reporter" => "destination",
            "request_protocol" => "tcp",
            "response_flags" => "CONNECT",
            _ => "unknown",
        };
        assert_eq!(value, expected, "{name}");
    }
    assert!(
        !samples
            .iter()
            .any(|sample| sample.name == "istio_tcp_connections_opened_total")
    );
}

#[test]
fn received_is_what_the_client_sent_whoever_reports_it() {
    for reporter in [Reporter::Source, Reporter::Destination] {
        let telemetry = Telemetry::new();
        let flow = Flow {
            reporter,
            ..flow(&workload("web"), &workload("cart"))
        };
        let open = telemetry.open(flow);
        open.traffic().to_destination.store(100, Ordering::Relaxed);
        open.traffic().to_source.store(7, Ordering::Relaxed);
        open.close(Outcome::Clean);
        assert_eq!(
            value(&telemetry, "istio_tcp_received_bytes_total", "-"),
            Some(100.0)
        );
        assert_eq!(
            value(&telemetry, "istio_tcp_sent_bytes_total", "-"),
            Some(7.0)
        );
    }
}

#[test]
fn both_records_of_a_connection_within_the_node_have_its_bytes() {
    let telemetry = Telemetry::new();
    let near = flow(&workload("web"), &workload("cart"));
    let far = Flow {
        reporter: Reporter::Destination,
        ..near.clone()
    };
    let near = telemetry.open(near);
    let far = telemetry.open_sharing(far, &near);
    near.traffic().to_destination.store(10, Ordering::Relaxed);
    far.close(Outcome::Clean);
    near.close(Outcome::Clean);
    let samples = parse(&telemetry.expose());
    let received = samples
        .iter()
        .filter(|sample| sample.name == "istio_tcp_received_bytes_total");
    let told: Vec<_> = received
        .map(|sample| (sample.label("reporter"), sample.value))
        .collect();
    assert_eq!(told, [("destination", 10.0), ("source", 10.0)]);
}

#[test]
fn the_other_families_are_exposed_under_their_names() {
    let telemetry = Telemetry::new();
    let metrics = telemetry.metrics();
    metrics.build("ztunnel", "0.1.0");
    metrics.xds_received("type.googleapis.com/istio.workload.Address", 1, 120);
    metrics.xds_terminations("Reconnect", 1);
    metrics.pods(3, 1);
    metrics.pod_started();
    metrics.pod_stopped();
    metrics.handshake(
        Direction::Inbound,
        Duration::from_millis(2),
        &Ok::<_, ()>(()),
    );
    metrics.connect(
        Direction::Outbound,
        Duration::from_millis(2),
        &Err::<(), _>(()),
    );
    metrics.tunnel_opened(Duration::from_micros(300));
    metrics.pool(
        0,
        PoolGauges {
            connections: 2,
            streams: 9,
            connecting: 1,
        },
    );
    let samples = parse(&telemetry.expose());
    let value = |name: &str| {
        let found = samples.iter().find(|sample| sample.name == name);
        found.unwrap_or_else(|| panic!("no {name}")).value
    };
    assert_eq!(value("istio_build"), 1.0);
    assert_eq!(value("istio_xds_message_total"), 1.0);
    assert_eq!(value("istio_xds_message_bytes_total"), 120.0);
    assert_eq!(value("istio_xds_connection_terminations_total"), 1.0);
    assert_eq!(value("workload_manager_active_proxy_count"), 3.0);
    assert_eq!(value("workload_manager_pending_proxy_count"), 1.0);
    assert_eq!(value("workload_manager_proxies_started_total"), 1.0);
    assert_eq!(value("workload_manager_proxies_stopped_total"), 1.0);
    assert!(value("process_open_fds") >= 3.0);
    assert!(value("process_max_fds") > value("process_open_fds"));
    assert_eq!(value("ambit_tls_handshake_duration_seconds_count"), 1.0);
    assert_eq!(value("ambit_connect_duration_seconds_count"), 1.0);
    assert_eq!(value("ambit_pool_streams"), 9.0);
}

/// Runs `act` with a log of everything, and returns its lines as JSON.
fn logged(act: impl FnOnce()) -> Vec<String> {
    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);
    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let buffer = Buffer::default();
    let lines = buffer.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .without_time()
        .with_ansi(false)
        .with_writer(move || lines.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, act);
    let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_connection_has_a_line_at_its_opening_and_one_at_its_end() {
    for (reporter, bytes) in [
        (Reporter::Source, "bytes_sent=100 bytes_recv=7"),
        (Reporter::Destination, "bytes_sent=7 bytes_recv=100"),
    ] {
        let lines = logged(|| {
            let telemetry = Telemetry::new();
            let flow = Flow {
                reporter,
                ..flow(&workload("web"), &workload("cart"))
            };
            let open = telemetry.open(flow);
            open.traffic().to_destination.store(100, Ordering::Relaxed);
            open.traffic().to_source.store(7, Ordering::Relaxed);
            open.close(Outcome::Clean);
        });
        let [opened, closed] = &lines[..] else {
            panic!("{lines:?}")
        };
        let ends = format!(
            "src.addr=10.0.0.1:40000 src.workload=\"web\" src.namespace=\"shop\" \
             src.cluster=\"Kubernetes\" \
             src.identity=\"spiffe://cluster.local/ns/shop/sa/web\" dst.addr=10.0.0.2:15008 \
             dst.hbone_addr=10.0.0.2:80 dst.service=\"cart.shop.svc.cluster.local\" \
             dst.workload=\"cart\" dst.namespace=\"shop\" dst.cluster=\"Kubernetes\" \
             dst.identity=\"spiffe://cluster.local/ns/shop/sa/cart\" direction=\"{}\"",
            reporter.direction()
        );
        assert_eq!(*opened, format!("DEBUG access: connection opened {ends}"));
        let closing = format!(" INFO access: connection complete {ends} {bytes} duration=\"");
        assert!(
            closed.starts_with(&closing) && closed.ends_with("ms\""),
            "{closed}"
        );
    }
}

#[test]
fn identities_are_told_only_when_mutual_tls_proved_them() {
    let lines = logged(|| {
        let flow = Flow {
            security: Security::Unknown,
            ..flow(&workload("web"), &workload("cart"))
        };
        Telemetry::new().open(flow).close(Outcome::Clean);
    });
    assert!(
        !lines.iter().any(|line| line.contains("identity")),
        "{lines:?}"
    );
}

#[test]
fn a_denial_names_policy_rule_and_both_identities() {
    let lines = logged(|| {
        let key = PolicyKey {
            namespace: "shop".into(),
            name: "no-web".into(),
        };
        let refusal = Refusal::denied("policy shop/no-web, rule 2: denies", Some((key, Some(2))));
        Telemetry::new().refuse(flow(&workload("web"), &workload("cart")), refusal);
    });
    let [line] = &lines[..] else {
        panic!("{lines:?}")
    };
    for part in [
        "WARN access: connection failed ",
        "src.identity=\"spiffe://cluster.local/ns/shop/sa/web\"",
        "dst.identity=\"spiffe://cluster.local/ns/shop/sa/cart\"",
        "response_flags=\"DENY\" policy=shop/no-web rule=2 \
         error=\"policy shop/no-web, rule 2: denies\"",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}

#[test]
fn a_record_that_is_dropped_tells_of_an_aborted_connection() {
    let telemetry = Telemetry::new();
    let lines = logged(|| {
        drop(telemetry.open(flow(&workload("web"), &workload("cart"))));
    });
    assert!(
        lines[1].starts_with("ERROR access: connection complete "),
        "{lines:?}"
    );
    assert!(lines[1].ends_with("error=\"aborted\""), "{lines:?}");
    assert_eq!(
        value(&telemetry, "istio_tcp_connections_closed_total", "-"),
        Some(1.0)
    );
}

#[test]
fn a_connection_that_policy_cuts_is_closed_under_its_flag() {
    let telemetry = Telemetry::new();
    let open = telemetry.open(flow(&workload("web"), &workload("cart")));
    open.close(Outcome::Failed(Refusal::denied("policy changed", None)));
    assert_eq!(
        value(&telemetry, "istio_tcp_connections_opened_total", "-"),
        Some(1.0)
    );
    assert_eq!(
        value(&telemetry, "istio_tcp_connections_closed_total", "DENY"),
        Some(1.0)
    );
    assert_eq!(
        value(&telemetry, "istio_tcp_connections_closed_total", "-"),
        None
    );
}

proptest! {
    /// Baggage is written by whoever holds a certificate: it must not be able to forge metrics.
    #[test]
    fn whatever_a_peer_claims_can_be_scraped(service in "\\PC{0,40}|[\"\\\\\n,{}=]{0,9}") {
        let telemetry = Telemetry::new();
        let mut flow = flow(&workload("web"), &workload("cart"));
        let claims = Claims { service_name: Some(service.as_str().into()), ..Claims::default() };
        flow.source.who = Who::Claimed(Box::new(claims));
        drop(telemetry.open(flow));
        let samples = parse(&telemetry.expose());
        let opened = samples
            .iter()
            .find(|sample| sample.name == "istio_tcp_connections_opened_total")
            .unwrap();
        let expected = if service.is_empty() { "unknown" } else { &service };
        prop_assert_eq!(opened.label("source_canonical_service"), expected);
        prop_assert_eq!(opened.labels.len(), 27);
    }
}
