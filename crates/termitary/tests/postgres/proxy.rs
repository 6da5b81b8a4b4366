//! A proxy on loopback that cuts a connection around a COMMIT, where a marker tells it to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// In a statement: the next COMMIT of the connection does not reach the server.
pub(crate) const CUT_BEFORE: &str = "SELECT 'cut before'";
/// In a statement: the next COMMIT reaches the server, and its reply nobody.
pub(crate) const CUT_AFTER: &str = "SELECT 'cut after'";

pub(crate) struct Proxy {
    pub(crate) port: u16,
    cuts: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cuts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&cuts);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let cuts = Arc::clone(&counted);
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await
                        && pass(client, server).await.unwrap_or(false)
                    {
                        cuts.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { port, cuts }
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The number of connections that it cut.
    pub(crate) fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Before,
    After,
}

/// Returns whether it cut the connection.
async fn pass(mut client: TcpStream, mut server: TcpStream) -> std::io::Result<bool> {
    let (mut sent, mut replied) = (vec![0; 65536], vec![0; 65536]);
    let mut armed = None;
    loop {
        tokio::select! {
            n = client.read(&mut sent) => {
                let sent = &sent[..n?];
                if sent.is_empty() {
                    return Ok(false);
                }
                let has = |text: &str| sent.windows(text.len()).any(|part| part == text.as_bytes());
                let cut = armed.filter(|_| has("COMMIT"));
                if cut == Some(Cut::Before) {
                    return Ok(true);
                }
                server.write_all(sent).await?;
                if cut == Some(Cut::After) {
                    // The reply says that it is done.
                    let _ = server.read(&mut replied).await?; // its length does not matter
                    return Ok(true);
                }
                if has(CUT_BEFORE) {
                    armed = Some(Cut::Before);
                }
                if has(CUT_AFTER) {
                    armed = Some(Cut::After);
                }
            }
            n = server.read(&mut replied) => {
                let replied = &replied[..n?];
                if replied.is_empty() {
                    return Ok(false);
                }
                client.write_all(replied).await?;
            }
        }
    }
}
