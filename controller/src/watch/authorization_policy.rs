//! `security.istio.io/v1` AuthorizationPolicy, read strictly.
//!
//! What cannot be read is no policy but still an object: [`Body::Unreadable`] is compiled to a
//! denial of its whole scope. What each field means for the node layer is `compile`'s to say.

use std::sync::Arc;

use ipnet::IpNet;
use model::StringMatch;
use serde::{Deserialize, de::IgnoredAny};
use serde_yaml_ng::Value;

use super::{
    manifest::{Account, IpBlock, Manifest, Pattern, PortNumber, Selector},
    object::{FieldFault, Labels, ObjectName, Placement, object_name},
};

/// An AuthorizationPolicy.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthorizationPolicy {
    pub name: ObjectName,
    /// Selects every workload of its scope when empty.
    pub selector: Labels,
    pub target: Target,
    pub enforcement: Enforcement,
    pub body: Body,
}

/// Which layer a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Workloads, by namespace and selector: the node layer.
    Workloads,
    /// `targetRefs`: the waypoint of what they name.
    Waypoint,
}

/// Annotation `istio.io/dry-run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    Enforced,
    DryRun,
}

/// What the policy says, or why that is unknown.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Readable { action: Action, rules: Vec<Rule> },
    Unreadable(Arc<str>),
}

/// `spec.action`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

/// One of `spec.rules`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(try_from = "RawRule")]
pub struct Rule {
    pub(crate) from: Vec<Source>,
    pub(crate) to: Vec<Operation>,
    pub(crate) when: Vec<Condition>,
}

/// A constraint that only an L7 proxy can evaluate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum LayerSeven {
    #[default]
    Absent,
    Present,
}

/// `from[].source`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(try_from = "RawSource")]
pub(crate) struct Source {
    pub(crate) raw: RawSource,
    pub(crate) layer_seven: LayerSeven,
}

/// `to[].operation`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "RawOperation")]
pub(crate) struct Operation {
    pub(crate) ports: Vec<PortNumber>,
    pub(crate) not_ports: Vec<PortNumber>,
    pub(crate) layer_seven: LayerSeven,
}

