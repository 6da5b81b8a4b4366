//! The calls, their outcomes, the runs and the faults: one JSON object a line, one file per
//! process.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path as FilePath;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::clock::now_ms;
use crate::events::Path;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub(crate) enum Line {
    /// A publish begins. Without an outcome line its outcome is unknown.
    Invoke { n: u64, path: Path },
    /// The event is published.
    Ok { n: u64 },
    /// The event is certainly not published.
    Fail { n: u64, why: String },
    /// The outcome is unknown.
    Unknown { n: u64, why: String },
    /// A handler begins.
    Start(Run),
    /// A handler has returned; `ok` when it succeeded.
    End { run: Run, ok: bool },
    /// A process exited that was not killed.
    Ended { name: String, status: String },
    /// A fault of the nemesis, with its duration.
    Fault(Fault),
    /// The state of the processes and the server.
    Sample(Sample),
}

/// One attempt of one handler.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) event: String,
    pub(crate) subscription: String,
    pub(crate) n: u64,
    pub(crate) fence: i64,
    pub(crate) attempt: u32,
}

/// A fault, from `from_ms` until it was healed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) from_ms: u64,
    pub(crate) until_ms: u64,
    /// Data that only Redis had may be lost with it.
    pub(crate) loses: bool,
    /// The killed process, as its history is named.
    pub(crate) killed: Vec<String>,
}

/// The state of the system, once a second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Resident KiB of the largest role process.
    pub(crate) resident_kib: u64,
    /// The largest pending list of one group on one stream.
    pub(crate) pending_list: u64,
    /// Connections of the server.
    pub(crate) connections: u64,
    /// Bytes of the write-ahead log.
    pub(crate) log_bytes: u64,
}

/// A line with its time and, once read, the name of its history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) at_ms: u64,
    #[serde(skip)]
    pub(crate) process: String,
    #[serde(flatten)]
    pub(crate) line: Line,
}

/// A history that is being written.
pub(crate) struct Writer(Mutex<File>);

impl Writer {
    /// Appends to the file and creates it if it is missing.
    pub(crate) fn open(path: &FilePath) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(Mutex::new(file)))
    }

    /// Writes one line in one call, so that a kill leaves whole lines.
    pub(crate) fn write(&self, line: Line) {
        let entry = Entry {
            at_ms: now_ms(),
            process: String::new(),
            line,
        };
        let Ok(mut text) = serde_json::to_string(&entry) else {
            return;
        };
        text.push('\n');
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(text.as_bytes()) {
            eprintln!("the history cannot be written: {error}");
        }
    }
}

/// Every history of a folder, in the order of time.
pub(crate) fn read(folder: &FilePath) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for file in std::fs::read_dir(folder).context("cannot read the folder of histories")? {
        let path = file?.path();
        if path.extension().is_none_or(|kind| kind != "jsonl") {
            continue;
        }
        let process = path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        let text = std::fs::read_to_string(&path)?;
        for line in text.lines() {
            // The last line of a killed process may be incomplete; it is ignored.
            if let Ok(mut entry) = serde_json::from_str::<Entry>(line) {
                entry.process = process.clone().unwrap_or_default();
                entries.push(entry);
            }
        }
    }
    entries.sort_by_key(|entry| entry.at_ms);
    Ok(entries)
}
