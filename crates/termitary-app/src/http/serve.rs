//! Connections: a limit on them, in all and from one address, and a drain that
//! ends.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::connection::{Answering, Patience, Phase, Timed};
use super::places::{Places, within_descriptors};
use super::{ops, router};
use crate::app::App;
use crate::security::{Event, Note};

/// The most bytes that a connection holds of the head of a request or of an
/// answer that its client has not taken yet.
const BUFFER: usize = 64 * 1024;
/// Told to clients of an address that has all the connections that it may have.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// How long new connections are accepted after the signal to stop: whoever
/// balances the load reads "503, draining" and turns away, instead of running
/// into a closed door.
const LINGER: Duration = Duration::from_millis(500);
/// The same while requests run. Bounded: under steady traffic some always do.
const LONGEST_LINGER: Duration = Duration::from_secs(5);
/// How long open requests may take after that.
const DRAIN: Duration = Duration::from_secs(25);
const UPKEEP: Duration = Duration::from_secs(5);

/// Serves the API on `listener` until `shutdown`.
///
/// Then `/readyz` answers 503 at once, connections are accepted for another
/// half second (while requests run, for up to five), and open requests may
/// finish within 25 seconds.
pub async fn serve(
    listener: TcpListener,
    app: App,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let upkeep = tokio::spawn(keep_up(shutdown.clone()));
    let limits = app.settings().connections;
    // Behind a proxy every connection has the proxy's address.
    let behind_proxy = app.settings().trusted_proxy_hops > 0;
    let places = Places::new(
        within_descriptors(limits.most),
        (!behind_proxy).then_some(limits.most_per_address),
    );
    let requests = Requests {
        router: router(app.clone(), shutdown.clone()),
        running: TaskTracker::new(),
        patience: limits.patience(),
        shutdown,
    };
    let graceful = GracefulShutdown::new();
    tokio::select! {
        () = accept(&listener, &app, &places, &requests, &graceful) => {}
        () = requests.linger() => {}
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("some requests did not finish in time and were cut off");
    }
    upkeep.abort();
    Ok(())
}

/// Takes connections for ever.
async fn accept(
    listener: &TcpListener,
    app: &App,
    places: &Places,
    requests: &Requests,
    graceful: &GracefulShutdown,
) {
    while let Some(total) = places.next().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(place) = places.take(total, peer.ip()) else {
                    refuse(&stream, peer.ip(), app);
                    continue;
                };
                let connection = graceful.watch(connect(stream, peer, requests.clone()));
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(error = %error, "a connection ended early");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: try again when some are free.
                tracing::warn!(error = %error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Tells a client, if it can be told at once, that its address has enough
/// connections, and hangs up.
fn refuse(stream: &TcpStream, address: IpAddr, app: &App) {
    let _ = stream.try_write(TOO_MANY);
    metrics::counter!("termitary_http_connections_refused_total").increment(1);
    Note::new(Event::LimitHit, address.to_canonical())
        .detail("connections from one address")
        .log(app);
}

fn connect(
    stream: TcpStream,
    peer: SocketAddr,
    requests: Requests,
) -> impl GracefulConnection<Error = hyper::Error> + Send {
    // Answers are small and streams are live: do not wait to fill packets.
    let _ = stream.set_nodelay(true);
    let phase = Phase::new();
    let stream = Timed::new(stream, phase.clone(), requests.patience);
    let service = hyper::service::service_fn(move |request| {
        requests.clone().answer(request, peer, phase.answering())
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // The stream keeps the time.
        .header_read_timeout(None)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service)
}

/// What answers requests, and counts those that run.
#[derive(Clone)]
struct Requests {
    router: Router,
    running: TaskTracker,
    patience: Patience,
    shutdown: CancellationToken,
}

impl Requests {
    async fn answer(
        self,
        request: Request<Incoming>,
        peer: SocketAddr,
        answering: Answering,
    ) -> Result<Response<Body>, Infallible> {
        let _running = self.running.token();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        let mut response = self.router.oneshot(request).await?;
        if self.shutdown.is_cancelled() {
            // The client's next request belongs to another process.
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| answering.until_sent(body)))
    }

    /// Resolves when no more connections are to be taken.
    async fn linger(&self) {
        self.shutdown.cancelled().await;
        tokio::time::sleep(LINGER).await;
        self.running.close();
        let idle = self.running.wait();
        let _ = tokio::time::timeout(LONGEST_LINGER.saturating_sub(LINGER), idle).await;
    }
}

/// Histograms grow without bound unless they are drained.
async fn keep_up(shutdown: CancellationToken) {
    while tokio::time::timeout(UPKEEP, shutdown.cancelled())
        .await
        .is_err()
    {
        ops::recorder().run_upkeep();
    }
}
