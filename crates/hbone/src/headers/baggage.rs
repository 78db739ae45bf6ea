//! `baggage`: what each end says of its workload, for the other's metrics and logs.
//!
//! Nothing here is verified, so nothing here may decide anything. Values are not escaped, which
//! is how every HBONE peer writes them.

use std::{fmt, sync::Arc};

use http::HeaderValue;
use model::{Workload, WorkloadType};

/// What a workload says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Baggage {
    pub cluster: Option<Arc<str>>,
    pub namespace: Option<Arc<str>>,
    /// The owner's kind and name.
    pub workload: Option<(WorkloadType, Arc<str>)>,
    pub service_name: Option<Arc<str>>,
    pub service_version: Option<Arc<str>>,
    pub region: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
}

const CLUSTER: &str = "k8s.cluster.name";
const NAMESPACE: &str = "k8s.namespace.name";
const SERVICE_NAME: &str = "service.name";
const SERVICE_VERSION: &str = "service.version";
const REGION: &str = "cloud.region";
const ZONE: &str = "cloud.availability_zone";

impl Baggage {
    /// Reads what is known and skips the rest: a peer may say more, or nonsense.
    pub fn parse(header: &str) -> Self {
        let mut baggage = Self::default();
        for item in header.split(',') {
            let Some((key, value)) = item.split_once('=') else {
                continue;
            };
            // W3C baggage allows properties after the value.
            let value = value.split(';').next().unwrap_or_default().trim();
            if value.is_empty() {
                continue;
            }
            baggage.set(key.trim(), value.into());
        }
        baggage
    }

    fn set(&mut self, key: &str, value: Arc<str>) {
        let owner = |kind| Some((kind, Arc::clone(&value)));
        match key {
            CLUSTER => self.cluster = Some(value),
            NAMESPACE => self.namespace = Some(value),
            "k8s.deployment.name" => self.workload = owner(WorkloadType::Deployment),
            "k8s.cronjob.name" => self.workload = owner(WorkloadType::CronJob),
            "k8s.pod.name" => self.workload = owner(WorkloadType::Pod),
            "k8s.job.name" => self.workload = owner(WorkloadType::Job),
            SERVICE_NAME => self.service_name = Some(value),
            SERVICE_VERSION => self.service_version = Some(value),
            REGION => self.region = Some(value),
            ZONE => self.zone = Some(value),
            _ => {}
        }
    }

    /// The header, or nothing when there is nothing to say.
    pub(crate) fn to_header(&self) -> Option<HeaderValue> {
        let text = self.to_string();
        (!text.is_empty()).then(|| HeaderValue::try_from(text).ok())?
    }
}

impl From<&Workload> for Baggage {
    fn from(workload: &Workload) -> Self {
        let said = |value: &Arc<str>| (!value.is_empty()).then(|| Arc::clone(value));
        Self {
            cluster: said(&workload.cluster_id),
            namespace: said(&workload.namespace),
            workload: said(&workload.workload_name).map(|name| (workload.workload_type, name)),
            service_name: said(&workload.canonical_name),
            service_version: said(&workload.canonical_revision),
            region: said(&workload.locality.region),
            zone: said(&workload.locality.zone),
        }
    }
}

/// Values travel as they are, so one that would be read as something else is left out.
fn is_plain(value: &str) -> bool {
    !value.is_empty()
        && value
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b",;".contains(&byte))
}

impl fmt::Display for Baggage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = self
            .workload
            .as_ref()
            .map(|(kind, name)| (format!("k8s.{}.name", kind.as_str()), name));
        let items = [
            (CLUSTER, self.cluster.as_ref()),
            (NAMESPACE, self.namespace.as_ref()),
            owner
                .as_ref()
                .map_or(("", None), |(key, name)| (key, Some(*name))),
            (SERVICE_NAME, self.service_name.as_ref()),
            (SERVICE_VERSION, self.service_version.as_ref()),
            (REGION, self.region.as_ref()),
            (ZONE, self.zone.as_ref()),
        ];
        let mut separator = "";
        for (key, value) in items {
            if let Some(value) = value.filter(|value| is_plain(value)) {
                write!(out, "{separator}{key}={value}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full() -> Baggage {
        Baggage {
            cluster: Some("Kubernetes".into()),
            namespace: Some("shop".into()),
            workload: Some((WorkloadType::Deployment, "cart".into())),
            service_name: Some("cart".into()),
            service_version: Some("v1".into()),
            region: Some("r1".into()),
            zone: Some("z/2=a".into()),
        }
    }

    #[test]
    fn writes_the_keys_of_the_contract() {
        assert_eq!(
            full().to_string(),
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart,\
             service.name=cart,service.version=v1,cloud.region=r1,cloud.availability_zone=z/2=a"
        );
    }

    #[test]
    fn reads_what_it_writes() {
        assert_eq!(Baggage::parse(&full().to_string()), full());
    }

    #[test]
    fn skips_the_unknown_and_the_empty() {
        let parsed = Baggage::parse(" service.name = cart ;p=1, x=y,,=,cloud.region=,k8s.pod.name");
        let expected = Baggage {
            service_name: Some("cart".into()),
            ..Baggage::default()
        };
        assert_eq!(parsed, expected);
    }

    #[test]
    fn a_value_cannot_smuggle_another_key() {
        let baggage = Baggage {
            namespace: Some("a,service.name=admin".into()),
            region: Some("r\r\nx: y".into()),
            ..Baggage::default()
        };
        assert_eq!(baggage.to_string(), "");
        assert_eq!(baggage.to_header(), None);
    }

    proptest! {
        #[test]
        fn any_header_parses_to_what_formats_and_parses_the_same(header in ".{0,200}") {
            let once = Baggage::parse(&header);
            let text = once.to_string();
            let twice = Baggage::parse(&text);
            prop_assert_eq!(twice.to_string(), text);
        }

        #[test]
        fn any_value_gives_a_valid_header_or_none(value in ".{0,40}", key in 0usize..7) {
            let mut baggage = full();
            let value: Arc<str> = value.into();
            match key {
                0 => baggage.cluster = Some(value),
                1 => baggage.namespace = Some(value),
                2 => baggage.workload = Some((WorkloadType::Job, value)),
                3 => baggage.service_name = Some(value),
                4 => baggage.service_version = Some(value),
                5 => baggage.region = Some(value),
                _ => baggage.zone = Some(value),
            }
            prop_assert!(baggage.to_header().is_some());
        }
    }
}