/// One of `when`: values that match, and values that must not.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "RawCondition")]
pub(crate) enum Condition {
    SourceIp(Vec<IpNet>, Vec<IpNet>),
    SourceNamespace(Vec<StringMatch>, Vec<StringMatch>),
    SourcePrincipal(Vec<StringMatch>, Vec<StringMatch>),
    DestinationIp(Vec<IpNet>, Vec<IpNet>),
    DestinationPort(Vec<u16>, Vec<u16>),
    LayerSeven,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct RawSource {
    pub(crate) principals: Vec<Pattern>,
    pub(crate) not_principals: Vec<Pattern>,
    pub(crate) namespaces: Vec<Pattern>,
    pub(crate) not_namespaces: Vec<Pattern>,
    pub(crate) service_accounts: Vec<Account>,
    pub(crate) not_service_accounts: Vec<Account>,
    pub(crate) ip_blocks: Vec<IpBlock>,
    pub(crate) not_ip_blocks: Vec<IpBlock>,
    request_principals: Vec<String>,
    not_request_principals: Vec<String>,
    remote_ip_blocks: Vec<String>,
    not_remote_ip_blocks: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
#[derive(Default)]
struct RawOperation {
    ports: Vec<PortNumber>,
    not_ports: Vec<PortNumber>,
    hosts: Vec<String>,
    not_hosts: Vec<String>,
    methods: Vec<String>,
    not_methods: Vec<String>,
    paths: Vec<String>,
    not_paths: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawCondition {
    key: String,
    #[serde(default)]
    values: Vec<String>,
    #[serde(default)]
    not_values: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFrom {
    source: Source,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTo {
    operation: Operation,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    from: Option<Vec<RawFrom>>,
    to: Option<Vec<RawTo>>,
    when: Option<Vec<Condition>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Spec {
    selector: Option<Selector>,
    target_ref: Option<IgnoredAny>,
    target_refs: Vec<IgnoredAny>,
    rules: Option<Vec<Option<Rule>>>,
    action: Option<Action>,
    #[serde(rename = "provider")]
    _provider: Option<IgnoredAny>,
}

impl TryFrom<RawRule> for Rule {
    type Error = String;

    fn try_from(raw: RawRule) -> Result<Self, String> {
        fn filled<T>(field: &str, list: Option<Vec<T>>) -> Result<Vec<T>, String> {
            match list {
                Some(list) if list.is_empty() => Err(format!(
                    "{field} is empty: leave it out to match everything"
                )),
                Some(list) => Ok(list),
                None => Ok(Vec::new()),
            }
        }
        let from = filled("from", raw.from)?;
        let to = filled("to", raw.to)?;
        Ok(Self {
            from: from.into_iter().map(|held| held.source).collect(),
            to: to.into_iter().map(|held| held.operation).collect(),
            when: filled("when", raw.when)?,
        })
    }
}

impl TryFrom<RawSource> for Source {
    type Error = &'static str;

    fn try_from(raw: RawSource) -> Result<Self, &'static str> {
        if raw == RawSource::default() {
            return Err("source is empty: it must constrain something");
        }
        let layer_seven = layer_seven(&[
            &raw.request_principals,
            &raw.not_request_principals,
            &raw.remote_ip_blocks,
            &raw.not_remote_ip_blocks,
        ]);
        Ok(Self { raw, layer_seven })
    }
}

impl TryFrom<RawOperation> for Operation {
    type Error = &'static str;

    fn try_from(raw: RawOperation) -> Result<Self, &'static str> {
        let layer_seven = layer_seven(&[
            &raw.hosts,
            &raw.not_hosts,
            &raw.methods,
            &raw.not_methods,
            &raw.paths,
            &raw.not_paths,
        ]);
        let unconstrained = raw.ports.is_empty() && raw.not_ports.is_empty();
        if unconstrained && layer_seven == LayerSeven::Absent {
            return Err("operation is empty: it must constrain something");
        }
        Ok(Self {
            ports: raw.ports,
            not_ports: raw.not_ports,
            layer_seven,
        })
    }
}

fn layer_seven(fields: &[&Vec<String>]) -> LayerSeven {
    if fields.iter().all(|field| field.is_empty()) {
        LayerSeven::Absent
    } else {
        LayerSeven::Present
    }
}

impl TryFrom<RawCondition> for Condition {
    type Error = String;

    fn try_from(raw: RawCondition) -> Result<Self, String> {
        if raw.values.is_empty() && raw.not_values.is_empty() {
            return Err("neither values nor notValues is set".to_owned());
        }
        let nets =
            |values: &[String]| parse_all(values, |text| IpBlock::parse(text).map(|block| block.0));
        let texts = |values: &[String]| {
            parse_all(values, |text| Pattern::parse(text).map(|pattern| pattern.0))
        };
        let ports = |values: &[String]| {
            parse_all(values, |text| PortNumber::parse(text).map(|port| port.0))
        };
        let (values, not_values) = (&raw.values, &raw.not_values);
        match raw.key.as_str() {
            "source.ip" => Ok(Self::SourceIp(nets(values)?, nets(not_values)?)),
            "source.namespace" => Ok(Self::SourceNamespace(texts(values)?, texts(not_values)?)),
            "source.principal" => Ok(Self::SourcePrincipal(texts(values)?, texts(not_values)?)),
            "destination.ip" => Ok(Self::DestinationIp(nets(values)?, nets(not_values)?)),
            "destination.port" => Ok(Self::DestinationPort(ports(values)?, ports(not_values)?)),
            "remote.ip" | "connection.sni" => Ok(Self::LayerSeven),
            key if key.starts_with("request.") || key.starts_with("experimental.") => {
                Ok(Self::LayerSeven)
            }
            key => Err(format!("key {key:?} is unknown")),
        }
    }
}

fn parse_all<T>(
    values: &[String],
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Vec<T>, String> {
    let each = |text: &String| parse(text).map_err(|reason| format!("{text:?} {reason}"));
    values.iter().map(each).collect()
}

impl AuthorizationPolicy {
    /// Reads the YAML of one document.
    pub(crate) fn read(yaml: &str) -> Result<Result<Self, FieldFault>, serde_yaml_ng::Error> {
        let manifest: Manifest<Spec> = serde_yaml_ng::from_str(yaml)?;
        Ok(Self::from_manifest(manifest))
    }

    fn from_manifest(manifest: Manifest<Spec>) -> Result<Self, FieldFault> {
        let name = object_name(&manifest.metadata, Placement::Namespaced)?;
        let spec = manifest.spec.unwrap_or_default();
        let selector = spec.selector.unwrap_or_default().match_labels;
        let target = match (spec.target_ref, spec.target_refs.is_empty()) {
            (None, true) => Target::Workloads,
            _ => Target::Waypoint,
        };
        if target == Target::Waypoint && !selector.is_empty() {
            return Err(FieldFault::new(
                "spec.targetRefs",
                "a policy has a selector or targetRefs, not both",
            ));
        }
        let annotations = manifest.metadata.annotations.unwrap_or_default();
        let enforcement = match annotations.get("istio.io/dry-run").map(String::as_str) {
            None | Some("false") => Enforcement::Enforced,
            Some("true") => Enforcement::DryRun,
            Some(other) => {
                return Err(FieldFault::new(
                    "metadata.annotations.istio.io/dry-run",
                    format!("{other:?} is neither \"true\" nor \"false\""),
                ));
            }
        };
        let rules = spec.rules.unwrap_or_default().into_iter();
        Ok(Self {
            name,
            selector,
            target,
            enforcement,
            body: Body::Readable {
                action: spec.action.unwrap_or_default(),
                rules: rules.map(Option::unwrap_or_default).collect(),
            },
        })
    }

    /// What must stand in for a policy that cannot be read: everything it could cover. `None`
    /// when not even its name can be read.
    pub(crate) fn unreadable(document: &Value, why: &str) -> Option<Self> {
        let metadata = serde_yaml_ng::from_value(document.get("metadata")?.clone()).ok()?;
        let spec = document.get("spec");
        let field = |name: &str| spec.and_then(|held| held.get(name));
        let is_set = |name: &str| field(name).is_some_and(|held| !held.is_null());
        let labels = field("selector").and_then(|held| held.get("matchLabels"));
        let selector = labels.and_then(|held| serde_yaml_ng::from_value(held.clone()).ok());
        Some(Self {
            name: object_name(&metadata, Placement::Namespaced).ok()?,
            // A selector that cannot be read selects everything: the wider denial.
            selector: selector.unwrap_or_default(),
            target: if is_set("targetRef") || is_set("targetRefs") {
                Target::Waypoint
            } else {
                Target::Workloads
            },
            enforcement: Enforcement::Enforced,
            body: Body::Unreadable(why.into()),
        })
    }
}
