//! Facts that a server tells about itself.

use redis::{RedisError, RedisResult, Value};

use super::pipeline::Pipeline;
use super::reply;
use crate::error::Error;

/// The lines of `INFO`.
pub(crate) struct Info(Vec<String>);

/// Asks for these sections, one command each: servers before 7.0 take one.
pub(crate) fn ask(sections: &[&str]) -> Pipeline {
    let ask = |section: &&str| redis::cmd("INFO").arg(*section).clone();
    sections.iter().map(ask).collect()
}

impl Info {
    /// Parses the replies to [`ask`]. A section is empty if this user may not ask for it. Any other
    /// error means that the server's state is unknown.
    pub(crate) fn read(replies: Vec<RedisResult<Value>>) -> Result<Self, Error> {
        let mut texts = Vec::new();
        for reply in replies {
            match reply {
                Ok(Value::VerbatimString { text, .. }) => texts.push(text),
                Ok(other) => texts.extend(reply::text(other)),
                Err(error) if never_says(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self(texts))
    }

    /// One fact by its name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.iter().flat_map(|text| text.lines());
        lines
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    }
}

/// We may not ask, or it has no such command: that does not change.
fn never_says(error: &RedisError) -> bool {
    let unknown = |detail: &str| detail.contains("unknown command");
    error.code() == Some("NOPERM") || error.detail().is_some_and(unknown)
}

#[cfg(test)]
impl Info {
    /// As a server would say it.
    pub(crate) fn of(text: &str) -> Self {
        Self(vec![text.to_owned()])
    }
}
