//! Facts about a Redis server, as far as it tells them to this user.

use redis::Value;

use super::Redis;
use super::wire::info::{self, Info};
use super::wire::pipeline::Pipeline;
use super::wire::reply;
use crate::error::Error;

/// The settings and the state of a server. A setting is `None` if the server does not
/// tell it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RedisFacts {
    pub(crate) version: Option<String>,
    pub(crate) mode: Option<String>,
    pub(crate) replicas: Option<u64>,
    pub(crate) used_bytes: Option<u64>,
    /// 0: no limit.
    pub(crate) most_bytes: Option<u64>,
    pub(crate) eviction: Option<String>,
    pub(crate) appends: Option<bool>,
    pub(crate) append_sync: Option<String>,
    /// The rules by which the server saves snapshots.
    pub(crate) save: Option<String>,
    /// The last append or snapshot failed.
    pub(crate) write_failed: bool,
}

impl Redis {
    /// Asks the server.
    pub(crate) async fn facts(&self) -> Result<RedisFacts, Error> {
        let mut sections =
            info::ask(&["server", "replication", "memory", "persistence", "cluster"]);
        let info = Info::read(self.link.shared().many(&mut sections).await?)?;
        let mut settings: Pipeline = ["appendfsync", "save"]
            .map(|name| redis::cmd("CONFIG").arg("GET").arg(name).clone())
            .into_iter()
            .collect();
        let settings = self.link.shared().many(&mut settings).await?;
        // Many users may not read settings.
        let mut settings = settings.into_iter().map(|reply| reply.ok().and_then(value));
        let append_sync = settings.next().flatten();
        let save = settings.next().flatten();
        Ok(RedisFacts {
            append_sync,
            save,
            ..of(&info)
        })
    }
}

fn of(info: &Info) -> RedisFacts {
    let text = |name| info.field(name).map(str::to_owned);
    let number = |name| info.field(name).and_then(|text| text.parse().ok());
    let failed = |name| info.field(name).is_some_and(|status| status == "err");
    let server = text("valkey_version").map(|version| format!("Valkey {version}"));
    RedisFacts {
        version: server.or_else(|| text("redis_version").map(|version| format!("Redis {version}"))),
        mode: text("server_mode").or_else(|| text("redis_mode")),
        replicas: number("connected_slaves"),
        used_bytes: number("used_memory"),
        most_bytes: number("maxmemory"),
        eviction: text("maxmemory_policy"),
        appends: info.field("aof_enabled").map(|enabled| enabled == "1"),
        append_sync: None,
        save: None,
        write_failed: failed("aof_last_write_status")
            || failed("rdb_last_bgsave_status")
            || failed("aof_last_bgrewrite_status"),
    }
}

/// The value of the only setting in a reply to `CONFIG GET`.
fn value(reply: Value) -> Option<String> {
    match reply {
        Value::Map(pairs) => reply::text(pairs.into_iter().next()?.1),
        Value::Array(items) => reply::text(items.into_iter().nth(1)?),
        _ => None,
    }
}
