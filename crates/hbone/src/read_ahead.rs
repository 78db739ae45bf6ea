//! Large reads below TLS.
//!
//! rustls asks its socket for 4 KiB at a time, four system calls and more for a full record. This
//! reads for it as much as there is, up to [`CHUNK`](crate::buffer::CHUNK), into a buffer of the
//! thread, and holds none once that is used up.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::buffer;

/// A socket whose small reads are served from large ones. Writes pass through.
#[derive(Debug)]
pub struct ReadAhead<IO> {
    io: IO,
    /// What was read; never empty.
    ahead: Option<BytesMut>,
    /// Bytes of `ahead` that were served.
    served: usize,
}

impl<IO> ReadAhead<IO> {
    /// Wraps a socket.
    pub fn new(io: IO) -> Self {
        Self {
            io,
            ahead: None,
            served: 0,
        }
    }

    /// The socket, to set options on; reading from it would lose what was read ahead.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    fn serve(&mut self, ahead: BytesMut, buf: &mut ReadBuf<'_>) {
        let mut rest = &ahead[self.served..];
        let len = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..len]);
        rest.advance(len);
        if rest.is_empty() {
            self.served = 0;
            buffer::give(ahead);
        } else {
            self.served += len;
            self.ahead = Some(ahead);
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(ahead) = self.ahead.take() {
            self.serve(ahead, buf);
            return Poll::Ready(Ok(()));
        }
        let mut ahead = buffer::take();
        let result = pin!(self.io.read_buf(&mut ahead)).poll(cx);
        if let Poll::Ready(Ok(1..)) = result {
            self.serve(ahead, buf);
        } else {
            buffer::give(ahead);
        }
        ready!(result)?;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ReadAhead<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt, duplex};

    #[tokio::test]
    async fn small_reads_see_every_byte_in_order() {
        let sent: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
        let (near, mut far) = duplex(1 << 20);
        far.write_all(&sent).await.expect("writes");
        drop(far);
        let mut near = ReadAhead::new(near);
        let mut heard = Vec::new();
        let mut part = [0; 4096];
        loop {
            let len = near.read(&mut part).await.expect("reads");
            if len == 0 {
                break;
            }
            heard.extend_from_slice(&part[..len]);
        }
        assert_eq!(heard, sent);
        assert!(near.ahead.is_none(), "it holds no buffer when drained");
    }
}
