//! Sends every command, but for those of pub/sub. No command names keys of two hash tags, and a
//! pipeline groups its commands by tag, because one node of a Cluster has the keys of one tag.

use std::collections::HashMap;

use futures_util::future::try_join_all;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value};

/// Sends one command. Returns its reply.
pub(crate) async fn send(conn: &mut MultiplexedConnection, cmd: &Cmd) -> RedisResult<Value> {
    check(cmd);
    match conn.send_packed_command(cmd).await? {
        Value::ServerError(error) => Err(error.into()),
        value => Ok(value),
    }
}

/// Commands that are sent in one round trip. Commands of one tag keep their order.
#[derive(Default)]
pub(crate) struct Pipeline {
    groups: Vec<Group>,
    by_tag: HashMap<Vec<u8>, usize>,
    /// The group of each command, in the order of their replies.
    order: Vec<usize>,
}

/// The commands of one hash tag; the tag is empty for commands without keys.
struct Group {
    tag: Vec<u8>,
    commands: redis::Pipeline,
}

impl Pipeline {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn with_capacity(commands: usize) -> Self {
        Self {
            order: Vec::with_capacity(commands),
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, cmd: Cmd) {
        let group = self.group(tags::of(&cmd));
        self.put(group, cmd);
    }

    /// Adds commands of one hash tag that take effect together. The replies to `MULTI` and
    /// `EXEC` stand before and after theirs.
    pub(crate) fn add_together(&mut self, commands: impl IntoIterator<Item = Cmd>) {
        let mut commands = commands.into_iter();
        let Some(first) = commands.next() else { return };
        let group = self.group(tags::of(&first));
        self.put(group, redis::cmd("MULTI"));
        for cmd in std::iter::once(first).chain(commands) {
            debug_assert_eq!(tags::of(&cmd), self.groups[group].tag);
            self.put(group, cmd);
        }
        self.put(group, redis::cmd("EXEC"));
    }

    /// The group of this tag. Mostly it is that of the last command.
    fn group(&mut self, tag: &[u8]) -> usize {
        if let Some(&last) = self.order.last()
            && self.groups[last].tag == tag
        {
            return last;
        }
        if let Some(&group) = self.by_tag.get(tag) {
            return group;
        }
        let commands = if self.groups.is_empty() {
            redis::Pipeline::with_capacity(self.order.capacity())
        } else {
            redis::Pipeline::new()
        };
        self.by_tag.insert(tag.to_owned(), self.groups.len());
        self.groups.push(Group {
            tag: tag.to_owned(),
            commands,
        });
        self.groups.len() - 1
    }

    fn put(&mut self, group: usize, cmd: Cmd) {
        check(&cmd);
        self.groups[group].commands.add_command(cmd);
        self.order.push(group);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Sends the commands. Returns the reply to each, in the order in which they were added.
    pub(crate) async fn send(
        &mut self,
        conn: &mut MultiplexedConnection,
    ) -> RedisResult<Vec<RedisResult<Value>>> {
        if let [group] = &mut self.groups[..] {
            return group.send(conn).await;
        }
        let sent = self.groups.iter_mut().map(|group| {
            let mut conn = conn.clone();
            async move { group.send(&mut conn).await }
        });
        let replies = try_join_all(sent).await?;
        let mut replies: Vec<_> = replies.into_iter().map(Vec::into_iter).collect();
        let order = self.order.iter();
        Ok(order.filter_map(|&group| replies[group].next()).collect())
    }
}

impl Group {
    async fn send(
        &mut self,
        conn: &mut MultiplexedConnection,
    ) -> RedisResult<Vec<RedisResult<Value>>> {
        self.commands.ignore_errors().query_async(conn).await
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

/// Records a command that a Cluster would refuse, for the test that sends it. Nobody waits
/// for a panic here: the tasks that send commands start again.
fn check(cmd: &Cmd) {
    #[cfg(all(debug_assertions, feature = "testing"))]
    if let Some(why) = tags::wrong(cmd) {
        WRONG.get_or_init(|| format!("{why}: {cmd:?}"));
    }
    #[cfg(not(all(debug_assertions, feature = "testing")))]
    let _ = cmd;
}

#[cfg(all(debug_assertions, feature = "testing"))]
static WRONG: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Returns the first command of this process that a Cluster would refuse, with the reason.
#[cfg(all(debug_assertions, feature = "testing"))]
pub(crate) fn refused_by_a_cluster() -> Option<&'static str> {
    WRONG.get().map(String::as_str)
}

/// The hash tags of commands.
mod tags {
    use redis::{Arg, Cmd};

