//! Stands between the broker and a real server, and strikes where it is told.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::resp;

/// The fate of a command instead of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server never sees it, the client gets this error.
    Answer(&'static str),
    /// Executed, and silence from then on.
    Swallow,
    /// Executed, half the reply, and the end.
    Half,
    /// Not executed; the connection is reset.
    Reset,
    /// Nothing reaches the server any more.
    HoleIn,
    /// Nothing reaches the client any more.
    HoleOut,
}

#[derive(Clone, Copy)]
struct Rule {
    /// The first word; `*` for every command.
    command: &'static str,
    fault: Fault,
}

pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    _stop: oneshot::Sender<()>,
}

#[derive(Default)]
struct Shared {
    rule: RwLock<Option<Rule>>,
    commands: AtomicU64,
    struck: AtomicU64,
    accepted: AtomicU64,
    open: AtomicI64,
    most_open: AtomicI64,
}

impl Proxy {
    /// In front of the server on this port, on a thread of its own.
    pub(crate) fn start(server: u16) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = serve(listener, server, serving) => {}
                }
            });
        });
        Self {
            port,
            shared,
            _stop: stop,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on, every such command (`*`: all).
    pub(crate) fn strike(&self, command: &'static str, fault: Fault) {
        self.shared.struck.store(0, Ordering::Relaxed);
        *self.shared.rule.write().unwrap() = Some(Rule { command, fault });
    }

    /// New commands pass again. Cut or silenced ones stay so.
    pub(crate) fn heal(&self) {
        *self.shared.rule.write().unwrap() = None;
    }

    /// Number of commands struck since the last strike began.
    pub(crate) fn struck(&self) -> u64 {
        self.shared.struck.load(Ordering::Relaxed)
    }

    /// Number of commands so far.
    pub(crate) fn commands(&self) -> u64 {
        self.shared.commands.load(Ordering::Relaxed)
    }

    /// Number of connections so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// The most connections that were ever open at once.
    pub(crate) fn most_open(&self) -> i64 {
        self.shared.most_open.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Counts a command and returns its fate.
    fn meet(&self, command: &str) -> Option<Fault> {
        self.commands.fetch_add(1, Ordering::Relaxed);
        let rule = (*self.rule.read().unwrap())?;
        (rule.command == "*" || rule.command == command).then(|| {
            self.struck.fetch_add(1, Ordering::Relaxed);
            rule.fault
        })
    }
}

async fn serve(listener: TcpListener, server: u16, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            shared.accepted.fetch_add(1, Ordering::Relaxed);
            let open = shared.open.fetch_add(1, Ordering::Relaxed) + 1;
            shared.most_open.fetch_max(open, Ordering::Relaxed);
            if let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await {
                let link = Link::new(client, server, &shared);
                let _ = link.run().await;
            }
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// The data that the client gets in the place of the next reply.
enum Next {
    Answer,
    Said(&'static str),
    Silence,
    Half,
}

/// One connection.
struct Link<'a> {
    client: TcpStream,
    server: TcpStream,
    shared: &'a Shared,
    from_client: Vec<u8>,
    from_server: Vec<u8>,
    next: VecDeque<Next>,
    deaf: bool,
    mute: bool,
    /// The next push frame is cut.
    half_push: bool,
}

/// The connection ends here.
struct End;

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

impl<'a> Link<'a> {
    fn new(client: TcpStream, server: TcpStream, shared: &'a Shared) -> Self {
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        Self {
            client,
            server,
            shared,
            from_client: Vec::new(),
            from_server: Vec::new(),
            next: VecDeque::new(),
            deaf: false,
            mute: false,
            half_push: false,
        }
    }

    async fn run(mut self) -> Result<(), End> {
        loop {
            tokio::select! {
                read = self.client.read_buf(&mut self.from_client) => {
                    if read? == 0 {
                        return Err(End);
                    }
                    self.commands().await?;
                }
                read = self.server.read_buf(&mut self.from_server) => {
                    if read? == 0 {
                        return Err(End);
                    }
                    self.answers().await?;
                }
            }
        }
    }

    async fn commands(&mut self) -> Result<(), End> {
        if self.deaf {
            self.from_client.clear();
            return Ok(());
        }
        while let Some((words, length)) = resp::command(&self.from_client) {
            let raw: Vec<u8> = self.from_client.drain(..length).collect();
            // Somebody else's probe of a port that was free a moment ago.
            let name = words.first().ok_or(End)?.to_uppercase();
            // In RESP3 the replies to these are push frames alone.
            let pushes = name.ends_with("SUBSCRIBE");
            match self.shared.meet(&name) {
                None if pushes => {}
                None => self.next.push_back(Next::Answer),
                Some(Fault::Answer(error)) => {
                    self.next.push_back(Next::Said(error));
                    continue;
                }
                Some(Fault::Swallow) if pushes => self.mute = true,
                Some(Fault::Swallow) => self.next.push_back(Next::Silence),
                Some(Fault::Half) if pushes => self.half_push = true,
                Some(Fault::Half) => self.next.push_back(Next::Half),
                Some(Fault::Reset) => {
                    #[expect(deprecated, reason = "zero never blocks: it makes the close a reset")]
                    self.client.set_linger(Some(std::time::Duration::ZERO))?;
                    return Err(End);
                }
                Some(Fault::HoleIn) => {
                    self.deaf = true;
                    self.from_client.clear();
                    break;
                }
                Some(Fault::HoleOut) => {
                    self.mute = true;
                    self.next.push_back(Next::Answer);
                }
            }
            self.server.write_all(&raw).await?;
        }
        self.say().await
    }

    async fn answers(&mut self) -> Result<(), End> {
        while let Some(length) = resp::frame(&self.from_server) {
            let raw: Vec<u8> = self.from_server.drain(..length).collect();
            let next = if raw[0] == b'>' {
                if std::mem::take(&mut self.half_push) {
                    Next::Half
                } else {
                    Next::Answer
                }
            } else {
                self.next.pop_front().unwrap_or(Next::Answer)
            };
            self.pass(next, &raw).await?;
            self.say().await?;
        }
        Ok(())
    }

    async fn pass(&mut self, next: Next, raw: &[u8]) -> Result<(), End> {
        match next {
            Next::Silence => self.mute = true,
            _ if self.mute => {}
            Next::Answer | Next::Said(_) => self.client.write_all(raw).await?,
            Next::Half => {
                self.client.write_all(&raw[..raw.len() / 2]).await?;
                self.client.shutdown().await?;
                return Err(End);
            }
        }
        Ok(())
    }

    /// Sends the data that is due now that all earlier replies are out.
    async fn say(&mut self) -> Result<(), End> {
        while let Some(Next::Said(error)) = self.next.front() {
            let line = format!("-{error}\r\n");
            self.next.pop_front();
            if !self.mute {
                self.client.write_all(line.as_bytes()).await?;
            }
        }
        Ok(())
    }
}
