//! The command line of all programs.

use std::path::PathBuf;

use crate::Result;

/// The row to measure, with its parameters.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// The row: `publish-one`, `drain`, …
    pub row: String,
    /// Number of events.
    pub events: usize,
    /// The Redis server.
    pub url: String,
    /// The SQLite file.
    pub file: PathBuf,
    /// Events per second of an open loop.
    pub rate: f64,
    /// Number of callers that publish at once.
    pub callers: usize,
    /// Number of handlers that run at once, in systems with such a setting.
    pub concurrency: usize,
    /// Number of events that wait beside the measured ones.
    pub pending: usize,
    /// Number of subscriptions.
    pub subscriptions: usize,
}

impl Args {
    /// Reads the command line of this process.
    pub fn read() -> Result<Self> {
        Self::parse(std::env::args().skip(1))
    }

    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut args = Self {
            row: words.next().ok_or("name the row to measure")?,
            events: 10_000,
            rate: 500.0,
            callers: 64,
            concurrency: 100,
            subscriptions: 1,
            ..Self::default()
        };
        while let Some(name) = words.next() {
            let value = words
                .next()
                .ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--events" => args.events = value.parse()?,
                "--url" => args.url = value,
                "--file" => args.file = value.into(),
                "--rate" => args.rate = value.parse()?,
                "--callers" => args.callers = value.parse()?,
                "--concurrency" => args.concurrency = value.parse()?,
                "--pending" => args.pending = value.parse()?,
                "--subscriptions" => args.subscriptions = value.parse()?,
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        Ok(args)
    }

    /// The URL of the SQLite file.
    pub fn file_url(&self) -> String {
        format!("sqlite://{}", self.file.display())
    }

    /// The arguments for another row, for a child process.
    pub fn of_row(&self, row: &str) -> Vec<String> {
        [
            row.to_owned(),
            format!("--events={}", self.events),
            format!("--url={}", self.url),
            format!("--file={}", self.file.display()),
            format!("--rate={}", self.rate),
            format!("--callers={}", self.callers),
            format!("--concurrency={}", self.concurrency),
        ]
        .iter()
        .flat_map(|word| word.splitn(2, '=').map(str::to_owned))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_reads_what_its_parent_was_told() {
        let words = "drain --events 7 --url redis://127.0.0.1:1/?a=b --rate 2.5";
        let args = Args::parse(words.split(' ').map(str::to_owned)).unwrap();
        let child = Args::parse(args.of_row("latency-worker").into_iter()).unwrap();
        assert_eq!(child.row, "latency-worker");
        assert_eq!(child.events, 7);
        assert_eq!(child.url, args.url);
    }

    #[test]
    fn an_unknown_option_is_refused() {
        let words = ["drain", "--evnts", "7"].map(str::to_owned);
        assert!(Args::parse(words.into_iter()).is_err());
    }
}