    const WITHOUT_KEYS: &[&[u8]] = &[
        b"CONFIG", b"EXEC", b"INFO", b"MULTI", b"PING", b"PUBLISH", b"SCRIPT",
    ];
    /// The key is the first argument.
    #[cfg(any(test, all(debug_assertions, feature = "testing")))]
    const WITH_ONE_KEY: &[&[u8]] = &[
        b"GET",
        b"XADD",
        b"XAUTOCLAIM",
        b"XLEN",
        b"XPENDING",
        b"XRANGE",
        b"XREVRANGE",
    ];
    /// Each has a rule of its own.
    #[cfg(any(test, all(debug_assertions, feature = "testing")))]
    const WITH_SEVERAL: &[&[u8]] = &[
        b"DEL",
        b"EVAL",
        b"EVALSHA",
        b"XGROUP",
        b"XINFO",
        b"XREAD",
        b"XREADGROUP",
    ];

    /// The hash tag of a command's first key, empty without keys.
    pub(super) fn of(cmd: &Cmd) -> &[u8] {
        keys(cmd).next().map(tag).unwrap_or_default()
    }

    /// The reason why a Cluster would refuse the command.
    #[cfg(any(test, all(debug_assertions, feature = "testing")))]
    pub(super) fn wrong(cmd: &Cmd) -> Option<&'static str> {
        let (first, name) = (of(cmd), words(cmd).next().unwrap_or_default());
        if keys(cmd).any(|key| tag(key) != first) {
            return Some("keys of two hash tags in one command");
        }
        let known = [WITHOUT_KEYS, WITH_ONE_KEY, WITH_SEVERAL]
            .concat()
            .contains(&name);
        (!known).then_some("a command without a rule for its keys")
    }

    fn words(cmd: &Cmd) -> impl ExactSizeIterator<Item = &[u8]> {
        cmd.args_iter().map(|arg| match arg {
            Arg::Simple(word) => word,
            _ => b"",
        })
    }

    fn keys(cmd: &Cmd) -> impl Iterator<Item = &[u8]> {
        let mut words = words(cmd);
        let keys = match words.next().unwrap_or_default() {
            b"DEL" => words.len(),
            b"EVAL" | b"EVALSHA" => words.nth(1).and_then(number).unwrap_or(0),
            b"XGROUP" | b"XINFO" => words.next().map_or(0, |_| 1),
            b"XREAD" | b"XREADGROUP" => {
                words.find(|word| *word == b"STREAMS");
                words.len() / 2
            }
            name => usize::from(!WITHOUT_KEYS.contains(&name)),
        };
        words.take(keys)
    }

    fn number(word: &[u8]) -> Option<usize> {
        std::str::from_utf8(word).ok()?.parse().ok()
    }

    /// The part of a key that decides on its node.
    fn tag(key: &[u8]) -> &[u8] {
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
    use super::super::keys::{Keys, StreamSet, done};
    use super::super::{commands, script};
    use super::*;
    use crate::delivery::Route;

    fn set(events: &[&str]) -> StreamSet {
        Keys::default().stream_set(&Route {
            id: 1,
            name: "mail.send".into(),
            events: events.iter().map(|event| (*event).to_owned()).collect(),
            fresh: Vec::new(),
            known: true,
        })
    }

    #[test]
    fn a_command_that_a_cluster_would_refuse_is_noticed() {
        let two = set(&["a.b", "a.old"]);
        let [main, old] = [0, 1].map(|i| &*two.streams[i].key);
        let run = |keys| script::Call {
            script: &script::ACK,
            keys,
            args: vec!["{other}"],
        };
        let right = |cmd: &Cmd| tags::wrong(cmd).is_none();
        let counter = done(main, "mail.send");
        assert!(right(&run(vec![main, &counter]).command()));
        assert!(!right(&run(vec![main, old]).command()));
        let mut both = commands::delete(main);
        assert!(right(&both));
        both.arg(old);
        assert!(!right(&both));
        assert!(right(&commands::create_group(main, "{other}", "0")));
        assert!(right(&commands::read(&two, &two.streams[1], "me", 1, ">")));
        let mut unknown = redis::cmd("GETDEL");
        unknown.arg(main);
        assert!(!right(&unknown));
    }

    #[test]
    fn a_pipeline_groups_its_commands_by_hash_tag() {
        let two = set(&["a.b", "a.old"]);
        let [main, old, again] = [0, 1, 2].map(|i| &*two.streams[i].key);
        let mut pipe = Pipeline::from_iter([main, old, again].map(commands::length));
        pipe.add(redis::cmd("PING"));
        pipe.add_together([main, main].map(commands::length));
        assert_eq!(pipe.order, [0, 1, 0, 2, 0, 0, 0, 0]);
        let of = |group: usize| {
            let commands = pipe.groups[group].commands.cmd_iter();
            let names = commands.filter_map(|cmd| match cmd.args_iter().next() {
                Some(redis::Arg::Simple(name)) => Some(String::from_utf8_lossy(name)),
                _ => None,
            });
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(0), "XLEN XLEN MULTI XLEN XLEN EXEC");
        assert_eq!([of(1), of(2)], ["XLEN", "PING"]);
    }
}
