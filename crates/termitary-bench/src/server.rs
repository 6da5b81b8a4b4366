//! The Redis server under test: keys under a prefix of the run, and facts about the
//! server.
//!
//! A run adds its id to a set before it creates keys, and puts its id into the name of
//! its connection: an id in the set without such a connection belongs to a killed run.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisResult};
use termitary::broker::{Bridge, RedisConfig};

use crate::Refused;
use crate::report::RedisFacts;

const NAME: &str = "termitary-bench";
const RUNS: &str = "termitary-bench:runs";
const CONNECT: Duration = Duration::from_secs(5);
const REPLY: Duration = Duration::from_secs(30);
/// The keys that one step of a scan reads.
const STEP: u32 = 1_000;
/// More bytes than an event takes in any state: an entry and a place in the list of
/// pending entries.
const ROOM: u64 = 1_024;

/// The server, and this run's keys on it.
pub(crate) struct Server {
    conn: MultiplexedConnection,
    config: RedisConfig,
    id: String,
}

impl Server {
    /// Connects, removes the keys of killed runs, and registers this one if there is
    /// room for `events` events.
    pub(crate) async fn open(config: &RedisConfig, id: &str, events: u64) -> anyhow::Result<Self> {
        let unreachable = || format!("{config} does not answer: is Redis running there?");
        let client = redis::Client::open(config.connection_info()?)?;
        let timeouts = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(REPLY));
        let conn = client
            .get_multiplexed_async_connection_with_config(&timeouts)
            .await
            .with_context(unreachable)?;
        let mut server = Self {
            conn,
            config: config.clone().bridge(Bridge::Off),
            id: id.to_owned(),
        };
        let name = format!("{NAME}-{id}");
        server.ask::<()>(&["CLIENT", "SETNAME", &name]).await?;
        server.clear_leftovers().await?;
        server.check_room(events).await?;
        server.ask::<()>(&["SADD", RUNS, id]).await?;
        Ok(server)
    }

    /// The configuration of a broker of this run.
    pub(crate) fn config(&self, space: u32) -> RedisConfig {
        self.config.clone().prefix(self.prefix(space))
    }

    pub(crate) fn prefix(&self, space: u32) -> String {
        format!("{NAME}:{}:{space}", self.id)
    }

    async fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> RedisResult<T> {
        let mut cmd = redis::cmd(words[0]);
        cmd.arg(&words[1..]);
        cmd.query_async(&mut self.conn).await
    }

    async fn clear_leftovers(&mut self) -> RedisResult<()> {
        let runs: HashSet<String> = self.ask(&["SMEMBERS", RUNS]).await?;
        if runs.is_empty() {
            return Ok(());
        }
        // Without permission to list clients, no run counts as dead.
        let Ok(clients) = self.ask::<String>(&["CLIENT", "LIST"]).await else {
            return Ok(());
        };
        let alive = |run: &&String| {
            let name = format!("name={NAME}-{run}");
            clients.split_whitespace().any(|word| word == name)
        };
        let dead: Vec<_> = runs.iter().filter(|run| !alive(run)).collect();
        for run in dead {
            self.remove(run).await?;
        }
        Ok(())
    }

    /// Removes every key of this run.
    pub(crate) async fn clear(&mut self) -> anyhow::Result<()> {
        let id = self.id.clone();
        self.remove(&id).await.with_context(|| {
            format!(
                "some keys of the benchmark stay on {}: the next `termitary bench` there removes them",
                self.config
            )
        })
    }

    async fn remove(&mut self, run: &str) -> RedisResult<()> {
        self.remove_keys(&format!("{NAME}:{run}:*")).await?;
        self.ask(&["SREM", RUNS, run]).await
    }

    /// Removes matching keys until two scans find none: a command that was on its way
    /// when its sender stopped may still arrive.
    pub(crate) async fn remove_keys(&mut self, pattern: &str) -> RedisResult<()> {
        let mut clean = 0;
        while clean < 2 {
            let keys = self.keys(pattern).await?;
            clean = if keys.is_empty() { clean + 1 } else { 0 };
            for keys in keys.chunks(100) {
                let _: i64 = redis::cmd("UNLINK")
                    .arg(keys)
                    .query_async(&mut self.conn)
                    .await?;
            }
        }
        Ok(())
    }

    async fn keys(&mut self, pattern: &str) -> RedisResult<Vec<String>> {
        let (mut cursor, mut found) = ("0".to_owned(), HashSet::new());
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor)
                .arg("MATCH")
                .arg(pattern)
                .arg("COUNT")
                .arg(STEP);
            let (next, keys): (String, Vec<String>) = scan.query_async(&mut self.conn).await?;
            found.extend(keys);
            if next == "0" {
                return Ok(found.into_iter().collect());
            }
            cursor = next;
        }
    }

    /// The bytes of every key of one space.
    pub(crate) async fn bytes(&mut self, space: u32) -> RedisResult<u64> {
        let mut sum = 0;
        for key in self.keys(&format!("{}:*", self.prefix(space))).await? {
            let bytes: Option<u64> = self.ask(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]).await?;
            sum += bytes.unwrap_or(0);
        }
        Ok(sum)
    }

    /// Seconds of CPU since the server started; none if it does not tell.
    pub(crate) async fn cpu_seconds(&mut self) -> Option<f64> {
        let info: String = self.ask(&["INFO", "cpu"]).await.ok()?;
        let user: f64 = field(&info, "used_cpu_user")?.parse().ok()?;
        let system: f64 = field(&info, "used_cpu_sys")?.parse().ok()?;
        Some(user + system)
    }

    /// Refuses to push the user's data out of a server with a memory limit.
    async fn check_room(&mut self, events: u64) -> anyhow::Result<()> {
        let Ok(info) = self.ask::<String>(&["INFO", "memory"]).await else {
            return Ok(());
        };
        let number = |name| {
            field(&info, name)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0)
        };
        let (limit, used): (u64, u64) = (number("maxmemory"), number("used_memory"));
        let free = limit.saturating_sub(used);
        if limit > 0 && events.saturating_mul(ROOM) > free {
            bail!(Refused(format!(
                "{} has a maxmemory of {limit} bytes with {free} left, and {events} events may need {}: other data could be pushed out. Take fewer with --events, or a Redis of its own",
                self.config,
                events.saturating_mul(ROOM)
            )));
        }
        Ok(())
    }

    /// The facts that the figures depend on.
    pub(crate) async fn facts(&mut self) -> RedisFacts {
        let info: String = self.ask(&["INFO"]).await.unwrap_or_default();
        let setting: Option<(String, String)> =
            self.ask(&["CONFIG", "GET", "appendfsync"]).await.ok();
        let valkey = field(&info, "valkey_version");
        RedisFacts {
            server: if valkey.is_some() { "Valkey" } else { "Redis" }.to_owned(),
            version: valkey
                .or_else(|| field(&info, "redis_version"))
                .unwrap_or("unknown")
                .to_owned(),
            append_only: field(&info, "aof_enabled") == Some("1"),
            append_fsync: setting.map(|(_, value)| value),
        }
    }
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_the_servers_reply_is_found_by_its_whole_name() {
        let info = "# Memory\r\nused_memory_rss:9\r\nused_memory:7\r\n";
        assert_eq!(field(info, "used_memory"), Some("7"));
        assert_eq!(field(info, "memory"), None);
    }
}
