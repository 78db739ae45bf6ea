//! One node with its pods, made of network namespaces that only descriptors keep alive.
//!
//! Mounts and pins are in a mount namespace of the test's thread, so a killed test leaves at most
//! an empty cgroup. The process's cgroup is shared by its threads, so worlds take turns.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use redirect::{Config, EbpfLog, EnrolRequest, Enrolled, FailPolicy, Redirect};
use socket2::{Domain, SockRef, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(3);

static TURN: Mutex<()> = Mutex::new(());
static NUMBER: AtomicU32 = AtomicU32::new(0);

pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) pod: Netns,
    /// A machine outside the node.
    pub(crate) outside: Netns,
    host: Netns,
    cgroup: PathBuf,
    cgroup_root: PathBuf,
    origin: File,
    folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

pub(crate) const POD: &str = "10.77.1.2";
pub(crate) const POD6: &str = "fd77:1::2";
pub(crate) const HOST: &str = "10.77.1.1";
pub(crate) const OUTSIDE: &str = "10.77.9.2";
pub(crate) const OUTSIDE6: &str = "fd77:9::2";

impl World {
    /// A host between a pod and the outside; the calling thread is on the host.
    pub(crate) fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        unshare(CloneFlags::CLONE_NEWNS).expect("needs root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let origin = File::open("/proc/thread-self/ns/net").unwrap();
        let cgroup_root = cgroup_root();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = cgroup_root.join(format!("ambit-redirect-{}-{number}", process::id()));
        fs::create_dir_all(cgroup.join("probers")).unwrap();
        join(&cgroup);
        let (host, pod, outside) = (Netns::new(), Netns::new(), Netns::new());
        host.enter();
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        host.ip(&["link set lo up"]);
        host.wire(&pod, 1);
        host.wire(&outside, 9);
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            cgroup: cgroup.clone(),
            pin_dir: folder.path().join("pins"),
            state_dir: folder.path().join("state"),
            object: object(),
            prober_cgroups: vec![cgroup.join("probers")],
            ebpf_log: EbpfLog::Off,
        };
        Self {
            config,
            pod,
            outside,
            host,
            cgroup,
            cgroup_root,
            origin,
            folder,
            _turn: turn,
        }
    }

    pub(crate) fn load(&self) -> Redirect {
        Redirect::load(self.config.clone()).expect("the daemon's part of the kernel loads")
    }

    pub(crate) fn enrol(&self, redirect: &mut Redirect) -> Enrolled {
        self.enrol_failing(redirect, FailPolicy::default())
    }

    pub(crate) fn enrol_failing(&self, redirect: &mut Redirect, fail: FailPolicy) -> Enrolled {
        redirect.enrol(self.request(fail)).expect("the pod enrols")
    }

    pub(crate) fn request(&self, fail: FailPolicy) -> EnrolRequest {
        EnrolRequest {
            uid: "pod".to_owned(),
            namespace: "test".to_owned(),
            name: "pod".to_owned(),
            netns: self.pod.0.try_clone().unwrap(),
            netns_path: Some(self.pod.path()),
            addresses: Vec::new(),
            fail,
        }
    }

    /// Runs `act` with the process in the probers' cgroup.
    pub(crate) fn as_prober<T>(&self, act: impl FnOnce() -> T) -> T {
        join(&self.cgroup.join("probers"));
        let result = act();
        join(&self.cgroup);
        result
    }

    pub(crate) fn pinned_pods(&self) -> usize {
        fs::read_dir(self.config.pin_dir.join("pods"))
            .unwrap()
            .count()
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.folder.path().join("state/pod.json")
    }

    pub(crate) fn host(&self) -> &Netns {
        &self.host
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Best effort: what fails here must not hide what failed in the test.
        setns(&self.origin, CloneFlags::CLONE_NEWNET).ok();
        fs::write(
            self.cgroup_root.join("cgroup.procs"),
            process::id().to_string(),
        )
        .ok();
        umount2(&self.config.pin_dir, MntFlags::MNT_DETACH).ok();
        fs::remove_dir(self.cgroup.join("probers")).ok();
        fs::remove_dir(&self.cgroup).ok();
    }
}

fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let path = fields.next()?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
        })
        .next()
        .expect("cgroup2 is mounted")
}

fn join(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), process::id().to_string()).unwrap();
}

fn object() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/ebpf/ambit-ebpf.o")
}

pub(crate) struct Netns(OwnedFd);

impl Netns {
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            // Else IPv6 neighbours cannot be found for the first two seconds.
            fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
            fs::write("/proc/sys/net/ipv6/conf/all/accept_dad", "0").unwrap();
            Self(File::open("/proc/thread-self/ns/net").unwrap().into())
        };
        thread::scope(|scope| scope.spawn(make).join().unwrap())
    }

    /// Valid as long as this process.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd()))
    }

    fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Runs `inside` on a thread of its own in this namespace.
    pub(crate) fn within<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter();
                    inside()
                })
                .join()
                .unwrap()
        })
    }

    pub(crate) fn ip(&self, commands: &[&str]) {
        self.within(|| {
            for command in commands {
                let output = Command::new("ip")
                    .args(command.split(' '))
                    .output()
                    .unwrap();
                let error = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "ip {command}: {error}");
            }
        });
    }

    /// Connects `pod` to this host as network 10.77.N.0/24 and fd77:N::/64.
    fn wire(&self, pod: &Self, number: u8) {
        let there = pod.path();
        let there = there.display();
        self.ip(&[
            &format!("link add v{number} type veth peer name eth0 netns {there}"),
            &format!("addr add 10.77.{number}.1/24 dev v{number}"),
            &format!("addr add fd77:{number}::1/64 dev v{number} nodad"),
            &format!("link set v{number} up"),
        ]);
        pod.ip(&[
            "link set lo up",
            &format!("addr add 10.77.{number}.2/24 dev eth0"),
            &format!("addr add fd77:{number}::2/64 dev eth0 nodad"),
            "link set eth0 up",
            &format!("route add default via 10.77.{number}.1"),
            &format!("-6 route add default via fd77:{number}::1"),
        ]);
    }

    pub(crate) fn listen(&self, address: &str) -> TcpListener {
        let address: SocketAddr = address.parse().unwrap();
        patient(self.within(|| TcpListener::bind(address).unwrap()))
    }

    pub(crate) fn connect(&self, to: &str) -> io::Result<TcpStream> {
        self.connect_with(to, |_| {})
    }

    pub(crate) fn connect_with(
        &self,
        to: &str,
        prepare: impl FnOnce(&Socket) + Send,
    ) -> io::Result<TcpStream> {
        let to: SocketAddr = to.parse().unwrap();
        let socket = self.within(|| Socket::new(Domain::for_address(to), Type::STREAM, None))?;
        prepare(&socket);
        socket.connect_timeout(&to.into(), PATIENCE)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

/// Makes a listener wait, but not for ever.
pub(crate) fn patient(listener: TcpListener) -> TcpListener {
    listener.set_nonblocking(false).unwrap();
    SockRef::from(&listener)
        .set_read_timeout(Some(PATIENCE))
        .unwrap();
    listener
}

/// Accepts one connection and tells both its ends, the original destination first.
#[track_caller]
pub(crate) fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr, SocketAddr) {
    let listener = patient(listener.try_clone().unwrap());
    let (stream, peer) = listener.accept().expect("a connection arrives");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let local = canonical(stream.local_addr().unwrap());
    (stream, local, canonical(peer))
}

pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[track_caller]
pub(crate) fn talk(one: &TcpStream, other: &TcpStream) {
    for (mut from, mut to) in [(one, other), (other, one)] {
        let mut got = [0; 5];
        from.write_all(b"hello").unwrap();
        to.read_exact(&mut got).expect("what was sent arrives");
        assert_eq!(&got, b"hello");
    }
}

#[track_caller]
pub(crate) fn refused<T>(result: io::Result<T>) {
    let error = result.err().expect("the connection is refused");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
