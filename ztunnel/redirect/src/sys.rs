//! The system calls that neither aya nor socket2 has: updating a pinned link, and some options.
//!
//! Thin and typed; knows nothing of pods.

use std::{
    ffi::CString,
    io, mem,
    net::IpAddr,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use socket2::Socket;

const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_UPDATE: libc::c_int = 29;

const SO_NETNS_COOKIE: libc::c_int = 71;
const IP_BIND_ADDRESS_NO_PORT: libc::c_int = 24;
const IPV6_TRANSPARENT: libc::c_int = 75;

/// What the kernel says of a link: `struct bpf_link_info` as far as the fields used here.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    /// A cgroup's id; for a network namespace its inode in the low half. 0: the target is gone.
    target: u64,
    attach_type: u32,
    tail: u32,
}

impl LinkInfo {
    pub(crate) fn cgroup(&self) -> u64 {
        self.target
    }
}

/// Opens what is pinned at `path`.
pub(crate) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Attributes {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &attributes)?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts `program` in the place of the one `link` runs now, with no moment in between.
pub(crate) fn update_link(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }
    let attributes = Attributes {
        link: number(&link),
        program: number(&program),
        flags: 0,
        old_program: 0,
    };
    bpf(BPF_LINK_UPDATE, &attributes).map(drop)
}

pub(crate) fn link_info(link: impl AsFd) -> io::Result<LinkInfo> {
    #[repr(C)]
    struct Attributes {
        fd: u32,
        length: u32,
        info: u64,
    }
    let mut info = LinkInfo::default();
    let attributes = Attributes {
        fd: number(&link),
        length: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes)?;
    Ok(info)
}

/// Stores `value` on the socket `key` in a socket-storage map.
pub(crate) fn store_on_socket(map: impl AsFd, socket: impl AsFd, value: u32) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let key = number(&socket);
    let attributes = Attributes {
        map: number(&map),
        padding: 0,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &attributes).map(drop)
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    // SAFETY: `attributes` is a prefix of `union bpf_attr` for this command and outlives the
    // call, as do the buffers it points to; the kernel takes the rest as zero.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}

fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd() as u32
}

/// The cookie of the namespace a socket was made in.
pub(crate) fn netns_cookie(socket: &Socket) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// Lets a socket use addresses that are not the host's.
pub(crate) fn set_transparent(socket: &Socket, ip: IpAddr) -> io::Result<()> {
    // A dual-stack socket needs both.
    set_option(socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1)?;
    if ip.is_ipv6() {
        set_option(socket, libc::SOL_IPV6, IPV6_TRANSPARENT, 1)?;
    }
    Ok(())
}

/// Leaves the choice of the port to connect(), where the whole 4-tuple is known.
pub(crate) fn set_bind_address_no_port(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
}

fn set_option(
    socket: &Socket,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: `value` is read for its size only.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            mem::size_of_val(&value) as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
