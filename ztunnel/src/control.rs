//! The daemon's side of the control plane: how it reaches the controller, and as whom.

mod issuer;
pub(crate) mod reports;

use std::{fs, io, net::SocketAddr, sync::Arc};

use identity::ClientTls;
pub(crate) use issuer::Issuer;
use tokio::net::{TcpStream, lookup_host};
use tonic::{codegen::http::Uri, metadata::MetadataMap, transport::Channel};
use xds::BoxError;

use crate::config::ControlConfig;

/// The daemon's certificates.
pub(crate) type Identities = identity::Store;

/// Why the controller cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("--root-cert {path}: cannot be read; without it the controller cannot be verified")]
    Roots { path: String, source: io::Error },
    #[error("--root-cert {path}")]
    BadRoots {
        path: String,
        source: identity::TlsError,
    },
    #[error("--controller {0:?} is not an address")]
    Authority(String),
}

/// Opens channels to the controller.
#[derive(Clone)]
pub(crate) struct Controller {
    config: Arc<ControlConfig>,
    tls: Arc<ClientTls>,
    uri: Uri,
}

impl Controller {
    pub(crate) fn new(config: ControlConfig) -> Result<Self, ControlError> {
        let path = config.root_cert.display().to_string();
        let roots =
            fs::read_to_string(&config.root_cert).map_err(|source| ControlError::Roots {
                path: path.clone(),
                source,
            })?;
        let tls =
            ClientTls::new(&roots).map_err(|source| ControlError::BadRoots { path, source })?;
        let uri = Uri::builder()
            .scheme("https")
            .authority(config.authority.as_str())
            .path_and_query("/")
            .build()
            .map_err(|_| ControlError::Authority(config.authority.clone()))?;
        Ok(Self {
            config: Arc::new(config),
            tls: Arc::new(tls),
            uri,
        })
    }

    /// A channel that opens its connection when it is used, and again whenever it broke.
    pub(crate) fn lazy(&self) -> Channel {
        let this = self.clone();
        xds::channel::lazy(self.uri.clone(), move || {
            let this = this.clone();
            async move { this.stream().await }
        })
    }

    /// A channel that is open.
    pub(crate) async fn connect(&self) -> Result<Channel, BoxError> {
        let this = self.clone();
        let connector = move || {
            let this = this.clone();
            async move { this.stream().await }
        };
        Ok(xds::channel::connect(self.uri.clone(), connector).await?)
    }

    async fn stream(&self) -> io::Result<identity::ClientStream<TcpStream>> {
        let addresses: Vec<SocketAddr> = lookup_host(&self.config.authority).await?.collect();
        let socket = TcpStream::connect(&addresses[..]).await?;
        socket.set_nodelay(true)?;
        self.tls
            .connect(socket, &self.config.server_name)
            .await
            .map_err(io::Error::other)
    }

    /// What proves who this daemon is. The token is read again each time: it is renewed in place.
    pub(crate) fn credentials(&self) -> Result<MetadataMap, BoxError> {
        let token = fs::read_to_string(&self.config.token)
            .map_err(|error| format!("--token {}: {error}", self.config.token.display()))?;
        xds::credentials(&token, &self.config.cluster_id)
    }

    /// How the daemon introduces itself.
    pub(crate) fn node(&self) -> xds::client::Node {
        let config = &self.config;
        let mut node =
            xds::client::Node::ztunnel(config.instance_ip, &config.pod_name, &config.pod_namespace);
        let instance_ip = config.instance_ip.to_string();
        node.metadata = [
            ("NAME", config.pod_name.as_str()),
            ("NAMESPACE", &config.pod_namespace),
            ("INSTANCE_IPS", &instance_ip),
            ("NODE_NAME", &config.node),
            ("CLUSTER_ID", &config.cluster_id),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        node
    }
}
