//! Label sets come, count and go.

use super::*;
use crate::{
    Claims, Outcome, Telemetry,
    tests::{flow, parse, value, workload},
};

const RECEIVED: &str = "istio_tcp_received_bytes_total";

fn kept(flows: &Flows) -> usize {
    lock(&flows.series).len()
}

#[test]
fn bytes_of_an_open_connection_show_and_count_once() {
    let telemetry = Telemetry::new();
    let open = telemetry.open(flow(&workload("web"), &workload("cart")));
    assert_eq!(value(&telemetry, RECEIVED, "-"), Some(0.0));
    open.traffic()
        .to_destination
        .fetch_add(10, Ordering::Relaxed);
    assert_eq!(value(&telemetry, RECEIVED, "-"), Some(10.0));
    assert_eq!(value(&telemetry, RECEIVED, "-"), Some(10.0));
    open.traffic()
        .to_destination
        .fetch_add(5, Ordering::Relaxed);
    open.close(Outcome::Clean);
    assert_eq!(value(&telemetry, RECEIVED, "-"), Some(15.0));
}

#[test]
fn scrapes_during_closes_lose_and_double_nothing() {
    let telemetry = Telemetry::new();
    let (web, cart) = (workload("web"), workload("cart"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let open = telemetry.open(flow(&web, &cart));
                    for _ in 0..4 {
                        open.traffic()
                            .to_destination
                            .fetch_add(1, Ordering::Relaxed);
                    }
                    open.close(Outcome::Clean);
                }
            });
        }
        scope.spawn(|| (0..50).for_each(|_| drop(telemetry.expose())));
    });
    assert_eq!(value(&telemetry, RECEIVED, "-"), Some(8000.0));
    assert_eq!(
        value(&telemetry, "istio_tcp_connections_closed_total", "-"),
        Some(2000.0)
    );
    let samples = parse(&telemetry.expose());
    let mut sockets = samples
        .iter()
        .filter(|sample| sample.name == "istio_tcp_sockets_open");
    assert!(sockets.all(|sample| sample.value == 0.0));
}

#[test]
fn an_updated_workload_keeps_its_counters() {
    let flows = Flows::new();
    let cart = workload("cart");
    let before = flows.series(&flow(&workload("web"), &cart), ResponseFlag::None);
    let after = flows.series(&flow(&workload("web"), &cart), ResponseFlag::None);
    assert!(Arc::ptr_eq(&before, &after));
    assert_eq!(kept(&flows), 1);
}

#[test]
fn label_sets_go_once_their_workloads_have_gone_and_no_sooner() {
    let flows = Flows::new();
    let (web, cart) = (workload("web"), workload("cart"));
    drop(flows.series(&flow(&web, &cart), ResponseFlag::None));
    let late = millis(GRACE) + flows.now() + 1;
    flows.sweep(late);
    assert_eq!(kept(&flows), 1, "both workloads are still there");
    drop(web);
    flows.sweep(0);
    assert_eq!(kept(&flows), 1, "its last values may not have been scraped");
    flows.sweep(late);
    assert_eq!(kept(&flows), 0);
}

#[test]
fn an_open_connection_keeps_its_label_set() {
    let flows = Flows::new();
    let series = flows.series(
        &flow(&workload("web"), &workload("cart")),
        ResponseFlag::None,
    );
    let tracked = flows.track(Reporter::Source, series, Arc::default());
    let late = millis(GRACE) + flows.now() + 1;
    flows.sweep(late);
    assert_eq!(kept(&flows), 1);
    flows.untrack(Reporter::Source, &tracked);
    drop(tracked);
    flows.sweep(late + millis(GRACE));
    assert_eq!(kept(&flows), 0);
}

#[test]
fn a_daemon_that_nobody_scrapes_forgets_too() {
    let flows = Flows::new();
    for _ in 0..=SWEEP_EVERY {
        drop(flows.series(
            &flow(&workload("web"), &workload("cart")),
            ResponseFlag::None,
        ));
    }
    assert!(
        flows.cache.len() < SWEEP_EVERY / 2,
        "{} entries",
        flows.cache.len()
    );
}

#[test]
fn what_peers_claim_cannot_fill_the_memory() {
    let flows = Flows::new();
    let cart = workload("cart");
    for number in 0..MOST_WITH_CLAIMS + 100 {
        let mut flow = flow(&cart, &cart);
        let name = Some(number.to_string().as_str().into());
        flow.source.who = Who::Claimed(Box::new(Claims {
            service_name: name,
            ..Claims::default()
        }));
        drop(flows.series(&flow, ResponseFlag::None));
    }
    assert!(kept(&flows) <= MOST_WITH_CLAIMS + 1);
}
