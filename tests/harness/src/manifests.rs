//! The folder of ordinary Kubernetes manifests a controller reads.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A folder of manifests. Files appear whole: they are written aside and renamed.
#[derive(Debug)]
pub struct Manifests {
    folder: PathBuf,
}

/// What a Pod manifest says.
#[derive(Debug, Clone, Copy)]
pub struct PodManifest<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub app: &'a str,
    pub node: &'a str,
    pub service_account: &'a str,
    pub addresses: &'a [IpAddr],
    pub ready: Ready,
    /// Further annotations, as YAML lines of `key: value`.
    pub annotations: &'a [&'a str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    Yes,
    No,
}

/// The uid the manifests give a pod.
#[must_use]
pub fn uid(namespace: &str, name: &str) -> String {
    format!("{namespace}-{name}")
}

impl Manifests {
    pub fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file, or replaces it.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let aside = self.folder.join(format!(".{file}.new"));
        std::fs::write(&aside, text).with_context(|| format!("write {}", aside.display()))?;
        std::fs::rename(&aside, self.folder.join(file)).with_context(|| format!("rename to {file}"))
    }

    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.folder.join(file);
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    pub fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        let labels: String = labels
            .iter()
            .map(|(key, value)| format!("    {key}: {value}\n"))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("  labels:\n{labels}")
        };
        let text = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n{labels}");
        self.write(&format!("namespace-{name}.yaml"), &text)
    }

    pub fn pod(&self, pod: &PodManifest<'_>) -> Result<()> {
        let PodManifest {
            namespace,
            name,
            app,
            node,
            service_account,
            ..
        } = pod;
        let uid = uid(namespace, name);
        let ready = match pod.ready {
            Ready::Yes => "True",
            Ready::No => "False",
        };
        let first = pod.addresses.first().context("a pod has an address")?;
        let addresses: String = pod
            .addresses
            .iter()
            .map(|address| format!("    - ip: \"{address}\"\n"))
            .collect();
        let annotations: String = pod
            .annotations
            .iter()
            .map(|line| format!("    {line}\n"))
            .collect();
        let annotations = if annotations.is_empty() {
            annotations
        } else {
            format!("  annotations:\n{annotations}")
        };
        let text = format!(
            "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  uid: {uid}
  labels:
    app: {app}
{annotations}spec:
  nodeName: {node}
  serviceAccountName: {service_account}
  containers:
    - name: app
      image: mesh-app
status:
  phase: Running
  podIP: \"{first}\"
  podIPs:
{addresses}  conditions:
    - type: Ready
      status: \"{ready}\"
"
        );
        self.write(&format!("pod-{namespace}-{name}.yaml"), &text)
    }

    /// Puts a label on a Service that was written before.
    pub fn label_service(&self, name: &str, key: &str, value: &str) -> Result<()> {
        let file = format!("service-{name}.yaml");
        let text = std::fs::read_to_string(self.folder.join(&file))?;
        let labels = format!("  namespace: shop\n  labels:\n    {key}: {value}\n");
        self.write(&file, &text.replacen("  namespace: shop\n", &labels, 1))
    }

    /// A Service of that app, with (port, target port) pairs.
    pub fn service(&self, name: &str, vips: &[IpAddr], ports: &[(u16, u16)]) -> Result<()> {
        let first = vips.first().context("a service has an address")?;
        let all: String = vips
            .iter()
            .map(|vip| format!("    - \"{vip}\"\n"))
            .collect();
        let ports: String = ports
            .iter()
            .map(|(port, target)| {
                format!(
                    "    - name: tcp-{port}\n      port: {port}\n      targetPort: {target}\n      protocol: TCP\n"
                )
            })
            .collect();
        let text = format!(
            "apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: shop
spec:
  selector:
    app: {name}
  clusterIP: \"{first}\"
  clusterIPs:
{all}  ports:
{ports}"
        );
        self.write(&format!("service-{name}.yaml"), &text)
    }

    /// An AuthorizationPolicy that lets only these service accounts reach an app of `shop`.
    pub fn allow_only(&self, name: &str, app: &str, accounts: &[&str]) -> Result<()> {
        let selector = format!("  selector:\n    matchLabels:\n      app: {app}\n");
        self.allow(name, &selector, accounts)
    }

    /// An AuthorizationPolicy that lets only these service accounts reach anything in `shop`.
    pub fn allow_only_in_shop(&self, name: &str, accounts: &[&str]) -> Result<()> {
        self.allow(name, "", accounts)
    }

    fn allow(&self, name: &str, selector: &str, accounts: &[&str]) -> Result<()> {
        let principals: String = accounts
            .iter()
            .map(|account| format!("              - cluster.local/ns/shop/sa/{account}\n"))
            .collect();
        let text = format!(
            "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: {name}
  namespace: shop
spec:
{selector}  action: ALLOW
  rules:
    - from:
        - source:
            principals:
{principals}"
        );
        self.write(&format!("policy-{name}.yaml"), &text)
    }

    pub fn remove_policy(&self, name: &str) -> Result<()> {
        self.remove(&format!("policy-{name}.yaml"))
    }

    /// A PeerAuthentication of an app of `shop`, with modes for single ports.
    pub fn peer_authentication(
        &self,
        name: &str,
        app: &str,
        mode: &str,
        ports: &[(u16, &str)],
    ) -> Result<()> {
        let ports: String = ports
            .iter()
            .map(|(port, mode)| format!("    {port}:\n      mode: {mode}\n"))
            .collect();
        let ports = if ports.is_empty() {
            ports
        } else {
            format!("  portLevelMtls:\n{ports}")
        };
        let text = format!(
            "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: {name}
  namespace: shop
spec:
  selector:
    matchLabels:
      app: {app}
  mtls:
    mode: {mode}
{ports}"
        );
        self.write(&format!("peer-authentication-{name}.yaml"), &text)
    }

    pub fn remove_peer_authentication(&self, name: &str) -> Result<()> {
        self.remove(&format!("peer-authentication-{name}.yaml"))
    }
}
