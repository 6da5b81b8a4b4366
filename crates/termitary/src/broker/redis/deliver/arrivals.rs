//! Waits for entries of several events: of an event that was renamed, under all its names.
//!
//! One blocking `XREADGROUP` would name several hash tags. One for each tag would give out
//! entries of a second tag while those of the first are handled, and nobody would renew
//! them. So each tag has a connection whose `XREAD` blocks and gives out nothing; the
//! reader then reads all streams without blocking.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, select_all};
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

use super::reader::{BLOCK, OVERRUN};
use crate::broker::redis::Redis;
use crate::broker::redis::wire::keys::StreamSet;
use crate::broker::redis::wire::{commands, pipeline};
use crate::error::Error;

/// One wait for each hash tag; none if there is only one tag.
pub(crate) struct Arrivals(Vec<Waiting>);

struct Waiting {
    conn: MultiplexedConnection,
    /// The reply to a command that blocks now. It outlives a call of [`Arrivals::next`].
    reply: Option<BoxFuture<'static, RedisResult<Value>>>,
}

impl Arrivals {
    pub(crate) async fn connect(redis: &Redis, set: &StreamSet) -> Result<Self, Error> {
        let tags = set.tags().count();
        let mut waits = Vec::new();
        while tags > 1 && waits.len() < tags {
            waits.push(Waiting {
                conn: redis.link.own(BLOCK + OVERRUN).await?,
                reply: None,
            });
        }
        Ok(Self(waits))
    }

    /// Waits up to `wait` for an entry after one of these ids, which are in the order of the
    /// set's streams. Returns `false` if none came.
    pub(crate) async fn next(
        &mut self,
        set: &StreamSet,
        after: &[String],
        wait: Duration,
    ) -> RedisResult<bool> {
        for (waiting, tag) in self.0.iter_mut().zip(set.tags()) {
            if waiting.reply.is_none() {
                let streams = set.streams.iter().zip(after);
                let of_tag = streams.filter(|(stream, _)| stream.event == *tag);
                let cmd = commands::wait_after(of_tag, BLOCK);
                let mut conn = waiting.conn.clone();
                waiting.reply = Some(async move { pipeline::send(&mut conn, &cmd).await }.boxed());
            }
        }
        let replies = self.0.iter_mut().filter_map(|one| one.reply.as_mut());
        let Ok((reply, which, _)) = tokio::time::timeout(wait, select_all(replies)).await else {
            return Ok(false);
        };
        self.0[which].reply = None;
        reply.map(|_| true)
    }
}
