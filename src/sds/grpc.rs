//! gRPC's message framing, both ways, over the bodies of HTTP/2 streams.
//!
//! The framing that comes with tonic keeps a growing buffer for each direction of each stream: 61 kB
//! of Envoy's node would stay in memory a stream, and every private key sent would leave a copy that
//! nobody wipes. Here a message that has been read leaves nothing behind, and one that is sent
//! borrows the one encoded copy of its secrets.

use std::collections::VecDeque;
use std::fmt;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::Response;
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use prost::Message;
use tonic::Status;

/// A frame's head: a byte of flags, four of length, from gRPC's "PROTOCOL-HTTP2".
const HEAD: usize = 5;

/// The messages that arrive in a request's body.
pub(crate) struct Messages<B> {
    body: B,
    buffer: BytesMut,
    limit: usize,
    ended: bool,
}

/// A message to send: pieces that are written one after the other, without being put together.
#[derive(Default)]
pub struct Segments(VecDeque<Bytes>);

/// The body of an answer.
pub(super) type Reply = UnsyncBoxBody<Segments, Status>;

/// The answer to a call that fails.
pub(crate) fn refused(status: Status) -> Response<Reply> {
    status.into_http()
}

impl<B> Messages<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    /// Reads messages of at most `limit` bytes each.
    pub(crate) fn new(body: B, limit: usize) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            limit,
            ended: false,
        }
    }

    /// The next message; `None` after the last one.
    ///
    /// # Errors
    /// The status that the stream should end with: the message is too large, compressed, cut
    /// short or not what it should be, or the connection broke.
    pub(crate) fn poll_next<M: Message + Default>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<M, Status>>> {
        loop {
            if let Some(outcome) = self.decode().transpose() {
                return Poll::Ready(Some(outcome));
            }
            if self.ended {
                return Poll::Ready(self.rest());
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(Status::unavailable(error.to_string()))));
                }
                None => self.ended = true,
            }
        }
    }

    fn decode<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let Some(mut head) = self.buffer.get(..HEAD) else {
            return Ok(None);
        };
        let (flags, length) = (head.get_u8(), head.get_u32() as usize);
        if flags != 0 {
            return Err(Status::unimplemented(
                "compressed messages are not supported",
            ));
        }
        if length > self.limit {
            return Err(Status::resource_exhausted(format!(
                "a request of {length} bytes is larger than the {} allowed",
                self.limit
            )));
        }
        if self.buffer.len() < HEAD + length {
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        let message = M::decode(self.buffer.split_to(length)).map_err(|error| {
            Status::invalid_argument(format!("not a discovery request: {error}"))
        })?;
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }

    fn rest<M>(&self) -> Option<Result<M, Status>> {
        let cut_short = || Status::invalid_argument("the last request was cut short");
        (!self.buffer.is_empty()).then(|| Err(cut_short()))
    }
}

impl Segments {
    /// A frame that holds a message of these pieces.
    pub(crate) fn frame(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let mut segments: VecDeque<_> = pieces.into_iter().collect();
        let length: usize = segments.iter().map(Bytes::len).sum();
        let mut head = BytesMut::with_capacity(HEAD);
        head.put_u8(0);
        // Responses are bounded far below 4 GiB by the number of names and the size of files.
        head.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        segments.push_front(head.freeze());
        Self(segments)
    }
}

/// Its bytes may be a private key's.
impl fmt::Debug for Segments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segments({} bytes)", self.remaining())
    }
}

impl From<Bytes> for Segments {
    fn from(bytes: Bytes) -> Self {
        Self(VecDeque::from([bytes]))
    }
}

impl Buf for Segments {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let pairs = slices.iter_mut().zip(&self.0);
        pairs
            .map(|(slice, piece)| *slice = IoSlice::new(piece))
            .count()
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(piece) = self.0.front_mut() {
            if count < piece.len() {
                return piece.advance(count);
            }
            count -= piece.len();
            self.0.pop_front();
        }
        assert_eq!(count, 0, "advanced past the end");
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use proptest::prelude::*;
    use std::task::Waker;

    use super::*;
    use crate::proto::discovery::DiscoveryRequest;

    fn request(names: &[&str]) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }
    }

    fn frame(message: &DiscoveryRequest) -> Bytes {
        let mut frame = Segments::frame([Bytes::from(message.encode_to_vec())]);
        frame.copy_to_bytes(frame.remaining())
    }

    /// Reads everything from a body that arrives in those pieces.
    fn read(pieces: Vec<Bytes>, limit: usize) -> Vec<Result<DiscoveryRequest, tonic::Code>> {
        let frames = pieces
            .into_iter()
            .map(|piece| Ok::<_, Status>(http_body::Frame::data(piece)));
        let mut messages = Messages::new(StreamBody::new(tokio_stream::iter(frames)), limit);
        let mut cx = Context::from_waker(Waker::noop());
        let mut read = Vec::new();
        loop {
            match messages.poll_next(&mut cx) {
                // The stream yields now and then, to be polled again at once.
                Poll::Pending => continue,
                Poll::Ready(None) => break,
                Poll::Ready(Some(message)) => read.push(message.map_err(|s| s.code())),
            }
            if read.last().is_some_and(Result::is_err) {
                break;
            }
        }
        assert!(messages.buffer.capacity() == 0 || read.last().is_some_and(Result::is_err));
        read
    }

    proptest! {
        #[test]
        fn messages_arrive_whole_however_they_are_cut(
            names in proptest::collection::vec("[a-z]{0,40}", 1..20),
            size in 1..200_usize,
        ) {
            let sent: Vec<_> = names.iter().map(|name| request(&[name])).collect();
            let bytes: Vec<u8> = sent.iter().flat_map(frame).collect();
            let pieces = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
            let expected: Vec<_> = sent.into_iter().map(Ok).collect();
            prop_assert_eq!(read(pieces, 1000), expected);
        }

        #[test]
        fn garbage_is_an_error_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            read(vec![bytes.into()], 100);
        }
    }

    #[test]
    fn a_request_at_the_limit_is_read_and_one_above_it_is_not() {
        let request = request(&["site"]);
        let length = request.encoded_len();
        assert_eq!(read(vec![frame(&request)], length), [Ok(request.clone())]);
        let refused = [Err(tonic::Code::ResourceExhausted)];
        assert_eq!(read(vec![frame(&request)], length - 1), refused);
    }

    #[test]
    fn a_request_cut_short_and_a_compressed_one_are_errors() {
        let whole = frame(&request(&["site"]));
        let cut = whole.slice(..whole.len() - 1);
        assert_eq!(read(vec![cut], 100), [Err(tonic::Code::InvalidArgument)]);
        let compressed = Bytes::from_static(&[1, 0, 0, 0, 0]);
        assert_eq!(
            read(vec![compressed], 100),
            [Err(tonic::Code::Unimplemented)]
        );
    }
}
