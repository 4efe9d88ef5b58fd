//! What a connection sends. It is gathered, so that the responses of many streams are written with one system
//! call, and written when the connection has no more to send for now.
//!
//! h2 passes bytes on by reference, and a private key must not be copied. So a message makes its pieces known
//! before they are passed on, and they are kept instead of copies. The rest is copied: the heads of frames, and
//! the beginnings of messages, which h2 has copied as well.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;
use tokio::net::unix::OwnedWriteHalf;
use zeroize::{Zeroize, Zeroizing};

/// Bytes that are gathered before they are written.
const ENOUGH: usize = 64 * 1024;
/// The most bytes of them that are copies.
const COPIES: usize = 4 * 1024;
/// Pieces written with one system call.
const PIECES: usize = 64;

/// The sending side of a connection.
#[derive(Clone)]
pub(crate) struct Outgoing(Arc<Mutex<Queue>>);

struct Queue {
    socket: OwnedWriteHalf,
    pieces: VecDeque<Piece>,
    bytes: usize,
    copies: Zeroizing<Vec<u8>>,
    /// The pieces of the message whose bytes are passed on next.
    offered: Vec<Bytes>,
}

enum Piece {
    /// A part of the copies.
    Copied(Range<usize>),
    Kept(Bytes),
}

impl Outgoing {
    pub(crate) fn new(socket: OwnedWriteHalf) -> Self {
        Self(Arc::new(Mutex::new(Queue {
            socket,
            pieces: VecDeque::new(),
            bytes: 0,
            copies: Zeroizing::default(),
            offered: Vec::new(),
        })))
    }

    /// Makes known what the next bytes are pieces of.
    pub(crate) fn offer<'a>(&self, pieces: impl Iterator<Item = &'a Bytes>) {
        self.lock().offered.extend(pieces.cloned());
    }

    /// Writes everything that is gathered.
    pub(crate) fn poll_write_out(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_write_out(cx)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // After a panic, the connection is gone.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn is_full(&self) -> bool {
        self.bytes >= ENOUGH || self.copies.len() >= COPIES
    }

    /// Gathers what there is room for. Returns the number of bytes.
    fn take(&mut self, slices: &[IoSlice<'_>]) -> usize {
        let before = self.bytes;
        for slice in slices {
            let piece = match self.offered.iter().find(|piece| contains(piece, slice)) {
                Some(piece) => Piece::Kept(piece.slice_ref(slice)),
                None => self.copy(slice),
            };
            let bytes = piece.bytes(&self.copies).len();
            self.bytes += bytes;
            self.pieces.push_back(piece);
            if bytes < slice.len() {
                break;
            }
        }
        self.offered.clear();
        self.bytes - before
    }

    fn copy(&mut self, slice: &[u8]) -> Piece {
        let start = self.copies.len();
        // All at once: growing would leave copies that are not wiped.
        self.copies.reserve_exact(COPIES - start);
        let end = COPIES.min(start + slice.len());
        self.copies.extend_from_slice(&slice[..end - start]);
        Piece::Copied(start..end)
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.offered.clear();
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let used = slices.iter_mut().zip(&self.pieces);
            let used = used.map(|(slice, piece)| *slice = IoSlice::new(piece.bytes(&self.copies)));
            let count = used.count();
            let socket = Pin::new(&mut self.socket);
            match ready!(socket.poll_write_vectored(cx, &slices[..count]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(piece) = self.pieces.front_mut() {
            let length = piece.bytes(&self.copies).len();
            if written < length {
                return piece.advance(written);
            }
            written -= length;
            self.pieces.pop_front();
        }
        // Wiped here because `Zeroizing` would do it byte by byte. Between two responses, a connection keeps no
        // room for them.
        self.copies.as_mut_slice().zeroize();
        self.copies.clear();
        self.copies = Zeroizing::default();
        self.pieces = VecDeque::new();
    }
}

impl Piece {
    fn bytes<'a>(&'a self, copies: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Copied(range) => &copies[range.clone()],
            Self::Kept(bytes) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Copied(range) => range.start += count,
            Self::Kept(bytes) => bytes.advance(count),
        }
    }
}

/// Whether `slice` is a part of `piece`, the memory and not only the content.
fn contains(piece: &Bytes, slice: &[u8]) -> bool {
    let (piece, slice) = (piece.as_ptr_range(), slice.as_ptr_range());
    piece.start <= slice.start && slice.end <= piece.end
}

impl AsyncWrite for Outgoing {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut queue = self.lock();
        if queue.is_full() {
            ready!(queue.poll_write_out(cx))?;
        }
        Poll::Ready(Ok(queue.take(slices)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: h2 flushes after each response.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut queue = self.lock();
        ready!(queue.poll_write_out(cx))?;
        Pin::new(&mut queue.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;
    use crate::sds::grpc::Segments;

    /// A message of bytes of its own, and of shared ones after them.
    fn message(plain: usize, shared: &[Bytes]) -> Segments {
        let mut own = Segments::plain();
        own.resize(own.len() + plain, b'p');
        let end = own.len();
        Segments::frame(
            own,
            shared.iter().map(|bytes| (end, bytes.clone())).collect(),
        )
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_io().build().unwrap().block_on(test)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn everything_arrives_in_order(
            sizes in proptest::collection::vec(
                (0..10_000_usize, proptest::collection::vec(0..10_000_usize, 0..3)),
                0..60,
            ),
        ) {
            let messages = sizes.iter().zip(b'a'..).map(|((plain, shared), letter)| {
                let shared = shared.iter().map(|length| Bytes::from(vec![letter; *length]));
                (*plain, shared.collect::<Vec<_>>())
            });
            let messages: Vec<_> = messages.collect();
            let mut expected = Vec::new();
            for (plain, shared) in &messages {
                let mut message = message(*plain, shared);
                expected.extend(message.copy_to_bytes(message.remaining()));
            }
            let arrived = run(async {
                let (socket, mut client) = UnixStream::pair().unwrap();
                let mut outgoing = Outgoing::new(socket.into_split().1);
                let write = async {
                    for (plain, shared) in &messages {
                        let mut message = message(*plain, shared).on(&outgoing);
                        outgoing.write_all_buf(&mut message).await.unwrap();
                    }
                    outgoing.shutdown().await.unwrap();
                };
                let mut arrived = Vec::new();
                let read = client.read_to_end(&mut arrived);
                let (_, read) = tokio::join!(write, read);
                read.unwrap();
                arrived
            });
            prop_assert!(arrived == expected);
        }
    }

    #[test]
    fn shared_bytes_are_not_copied_and_not_kept_when_they_are_written() {
        run(async {
            let (socket, mut client) = UnixStream::pair().unwrap();
            let mut outgoing = Outgoing::new(socket.into_split().1);
            let key = Bytes::from(vec![b'k'; 3000]);
            for _ in 0..2 {
                let mut message = message(100, std::slice::from_ref(&key)).on(&outgoing);
                outgoing.write_all_buf(&mut message).await.unwrap();
            }
            let is_kept = |piece: &Piece| matches!(piece, Piece::Kept(_));
            assert!(outgoing.lock().pieces.iter().all(is_kept));

            poll_fn(|cx| outgoing.poll_write_out(cx)).await.unwrap();
            assert!(key.is_unique());
            let mut arrived = vec![0; 2 * (5 + 100 + 3000)];
            client.read_exact(&mut arrived).await.unwrap();
            assert!(arrived.ends_with(&key));
        });
    }
}
