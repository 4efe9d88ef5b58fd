//! gRPC's message framing, in both directions, over the bodies of HTTP/2 streams.
//!
//! tonic's framing keeps a growing buffer for each direction of each stream: the 61 kB of Envoy's node would
//! stay in memory for each stream, and every sent private key would leave a copy that is not wiped. Here, a
//! message that has been read leaves no copy, and a sent message shares the one encoded copy of its secrets.

use std::collections::VecDeque;
use std::fmt;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::Response;
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::time::Sleep;
use tonic::Status;

use super::budget::Grant;
use super::intake::{Intake, Request};
use super::outgoing::Outgoing;
use crate::metrics::Limit;

/// A frame's head: a byte of flags, four of length, from gRPC's "PROTOCOL-HTTP2".
const HEAD: usize = 5;

/// How long a client may take from opening a stream to its first request, and from the first byte of a
/// request to the last.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// Bytes that a stream may keep without a grant: an ordinary request.
const FREE: usize = 512;
/// Grants grow in steps of this size.
const STEP: usize = 4096;

/// The messages that arrive in a request's body.
pub(crate) struct Messages<B> {
    body: B,
    /// Bytes received after the last returned message.
    rest: Bytes,
    rest_is_own: bool,
    head: Vec<u8>,
    /// Boxed: nearly always there is none.
    intake: Option<Box<Intake>>,
    bounds: Bounds,
    deadline: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

/// The limits on the messages of a stream.
pub(crate) struct Bounds {
    /// Bytes of one message.
    pub(crate) bytes: usize,
    /// Names in one message.
    pub(crate) names: usize,
    /// Bytes that are kept until a message is complete.
    pub(crate) grant: Grant,
}

/// Why a stream is ended before its client ends it.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) status: Status,
    /// The limit that was reached, if it was one.
    pub(crate) limit: Option<Limit>,
}

/// A message to send: pieces that are written one after the other, without being put together.
#[derive(Default)]
pub struct Segments {
    pieces: VecDeque<Bytes>,
    /// The grant for a response that the client made large; returned when all is sent.
    grant: Option<Grant>,
    /// The connection that it is sent on.
    outgoing: Option<Outgoing>,
}

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
    /// Reads messages within these bounds.
    pub(crate) fn new(body: B, bounds: Bounds) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            rest_is_own: true,
            head: Vec::new(),
            intake: None,
            bounds,
            deadline: Some(Box::pin(tokio::time::sleep(REQUEST_TIME))),
            ended: false,
        }
    }

    /// The next message; `None` after the last one.
    ///
    /// # Errors
    /// Why the stream should end: the message is too large, compressed, truncated or malformed, or the
    /// connection broke, or the client took too long.
    pub(crate) fn poll_next<R: Request>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<R, Broken>>> {
        let mut has_read = false;
        loop {
            if let Some(outcome) = self.take_rest().transpose() {
                return Poll::Ready(Some(outcome));
            }
            if self.ended {
                return Poll::Ready(self.cut_short());
            }
            // A large request is read one frame at a time, so that other streams are polled in between.
            if std::mem::replace(&mut has_read, true) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.rest = frame.into_data().unwrap_or_default();
                    self.rest_is_own = false;
                }
                Poll::Ready(Some(Err(error))) => {
                    let status = Status::unavailable(error.to_string());
                    return Poll::Ready(Some(Err(status.into())));
                }
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => return self.poll_deadline(cx).map(|broken| Some(Err(broken))),
            }
        }
    }

    /// Continues with the received bytes; returns a message when it is complete.
    fn take_rest<R: Request>(&mut self) -> Result<Option<R>, Broken> {
        while !self.rest.is_empty() || self.intake.is_some() {
            let Some(intake) = &mut self.intake else {
                self.take_head::<R>()?;
                continue;
            };
            let left = intake.left().min(self.rest.len());
            intake.take(&self.rest[..left]).map_err(names)?;
            self.rest.advance(left);
            if let Some(message) = intake.finish()? {
                self.intake = None;
                self.deadline = None;
                self.keep_rest()?;
                return Ok(Some(message));
            }
            if self.rest.is_empty() {
                break;
            }
        }
        self.keep_rest()?;
        Ok(None)
    }

    /// Reads bytes of a frame's head, and starts a message when the head is complete.
    fn take_head<R: Request>(&mut self) -> Result<(), Broken> {
        let more = (HEAD - self.head.len()).min(self.rest.len());
        self.head.extend_from_slice(&self.rest[..more]);
        self.rest.advance(more);
        if self.head.len() < HEAD {
            return Ok(());
        }
        let mut head = &*std::mem::take(&mut self.head);
        let (flags, length) = (head.get_u8(), head.get_u32() as usize);
        if flags != 0 {
            let message = "compressed messages are not supported";
            return Err(Status::unimplemented(message).into());
        }
        if length > self.bounds.bytes {
            let message = format!(
                "a request of {length} bytes is larger than the {} allowed",
                self.bounds.bytes
            );
            return Err(Broken::at(Limit::RequestBytes, message));
        }
        let intake = Intake::new::<R>(length, self.bounds.names);
        self.intake = Some(Box::new(intake));
        Ok(())
    }

    /// Charges the stored bytes to the grant. The rest of a frame is copied to its own buffer: a slice would
    /// keep the whole larger buffer alive.
    fn keep_rest(&mut self) -> Result<(), Broken> {
        if !std::mem::replace(&mut self.rest_is_own, true) {
            self.rest = Bytes::copy_from_slice(&self.rest);
        }
        let kept = self.rest.len() + self.intake.as_ref().map_or(0, |intake| intake.kept());
        let granted = self.bounds.grant.amount();
        if kept <= FREE {
            self.bounds.grant.clear();
        } else if kept > granted && !self.bounds.grant.grow(kept - granted + STEP) {
            let message = "this user's requests that have arrived in part are too large together";
            return Err(Broken::at(Limit::ClientBytes, message.to_owned()));
        }
        Ok(())
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        if self.is_in_message() && self.deadline.is_none() {
            self.deadline = Some(Box::pin(tokio::time::sleep(REQUEST_TIME)));
        }
        let Some(deadline) = &mut self.deadline else {
            return Poll::Pending;
        };
        let seconds = REQUEST_TIME.as_secs();
        let message = format!("no whole request arrived within {seconds} s");
        deadline
            .as_mut()
            .poll(cx)
            .map(|()| Status::deadline_exceeded(message).into())
    }

    fn cut_short<R>(&self) -> Option<Result<R, Broken>> {
        let status = || Status::invalid_argument("the last request was cut short");
        self.is_in_message().then(|| Err(status().into()))
    }

    fn is_in_message(&self) -> bool {
        self.intake.is_some() || !self.head.is_empty()
    }
}

