//! Faults of Redis. Each thread has its own server with a real append-only file; a restart may lose
//! the end of the file.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use redis::aio::MultiplexedConnection;

use crate::broker::RedisConfig;
use crate::testing::TestRedis;

/// A server is replaced when its file has so much: a restart reads it all.
const FULL: u64 = 1024 * 1024;
/// The most that a restart loses, in bytes.
const TAIL: u64 = 8 * 1024;

/// Time limit for a reply on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Clone)]
pub(super) struct Server {
    server: Rc<RefCell<TestRedis>>,
    /// Length of its file when the run began.
    began: u64,
}

/// The server's clock measures the idle time of each pending entry: this moves it.
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

/// Removes data: ARGV 1 names it, ARGV 2 is a number that selects.
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

/// The only fault that loses nothing and only hands out entries again.
const LOSES_NOTHING: u32 = 7;

impl Server {
    pub(super) fn start() -> Self {
        Self {
            server: Rc::new(RefCell::new(TestRedis::persistent())),
            began: 0,
        }
    }

    /// For the next run: nothing of the one before is left.
    pub(super) async fn emptied(&self) -> Self {
        if self.server.borrow().written() > FULL {
            *self.server.borrow_mut() = TestRedis::persistent();
        }
        self.flush().await;
        Self {
            server: Rc::clone(&self.server),
            began: self.server.borrow().written(),
        }
    }

    pub(super) fn config(&self) -> RedisConfig {
        self.server.borrow().config()
    }

    async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(("127.0.0.1", self.server.borrow().port())).unwrap();
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .unwrap()
    }

    /// Everything is gone.
    async fn flush(&self) {
        let mut connection = self.connection().await;
        let () = redis::cmd("FLUSHALL")
            .query_async(&mut connection)
            .await
            .unwrap();
    }

    /// Restarts it without the end of its file. The cut may be in the middle of a command.
    fn lose_tail(&self, random: &mut Rng) -> u64 {
        let mut server = self.server.borrow_mut();
        let written = server.written();
        let lost = random.u64(0..=TAIL.min(written - self.began));
        server.lose_tail(written - lost);
        lost
    }

    pub(super) async fn age(&self, by: Duration) {
        let mut connection = self.connection().await;
        let mut eval = redis::cmd("EVAL");
        eval.arg(AGE).arg(0).arg(by.as_millis() as u64);
        let () = eval.query_async(&mut connection).await.unwrap();
    }

    /// Breaks something; returns its name, and whether entries may be lost with it. A server that
    /// `keeps` its confirmed writes breaks in ways that lose nothing.
    pub(super) async fn hurt(&self, random: &mut Rng, keeps: bool) -> (String, bool) {
        let what = match if keeps {
            LOSES_NOTHING
        } else {
            random.u32(0..8)
        } {
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
            2..=3 => {
                let lost = self.lose_tail(random);
                return (format!("the last {lost} bytes are gone"), lost > 0);
            }
            4 => "stream",
            5 => "tail",
            6 => "group",
            LOSES_NOTHING.. => "back",
        };
        let mut connection = self.connection().await;
        let mut eval = redis::cmd("EVAL");
        eval.arg(TAKE).arg(0).arg(what).arg(random.u32(0..1_000));
        let key: String = eval.query_async(&mut connection).await.unwrap();
        if what == "back" {
            // Groups go back in time when a server starts, never under a connection.
            let mut server = self.server.borrow_mut();
            let written = server.written();
            server.lose_tail(written);
        }
        // A group that went back in time gives entries again: none is lost.
        (format!("{what} of {key}"), what != "back")
    }
}
