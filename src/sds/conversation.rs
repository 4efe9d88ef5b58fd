//! One open stream: drives a session with the client's requests and the changes of the store.
//!
//! A stream is the body of its own response. It is only polled when the connection can send more, so a slow
//! client holds at most one response, and gets the latest state when it continues to read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tracing::debug;

use super::budget::Grant;
use super::grpc::{Broken, Messages, Segments};
use super::hub::Inbox;
use super::ledger::{Answer, Entry};
use super::session::{Effect, Response, Session, View};
use super::shared::{Seen, Shared};
use crate::metrics::Limit;
use crate::secret::Name;

/// Bytes of a subscription besides its name: measured, and rounded up.
const SUBSCRIPTION: usize = 512;
/// Requests and changes that a stream handles before the next stream is polled.
const TURN: usize = 16;
/// Bytes of names in a response that need no grant.
const FREE_NAMES: usize = 1024;

/// An open stream.
pub(crate) struct Conversation<S, B> {
    session: S,
    requests: Messages<B>,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    entry: Entry,
    /// The grant for its subscriptions.
    grant: Grant,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    phase: Phase,
}

#[derive(PartialEq, Eq)]
enum Phase {
    Open,
    /// The client has closed its side; pending responses are still sent.
    HalfClosed,
    Ended,
}

impl<S, B> Conversation<S, B>
where
    S: Session,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    /// A new stream.
    pub(crate) fn new(session: S, body: B, shared: Arc<Shared>, entry: Entry) -> Self {
        Self {
            session,
            requests: Messages::new(body, shared.bounds(&entry)),
            grant: shared.grant(&entry),
            stopping: Box::pin(shared.stopping.clone().cancelled_owned()),
            shared,
            inbox: Arc::default(),
            entry,
            phase: Phase::Open,
        }
    }

    /// The next response, or the end of the stream.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, Status>> {
        'turn: {
            for _ in 0..TURN {
                if let Some(response) = self.respond() {
                    return Poll::Ready(self.pay(response));
                }
                if self.phase == Phase::HalfClosed {
                    return Poll::Ready(Err(Status::ok("")));
                }
                if let Poll::Ready(names) = self.inbox.poll(cx) {
                    self.session.changed(names);
                    continue;
                }
                match self.requests.poll_next(cx) {
                    Poll::Ready(Some(request)) => self.take(request)?,
                    Poll::Ready(None) => self.phase = Phase::HalfClosed,
                    Poll::Pending => break 'turn,
                }
            }
            cx.waker().wake_by_ref();
        }
        // Checked last: all streams share its lock, and one with something to send need not wait for that.
        let stopping = self.stopping.as_mut().poll(cx);
        stopping.map(|()| Err(Status::unavailable("the agent is stopping")))
    }

    /// Charges a response for long names that the client chose: it is kept until the client reads it.
    fn pay(&self, mut response: Response) -> Result<Response, Status> {
        let bytes = response.removed.iter().map(|name| name.len()).sum();
        if bytes > FREE_NAMES {
            let mut grant = self.shared.grant(&self.entry);
            if !grant.grow(bytes) {
                return Err(self.shared.too_much_kept());
            }
            response.frame.hold(grant);
        }
        Ok(response)
    }

    /// Handles a request.
    fn take(&mut self, request: Result<S::Request, Broken>) -> Result<(), Status> {
        let request = request.map_err(|broken| self.shared.broken(broken))?;
        let effects = self
            .session
            .request(request, &mut self.entry.subscriptions())
            .inspect_err(|status| self.shared.count_limit(status, Limit::NamesPerStream))?;
        effects
            .into_iter()
            .try_for_each(|effect| self.apply(effect))
    }

    fn respond(&mut self) -> Option<Response> {
        if !self.session.is_due() {
            return None;
        }
        let view = Seen::new(&self.shared, &self.entry);
        let response = self
            .session
            .respond(&mut self.entry.subscriptions(), &view)?;
        for secret in &response.secrets {
            self.entry.sent(secret);
            self.shared.log_delivery(&self.entry, secret);
        }
        for name in &response.removed {
            self.entry.removed(name);
            debug!(
                secret = &**name,
                node = self.entry.node_id(),
                peer = %self.entry.peer(),
                "reported as nonexistent"
            );
        }
        Some(response)
    }

    fn apply(&mut self, effect: Effect) -> Result<(), Status> {
        match effect {
            Effect::Node(node) => self.entry.introduce(node),
            Effect::Subscribe(name) => {
                if self.shared.hub.subscribe(&name, &self.inbox)
                    && !self.grant.grow(name.len() + SUBSCRIPTION)
                {
                    return Err(self.shared.too_much_kept());
                }
                self.log_subscription(&name);
            }
            Effect::Unsubscribe(name) => {
                if self.shared.hub.unsubscribe(&name, &self.inbox) {
                    self.grant.shrink(name.len() + SUBSCRIPTION);
                }
                debug!(secret = &*name, node = self.entry.node_id(), "unsubscribed");
            }
            Effect::Ack(names) => {
                let answer = Answer::Ack(SystemTime::now());
                names
                    .iter()
                    .for_each(|name| self.entry.answered(name, answer.clone()));
                debug!(secrets = ?names, node = self.entry.node_id(), "accepted");
            }
            Effect::Nack(names, reason) => {
                let answer = Answer::Nack(SystemTime::now(), reason.as_str().into());
                names
                    .iter()
                    .for_each(|name| self.entry.answered(name, answer.clone()));
                self.shared.audit.rejected(&self.entry, &names, &reason);
            }
        }
        Ok(())
    }

    fn log_subscription(&self, name: &Name) {
        let view = Seen::new(&self.shared, &self.entry);
        self.shared.log_refusal(&view, name);
        let credential = view.lookup(name).found().map(|found| found.credential);
        self.shared
            .audit
            .subscribed(&self.entry, name, credential.as_deref());
    }

    fn trailers(status: &Status) -> Frame<Segments> {
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            // Its message can't be sent as a header; the code always can.
            trailers.insert("grpc-status", (status.code() as i32).into());
        }
        Frame::trailers(trailers)
    }
}

impl<S, B> Body for Conversation<S, B>
where
    S: Session + Unpin,
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    type Data = Segments;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Segments>, Status>>> {
        let this = self.get_mut();
        if this.phase == Phase::Ended {
            return Poll::Ready(None);
        }
        this.poll_step(cx).map(|step| {
            Some(Ok(match step {
                Ok(response) => Frame::data(response.frame),
                Err(status) => {
                    this.phase = Phase::Ended;
                    this.shared.audit.ended(&this.entry, &status);
                    Self::trailers(&status)
                }
            }))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.phase == Phase::Ended
    }
}

impl<S, B> Drop for Conversation<S, B> {
    fn drop(&mut self) {
        for name in self.entry.subscriptions().keys() {
            self.shared.hub.unsubscribe(name, &self.inbox);
        }
    }
}