impl Broken {
    fn at(limit: Limit, message: String) -> Self {
        Self {
            status: Status::resource_exhausted(message),
            limit: Some(limit),
        }
    }
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self {
            status,
            limit: None,
        }
    }
}

/// Of the possible errors of a request, only the number of its names is a limit.
fn names(status: Status) -> Broken {
    let is_limit = status.code() == tonic::Code::ResourceExhausted;
    Broken {
        status,
        limit: is_limit.then_some(Limit::NamesPerStream),
    }
}

impl Segments {
    /// A buffer for the message of a frame, with room for the frame's head.
    pub(crate) fn plain() -> Vec<u8> {
        let mut plain = Vec::with_capacity(256);
        plain.extend([0; HEAD]);
        plain
    }

    /// A frame of the message in that buffer, and of shared bytes: those come at these places in it.
    pub(crate) fn frame(mut plain: Vec<u8>, shared: Vec<(usize, Bytes)>) -> Self {
        let all = shared.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + plain.len() - HEAD;
        // Responses are bounded far below 4 GiB by the number of names and the size of files.
        let length = u32::try_from(all).unwrap_or(u32::MAX);
        plain[1..HEAD].copy_from_slice(&length.to_be_bytes());
        let mut plain = Bytes::from(plain);
        let mut pieces = VecDeque::with_capacity(2 * shared.len() + 1);
        let mut start = 0;
        for (place, bytes) in shared {
            pieces.extend([plain.split_to(place - start), bytes]);
            start = place;
        }
        pieces.push_back(plain);
        pieces.retain(|piece| !piece.is_empty());
        Self {
            pieces,
            ..Self::default()
        }
    }

    /// Keeps `grant` until the message is sent.
    pub(crate) fn hold(&mut self, grant: Grant) {
        self.grant = Some(grant);
    }

    /// The same message, without copies on its way to this connection.
    pub(crate) fn on(self, outgoing: &Outgoing) -> Self {
        Self {
            outgoing: Some(outgoing.clone()),
            ..self
        }
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
        Self {
            pieces: VecDeque::from([bytes]),
            ..Self::default()
        }
    }
}

