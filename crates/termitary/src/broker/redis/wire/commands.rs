//! The commands on streams, and pipelines of commands. No command names keys of two hash
//! tags: the keys of one command always live on one node of a Cluster.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value};

use super::keys::{Lane, Stream};

/// Commands that are sent in one round trip. The one place that would split them by hash
/// tag, for the nodes of a Cluster.
pub(crate) struct Pipeline(redis::Pipeline);

impl Pipeline {
    pub(crate) fn new() -> Self {
        Self(redis::pipe())
    }

    pub(crate) fn with_capacity(commands: usize) -> Self {
        Self(redis::Pipeline::with_capacity(commands))
    }

    pub(crate) fn add(&mut self, cmd: Cmd) {
        #[cfg(debug_assertions)]
        assert!(tags::has_one(&cmd), "keys of two hash tags: {cmd:?}");
        self.0.add_command(cmd);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends the commands. Returns the reply to each.
    pub(crate) async fn send(
        &mut self,
        conn: &mut MultiplexedConnection,
    ) -> RedisResult<Vec<RedisResult<Value>>> {
        self.0.ignore_errors().query_async(conn).await
    }
}

impl FromIterator<Cmd> for Pipeline {
    fn from_iter<I: IntoIterator<Item = Cmd>>(commands: I) -> Self {
        let commands = commands.into_iter();
        let mut pipe = Self::with_capacity(commands.size_hint().0);
        commands.for_each(|cmd| pipe.add(cmd));
        pipe
    }
}

fn command(name: &str, args: &[&str]) -> Cmd {
    let mut cmd = redis::cmd(name);
    cmd.arg(args);
    cmd
}

/// The last entry of a stream.
pub(crate) fn last_entry(stream: &str) -> Cmd {
    command("XREVRANGE", &[stream, "+", "-", "COUNT", "1"])
}

/// The entries of a stream from one id to another.
pub(crate) fn range(stream: &str, from: &str, to: &str) -> Cmd {
    command("XRANGE", &[stream, from, to])
}

pub(crate) fn length(stream: &str) -> Cmd {
    command("XLEN", &[stream])
}

pub(crate) fn groups(stream: &str) -> Cmd {
    command("XINFO", &["GROUPS", stream])
}

/// Makes a group that begins at `start`, and its stream if that is missing.
pub(crate) fn create_group(stream: &str, group: &str, start: &str) -> Cmd {
    command("XGROUP", &["CREATE", stream, group, start, "MKSTREAM"])
}

pub(crate) fn destroy_group(stream: &str, group: &str) -> Cmd {
    command("XGROUP", &["DESTROY", stream, group])
}

pub(crate) fn get(key: &str) -> Cmd {
    command("GET", &[key])
}

pub(crate) fn delete(key: &str) -> Cmd {
    command("DEL", &[key])
}

/// One entry, if it is pending.
pub(crate) fn pending(stream: &str, group: &str, id: &str) -> Cmd {
    command("XPENDING", &[stream, group, id, id, "1"])
}

/// Up to `count` pending entries from `from` that have been idle for `least`.
pub(crate) fn idle(lane: &Lane, stream: &Stream, least: Duration, from: &str, count: usize) -> Cmd {
    let mut cmd = command("XPENDING", &[&stream.key, &lane.group, "IDLE"]);
    cmd.arg(millis(least)).arg(from).arg("+").arg(count);
    cmd
}

/// Claims up to `count` pending entries from `from`.
pub(crate) fn claim(lane: &Lane, stream: &Stream, consumer: &str, from: &str, count: usize) -> Cmd {
    let mut cmd = auto_claim(lane, stream, consumer, 0, from);
    cmd.arg("COUNT").arg(count);
    cmd
}

/// Drops pending entries that are gone from their stream, and claims none.
pub(crate) fn drop_lost(lane: &Lane, stream: &Stream, consumer: &str, from: &str) -> Cmd {
    // An idle time that no entry has.
    auto_claim(lane, stream, consumer, i64::MAX, from)
}

fn auto_claim(lane: &Lane, stream: &Stream, consumer: &str, least_ms: i64, from: &str) -> Cmd {
    let mut cmd = command("XAUTOCLAIM", &[&stream.key, &lane.group, consumer]);
    cmd.arg(least_ms).arg(from);
    cmd
}

/// Entries of one stream after an id, of no group.
pub(crate) fn read_after(stream: &str, after: &str, count: usize) -> Cmd {
    let mut cmd = redis::cmd("XREAD");
    cmd.arg("COUNT").arg(count).arg("STREAMS").arg(stream);
    cmd.arg(after);
    cmd
}

/// New entries of a stream (`>`), or, from `after`, entries that this consumer was given and
/// has not ended.
pub(crate) fn read(lane: &Lane, stream: &Stream, consumer: &str, count: usize, after: &str) -> Cmd {
    let mut cmd = read_group(lane, consumer, count);
    cmd.arg("STREAMS").arg(&*stream.key).arg(after);
    cmd
}

/// New entries of all streams of a subscription; waits for the first. A subscription to
/// several events names their tags: the one command that a Cluster would not take.
pub(crate) fn read_blocking(lane: &Lane, consumer: &str, count: usize, wait: Duration) -> Cmd {
    let mut cmd = read_group(lane, consumer, count);
    cmd.arg("BLOCK").arg(millis(wait).max(1)).arg("STREAMS");
    for stream in &lane.streams {
        cmd.arg(&*stream.key);
    }
    for _ in &lane.streams {
        cmd.arg(">");
    }
    cmd
}

fn read_group(lane: &Lane, consumer: &str, count: usize) -> Cmd {
    let mut cmd = command("XREADGROUP", &["GROUP", &lane.group, consumer]);
    cmd.arg("COUNT").arg(count);
    cmd
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

/// The hash tags of commands.
#[cfg(debug_assertions)]
mod tags {
    use redis::{Arg, Cmd};

    /// Returns whether all keys of the command have the same hash tag.
    pub(super) fn has_one(cmd: &Cmd) -> bool {
        let words: Vec<&[u8]> = cmd
            .args_iter()
            .map(|arg| match arg {
                Arg::Simple(word) => word,
                _ => b"",
            })
            .collect();
        let mut tags = keys(&words).iter().map(tag);
        let first = tags.next();
        tags.all(|tag| Some(tag) == first)
    }

    fn keys<'a, 'b>(words: &'a [&'b [u8]]) -> &'a [&'b [u8]] {
        let number = |at: usize| {
            let word = words.get(at).copied().unwrap_or_default();
            std::str::from_utf8(word).ok()?.parse::<usize>().ok()
        };
        let range = match words.first().copied().unwrap_or_default() {
            b"EVAL" | b"EVALSHA" => 3..3 + number(2).unwrap_or(0),
            b"DEL" => 1..words.len(),
            b"XGROUP" | b"XINFO" => 2..3,
            b"XREAD" | b"XREADGROUP" => {
                let names = words.iter().position(|word| word == b"STREAMS");
                let first = names.map_or(words.len(), |at| at + 1);
                first..usize::midpoint(first, words.len())
            }
            b"INFO" | b"SCRIPT" | b"PING" | b"PUBLISH" | b"MULTI" | b"EXEC" => 0..0,
            _ => 1..2,
        };
        words.get(range).unwrap_or_default()
    }

