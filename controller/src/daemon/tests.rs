//! A whole controller without sockets: files in, messages out.

use std::{fs, net::SocketAddr, time::SystemTime};

use arc_swap::ArcSwap;
use model::{Index, SpiffeId, TrustDomain, TunnelProtocol, WorkloadUid};
use tokio::{io::DuplexStream, sync::oneshot};
use tonic::{Code, Status, transport::Channel};
use xds::{
    ResourceType, ca,
    client::{Client, Handle, Node},
    proto::enrolment::{
        self as wire, PodReport, ReportRequest, enrolment_client::EnrolmentClient, report_request,
    },
};

use super::*;
use crate::{compile::Settings, config::Source};

/// Bounds the tests; what they wait for takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

const MESH: &str = "apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: node-a, serviceAccountName: web, containers: []}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, labels: {app: cart}}
spec: {nodeName: node-b, serviceAccountName: cart, containers: []}
status: {podIPs: [{ip: 10.0.1.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: 8080}]}
";

const POLICY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-web, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, rules: [{from: [{source: {serviceAccounts: [web]}}]}]}
";

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mesh")).unwrap();
        let files = Self { folder };
        files.write("mesh.yaml", MESH);
        files
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join("mesh").join(name), text).unwrap();
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn config(&self) -> Config {
        let anywhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
        Config {
            source: Source::Directory(self.folder.path().join("mesh")),
            listen: anywhere,
            admin: anywhere,
            data_dir: self.data_dir(),
            settings: Settings {
                trust_domain: TrustDomain::default(),
                root_namespace: "ambit-system".into(),
                cluster_id: "Kubernetes".into(),
                cluster_domain: "cluster.local".into(),
                network: model::Network::default(),
            },
            certificate_ttl: Duration::from_secs(3600),
            server_names: vec!["localhost".to_owned()],
            log: "info".to_owned(),
        }
    }

    fn token(&self, node: &str, age: Duration) -> String {
        let key = TokenKey::load_or_create(&self.data_dir()).unwrap();
        let hour = Duration::from_secs(3600);
        key.issue(node, hour, SystemTime::now() - age).unwrap()
    }
}

type Server = mpsc::Sender<io::Result<Accepted<DuplexStream>>>;

/// A running controller. Connections to it are made in memory.
struct Running {
    connections: Server,
    publisher: std::sync::Weak<Publisher>,
    signatures: Arc<Signatures>,
    admin: Admin,
    stop: Option<oneshot::Sender<()>>,
    tasks: JoinSet<()>,
}

fn start(files: &Files) -> Running {
    let core = Core::start(&files.config()).unwrap();
    let (connections, accepted) = mpsc::channel(8);
    let (stop, stopped) = oneshot::channel();
    let (publisher, signatures) = (Arc::downgrade(&core.publisher), core.signatures.clone());
    let admin = core.admin();
    let mut tasks = JoinSet::new();
    tasks.spawn(core.run(ReceiverStream::new(accepted), async {
        stopped.await.ok();
    }));
    Running {
        connections,
        publisher,
        signatures,
        admin,
        stop: Some(stop),
        tasks,
    }
}

async fn dial(connections: Server) -> io::Result<DuplexStream> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
    connections
        .send(Ok(Accepted(theirs)))
        .await
        .map_err(refused)?;
    Ok(ours)
}

impl Running {
    fn channel(&self) -> Channel {
        let connections = self.connections.clone();
        let uri = "http://controller".parse().unwrap();
        xds::channel::lazy(uri, move || dial(connections.clone()))
    }

