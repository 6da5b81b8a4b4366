//! The faults of the nemesis, and how each is undone.

use anyhow::Result;

use super::crew::Kind;
use super::proxy;
use super::stage::Stage;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    KillWorker,
    KillPublisher,
    KillEverybody,
    /// SIGSTOP for longer than the lease.
    StopWorker,
    StopPublisher,
    /// One process and the server.
    Network(proxy::Fault),
    /// Every process and the server.
    NetworkOfAll(proxy::Fault),
    RedisKill,
    RedisEmpty,
    RedisCut,
    FlushAll,
    DestroyGroups,
    ForgetScripts,
    OutOfMemory,
    /// A connection of ours holds the database's write lock, or that of its tables, for longer
    /// than most writers wait.
    LockDatabase,
    /// The server of the database ends at once, as in a crash.
    DatabaseKill,
    /// The server of the database ends every connection.
    DatabaseCut,
    /// A worker's wall clock is wrong by this many seconds.
    Clock(i64),
}

impl Fault {
    /// Its name in a summary and in `--faults`.
    pub(super) fn name(self) -> &'static str {
        use proxy::Fault as Wire;
        match self {
            Self::KillWorker => "kill-worker",
            Self::KillPublisher => "kill-publisher",
            Self::KillEverybody => "kill-everybody",
            Self::StopWorker => "stop-worker",
            Self::StopPublisher => "stop-publisher",
            Self::Network(wire) | Self::NetworkOfAll(wire) => match wire {
                Wire::None => "wire-none",
                Wire::HoldRequests => "wire-hold-requests",
                Wire::HoldReplies => "wire-hold-replies",
                Wire::SwallowReply => "wire-swallow-reply",
                Wire::CutReplies(_) => "wire-cut-replies",
                Wire::CutRequests(_) => "wire-cut-requests",
                Wire::Reset => "wire-reset",
                Wire::Delay(_) => "wire-delay",
            },
            Self::RedisKill => "redis-kill",
            Self::RedisEmpty => "redis-empty",
            Self::RedisCut => "redis-cut",
            Self::FlushAll => "redis-flushall",
            Self::DestroyGroups => "redis-destroy-groups",
            Self::ForgetScripts => "redis-script-flush",
            Self::OutOfMemory => "redis-oom",
            Self::LockDatabase => "database-lock",
            Self::DatabaseKill => "database-kill",
            Self::DatabaseCut => "database-cut",
            Self::Clock(_) => "clock",
        }
    }

    /// Returns whether data that only Redis had is lost. A killed server writes its file up to two
    /// seconds late, so a kill may lose some.
    pub(super) fn loses(self) -> bool {
        matches!(
            self,
            Self::RedisKill | Self::RedisEmpty | Self::RedisCut | Self::FlushAll
        )
    }

    /// Returns whether it affects a single process.
    pub(super) fn is_about_one(self) -> bool {
        matches!(
            self,
            Self::KillWorker
                | Self::KillPublisher
                | Self::StopWorker
                | Self::StopPublisher
                | Self::Network(_)
                | Self::Clock(_)
        )
    }

    /// Returns whether it lasts and must be undone.
    pub(super) fn lasts(self) -> bool {
        !matches!(
            self,
            Self::FlushAll | Self::DestroyGroups | Self::ForgetScripts | Self::DatabaseCut
        )
    }

    /// Begins the fault; a fault of a single process affects `slot`. Returns the names of killed
    /// processes.
    pub(super) async fn begin(self, stage: &mut Stage, slot: usize) -> Result<Vec<String>> {
        let mut killed = Vec::new();
        match self {
            Self::KillWorker | Self::KillPublisher => killed.extend(stage.crew.kill(slot).await?),
            Self::KillEverybody => {
                for slot in stage.crew.of(Kind::Worker) {
                    killed.extend(stage.crew.kill(slot).await?);
                }
            }
            Self::StopWorker | Self::StopPublisher => stage.crew.signal(slot, "STOP").await?,
            Self::Network(wire) => stage.proxies[slot].set(wire),
            Self::NetworkOfAll(wire) => stage.proxies.iter().for_each(|proxy| proxy.set(wire)),
            Self::Clock(seconds) => set_clock(stage, seconds)?,
            // A stopped process may hold the lock already.
            Self::LockDatabase => stage.lock = stage.locked().await,
            Self::DatabaseKill => stage.kill_database(),
            Self::DatabaseCut => stage.cut_database().await,
            _ => self.hurt_server(stage).await?,
        }
        Ok(killed)
    }

    async fn hurt_server(self, stage: &mut Stage) -> Result<()> {
        let Some(server) = &mut stage.server else {
            return Ok(());
        };
        let command: &[&str] = match self {
            Self::RedisKill => return server.kill().await,
            Self::RedisEmpty => {
                server.kill().await?;
                return server.forget();
            }
            Self::RedisCut => {
                server.kill().await?;
                return server.cut_tail(4_000);
            }
            Self::FlushAll => &["FLUSHALL"],
            Self::ForgetScripts => &["SCRIPT", "FLUSH"],
            Self::OutOfMemory => &["CONFIG", "SET", "maxmemory", "1"],
            Self::DestroyGroups => &["EVAL", DESTROY, "0"],
            _ => return Ok(()),
        };
        // A second fault may have stopped the server already.
        if server.is_running() {
            server.command(command).await?;
        }
        Ok(())
    }

    /// Undoes the fault.
    pub(super) async fn end(self, stage: &mut Stage, slot: usize) -> Result<()> {
        match self {
            Self::StopWorker | Self::StopPublisher => stage.crew.signal(slot, "CONT").await?,
            Self::Network(_) => stage.proxies[slot].set(proxy::Fault::None),
            Self::NetworkOfAll(_) => {
                stage
                    .proxies
                    .iter()
                    .for_each(|proxy| proxy.set(proxy::Fault::None));
            }
            Self::Clock(_) => set_clock(stage, 0)?,
            Self::LockDatabase => stage.lock = None,
            Self::DatabaseKill => stage.start_database(),
            Self::RedisKill | Self::RedisEmpty | Self::RedisCut => {
                if let Some(server) = &mut stage.server {
                    server.restart().await?;
                }
            }
            Self::OutOfMemory => {
                if let Some(server) = stage.server.as_ref().filter(|s| s.is_running()) {
                    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await?;
                }
            }
            _ => {}
        }
        stage.supervise()
    }
}

/// Destroys every group of every stream.
const DESTROY: &str = "
    for _, key in ipairs(redis.call('KEYS', 'termitary:*')) do
        if redis.call('TYPE', key).ok == 'stream' then
            for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
                redis.call('XGROUP', 'DESTROY', key, group[2])
            end
        end
    end";

fn set_clock(stage: &Stage, seconds: i64) -> Result<()> {
    if let Some((_, file)) = stage.crew.with_clock() {
        std::fs::write(file, format!("{seconds:+}\n"))?;
    }
    Ok(())
}
