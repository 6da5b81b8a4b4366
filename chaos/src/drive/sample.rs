//! Samples the processes and the server once a second.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use redis::Value;
use tokio::task::JoinHandle;

use super::server::ask;
use crate::history::{Line, Sample, Writer};

pub(super) struct Sampler {
    watched: Arc<Mutex<Vec<u32>>>,
    task: JoinHandle<()>,
}

impl Sampler {
    /// Writes a sample a second until stopped.
    pub(super) fn start(folder: &Path, server: Option<u16>) -> Result<Self> {
        let history = Writer::open(&folder.join("samples.jsonl"))?;
        let watched = Arc::<Mutex<Vec<u32>>>::default();
        let (ids, log) = (Arc::clone(&watched), folder.join("chaos.db-wal"));
        let task = tokio::spawn(async move {
            loop {
                let ids = ids.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let sample = look(&ids, &log, server).await;
                history.write(Line::Sample(sample));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        Ok(Self { watched, task })
    }

    /// Sets the processes to sample from now on.
    pub(super) fn watch(&self, ids: Vec<u32>) {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = ids;
    }

    pub(super) fn stop(&self) {
        self.task.abort();
    }
}

async fn look(ids: &[u32], log: &PathBuf, server: Option<u16>) -> Sample {
    let mut sample = Sample {
        resident_kib: ids.iter().filter_map(|id| resident(*id)).max().unwrap_or(0),
        log_bytes: std::fs::metadata(log).map_or(0, |log| log.len()),
        ..Sample::default()
    };
    if let Some(port) = server {
        // A stopped or unreachable server has no figures.
        sample.connections = connections(port).await.unwrap_or(0);
        sample.pending_list = pending(port).await.unwrap_or(0);
    }
    sample
}

fn resident(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().split(' ').next()?.parse().ok()
}

async fn connections(port: u16) -> Result<u64> {
    let info: String = redis::from_redis_value(ask(port, &["INFO", "clients"]).await?)?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("connected_clients:"));
    Ok(line.and_then(|n| n.trim().parse().ok()).unwrap_or(0))
}

/// The largest pending list of any group on any stream.
async fn pending(port: u16) -> Result<u64> {
    const LARGEST: &str = "
        local largest = 0
        for _, key in ipairs(redis.call('KEYS', 'termitary:*')) do
            if redis.call('TYPE', key).ok == 'stream' then
                for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
                    for i = 1, #group, 2 do
                        if group[i] == 'pending' and group[i + 1] > largest then largest = group[i + 1] end
                    end
                end
            end
        end
        return largest";
    Ok(match ask(port, &["EVAL", LARGEST, "0"]).await? {
        Value::Int(largest) => largest as u64,
        _ => 0,
    })
}
