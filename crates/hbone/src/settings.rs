//! What each end of a tunnel tells the other, and the limits it keeps for itself.

use std::time::Duration;

/// HTTP/2 settings of one end. The windows, frame size and ping times are those that every
/// HBONE peer uses; see the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Bytes a peer may send on one stream before the application has taken them.
    pub stream_window: u32,
    /// Bytes a peer may send on all streams together.
    pub connection_window: u32,
    /// Bytes the connection's window may grow by while readers are stuck, so that these do not
    /// stall the other streams.
    pub held_limit: usize,
    /// The largest frame this end accepts.
    pub max_frame_size: u32,
    /// Client: streams opened on one connection. Server: streams a peer may open.
    pub max_streams: u32,
    /// The largest header list this end accepts.
    pub max_header_list: u32,
    /// Bytes kept for sending on one stream before its socket is no longer read.
    pub send_buffer: usize,
    /// What unread small DATA frames may cost a connection; 16 MiB unless set.
    pub data_frame_budget: usize,
    /// How often a PING is sent.
    pub ping_interval: Duration,
    /// How long a PING may stay unanswered.
    pub ping_timeout: Duration,
}

/// Each unread DATA frame shorter than 256 bytes costs its connection the missing bytes, and a
/// spent budget ends it. One poll of a connection reads at most [`crate::paced::READ_TURN`] bytes
/// before the streams get to take what came, and 256 KiB hold 26,215 one-byte frames, which cost
/// 6.4 MiB: this leaves more than twice that, so only a relay that does not read can be the cause.
pub(crate) const DATA_FRAME_BUDGET: usize = 16 << 20;

/// Istio's client keeps 4 MiB a stream. Nothing is gained by queueing more than the socket below
/// takes in a few writes, and what is queued has left the cache by the time it is encrypted.
const SEND_BUFFER: usize = 400 << 10;

impl Settings {
    /// The settings of the end that opens streams.
    pub fn client() -> Self {
        Self {
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            held_limit: 64 << 20,
            max_frame_size: 1 << 20,
            max_streams: 100,
            max_header_list: 16 << 10,
            send_buffer: SEND_BUFFER,
            data_frame_budget: DATA_FRAME_BUDGET,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
        }
    }

    /// The settings of the end that accepts streams.
    pub fn server() -> Self {
        Self {
            max_streams: 200,
            max_header_list: 64 << 10,
            ..Self::client()
        }
    }
}