    /// The part of a key that decides on its node.
    fn tag<'a>(key: &'a &[u8]) -> &'a [u8] {
        let tagged = || {
            let from = key.iter().position(|byte| *byte == b'{')? + 1;
            let to = key[from..].iter().position(|byte| *byte == b'}')?;
            (to > 0).then(|| &key[from..from + to])
        };
        tagged().unwrap_or(key)
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::{Keys, done};
    use super::super::script;
    use super::*;
    use crate::delivery::Route;

    fn lane(events: &[&str]) -> Lane {
        Keys::default().lane(&Route {
            id: 1,
            name: "mail.send".into(),
            events: events.iter().map(|event| (*event).to_owned()).collect(),
            fresh: Vec::new(),
            known: true,
        })
    }

    #[test]
    fn keys_of_two_hash_tags_in_one_command_are_noticed() {
        let (one, two) = (lane(&["a.b"]), lane(&["a.b", "a.old"]));
        let second = Duration::from_secs(1);
        assert!(tags::has_one(&read_blocking(&one, "me", 1, second)));
        assert!(!tags::has_one(&read_blocking(&two, "me", 1, second)));
        let [main, old] = [0, 1].map(|i| &*two.streams[i].key);
        let run = |keys| script::Call {
            script: &script::ACK,
            keys,
            args: vec!["{other}"],
        };
        let counter = done(main, "mail.send");
        assert!(tags::has_one(&run(vec![main, &counter]).command()));
        assert!(!tags::has_one(&run(vec![main, old]).command()));
        let mut both = delete(main);
        both.arg(old);
        assert!(!tags::has_one(&both));
        assert!(tags::has_one(&create_group(main, "{other}", "0")));
        assert!(tags::has_one(&read(&two, &two.streams[1], "me", 1, ">")));
    }

    #[test]
    #[should_panic(expected = "keys of two hash tags")]
    fn a_pipeline_takes_no_such_command() {
        let two = lane(&["a.b", "a.old"]);
        let read = read_blocking(&two, "me", 1, Duration::ZERO);
        Pipeline::new().add(read);
    }
}
