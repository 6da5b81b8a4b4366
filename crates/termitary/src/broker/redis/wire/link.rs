//! Connections: made when first needed, dropped at the first doubt, made again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, PushInfo, PushKind, RedisError, RedisResult, Value,
};
use tokio::sync::{Mutex, broadcast};
use uuid::Uuid;

use super::accept::Acceptance;
use super::broadcasts;
use super::config::RedisConfig;
use super::keys::Keys;
use super::pipeline::{self, Pipeline};
use super::script::{self, Script};
use crate::broker::broadcast::Message;
use crate::error::Error;
use crate::lock::RwLock;

const CONNECT: Duration = Duration::from_secs(2);
/// Time limit for a reply; after it the caller treats the outcome as unknown.
pub(crate) const REPLY: Duration = Duration::from_secs(2);
/// Data that the other end does not acknowledge for so long ends a connection;
/// keepalive alone does not notice a black hole.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed connect, callers are refused for so long instead of queueing
/// up to wait for the same failure.
const REFUSE: Duration = Duration::from_millis(100);
/// The least time between two connects: a server that takes connections and
/// then refuses every command is not stormed.
const PACE: Duration = Duration::from_millis(100);

/// The connections of the redis broker, shared by all its parts; cheap to clone.
#[derive(Clone)]
pub(crate) struct Link(Arc<Inner>);

struct Inner {
    client: Client,
    acceptance: Arc<Acceptance>,
    shared: Wire,
    keys: Keys,
    ledger: Uuid,
    /// Counts up when the server was found to be another ledger's: connections of
    /// before are not to be used any more.
    era: AtomicU64,
}

impl Link {
    /// Checks the settings; connects when first used, for this ledger in this file.
    pub(crate) fn new(config: &RedisConfig, ledger: Uuid, place: &str) -> Result<Self, Error> {
        config.check()?;
        // With none or several crypto providers compiled in, rustls would panic
        // at the first connect. An application's own choice stands.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let tcp = TcpSettings::default().set_nodelay(true);
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(USER_TIMEOUT);
        let client =
            Client::open(config.connection_info()?.set_tcp_settings(tcp)).map_err(|error| {
                Error::invalid("the Redis settings cannot be used").caused_by(error)
            })?;
        let keys = config.keys()?;
        let acceptance = Arc::new(Acceptance::new(config, keys.clone(), ledger, place));
        let shared = Wire::new(client.clone(), Arc::clone(&acceptance));
        Ok(Self(Arc::new(Inner {
            client,
            acceptance,
            shared,
            keys,
            ledger,
            era: AtomicU64::new(0),
        })))
    }

    /// The names of this system.
    pub(crate) fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// The connection that all but readers share.
    pub(crate) fn shared(&self) -> &Wire {
        &self.0.shared
    }

    /// A shared connection for another runtime.
    pub(crate) fn wire(&self) -> Wire {
        Wire::new(self.0.client.clone(), Arc::clone(&self.0.acceptance))
    }

    /// Which ledger this is.
    pub(crate) fn ledger(&self) -> Uuid {
        self.0.ledger
    }

    /// Rises when connections of before are not to be used any more.
    pub(crate) fn era(&self) -> u64 {
        self.0.era.load(Ordering::Acquire)
    }

    /// Checks again whose deliveries the server carries; claims a server that carries none, as
    /// after a loss.
    pub(crate) async fn still_ours(&self) -> Result<(), Error> {
        let (acceptance, shared) = (&self.0.acceptance, self.shared());
        let held = shared.get().await?;
        let claim = acceptance.claim();
        let owner = shared.scripts(&[claim.call()]).await?.pop();
        let owner = owner.ok_or_else(|| Error::internal("Redis returned nothing"))?;
        let known = owner.is_ok();
        let ours = acceptance.is_ours(owner);
        if known && ours.is_err() {
            self.0.era.fetch_add(1, Ordering::AcqRel);
            shared.spoil(&held);
        }
        ours
    }

