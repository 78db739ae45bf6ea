//! Wires the controller: builds its parts in the order of a configuration, owns every task.

use std::{
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use identity::{Authority, AuthorityError, ServerTls, TlsError};
use lifecycle::http;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{service::Routes, transport::Server};
use xds::server::Publisher;

use crate::{
    ca::{self, limit::Limits, token::TokenKey, token::TokenKeyError},
    config::{Config, Source},
    enrolments::{EnrolmentError, Enrolments},
    serve::{
        self, State,
        accept::{self, Accepted},
        admin::Admin,
        enrolment,
        metrics::Signatures,
        pipeline::{Event, Pipeline},
    },
    store,
    watch::follow::{FollowError, Follower, Listening, follow},
};

/// The roots that daemons verify the controller and one another by.
pub const ROOT_BUNDLE: &str = "root-cert.pem";
/// Events that wait for the pipeline; who sends more waits too.
const EVENTS: usize = 64;
/// Streams are told to end and then have this long.
const DRAIN: Duration = Duration::from_secs(5);
/// A daemon whose machine vanished is noticed in this time, twice.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// The controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the data folder {path} cannot be used")]
    DataDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the certificate authority cannot be used")]
    Authority(#[from] AuthorityError),
    #[error("the controller's own TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    TokenKey(#[from] TokenKeyError),
    #[error(transparent)]
    Enrolments(#[from] EnrolmentError),
    #[error(transparent)]
    Source(#[from] FollowError),
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// A controller that listens; [`run`](Self::run) serves.
pub struct Controller {
    core: Core,
    listener: TcpListener,
    tls: ServerTls,
    admin: http::Server,
}

impl Controller {
    /// Loads keys, compiles the configuration and listens.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let core = Core::start(&config)?;
        let tls = core.authority.controller_acceptor(&config.server_names)?;
        let listening = |address| move |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(config.listen).await;
        let pages = core.admin();
        let admin = http::Server::start(config.admin, move |request| {
            pages.page(request.uri().path())
        });
        Ok(Self {
            core,
            listener: listener.map_err(listening(config.listen))?,
            tls,
            admin: admin.await.map_err(listening(config.admin))?,
        })
    }

    /// Where xDS, certificates and reports are served.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where operators look.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Serves until `shutdown` is ready, then ends all streams.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let (ready, accepted) = mpsc::channel(1);
        let mut acceptor = JoinSet::new();
        acceptor.spawn(accept::run(self.listener, self.tls.into(), ready));
        self.core.run(ReceiverStream::new(accepted), shutdown).await;
        acceptor.shutdown().await;
        self.admin.stop().await;
    }
}

/// Everything but sockets.
pub(crate) struct Core {
    authority: Arc<Authority>,
    key: Arc<TokenKey>,
    publisher: Arc<Publisher>,
    state: Arc<State>,
    signatures: Arc<Signatures>,
    pipeline: Pipeline,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    follower: Follower,
    config: Config,
}

impl Core {
    pub(crate) fn start(config: &Config) -> Result<Self, StartError> {
        let folder = &config.data_dir;
        let data_dir = |source| StartError::DataDir {
            path: folder.clone(),
            source,
        };
        store::create_folder(folder).map_err(data_dir)?;
        let authority = Authority::load_or_create(folder, &config.settings.trust_domain)?;
        fs::write(folder.join(ROOT_BUNDLE), authority.bundle_pem()).map_err(data_dir)?;
        let key = TokenKey::load_or_create(folder)?;
        let enrolments = Enrolments::load(folder)?;

        let events = mpsc::channel(EVENTS);
        let Source::Directory(manifests) = &config.source;
        let looks = events.0.clone();
        let (first, follower) = follow(manifests.clone(), move |look| {
            match looks.blocking_send(Event::Look(look)) {
                Ok(()) => Listening::Yes,
                Err(_) => Listening::No,
            }
        })?;
        let publisher = Arc::new(Publisher::new());
        let state = Arc::new(State::default());
        let pipeline = Pipeline::start(
            config.settings.clone(),
            enrolments,
            first,
            publisher.clone(),
            state.clone(),
        );
        Ok(Self {
            authority: Arc::new(authority),
            key: Arc::new(key),
            publisher,
            state,
            signatures: Arc::default(),
            pipeline,
            events,
            follower,
            config: config.clone(),
        })
    }

    pub(crate) fn admin(&self) -> Admin {
        Admin {
            state: self.state.clone(),
            publisher: Arc::downgrade(&self.publisher),
            signatures: self.signatures.clone(),
        }
    }

    fn routes(&self) -> Routes {
        let certificates = ca::service::Service {
            key: self.key.clone(),
            authority: self.authority.clone(),
            state: self.state.clone(),
            signatures: self.signatures.clone(),
            trust_domain: self.config.settings.trust_domain.clone(),
            longest: self.config.certificate_ttl,
            limits: Mutex::new(Limits::default()),
        };
        let discovery = self.publisher.service(serve::xds_caller(self.key.clone()));
        Routes::new(discovery)
            .add_service(certificates.into_server())
            .add_service(enrolment::Service::new(
                self.key.clone(),
                self.events.0.clone(),
            ))
    }

    /// Serves connections until `shutdown`, then tells all streams to end.
    pub(crate) async fn run<IO>(
        self,
        connections: impl Stream<Item = io::Result<Accepted<IO>>>,
        shutdown: impl Future<Output = ()>,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let routes = self.routes();
        let Self {
            pipeline,
            publisher,
            events: (sender, receiver),
            follower,
            ..
        } = self;
        drop(sender);
        let mut tasks = JoinSet::new();
        tasks.spawn(pipeline.run(receiver));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_routes(routes)
            .serve_with_incoming_shutdown(connections, async {
                // An end of the sender is a reason to stop as good as its word.
                stopped.await.ok();
            });
        tokio::pin!(server);
        tokio::select! {
            served = &mut server => {
                if let Err(error) = served {
                    tracing::error!(%error, "the server failed");
                }
                return;
            }
            Some(ended) = tasks.join_next() => {
                tracing::error!(?ended, "the pipeline ended: nothing new would be served");
            }
            () = shutdown => tracing::info!("stopping"),
        }
        // Streams end when what feeds them is gone.
        tasks.shutdown().await;
        drop((publisher, stop));
        match timeout(DRAIN, server).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the server failed while it stopped"),
            Err(_) => tracing::warn!("streams were still open after {DRAIN:?}"),
        }
        drop(follower);
    }
}

#[cfg(test)]
mod tests;
