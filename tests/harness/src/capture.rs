//! A packet capture of everything that crosses a namespace: what really was on the wire.
//!
//! One AF_PACKET socket sees every interface of the namespace, so a frame that crosses a bridge
//! is seen once per port. Checks ask for "none" and "some", never for an exact number, and a
//! capture that lost frames refuses to testify.

mod frame;

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

pub use frame::Segment;

use crate::namespace::Namespace;

/// Where enrolled pods receive the mesh's tunnels.
pub const HBONE_PORT: u16 = 15008;
/// Frames of offloaded segments reach 64 KiB and some.
const FRAME: usize = 256 * 1024;
const BUFFER: usize = 256 * 1024 * 1024;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<Result<Captured>>>,
}

/// The TCP segments that were seen.
#[derive(Debug, Default)]
pub struct Captured {
    pub segments: Vec<Segment>,
}

impl Capture {
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let every_protocol = i32::from(u16::try_from(libc::ETH_P_ALL)?.to_be());
        let socket = namespace.within(|| {
            Socket::new(
                Domain::PACKET,
                Type::RAW.cloexec(),
                Some(Protocol::from(every_protocol)),
            )
        })?;
        let socket = socket.context("open a packet socket (needs CAP_NET_RAW)")?;
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &BUFFER)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let reader = std::thread::spawn(move || read_until(&socket, &asked));
        Ok(Self {
            stop,
            reader: Some(reader),
        })
    }

    /// Ends the capture once the wire has been silent for a moment, so that nothing is missed.
    pub fn stop(mut self) -> Result<Captured> {
        self.stop.store(true, Ordering::Relaxed);
        let reader = self.reader.take().expect("only stop takes it");
        reader.join().expect("the reader reports its errors")
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // Dropped without being asked for its findings: the check has failed already.
            drop(reader.join());
        }
    }
}

fn read_until(mut socket: &Socket, asked: &AtomicBool) -> Result<Captured> {
    use std::io::Read;
    let mut captured = Captured::default();
    let mut buffer = vec![0; FRAME];
    let mut after_stop = 0;
    loop {
        match socket.read(&mut buffer) {
            Ok(length) => captured.segments.extend(Segment::parse(&buffer[..length])),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if asked.load(Ordering::Relaxed) {
                    break;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("read the packet socket"),
        }
        // A busy wire never is silent: a thousand frames after the end is enough.
        if asked.load(Ordering::Relaxed) {
            after_stop += 1;
            if after_stop > 1000 {
                break;
            }
        }
    }
    let lost = lost_frames(socket)?;
    ensure!(
        lost == 0,
        "the capture lost {lost} frames and proves nothing"
    );
    Ok(captured)
}

fn lost_frames(socket: &Socket) -> Result<u32> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = libc::socklen_t::try_from(size_of_val(&statistics))?;
    // SAFETY: the pointers are to live values of the sizes given.
    #[expect(unsafe_code, reason = "no safe wrapper offers PACKET_STATISTICS")]
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    ensure!(
        outcome == 0,
        "PACKET_STATISTICS: {}",
        std::io::Error::last_os_error()
    );
    Ok(statistics.tp_drops)
}

impl Captured {
    /// Segments that carry the text in clear.
    #[must_use]
    pub fn carrying(&self, text: &str) -> Vec<&Segment> {
        let text = text.as_bytes();
        self.all(|one| one.payload.windows(text.len()).any(|window| window == text))
    }

    /// Segments from or to a port.
    #[must_use]
    pub fn on_port(&self, port: u16) -> Vec<&Segment> {
        self.all(|one| one.source.port() == port || one.destination.port() == port)
    }

    /// TLS records on their way to or from an HBONE port.
    #[must_use]
    pub fn tunnelled(&self) -> Vec<&Segment> {
        self.all(|one| {
            let hbone = one.source.port() == HBONE_PORT || one.destination.port() == HBONE_PORT;
            hbone && one.is_tls()
        })
    }

    /// Connections that a host began, to any port but HBONE's.
    #[must_use]
    pub fn begun_in_clear_by(&self, host: IpAddr) -> Vec<&Segment> {
        self.all(|one| {
            one.begins && one.source.ip() == host && one.destination.port() != HBONE_PORT
        })
    }

    fn all(&self, matches: impl Fn(&Segment) -> bool) -> Vec<&Segment> {
        self.segments.iter().filter(|one| matches(one)).collect()
    }
}
