//! A TCP proxy between one process and the server that misbehaves on command.

use std::io;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Its effect on all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Requests are held until it is healed. Then the server gets all of them, even if the process
    /// has long given up.
    HoldRequests,
    /// Replies are held until it is healed.
    HoldReplies,
    /// The server gets the request; its reply is dropped, then the connection.
    SwallowReply,
    /// This many more bytes of replies pass, then the connection is reset.
    CutReplies(usize),
    /// The same for requests: the server receives half a command.
    CutRequests(usize),
    /// Every connection is reset, old or new.
    Reset,
    /// Each chunk is delayed by this many milliseconds, in both directions.
    Delay(u64),
}

pub(super) struct Proxy {
    pub(super) port: u16,
    fault: watch::Sender<Fault>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Requests,
    Replies,
}

impl Proxy {
    /// Listens on a port of its own and forwards to `server`.
    pub(super) async fn start(server: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("the proxy cannot listen")?;
        let port = listener.local_addr()?.port();
        let (fault, seen) = watch::channel(Fault::None);
        tokio::spawn(accept(listener, server, seen));
        Ok(Self { port, fault })
    }

    /// Sets the fault from now on.
    pub(super) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

async fn accept(listener: TcpListener, server: u16, fault: watch::Receiver<Fault>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(connection(client, server, fault.clone()));
    }
}

/// Both directions of one connection; when one ends, the other ends too.
async fn connection(client: TcpStream, server: u16, fault: watch::Receiver<Fault>) {
    if *fault.borrow() == Fault::Reset {
        return reset(&client);
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
        return reset(&client);
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_server, to_server) = server.into_split();
    let (from_client, to_client) = client.into_split();
    let requests = tokio::spawn(pass(Way::Requests, from_client, to_server, fault.clone()));
    let replies = tokio::spawn(pass(Way::Replies, from_server, to_client, fault));
    // Held requests reach the server even if the process has hung up: on a real network they were
    // already on their way.
    let _ = replies.await;
    let _ = requests.await;
}

fn reset(stream: &TcpStream) {
    // With no time to linger, closing sends a reset.
    let _ = stream.set_zero_linger();
}

async fn pass(
    way: Way,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
) -> io::Result<()> {
    let mut chunk = vec![0; 16 * 1024];
    let mut left = None;
    loop {
        let size = tokio::select! {
            size = from.read(&mut chunk) => size?,
            () = cut(&mut fault) => return end(&to),
        };
        if size == 0 {
            return Ok(());
        }
        let mut bytes = &chunk[..size];
        let now = *fault.borrow_and_update();
        match (now, way) {
            (Fault::Reset, _) | (Fault::SwallowReply, Way::Replies) => return end(&to),
            (Fault::HoldRequests, Way::Requests) | (Fault::HoldReplies, Way::Replies) => {
                healed(&mut fault, now).await;
            }
            (Fault::Delay(ms), _) => tokio::time::sleep(Duration::from_millis(ms)).await,
            (Fault::CutReplies(bytes), Way::Replies)
            | (Fault::CutRequests(bytes), Way::Requests) => {
                left.get_or_insert(bytes);
            }
            _ => left = None,
        }
        if let Some(left) = &mut left {
            bytes = &bytes[..bytes.len().min(*left)];
            *left -= bytes.len();
        }
        to.write_all(bytes).await?;
        if left == Some(0) {
            return end(&to);
        }
    }
}

/// Resets a connection.
fn end(to: &OwnedWriteHalf) -> io::Result<()> {
    let stream: &TcpStream = to.as_ref();
    stream.set_zero_linger()?;
    Err(io::ErrorKind::ConnectionReset.into())
}

/// Resolves when connections must be reset.
async fn cut(fault: &mut watch::Receiver<Fault>) {
    if fault
        .wait_for(|fault| *fault == Fault::Reset)
        .await
        .is_err()
    {
        std::future::pending::<()>().await;
    }
}

/// Waits until the fault changes.
async fn healed(fault: &mut watch::Receiver<Fault>, now: Fault) {
    let _ = fault.wait_for(|fault| *fault != now).await;
}
