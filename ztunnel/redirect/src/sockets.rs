//! Sockets inside a pod's namespace: the daemon's listeners and the ones it dials from.
//!
//! They are made there and used anywhere. This file connects and accepts nothing.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use ambit_ebpf_common::{ListenerKey, MARK, socket_role};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    established,
    netns::{self, Home},
    sys,
};

const BACKLOG: i32 = 4096;

/// Which of the two protocols a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    fn domain(self) -> Domain {
        match self {
            Self::V4 => Domain::IPV4,
            Self::V6 => Domain::IPV6,
        }
    }
}

/// Makes sockets inside one pod's namespace. Cheap to clone; holds one descriptor.
///
/// The namespace lives as long as any clone does, so all of them have to go with the pod.
#[derive(Debug, Clone)]
pub struct PodSockets(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    netns: OwnedFd,
    home: Home,
    cookie: u64,
    roles: Arc<OwnedFd>,
}

impl PodSockets {
    pub(crate) fn new(netns: OwnedFd, home: Home, cookie: u64, roles: Arc<OwnedFd>) -> Self {
        Self(Arc::new(Inside {
            netns,
            home,
            cookie,
            roles,
        }))
    }

    /// The kernel's name for the namespace.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.0.cookie
    }

    /// An unbound non-blocking socket in the pod that is not captured: for HBONE and passthrough.
    ///
    /// It carries no mark: marked it would come back on `lo`.
    ///
    /// # Errors
    /// As socket(2); out of descriptors above all.
    pub fn outbound(&self, family: Family) -> io::Result<Socket> {
        let socket = self.within(|| {
            Socket::new(
                family.domain(),
                Type::STREAM.nonblocking().cloexec(),
                Some(Protocol::TCP),
            )
        })??;
        sys::store_on_socket(&*self.0.roles, &socket, socket_role::DAEMON)?;
        Ok(socket)
    }

    /// A non-blocking socket to dial the application at `target` from `client`'s own address.
    ///
    /// # Errors
    /// If the two are not of one family, and as socket(2) and bind(2).
    pub fn to_app(&self, client: IpAddr, target: IpAddr) -> io::Result<Socket> {
        let client = client.to_canonical();
        if Family::of(client) != Family::of(target) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "client and target are of different families",
            ));
        }
        let socket = self.outbound(Family::of(client))?;
        sys::set_transparent(&socket, client)?;
        sys::set_bind_address_no_port(&socket)?;
        // Mark and device put both directions of the leg on `lo`, past the `local` table.
        socket.set_mark(MARK)?;
        socket.bind_device(Some(b"lo"))?;
        socket.bind(&SocketAddr::new(client, 0).into())?;
        Ok(socket)
    }

    /// Connections that enter or leave the pod now, the loops to this daemon left out.
    ///
    /// # Errors
    /// If the kernel's tables cannot be read.
    pub fn established(&self) -> io::Result<Vec<(SocketAddr, SocketAddr)>> {
        self.within(established::read)?
    }

    /// Whether the pod still has a device besides loopback: without one it is being deleted.
    #[must_use]
    pub fn alive(&self) -> bool {
        netns::has_devices(&self.0.home, self.0.netns.as_fd()).unwrap_or(false)
    }

    pub(crate) fn within<T>(&self, inside: impl FnOnce() -> T) -> io::Result<T> {
        self.0.home.within(self.0.netns.as_fd(), inside)
    }

    pub(crate) fn netns(&self) -> &OwnedFd {
        &self.0.netns
    }
}

/// The daemon's listeners in a pod, all non-blocking. Close them before [`crate::Redirect::remove`].
#[derive(Debug)]
pub struct PodListeners {
    /// What the application sends: `local_addr` of an accepted socket is where it wanted to go.
    pub outbound: TcpListener,
    /// What arrives for the application: `local_addr` is its address and port.
    pub inbound: TcpListener,
    /// What arrives on 15008.
    pub hbone: TcpListener,
}

/// The listeners, bound but not yet reachable.
pub(crate) struct BoundListeners([Socket; 3]);

impl BoundListeners {
    /// Binds in the calling thread's namespace, one socket for both families.
    pub(crate) fn bind() -> io::Result<Self> {
        Ok(Self([bind(MARK)?, bind(0)?, bind(0)?]))
    }

    pub(crate) fn ports(&self) -> io::Result<[u32; 3]> {
        let mut ports = [0; 3];
        for (port, socket) in ports.iter_mut().zip(&self.0) {
            let address = socket.local_addr()?.as_socket();
            *port = address.map_or(0, |address| u32::from(address.port()));
        }
        Ok(ports)
    }

    pub(crate) fn listen(self) -> io::Result<PodListeners> {
        for socket in &self.0 {
            socket.listen(BACKLOG)?;
        }
        let [outbound, inbound, hbone] = self.0;
        Ok(PodListeners {
            outbound: outbound.into(),
            inbound: inbound.into(),
            hbone: hbone.into(),
        })
    }
}

impl PodListeners {
    pub(crate) fn by_role(&self) -> [(u32, &TcpListener); 3] {
        [
            (ListenerKey::OUTBOUND, &self.outbound),
            (ListenerKey::INBOUND, &self.inbound),
            (ListenerKey::HBONE, &self.hbone),
        ]
    }
}

fn bind(mark: u32) -> io::Result<Socket> {
    match bind_to(Ipv6Addr::UNSPECIFIED.into(), mark) {
        Err(error) if without_ipv6(&error) => bind_to(Ipv4Addr::UNSPECIFIED.into(), mark),
        result => result,
    }
}

fn without_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

fn bind_to(ip: IpAddr, mark: u32) -> io::Result<Socket> {
    let domain = Family::of(ip).domain();
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(domain, kind, Some(Protocol::TCP))?;
    if ip.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Connections arrive for addresses that are not the pod's.
    sys::set_transparent(&socket, ip)?;
    if mark != 0 {
        // Must be the mark of the looped leg itself: with another one, reflected packets leave
        // by eth0 to the real destination.
        socket.set_mark(mark)?;
    }
    socket.bind(&SocketAddr::new(ip, 0).into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_may_share_a_pods_sockets_and_pass_the_node_on() {
        fn shared<T: Send + Sync + Clone>() {}
        fn sent<T: Send>() {}
        shared::<PodSockets>();
        sent::<crate::Redirect>();
        sent::<crate::EbpfLogs>();
    }
}
