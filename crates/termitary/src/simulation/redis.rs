//! What may happen to Redis. Each thread has a database of its own on one
//! server, so that runs beside each other forget apart.

use std::time::Duration;

use fastrand::Rng;
use redis::aio::MultiplexedConnection;

use crate::broker::RedisConfig;
use crate::testing::TestRedis;

#[derive(Clone)]
pub(super) struct Server {
    port: u16,
    database: u64,
}

/// How long ago each pending entry was given out is the server's clock's to
/// say: this moves it.
const AGE: &str = "
    for _, key in ipairs(redis.call('KEYS', 'termitary:*')) do
      if redis.call('TYPE', key).ok == 'stream' then
        for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
          for _, p in ipairs(redis.call('XPENDING', key, group[2], '-', '+', 1000)) do
            if #redis.call('XRANGE', key, p[1], p[1]) > 0 then
              redis.call('XCLAIM', key, group[2], p[2], 0, p[1], 'IDLE', p[3] + ARGV[1], 'JUSTID')
            end
          end
        end
      end
    end";

/// Takes away: ARGV 1 = what, ARGV 2 = a number that picks.
const TAKE: &str = "
    local streams = {}
    local keys = redis.call('KEYS', 'termitary:*')
    table.sort(keys)
    for _, key in ipairs(keys) do
      if redis.call('TYPE', key).ok == 'stream' then table.insert(streams, key) end
    end
    if #streams == 0 then return 'nothing' end
    local key = streams[1 + ARGV[2] % #streams]
    if ARGV[1] == 'stream' then
      redis.call('DEL', key)
    elseif ARGV[1] == 'tail' then
      for _, entry in ipairs(redis.call('XREVRANGE', key, '+', '-', 'COUNT', 3)) do redis.call('XDEL', key, entry[1]) end
    else
      for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
        if ARGV[1] == 'group' then redis.call('XGROUP', 'DESTROY', key, group[2])
        else redis.call('XGROUP', 'SETID', key, group[2], '0') end
      end
    end
    return key";

impl Server {
    pub(super) fn new(server: &TestRedis, database: u64) -> Self {
        Self {
            port: server.port(),
            database,
        }
    }

    pub(super) fn config(&self) -> RedisConfig {
        RedisConfig::host("127.0.0.1", self.port).database(self.database as i64)
    }

    async fn connection(&self) -> MultiplexedConnection {
        let url = format!("redis://127.0.0.1:{}/{}", self.port, self.database);
        let client = redis::Client::open(url).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// Everything is gone.
    pub(super) async fn flush(&self) {
        let mut connection = self.connection().await;
        let () = redis::cmd("FLUSHDB")
            .query_async(&mut connection)
            .await
            .unwrap();
    }

    pub(super) async fn age(&self, by: Duration) {
        let mut connection = self.connection().await;
        let mut eval = redis::cmd("EVAL");
        eval.arg(AGE).arg(0).arg(by.as_millis() as u64);
        let () = eval.query_async(&mut connection).await.unwrap();
    }

    /// Breaks something; answers what, and whether entries may be lost with it.
    pub(super) async fn hurt(&self, random: &mut Rng) -> (String, bool) {
        let what = match random.u32(0..6) {
            0 => {
                self.flush().await;
                return ("everything is gone".to_owned(), true);
            }
            1 => {
                let mut connection = self.connection().await;
                let () = redis::cmd("SCRIPT")
                    .arg("FLUSH")
                    .query_async(&mut connection)
                    .await
                    .unwrap();
                return ("its scripts are gone".to_owned(), false);
            }
            2 => "stream",
            3 => "tail",
            4 => "group",
            _ => "back",
        };
        let mut connection = self.connection().await;
        let mut eval = redis::cmd("EVAL");
        eval.arg(TAKE).arg(0).arg(what).arg(random.u32(0..1_000));
        let key: String = eval.query_async(&mut connection).await.unwrap();
        // A group that went back in time gives entries again: none is lost.
        (format!("{what} of {key}"), what != "back")
    }
}
