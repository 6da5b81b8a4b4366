//! `termitary health`: asks the running API, or the ledger for a worker, for
//! the health checks of containers.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::args::HealthArgs;
use super::open::{Missing, System};
use super::out;
use crate::config::Config;

const PATIENCE: Duration = Duration::from_secs(3);

/// No answer of a health route is longer.
const LONGEST: u64 = 64 * 1024;

pub(super) async fn run(config: Config, args: &HealthArgs) -> anyhow::Result<()> {
    if args.worker {
        return worker(&config, args.json).await;
    }
    let path = if args.live { "/healthz" } else { "/readyz" };
    let url = config.local_url(config.port);
    let answer = tokio::time::timeout(PATIENCE, get(&url, path))
        .await
        .with_context(|| {
            format!(
                "no answer from {url}{path} within {} seconds",
                PATIENCE.as_secs()
            )
        })?
        .with_context(|| format!("nobody answers at {url}{path}"))?;
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    if status != "200" {
        bail!(
            "{url}{path} answers {status}: {}",
            out::short(body.trim(), 500)
        );
    }
    out::line(if args.json { body.trim() } else { "ok" })
}

/// A worker answers no requests; it reports to the ledger every few seconds.
async fn worker(config: &Config, json: bool) -> anyhow::Result<()> {
    let system = System::open(config, Missing::Refuse).await?;
    let mut workers = system.broker.inspect().workers().await?;
    workers.retain(termitary::inspect::WorkerStatus::is_local);
    if workers.is_empty() {
        bail!("no worker of this machine reported within the last 20 seconds");
    }
    if json {
        return out::json(&workers);
    }
    out::line("ok")
}

async fn get(url: &str, path: &str) -> anyhow::Result<String> {
    let host = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
