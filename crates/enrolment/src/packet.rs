//! One packet: JSON, and at most one descriptor that belongs to it.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};
use serde::{Serialize, de::DeserializeOwned};

/// The largest packet. A list of pods takes one packet a pod.
pub(crate) const LARGEST: usize = 64 * 1024;

/// Descriptors that are received, so that surplus ones can be closed and told of.
const MOST_DESCRIPTORS: usize = 8;

/// Why a packet is none.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    #[error("the other side has closed the connection")]
    Closed,
    #[error("the socket failed")]
    Io(#[from] io::Error),
    #[error("the other side does not read its answer")]
    Unread,
    #[error("the packet is longer than {LARGEST} bytes")]
    TooLong,
    #[error("the packet is not a message of this protocol")]
    Json(#[from] serde_json::Error),
}

/// A packet as it came.
pub(crate) struct Packet<T> {
    pub(crate) message: T,
    pub(crate) descriptors: Vec<OwnedFd>,
}

pub(crate) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    descriptor: Option<BorrowedFd<'_>>,
) -> Result<(), PacketError> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > LARGEST {
        return Err(PacketError::TooLong);
    }
    let descriptors: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() {
        &control[..0]
    } else {
        &control[..]
    };
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&bytes)],
        control,
        flags,
        None,
    )
    .map_err(io::Error::from)?;
    Ok(())
}

pub(crate) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> Result<Packet<T>, PacketError> {
    let mut bytes = vec![0; LARGEST];
    let mut space = cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)
        .map_err(io::Error::from)?;
    let mut descriptors = Vec::new();
    for control in received.cmsgs().map_err(io::Error::from)? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            descriptors.extend(raw.into_iter().map(own));
        }
    }
    let (length, truncated) = (received.bytes, received.flags.contains(MsgFlags::MSG_TRUNC));
    if truncated {
        return Err(PacketError::TooLong);
    }
    if length == 0 {
        return Err(PacketError::Closed);
    }
    Ok(Packet {
        message: serde_json::from_slice(&bytes[..length])?,
        descriptors,
    })
}

#[expect(unsafe_code, reason = "recvmsg hands out descriptors as numbers")]
fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
