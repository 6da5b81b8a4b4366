//! Serves connections, within limits, and drains them at the end.

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
use super::connection_limits::{ConnectionLimits, within_descriptors};
use super::ops;
use crate::app::App;
use crate::security::{Event, Note};

/// The most bytes that a connection buffers of the head of a request or of an unsent
/// response.
const BUFFER: usize = 64 * 1024;
/// The response to clients of an address that has too many connections.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// The time that new connections are accepted after the signal to stop: a load balancer
/// then reads "503, draining" instead of a refused connection.
const LINGER: Duration = Duration::from_millis(500);
/// The same while requests run. Bounded, since under steady traffic some always run.
const LONGEST_LINGER: Duration = Duration::from_secs(5);
/// The time that open requests may take after that.
const DRAIN: Duration = Duration::from_secs(25);
const UPKEEP: Duration = Duration::from_secs(5);

/// Serves `router` on `listener` until `shutdown` is cancelled, and then drains.
pub(crate) async fn serve(
    listener: TcpListener,
    app: App,
    router: Router,
    shutdown: CancellationToken,
) {
    let upkeep = tokio::spawn(keep_up(shutdown.clone()));
    let limits = app.settings().connections;
    // Behind a proxy every connection has the proxy's address.
    let behind_proxy = app.settings().trusted_proxy_hops > 0;
    let places = ConnectionLimits::new(
        within_descriptors(limits.most),
        (!behind_proxy).then_some(limits.most_per_address),
    );
    let requests = Requests {
        router,
        running: TaskTracker::new(),
        patience: Patience {
            head: limits.head,
            idle: limits.keep_alive,
            write: limits.write,
        },
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
}

/// Accepts connections for ever.
async fn accept(
    listener: &TcpListener,
    app: &App,
    places: &ConnectionLimits,
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
                // Usually out of file descriptors: some may be free later.
                tracing::warn!(error = %error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Refuses a connection. The response is written only if that does not block.
fn refuse(stream: &TcpStream, address: IpAddr, app: &App) {
    let _ = stream.try_write(TOO_MANY);
    metrics::counter!("termitary_http_connections_refused_total").increment(1);
    Note::new(Event::LimitHit, address.to_canonical())
        .detail("connections from one address")
        .log(app.security());
}

fn connect(
    stream: TcpStream,
    peer: SocketAddr,
    requests: Requests,
) -> impl GracefulConnection<Error = hyper::Error> + Send {
    // Responses are small and streams are live: packets need not be full.
    let _ = stream.set_nodelay(true);
    let phase = Phase::new();
    let stream = Timed::new(stream, phase.clone(), requests.patience);
    let service = hyper::service::service_fn(move |request| {
        requests.clone().answer(request, peer, phase.answering())
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // `Timed` limits the time.
        .header_read_timeout(None)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service)
}

/// Handles requests, and counts those that run.
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
            // The client's next request should go to another process.
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| answering.until_sent(body)))
    }

    /// Resolves when no more connections should be accepted.
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
