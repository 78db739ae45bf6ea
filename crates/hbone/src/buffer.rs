//! Read buffers that belong to the thread, not to the connection: an idle connection holds none,
//! and a busy one finds a warm one.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};

/// Bytes asked of a socket in one read: with the frame's header of 9 bytes, exactly four full TLS
/// records.
pub(crate) const CHUNK: usize = 4 * 16_384 - 9;

/// Below this a read is copied to a buffer of its own size. It bounds what queued bytes can pin:
/// a buffer is lent only when at least a quarter full.
const LEND_FROM: usize = CHUNK / 4;

/// Buffers a thread keeps when they come back.
const KEEP: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer of [`CHUNK`] bytes.
pub(crate) fn take() -> BytesMut {
    FREE.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| BytesMut::with_capacity(CHUNK))
}

/// Gives a buffer back unused.
pub(crate) fn give(mut buffer: BytesMut) {
    buffer.clear();
    FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        if free.len() < KEEP && buffer.capacity() >= CHUNK {
            free.push(buffer);
        }
    })
    // The thread may be ending, with its buffers gone already.
    .unwrap_or_default();
}

/// What was read, as bytes that can be queued.
pub(crate) fn freeze(buffer: BytesMut) -> Bytes {
    if buffer.len() < LEND_FROM {
        let bytes = Bytes::copy_from_slice(&buffer);
        give(buffer);
        bytes
    } else {
        Bytes::from_owner(Lent(buffer))
    }
}

/// A buffer on its way; it comes back to the thread that drops it.
struct Lent(BytesMut);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_read_is_lent_and_comes_back() {
        let mut buffer = take();
        buffer.resize(CHUNK, 7);
        let place = buffer.as_ptr();
        let bytes = freeze(buffer);
        assert_eq!(bytes.as_ptr(), place);
        drop(bytes);
        assert_eq!(take().as_ptr(), place);
    }

    #[test]
    fn a_small_read_pins_only_its_own_size() {
        let mut buffer = take();
        buffer.extend_from_slice(b"hello");
        let place = buffer.as_ptr();
        let bytes = freeze(buffer);
        assert_eq!(bytes, "hello");
        assert_eq!(take().as_ptr(), place, "the buffer is free at once");
    }
}