    /// A connection that hears channels, to a server that was accepted.
    pub(crate) async fn pubsub(&self) -> Result<PubSub, Error> {
        // It takes no other commands: another connection asks.
        self.shared().get().await?;
        let made = broadcasts::timed(self.0.client.get_async_pubsub()).await;
        made.map_err(|error| self.0.acceptance.failed(error))
    }

    /// A connection of one's own, for blocking reads.
    pub(crate) async fn own(&self, reply: Duration) -> Result<MultiplexedConnection, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(reply));
        let made = self
            .0
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await;
        let mut conn = made.map_err(|error| self.0.acceptance.failed(error))?;
        self.0.acceptance.ask(&mut conn).await?;
        Ok(conn)
    }

    /// Tells every live process that listens.
    pub(crate) async fn broadcast(&self, name: &str, data: &str) -> Result<(), Error> {
        let message = broadcasts::wired(self.ledger(), name, data);
        let mut cmd = redis::cmd("PUBLISH");
        cmd.arg(self.keys().broadcast()).arg(message);
        self.shared().one(&cmd).await.map(drop)
    }

    /// Passes broadcasts of other processes to `sender`, until it has no receiver.
    pub(crate) async fn listen(self, sender: broadcast::Sender<Message>) {
        let heard = sender.downgrade();
        drop(sender);
        broadcasts::listen(self, heard).await;
    }
}

/// One connection that many tasks share, with a deadline on every reply. It
/// never sends anything twice: an error from a command means that its outcome
/// is unknown, an error from [`Wire::get`] that nothing was sent.
pub(crate) struct Wire {
    client: Client,
    acceptance: Arc<Acceptance>,
    slot: RwLock<Option<Connection>>,
    connecting: Mutex<Connecting>,
    made: AtomicU64,
}

/// The last connect.
#[derive(Default)]
struct Connecting {
    at: Option<tokio::time::Instant>,
    /// Why it failed, where it did.
    failed: Option<Error>,
}

#[derive(Clone)]
pub(crate) struct Connection {
    conn: MultiplexedConnection,
    /// The server closed it.
    closed: Arc<AtomicBool>,
    /// Counts up with every connection made.
    pub(crate) number: u64,
}

impl Wire {
    fn new(client: Client, acceptance: Arc<Acceptance>) -> Self {
        Self {
            client,
            acceptance,
            slot: RwLock::default(),
            connecting: Mutex::default(),
            made: AtomicU64::new(0),
        }
    }

    /// A live connection, made now if there is none.
    pub(crate) async fn get(&self) -> Result<Connection, Error> {
        if let Some(held) = self.current() {
            return Ok(held);
        }
        let mut last = self.connecting.lock().await;
        if let Some(held) = self.current() {
            return Ok(held);
        }
        if let (Some(at), Some(why)) = (last.at, &last.failed)
            && at.elapsed() < REFUSE
        {
            return Err(why.repeat());
        }
        if let Some(at) = last.at {
            tokio::time::sleep_until(at + PACE).await;
        }
        let made = self.connect().await;
        last.at = Some(tokio::time::Instant::now());
        match made {
            Ok(held) => {
                last.failed = None;
                *self.slot.write() = Some(held.clone());
                Ok(held)
            }
            Err(error) => {
                last.failed = Some(error.repeat());
                Err(error)
            }
        }
    }

    /// Returns whether a connection is established: without one, all callers wait.
    pub(crate) fn stands(&self) -> bool {
        self.current().is_some()
    }

    /// Returns whether a connection was ever established.
    pub(crate) fn stood(&self) -> bool {
        self.made.load(Ordering::Acquire) > 0
    }

    fn current(&self) -> Option<Connection> {
        let slot = self.slot.read();
        slot.as_ref()
            .filter(|held| !held.closed.load(Ordering::Acquire))
            .cloned()
    }

