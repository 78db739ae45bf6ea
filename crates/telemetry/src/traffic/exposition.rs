//! Writes the counters of connections in Prometheus' text format.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Flows, Series, lock};
use crate::Reporter;

struct Family {
    name: &'static str,
    help: &'static str,
    counter: fn(&Series) -> &AtomicU64,
    shown: Shown,
}

/// When a family shows a label set.
#[derive(PartialEq, Eq)]
enum Shown {
    /// Once there has been an event.
    OnceCounted,
    /// From the opening of a connection on, also as zero.
    FromOpening,
}

const FAMILIES: [Family; 5] = [
    Family {
        name: "istio_tcp_connections_opened_total",
        help: "TCP connections opened.",
        counter: |series| &series.opened,
        shown: Shown::OnceCounted,
    },
    Family {
        name: "istio_tcp_connections_closed_total",
        help: "TCP connections closed.",
        counter: |series| &series.closed,
        shown: Shown::OnceCounted,
    },
    Family {
        name: "istio_tcp_connections_failed_total",
        help: "TCP connections that were refused or could not be established.",
        counter: |series| &series.failed,
        shown: Shown::OnceCounted,
    },
    Family {
        name: "istio_tcp_received_bytes_total",
        help: "Bytes from the client to the server.",
        counter: |series| &series.received,
        shown: Shown::FromOpening,
    },
    Family {
        name: "istio_tcp_sent_bytes_total",
        help: "Bytes from the server to the client.",
        counter: |series| &series.sent,
        shown: Shown::FromOpening,
    },
];

impl Flows {
    /// The text of all families, up to date with what is still open.
    pub(crate) fn expose(&self) -> String {
        self.fold();
        self.sweep(self.now());
        let series: Vec<_> = lock(&self.series).values().cloned().collect();
        let mut text = String::with_capacity(4096);
        for family in &FAMILIES {
            family
                .write(&series, &mut text)
                .expect("writing to a String cannot fail");
        }
        self.write_sockets(&mut text)
            .expect("writing to a String cannot fail");
        text
    }

    fn write_sockets(&self, text: &mut String) -> std::fmt::Result {
        let name = "istio_tcp_sockets_open";
        writeln!(text, "# HELP {name} TCP connections that are open.")?;
        writeln!(text, "# TYPE {name} gauge")?;
        for reporter in [Reporter::Source, Reporter::Destination] {
            let open = self.sockets[reporter as usize].load(Ordering::Relaxed);
            writeln!(text, "{name}{{reporter=\"{}\"}} {open}", reporter.as_str())?;
        }
        Ok(())
    }
}

impl Family {
    fn write(&self, all: &[Arc<Series>], text: &mut String) -> std::fmt::Result {
        let Self { name, help, .. } = self;
        writeln!(text, "# HELP {name} {help}")?;
        writeln!(text, "# TYPE {name} counter")?;
        for series in all {
            let value = (self.counter)(series).load(Ordering::Relaxed);
            let opened = series.opened.load(Ordering::Relaxed) > 0;
            if value > 0 || (self.shown == Shown::FromOpening && opened) {
                writeln!(text, "{name}{{{}}} {value}", series.labels)?;
            }
        }
        Ok(())
    }
}