impl Buf for Segments {
    fn remaining(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        if let Some(outgoing) = &self.outgoing {
            outgoing.offer(self.pieces.iter().take(slices.len()));
        }
        let pairs = slices.iter_mut().zip(&self.pieces);
        pairs
            .map(|(slice, piece)| *slice = IoSlice::new(piece))
            .count()
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                return piece.advance(count);
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
        assert_eq!(count, 0, "advanced past the end");
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use proptest::prelude::*;
    use prost::Message;
    use std::task::Waker;

    use super::*;
    use crate::proto::discovery::DiscoveryRequest;
    use crate::sds::budget::{Budget, Holder};

    fn request(names: &[&str]) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }
    }

    fn frame(message: &DiscoveryRequest) -> Bytes {
        let mut plain = Segments::plain();
        message.encode(&mut plain).unwrap();
        let mut frame = Segments::frame(plain, Vec::new());
        frame.copy_to_bytes(frame.remaining())
    }

    const HOLDER: Holder = Holder {
        uid: 1,
        reserve: false,
    };

    fn bounds(budget: &std::sync::Arc<Budget>, bytes: usize) -> Bounds {
        Bounds {
            bytes,
            names: 100,
            grant: budget.open(HOLDER),
        }
    }

    /// Reads everything from a body that arrives in those pieces.
    fn read(pieces: Vec<Bytes>, limit: usize) -> Vec<Result<DiscoveryRequest, tonic::Code>> {
        let frames = pieces
            .into_iter()
            .map(|piece| Ok::<_, Status>(http_body::Frame::data(piece)));
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().build().unwrap();
        let _entered = runtime.enter();
        let budget = Budget::new(10_000);
        let mut messages = Messages::new(
            StreamBody::new(tokio_stream::iter(frames)),
            bounds(&budget, limit),
        );
        let mut cx = Context::from_waker(Waker::noop());
        let mut read = Vec::new();
        loop {
            match messages.poll_next(&mut cx) {
                // The stream yields sometimes, and is polled again immediately.
                Poll::Pending => continue,
                Poll::Ready(None) => break,
                Poll::Ready(Some(message)) => read.push(message.map_err(|b| b.status.code())),
            }
            if read.last().is_some_and(Result::is_err) {
                break;
            }
        }
        let idle = messages.intake.is_none() && messages.rest.is_empty();
        assert!(idle || read.last().is_some_and(Result::is_err));
        drop(messages);
        assert!(budget.grant(HOLDER, 7_500).is_some(), "all is given back");
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

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_ends_is_given_up() {
        let budget = Budget::new(100_000);
        for bytes in [Bytes::new(), frame(&request(&["site"])).slice(..7)] {
            let frames = tokio_stream::StreamExt::chain(
                tokio_stream::once(Ok::<_, Status>(http_body::Frame::data(bytes))),
                tokio_stream::pending(),
            );
            let mut messages = Messages::new(StreamBody::new(frames), bounds(&budget, 100));
            let next = std::future::poll_fn(|cx| messages.poll_next::<DiscoveryRequest>(cx));
            let ended = next.await.unwrap().unwrap_err();
            assert_eq!(ended.status.code(), tonic::Code::DeadlineExceeded);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_has_asked_may_be_silent_for_ever() {
        let budget = Budget::new(100_000);
        let whole = frame(&request(&["site"]));
        let frames = tokio_stream::StreamExt::chain(
            tokio_stream::once(Ok::<_, Status>(http_body::Frame::data(whole))),
            tokio_stream::pending(),
        );
        let mut messages = Messages::new(StreamBody::new(frames), bounds(&budget, 100));
        let mut next = async || std::future::poll_fn(|cx| messages.poll_next(cx)).await;
        let first: Option<Result<DiscoveryRequest, _>> = next().await;
        assert!(first.unwrap().is_ok());
        let silence = tokio::time::timeout(100 * REQUEST_TIME, next());
        assert!(silence.await.is_err());
    }

    #[test]
    fn requests_in_part_have_a_budget() {
        let names: Vec<String> = (0..90).map(|n| format!("{n:0>253}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let whole = frame(&request(&names));
        let pieces: Vec<_> = whole.chunks(100).map(Bytes::copy_from_slice).collect();
        assert_eq!(read(pieces, 100_000), [Err(tonic::Code::ResourceExhausted)]);
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