    async fn connect(&self) -> Result<Connection, Error> {
        let closed = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&closed);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(REPLY))
            .set_pipeline_buffer_size(256)
            .set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    flag.store(true, Ordering::Release);
                }
                Ok::<(), ()>(())
            });
        let made = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await;
        let mut conn = made.map_err(|error| self.acceptance.failed(error))?;
        self.acceptance.ask(&mut conn).await?;
        script::load().send(&mut conn).await?;
        Ok(Connection {
            conn,
            closed,
            number: self.made.fetch_add(1, Ordering::Relaxed) + 1,
        })
    }

    /// Drops this connection: the next caller makes a new one.
    fn spoil(&self, held: &Connection) {
        let mut slot = self.slot.write();
        if slot.as_ref().is_some_and(|now| now.number == held.number) {
            *slot = None;
        }
    }

    /// Runs one command.
    pub(crate) async fn one(&self, cmd: &Cmd) -> Result<Value, Error> {
        let mut held = self.get().await?;
        let sent = pipeline::send(&mut held.conn, cmd).await;
        sent.map_err(|error| self.doubt(&held, error))
    }

    /// Runs a pipeline; returns one result per command.
    pub(crate) async fn many(&self, pipe: &mut Pipeline) -> Result<Vec<RedisResult<Value>>, Error> {
        let mut held = self.get().await?;
        self.many_on(&mut held, pipe).await
    }

    pub(crate) async fn many_on(
        &self,
        held: &mut Connection,
        pipe: &mut Pipeline,
    ) -> Result<Vec<RedisResult<Value>>, Error> {
        if pipe.is_empty() {
            return Ok(Vec::new());
        }
        match pipe.send(&mut held.conn).await {
            Ok(replies) => {
                if let Some(Err(error)) = replies
                    .iter()
                    .find(|reply| reply.as_ref().is_err_and(demoted))
                {
                    return Err(self.doubt(held, error.clone()));
                }
                Ok(replies)
            }
            Err(error) => Err(self.doubt(held, error)),
        }
    }

    /// Runs scripts in one round trip; those that the server has forgotten are
    /// sent again with their text. Returns the reply to each.
    pub(crate) async fn scripts(
        &self,
        calls: &[script::Call<'_>],
    ) -> Result<Vec<RedisResult<Value>>, Error> {
        let mut pipe: Pipeline = calls.iter().map(script::Call::command).collect();
        let mut replies = self.many(&mut pipe).await?;
        let forgotten: Vec<_> = (0..replies.len())
            .filter(|&i| replies[i].as_ref().is_err_and(script::forgotten))
            .collect();
        if forgotten.is_empty() {
            return Ok(replies);
        }
        // Loading them first would leave a gap in which they may go again; and
        // if this user may not load, this still works.
        let mut pipe: Pipeline = forgotten.iter().map(|&i| calls[i].whole()).collect();
        let again = self.many(&mut pipe).await?;
        for (i, reply) in forgotten.into_iter().zip(again) {
            replies[i] = reply;
        }
        Ok(replies)
    }

    /// Runs one script.
    pub(crate) async fn script(&self, call: script::Call<'_>) -> Result<Value, Error> {
        let reply = self.scripts(&[call]).await?.pop();
        Ok(reply.ok_or_else(|| Error::internal("Redis returned nothing"))??)
    }

    /// The error, after dropping a connection that cannot be trusted any more:
    /// broken, silent, or to a server that is not the master now.
    fn doubt(&self, held: &Connection, error: RedisError) -> Error {
        if error.is_unrecoverable_error()
            || error.is_io_error()
            || error.is_timeout()
            || demoted(&error)
        {
            self.spoil(held);
        }
        error.into()
    }
}

/// The server is there but is not, or not yet, one that takes writes.
fn demoted(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("READONLY" | "MASTERDOWN" | "LOADING" | "NOAUTH" | "UNBLOCKED")
    )
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
