//! The commands on streams.

use std::time::Duration;

use redis::Cmd;

use super::keys::{Stream, StreamSet};

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
pub(crate) fn idle(
    set: &StreamSet,
    stream: &Stream,
    least: Duration,
    from: &str,
    count: usize,
) -> Cmd {
    let mut cmd = command("XPENDING", &[&stream.key, &set.group, "IDLE"]);
    cmd.arg(millis(least)).arg(from).arg("+").arg(count);
    cmd
}

/// Claims up to `count` pending entries from `from`.
pub(crate) fn claim(
    set: &StreamSet,
    stream: &Stream,
    consumer: &str,
    from: &str,
    count: usize,
) -> Cmd {
    let mut cmd = auto_claim(set, stream, consumer, 0, from);
    cmd.arg("COUNT").arg(count);
    cmd
}

/// Drops pending entries that are gone from their stream, and claims none.
pub(crate) fn drop_lost(set: &StreamSet, stream: &Stream, consumer: &str, from: &str) -> Cmd {
    // An idle time that no entry has.
    auto_claim(set, stream, consumer, i64::MAX, from)
}

fn auto_claim(set: &StreamSet, stream: &Stream, consumer: &str, least_ms: i64, from: &str) -> Cmd {
    let mut cmd = command("XAUTOCLAIM", &[&stream.key, &set.group, consumer]);
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
pub(crate) fn read(
    set: &StreamSet,
    stream: &Stream,
    consumer: &str,
    count: usize,
    after: &str,
) -> Cmd {
    let mut cmd = read_group(set, consumer, count);
    cmd.arg("STREAMS").arg(&*stream.key).arg(after);
    cmd
}

/// New entries of all streams of a subscription to one event; waits for the first.
pub(crate) fn read_blocking(set: &StreamSet, consumer: &str, count: usize, wait: Duration) -> Cmd {
    let mut cmd = read_group(set, consumer, count);
    block(&mut cmd, wait);
    for stream in &set.streams {
        cmd.arg(&*stream.key);
    }
    for _ in &set.streams {
        cmd.arg(">");
    }
    cmd
}

/// Waits for an entry of one of these streams after its id. Gives out none.
pub(crate) fn wait_after<'a>(
    streams: impl Iterator<Item = (&'a Stream, &'a String)>,
    wait: Duration,
) -> Cmd {
    let (streams, after): (Vec<_>, Vec<_>) = streams.unzip();
    let mut cmd = command("XREAD", &["COUNT", "1"]);
    block(&mut cmd, wait);
    for stream in streams {
        cmd.arg(&*stream.key);
    }
    cmd.arg(after);
    cmd
}

fn block(cmd: &mut Cmd, wait: Duration) {
    cmd.arg("BLOCK").arg(millis(wait).max(1)).arg("STREAMS");
}

fn read_group(set: &StreamSet, consumer: &str, count: usize) -> Cmd {
    let mut cmd = command("XREADGROUP", &["GROUP", &set.group, consumer]);
    cmd.arg("COUNT").arg(count);
    cmd
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}