    fn sent(&self, kind: ResourceType) -> u64 {
        let publisher = self.publisher.upgrade().unwrap();
        publisher.statistics().resources(kind)
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        timeout(PATIENCE, self.tasks.join_next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }

    async fn sign(&self, token: &str, id: &str) -> Result<Vec<String>, Status> {
        let token = token.to_owned();
        let client = ca::Client::new(self.channel(), move || {
            xds::credentials(&token, "Kubernetes")
        });
        let id: SpiffeId = id.parse().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let life = Duration::from_secs(86_400);
        match client.sign(csr.pem().unwrap(), life, &id).await {
            Ok(chain) => Ok(chain),
            Err(ca::SignError::Refused { status, .. }) => Err(status),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A daemon's end, which outlives controllers.
struct Daemon {
    index: Arc<ArcSwap<Index>>,
    handle: Handle,
    controller: Arc<ArcSwap<Server>>,
    _task: JoinSet<()>,
}

impl Daemon {
    fn new(controller: &Running, token: String) -> Self {
        let index = Arc::new(ArcSwap::from_pointee(Index::default()));
        let node = Node::ztunnel([10, 0, 0, 9].into(), "ztunnel-1", "ambit-system");
        let (client, handle) = Client::new(node, index.clone());
        let controller = Arc::new(ArcSwap::from_pointee(controller.connections.clone()));
        let target = controller.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let connect = move || {
                let connections = Server::clone(&target.load());
                let uri = "http://controller".parse().expect("a constant");
                async move {
                    let channel = xds::channel::connect(uri, move || dial(connections.clone()));
                    Ok(channel.await?)
                }
            };
            let metadata = move || xds::credentials(&token, "Kubernetes");
            client.run(connect, metadata).await;
        });
        Self {
            index,
            handle,
            controller,
            _task: task,
        }
    }

    async fn ready(&self) {
        timeout(PATIENCE, self.handle.ready()).await.unwrap();
    }

    /// Waits until the index is as wanted.
    async fn becomes(&self, what: &str, wanted: impl Fn(&Index) -> bool) {
        let mut changes = self.handle.changes();
        let wait = async {
            while !wanted(&self.index.load()) {
                changes.next().await;
            }
        };
        timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }
}

fn tunnel(index: &Index, pod: &str) -> Option<TunnelProtocol> {
    let uid = WorkloadUid(format!("Kubernetes//Pod/shop/{pod}").into());
    index
        .workload(&uid)
        .map(|workload| workload.tunnel_protocol)
}

const HOUR: Duration = Duration::from_secs(3600);
const NOW: Duration = Duration::ZERO;

#[tokio::test]
async fn a_file_edit_arrives_as_exactly_what_it_changes() {
    let files = Files::new();
    let controller = start(&files);
    let daemon = Daemon::new(&controller, files.token("node-a", NOW));
    daemon.ready().await;
    let addresses = controller.sent(ResourceType::Address);
    assert_eq!(addresses, 3);

    files.write("policy.yaml", POLICY);
    let cart = WorkloadUid("Kubernetes//Pod/shop/cart".into());
    daemon
        .becomes("the policy selects its pod", |index| {
            let cart = index.workload(&cart).unwrap();
            index.policies().count() == 2 && cart.authorization_policies.len() == 1
        })
        .await;
    assert_eq!(controller.sent(ResourceType::Authorization), 2);
    assert_eq!(controller.sent(ResourceType::Address), addresses + 1);

    files.write("policy.yaml", &POLICY.replace("[web]", "[web, admin]"));
    daemon
        .becomes("the policy changes", |index| {
            let rules = index.policies().map(|policy| format!("{:?}", policy.rules));
            rules.into_iter().any(|rules| rules.contains("admin"))
        })
        .await;
    assert_eq!(controller.sent(ResourceType::Authorization), 3);
    assert_eq!(controller.sent(ResourceType::Address), addresses + 1);
    controller.stop().await;
}

#[tokio::test]
async fn a_restart_sends_nothing_again_but_what_changed_meanwhile() {
    let files = Files::new();
    files.write("policy.yaml", POLICY);
    let first = start(&files);
    let token = files.token("node-a", NOW);
    let daemon = Daemon::new(&first, token.clone());
    daemon.ready().await;
    let mut reports = Reports::open(&first, &token).await;
    reports.snapshot(&["web"]).await;
    let is_hbone = |index: &Index| tunnel(index, "web") == Some(TunnelProtocol::Hbone);
    daemon.becomes("web is hbone", is_hbone).await;
    first.stop().await;
    assert!(is_hbone(&daemon.index.load()));

    files.write(
        "new.yaml",
        "apiVersion: v1
kind: Pod
metadata: {name: new, namespace: shop}
spec: {nodeName: node-a, containers: []}
status: {podIP: 10.0.0.2}
",
    );
    let second = start(&files);
    daemon
        .controller
        .store(Arc::new(second.connections.clone()));
    daemon
        .becomes("the new pod is known", |index| {
            tunnel(index, "new").is_some()
        })
        .await;
    assert_eq!(second.sent(ResourceType::Address), 1);
    assert_eq!(second.sent(ResourceType::Authorization), 0);
    assert!(is_hbone(&daemon.index.load()));
    second.stop().await;
}

/// A node's report stream.
struct Reports {
    requests: mpsc::Sender<ReportRequest>,
    answers: tonic::Streaming<wire::ReportResponse>,
    sequence: u64,
}

impl Reports {
    async fn open(controller: &Running, token: &str) -> Self {
        let (requests, outgoing) = mpsc::channel(8);
        let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
        *request.metadata_mut() = xds::credentials(token, "Kubernetes").unwrap();
        let mut client = EnrolmentClient::new(controller.channel());
        let answers = client.report(request).await.unwrap().into_inner();
        Self {
            requests,
            answers,
            sequence: 0,
        }
    }

    async fn send(&mut self, report: report_request::Report) -> Result<(), Status> {
        self.sequence += 1;
        let sequence = self.sequence;
        let report = Some(report);
        self.requests
            .send(ReportRequest { sequence, report })
            .await
            .unwrap();
        let answer = timeout(PATIENCE, self.answers.message()).await.unwrap()?;
        assert_eq!(answer.unwrap().sequence, sequence);
        Ok(())
    }

    async fn snapshot(&mut self, pods: &[&str]) {
        let pods = pods
            .iter()
            .map(|pod| report(pod, wire::State::Enrolled))
            .collect();
        let snapshot = report_request::Report::Snapshot(wire::Snapshot { pods });
        self.send(snapshot).await.unwrap();
    }

    async fn pod(&mut self, pod: &str, state: wire::State) -> Result<(), Status> {
        self.send(report_request::Report::Pod(report(pod, state)))
            .await
    }
}

fn report(pod: &str, state: wire::State) -> PodReport {
    PodReport {
        namespace: "shop".to_owned(),
        name: pod.to_owned(),
        uid: String::new(),
        state: state.into(),
    }
}

#[tokio::test]
async fn a_pod_is_published_as_hbone_from_capture_to_leaving() {
    let files = Files::new();
    let controller = start(&files);
    let token = files.token("node-a", NOW);
    let daemon = Daemon::new(&controller, token.clone());
    daemon.ready().await;
    assert_eq!(
        tunnel(&daemon.index.load(), "web"),
        Some(TunnelProtocol::None)
    );

    let mut reports = Reports::open(&controller, &token).await;
    reports.snapshot(&[]).await;
    reports.pod("web", wire::State::Enrolled).await.unwrap();
    let is = |wanted| move |index: &Index| tunnel(index, "web") == Some(wanted);
    daemon
        .becomes("web is hbone", is(TunnelProtocol::Hbone))
        .await;
    reports.pod("web", wire::State::Leaving).await.unwrap();
    daemon
        .becomes("web is plain", is(TunnelProtocol::None))
        .await;

    // A node that comes back says everything at once.
    reports.pod("web", wire::State::Enrolled).await.unwrap();
    daemon
        .becomes("web is hbone", is(TunnelProtocol::Hbone))
        .await;
    let mut again = Reports::open(&controller, &token).await;
    again.snapshot(&[]).await;
    daemon
        .becomes("web is plain", is(TunnelProtocol::None))
        .await;
    controller.stop().await;
}

#[tokio::test]
async fn a_node_reports_for_its_own_pods_and_begins_with_all_of_them() {
    let files = Files::new();
    let controller = start(&files);
    let token = files.token("node-b", NOW);
    let daemon = Daemon::new(&controller, token.clone());
    daemon.ready().await;
    let mut reports = Reports::open(&controller, &token).await;
    reports.snapshot(&["web", "cart"]).await;
    daemon
        .becomes("cart is hbone", |index| {
            tunnel(index, "cart") == Some(TunnelProtocol::Hbone)
        })
        .await;
    assert_eq!(
        tunnel(&daemon.index.load(), "web"),
        Some(TunnelProtocol::None)
    );

    let mut hasty = Reports::open(&controller, &token).await;
    let refused = hasty.pod("cart", wire::State::Leaving).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    controller.stop().await;
}

#[tokio::test]
async fn certificates_are_signed_for_the_pods_of_the_calling_node_only() {
    let files = Files::new();
    let controller = start(&files);
    let token = files.token("node-a", NOW);
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    let cart = "spiffe://cluster.local/ns/shop/sa/cart";

    let chain = controller.sign(&token, web).await.unwrap();
    assert_eq!(chain.len(), 2);
    let roots = fs::read_to_string(files.data_dir().join(ROOT_BUNDLE)).unwrap();
    assert_eq!(chain[1], roots);
    let leaf = identity::IssuedChain {
        certificates_pem: chain,
    };
    let life = leaf
        .leaf_info()
        .unwrap()
        .not_after
        .duration_since(SystemTime::now());
    assert!(life.unwrap() <= HOUR, "the controller's own limit holds");

    let denied = controller.sign(&token, cart).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert!(denied.message().contains("node-a"), "{denied}");
    let expired = files.token("node-a", 2 * HOUR);
    for bad in ["", "nonsense", &expired] {
        let denied = controller.sign(bad, web).await.unwrap_err();
        assert_eq!(denied.code(), Code::Unauthenticated, "{bad:?}");
    }
    assert_eq!(
        controller
            .signatures
            .issued
            .load(std::sync::atomic::Ordering::Relaxed),
        1
    );
    controller.stop().await;
}

#[tokio::test]
async fn a_stream_without_a_token_is_refused() {
    let files = Files::new();
    let controller = start(&files);
    let daemon = Daemon::new(&controller, "nonsense".to_owned());
    let refused = async {
        while daemon
            .handle
            .statistics()
            .terminations(xds::client::Termination::ConnectionError)
            == 0
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
    assert!(!daemon.handle.is_ready());
    controller.stop().await;
}

#[tokio::test]
async fn operators_see_what_was_refused_and_what_holds() {
    use http_body_util::BodyExt;
    let files = Files::new();
    files.write("policy.yaml", &POLICY.replace("rules", "rulez"));
    let controller = start(&files);
    let page = controller.admin.page("/debug/objects").into_body();
    let page = page.collect().await.unwrap().to_bytes();
    let page: serde_json::Value = serde_json::from_slice(&page).unwrap();
    let documents = page["documents"].as_array().unwrap();
    let refused = documents
        .iter()
        .find(|held| held["state"] == "refused")
        .unwrap();
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("policy.yaml:4: spec")
    );
    assert_eq!(refused["holds"], "a denial of all it could cover");
    let metrics = controller.admin.page("/metrics").into_body();
    let metrics = metrics.collect().await.unwrap().to_bytes();
    let metrics = String::from_utf8(metrics.to_vec()).unwrap();
    assert!(
        metrics.contains("ambit_documents{state=\"refused\"} 1\n"),
        "{metrics}"
    );
    controller.stop().await;
}

#[tokio::test]
async fn a_controller_listens_in_tls_and_serves_its_pages() {
    let files = Files::new();
    let controller = Controller::start(files.config()).await.unwrap();
    let (address, admin) = (controller.address().unwrap(), controller.admin_address());
    let (stop, stopped) = oneshot::channel::<()>();
    let mut tasks = JoinSet::new();
    tasks.spawn(controller.run(async {
        stopped.await.ok();
    }));
    let roots = fs::read_to_string(files.data_dir().join(ROOT_BUNDLE)).unwrap();
    let tls = identity::ClientTls::new(&roots).unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    timeout(PATIENCE, tls.connect(stream, "localhost"))
        .await
        .unwrap()
        .unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    assert!(tls.connect(stream, "elsewhere").await.is_err());
    tokio::net::TcpStream::connect(admin).await.unwrap();
    stop.send(()).unwrap();
    timeout(PATIENCE, tasks.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}
