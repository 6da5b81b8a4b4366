//! Connections: a limit on them, a limit on the time a client takes to say
//! what it wants, and a drain that ends.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
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
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::{ops, router};
use crate::app::App;

/// Connections that are open at once; more wait in the listener's queue.
const CONNECTIONS: usize = 4_096;
/// How long a client may take for the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
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
    let requests = Requests {
        router: router(app, shutdown.clone()),
        running: TaskTracker::new(),
        shutdown,
    };
    let graceful = GracefulShutdown::new();
    tokio::select! {
        () = accept(&listener, &requests, &graceful) => {}
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
async fn accept(listener: &TcpListener, requests: &Requests, graceful: &GracefulShutdown) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
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

fn connect(
    stream: TcpStream,
    peer: SocketAddr,
    requests: Requests,
) -> impl GracefulConnection<Error = hyper::Error> + Send {
    // Answers are small and streams are live: do not wait to fill packets.
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |request| requests.clone().answer(request, peer));
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
}

/// What answers requests, and counts those that run.
#[derive(Clone)]
struct Requests {
    router: Router,
    running: TaskTracker,
    shutdown: CancellationToken,
}

impl Requests {
    async fn answer(
        self,
        request: Request<Incoming>,
        peer: SocketAddr,
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
        Ok(response)
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
