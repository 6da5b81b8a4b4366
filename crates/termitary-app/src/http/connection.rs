//! Time limits of a connection: a client has a limited time to send the head of a
//! request, to read the response, and to send the next request.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use hyper::body::{Bytes, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// The most bytes that are handed to a connection at once.
const PIECE: usize = 32 * 1024;

/// The times that a client may keep a connection waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For the whole head of a request, and for the first request.
    pub(crate) head: Duration,
    /// For the next request on the connection.
    pub(crate) idle: Duration,
    /// For reading the next piece of a response.
    pub(crate) write: Duration,
}

/// The present phase of a connection, shared by its stream and its requests.
#[derive(Clone)]
pub(crate) struct Phase(Arc<Mutex<State>>);

struct State {
    at: At,
    /// The waker of the connection while it waits to read: a new wait needs a timer.
    reader: Option<Waker>,
}

#[derive(Clone, Copy)]
enum At {
    /// Waiting for a request since this time.
    Idle(Instant),
    /// The head of a request began to arrive at this time. A new connection starts so.
    Head(Instant),
    /// A request is being handled.
    Answering,
}

impl Phase {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            at: At::Head(Instant::now()),
            reader: None,
        })))
    }

    /// Starts handling a request, until the returned guard is dropped.
    pub(crate) fn answering(&self) -> Answering {
        self.lock().at = At::Answering;
        Answering(self.clone())
    }

    fn received(&self) {
        let mut state = self.lock();
        if matches!(state.at, At::Idle(_)) {
            state.at = At::Head(Instant::now());
        }
    }

    /// The client read the rest of a response: the wait for the next request begins.
    fn taken(&self) {
        let mut state = self.lock();
        if matches!(state.at, At::Idle(_)) {
            state.idle();
        }
    }

    /// The deadline of the present wait. `reader` is woken when another wait begins.
    fn deadline(&self, patience: Patience, reader: &Waker) -> Option<Instant> {
        let mut state = self.lock();
        if !state
            .reader
            .as_ref()
            .is_some_and(|old| old.will_wake(reader))
        {
            state.reader = Some(reader.clone());
        }
        match state.at {
            At::Idle(since) => Some(since + patience.idle),
            At::Head(since) => Some(since + patience.head),
            At::Answering => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The wait for the next request begins.
    fn idle(&mut self) {
        self.at = At::Idle(Instant::now());
        // hyper does not read again by itself: it knows that nothing has come.
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// The guard of a request that is being handled.
pub(crate) struct Answering(Phase);

impl Answering {
    /// Keeps the guard until the body has ended.
    pub(crate) fn until_sent(self, body: Body) -> Body {
        Body::new(Sent {
            body,
            rest: Bytes::new(),
            _answering: self,
        })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.lock().idle();
    }
}

/// Sends a body in pieces, so that it ends only when the client has read nearly all of
/// it.
struct Sent {
    body: Body,
    /// The rest of a large piece.
    rest: Bytes,
    _answering: Answering,
}

impl Sent {
    fn piece(&mut self, mut whole: Bytes) -> Frame<Bytes> {
        let first = whole.split_to(whole.len().min(PIECE));
        self.rest = whole;
        Frame::data(first)
    }
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return Poll::Ready(Some(Ok(self.piece(rest))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let frame = frame?.into_data().map(|data| self.piece(data));
            Ok(frame.unwrap_or_else(|trailers| trailers))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(body.lower() + rest);
        hint
    }
}

/// A stream whose reads and writes fail when the client takes too long.
pub(crate) struct Timed<S> {
    stream: S,
    phase: Phase,
    patience: Patience,
    reading: Option<Pin<Box<Sleep>>>,
    /// The timer while the client does not read.
    writing: Option<Pin<Box<Sleep>>>,
}

impl<S> Timed<S> {
    pub(crate) fn new(stream: S, phase: Phase, patience: Patience) -> Self {
        Self {
            stream,
            phase,
            patience,
            reading: None,
            writing: None,
        }
    }

    /// Ready when the client should have sent something by now.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.phase.deadline(self.patience, cx.waker());
        let Some(deadline) = deadline.filter(|_| self.writing.is_none()) else {
            return Poll::Pending;
        };
        let sleep = self
            .reading
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }

    /// The result of a write, or an error if the client reads nothing for too long.
    fn timed<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if self.writing.take().is_some() {
                self.phase.taken();
            }
            return written;
        }
        let patience = self.patience.write;
        let sleep = self
            .writing
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not read the response",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_pending() {
            // A read of nothing is the end: the connection closes normally.
            return self.poll_silence(cx).map(Ok);
        }
        if buf.filled().len() > before {
            self.phase.received();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.timed(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.timed(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_pending() {
            return self.timed(cx, flushed);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.timed(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::{sleep, timeout};

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);
    const NEVER: Duration = Duration::from_hours(1);

    /// The limits that a test is not about.
    const NONE: Patience = Patience {
        head: NEVER,
        idle: NEVER,
        write: NEVER,
    };

    fn open(patience: Patience) -> (Timed<DuplexStream>, DuplexStream, Phase) {
        let (ours, client) = duplex(16);
        let phase = Phase::new();
        (Timed::new(ours, phase.clone(), patience), client, phase)
    }

    #[tokio::test]
    async fn the_head_of_a_request_must_come_in_time_however_slowly_it_trickles() {
        let (mut ours, mut client, _) = open(Patience {
            head: SHORT,
            ..NONE
        });
        let trickle = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                sleep(SHORT / 4).await;
            }
        });
        let mut all = Vec::new();
        ours.read_to_end(&mut all).await.unwrap();
        drop(ours);
        trickle.await.unwrap();
    }

    #[tokio::test]
    async fn an_idle_connection_is_kept_longer_than_a_head_may_take() {
        let (mut ours, mut client, phase) = open(Patience {
            head: SHORT,
            ..NONE
        });
        drop(phase.answering());
        let mut bytes = [0; 8];
        assert!(timeout(SHORT * 3, ours.read(&mut bytes)).await.is_err());
        client.write_all(b"G").await.unwrap();
        assert_eq!(ours.read(&mut bytes).await.unwrap(), 1);
        assert_eq!(ours.read(&mut bytes).await.unwrap(), 0, "the head is late");
    }

    #[tokio::test]
    async fn a_request_that_is_being_answered_has_no_deadline_and_an_idle_one_has() {
        let (mut ours, _client, phase) = open(Patience {
            head: SHORT,
            idle: SHORT,
            ..NONE
        });
        let answering = phase.answering();
        let mut bytes = [0; 8];
        assert!(timeout(SHORT * 3, ours.read(&mut bytes)).await.is_err());
        drop(answering);
        assert_eq!(ours.read(&mut bytes).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_answer_is_handed_on_in_pieces_and_lasts_until_the_last() {
        let phase = Phase::new();
        let whole = vec![7; 3 * PIECE + 1];
        let mut body = phase.answering().until_sent(Body::from(whole.clone()));
        let mut sent = Vec::new();
        while !body.is_end_stream() {
            assert!(matches!(phase.lock().at, At::Answering));
            let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
            let piece = frame.await.unwrap().unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE, "{} bytes at once", piece.len());
            sent.extend(piece);
        }
        assert_eq!(sent, whole);
    }

    #[tokio::test]
    async fn an_answer_that_is_not_taken_fails_and_a_slow_reader_does_not() {
        let (mut ours, mut client, phase) = open(Patience {
            idle: SHORT,
            write: SHORT * 20,
            ..NONE
        });
        drop(phase.answering());
        let slow = tokio::spawn(async move {
            let mut read = 0;
            while read < 64 {
                sleep(SHORT).await;
                read += client.read(&mut [0; 4]).await.unwrap();
            }
            client
        });
        // Longer than an idle connection is kept: it is not idle.
        ours.write_all(&[0; 64]).await.unwrap();
        let client = slow.await.unwrap();
        let failed = ours.write_all(&[0; 1024]).await.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
        drop(client);
    }
}
