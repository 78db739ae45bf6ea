//! `security.istio.io/v1` PeerAuthentication, read strictly.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_yaml_ng::Value;

use super::{
    manifest::{Manifest, PortNumber, Selector},
    object::{Created, FieldFault, Labels, ObjectName, Placement, object_name},
};

/// A PeerAuthentication.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerAuthentication {
    pub name: ObjectName,
    pub created: Created,
    /// Selects its whole namespace (the mesh, in the root namespace) when empty.
    pub selector: Labels,
    pub mode: Mode,
    pub port_modes: BTreeMap<u16, Mode>,
}

/// Whether plaintext is accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    /// What the next wider policy says.
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Mtls {
    mode: Mode,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Spec {
    selector: Option<Selector>,
    mtls: Option<Mtls>,
    port_level_mtls: BTreeMap<PortNumber, Mtls>,
}

impl PeerAuthentication {
    /// Reads the YAML of one document.
    pub(crate) fn read(yaml: &str) -> Result<Result<Self, FieldFault>, serde_yaml_ng::Error> {
        let manifest: Manifest<Spec> = serde_yaml_ng::from_str(yaml)?;
        Ok(Self::from_manifest(manifest))
    }

    fn from_manifest(manifest: Manifest<Spec>) -> Result<Self, FieldFault> {
        let spec = manifest.spec.unwrap_or_default();
        let selector = spec.selector.unwrap_or_default().match_labels;
        if selector.is_empty() && !spec.port_level_mtls.is_empty() {
            return Err(FieldFault::new(
                "spec.portLevelMtls",
                "ports belong to workloads: a selector is needed",
            ));
        }
        let ports = spec.port_level_mtls.into_iter();
        Ok(Self {
            name: object_name(&manifest.metadata, Placement::Namespaced)?,
            created: Created::of(&manifest.metadata),
            selector,
            mode: spec.mtls.unwrap_or_default().mode,
            port_modes: ports.map(|(port, mtls)| (port.0, mtls.mode)).collect(),
        })
    }

    /// What must stand in for one that cannot be read: no plaintext wherever it could hold.
    /// `None` when not even its name can be read.
    pub(crate) fn unreadable(document: &Value) -> Option<Self> {
        let metadata = serde_yaml_ng::from_value(document.get("metadata")?.clone()).ok()?;
        let selector = document.get("spec").and_then(|spec| spec.get("selector"));
        let labels = selector.and_then(|held| held.get("matchLabels"));
        let labels = labels.and_then(|held| serde_yaml_ng::from_value(held.clone()).ok());
        Some(Self {
            name: object_name(&metadata, Placement::Namespaced).ok()?,
            created: Created::of(&metadata),
            selector: labels.unwrap_or_default(),
            mode: Mode::Strict,
            port_modes: BTreeMap::new(),
        })
    }
}
