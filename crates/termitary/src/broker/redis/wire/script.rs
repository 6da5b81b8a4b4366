//! Scripts: each looks and acts in one step, and touches one slot only.

use std::sync::LazyLock;

use redis::{Cmd, RedisError};

use super::pipeline::Pipeline;

/// A script and its hash.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    text: &'static str,
    sha: String,
}

macro_rules! scripts {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new($file, include_str!(concat!("scripts/", $file, ".lua"))));)*

        fn all() -> impl Iterator<Item = &'static Script> {
            [$(&*$name),*].into_iter()
        }
    };
}

scripts! {
    ACK = "ack",
    RENEW = "renew",
    TRIM = "trim",
    LEAVE = "leave",
    ECHO_OUT = "echo_out",
    ECHO_IN = "echo_in",
    HOLD = "hold",
    UNREAD = "unread",
    CLAIM = "claim",
    TAKE = "take",
}

impl Script {
    fn new(name: &'static str, text: &'static str) -> Self {
        let sha = redis::Script::new(text).get_hash().to_owned();
        Self { name, text, sha }
    }
}

/// One run of a script.
pub(crate) struct Call<'a> {
    pub(crate) script: &'static Script,
    pub(crate) keys: Vec<&'a str>,
    pub(crate) args: Vec<&'a str>,
}

impl Call<'_> {
    pub(crate) fn command(&self) -> Cmd {
        self.build("EVALSHA", &self.script.sha)
    }

    /// With its text, for a server that has lost the script.
    pub(crate) fn whole(&self) -> Cmd {
        self.build("EVAL", self.script.text)
    }

    fn build(&self, how: &str, script: &str) -> Cmd {
        let mut cmd = redis::cmd(how);
        cmd.arg(script).arg(self.keys.len());
        for part in self.keys.iter().chain(&self.args) {
            cmd.arg(*part);
        }
        cmd
    }
}

/// The pipeline that loads every script; sent on each new connection.
pub(crate) fn load() -> Pipeline {
    let load = |script: &Script| redis::cmd("SCRIPT").arg("LOAD").arg(script.text).clone();
    all().map(load).collect()
}

/// The server does not know the script (any more).
pub(crate) fn forgotten(error: &RedisError) -> bool {
    error.code() == Some("NOSCRIPT")
}
