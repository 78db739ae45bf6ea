//! The labels of the `istio_tcp_*` metrics, rendered once for each set of values.
//!
//! Names and order are Istio's; what is not known is `unknown`.

use std::fmt::Write;

use model::{SpiffeId, Workload};

use crate::{Claims, Flow, Peer, ResponseFlag, Security, Who};

const UNKNOWN: &str = "unknown";

/// The identity of the destination: what it has proven, or else what its workload should have.
pub(crate) fn destination_identity(flow: &Flow) -> Option<SpiffeId> {
    flow.destination
        .identity
        .clone()
        .or_else(|| match &flow.destination.who {
            Who::Workload(workload) => workload.identity().ok(),
            Who::Claimed(_) | Who::Unknown => None,
        })
}

/// What one end gives to labels.
struct End<'a> {
    workload: &'a str,
    canonical_service: &'a str,
    canonical_revision: &'a str,
    namespace: &'a str,
    principal: String,
    cluster: &'a str,
    region: &'a str,
    zone: &'a str,
}

impl<'a> End<'a> {
    fn of(peer: &'a Peer, identity: Option<SpiffeId>) -> Self {
        let mut end = match &peer.who {
            Who::Workload(workload) => Self::known(workload),
            Who::Claimed(claims) => Self::claimed(claims),
            Who::Unknown => Self::claimed(const { &Claims::NONE }),
        };
        end.principal = identity.map_or_else(|| UNKNOWN.to_owned(), |id| id.to_string());
        end
    }

    fn known(workload: &'a Workload) -> Self {
        Self {
            workload: or_unknown(&workload.workload_name),
            canonical_service: or_unknown(&workload.canonical_name),
            canonical_revision: or_unknown(&workload.canonical_revision),
            namespace: or_unknown(&workload.namespace),
            principal: String::new(),
            cluster: or_unknown(&workload.cluster_id),
            region: or_unknown(&workload.locality.region),
            zone: or_unknown(&workload.locality.zone),
        }
    }

    fn claimed(claims: &'a Claims) -> Self {
        Self {
            workload: claim(claims.workload.as_deref()),
            canonical_service: claim(claims.service_name.as_deref()),
            canonical_revision: claim(claims.service_version.as_deref()),
            namespace: claim(claims.namespace.as_deref()),
            principal: String::new(),
            cluster: claim(claims.cluster.as_deref()),
            region: claim(claims.region.as_deref()),
            zone: claim(claims.zone.as_deref()),
        }
    }

    fn write(&self, side: &str, out: &mut String) {
        for (name, value) in [
            ("workload", self.workload),
            ("canonical_service", self.canonical_service),
            ("canonical_revision", self.canonical_revision),
            ("workload_namespace", self.namespace),
            ("principal", &self.principal),
            ("app", self.canonical_service),
            ("version", self.canonical_revision),
            ("cluster", self.cluster),
        ] {
            label(out, &[side, name], value);
        }
    }

    fn write_locality(&self, side: &str, out: &mut String) {
        label(out, &[side, "region"], self.region);
        label(out, &[side, "zone"], self.zone);
    }
}

impl Claims {
    const NONE: Self = Self {
        cluster: None,
        namespace: None,
        workload: None,
        service_name: None,
        service_version: None,
        region: None,
        zone: None,
    };
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { UNKNOWN } else { text }
}

/// No Kubernetes name is longer; a peer that claims one has no business in our memory.
const LONGEST_CLAIM: usize = 253;

fn claim(text: Option<&str>) -> &str {
    text.filter(|text| text.len() <= LONGEST_CLAIM)
        .map_or(UNKNOWN, or_unknown)
}

/// The label set of a flow, as it stands between the braces of the text format.
pub(crate) fn render(flow: &Flow, flag: ResponseFlag) -> String {
    let source = End::of(&flow.source, flow.source.identity.clone());
    let destination = End::of(&flow.destination, destination_identity(flow));
    let mut out = String::with_capacity(1024);
    label(&mut out, &["reporter"], flow.reporter.as_str());
    source.write("source_", &mut out);
    let (service, namespace, name) = match &flow.service {
        Some(service) => (&*service.hostname, &*service.namespace, &*service.name),
        None => (UNKNOWN, UNKNOWN, UNKNOWN),
    };
    label(&mut out, &["destination_service"], or_unknown(service));
    label(
        &mut out,
        &["destination_service_namespace"],
        or_unknown(namespace),
    );
    label(&mut out, &["destination_service_name"], or_unknown(name));
    destination.write("destination_", &mut out);
    label(&mut out, &["request_protocol"], "tcp");
    label(&mut out, &["response_flags"], flag.as_str());
    let security = match flow.security {
        Security::MutualTls => "mutual_tls",
        Security::Unknown => UNKNOWN,
    };
    label(&mut out, &["connection_security_policy"], security);
    source.write_locality("source_", &mut out);
    destination.write_locality("destination_", &mut out);
    out.shrink_to_fit();
    out
}

fn label(out: &mut String, name: &[&str], value: &str) {
    if !out.is_empty() {
        out.push(',');
    }
    name.iter().for_each(|part| out.push_str(part));
    out.push_str("=\"");
    // What the text format escapes in a label value; baggage may hold any of it.
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            control if control.is_control() => {
                write!(
                    out,
                    "{}",
                    control.escape_unicode().to_string().replace('\\', "\\\\")
                )
                .expect("writing to a String cannot fail");
            }
            other => out.push(other),
        }
    }
    out.push('"');
}
