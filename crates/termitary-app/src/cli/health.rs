//! `termitary health`, for the health checks of containers: asks the running API, or the
//! ledger for a worker.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::args::HealthArgs;
use super::output;
use super::system::{Access, System};
use crate::config::Config;

const TIMEOUT: Duration = Duration::from_secs(3);

/// The most bytes of the response of a health route.
const LONGEST: u64 = 64 * 1024;

pub(super) async fn run(config: Config, args: &HealthArgs) -> anyhow::Result<()> {
    if args.worker {
        return worker(&config, args.json).await;
    }
    let path = if args.live { "/healthz" } else { "/readyz" };
    let url = config.local_url(config.port);
    let response = tokio::time::timeout(TIMEOUT, get(&url, path))
        .await
        .with_context(|| {
            format!(
                "no response from {url}{path} within {} seconds",
                TIMEOUT.as_secs()
            )
        })?
        .with_context(|| format!("nothing listens at {url}{path}"))?;
    let status = response.split_whitespace().nth(1).unwrap_or_default();
    let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    if status != "200" {
        bail!(
            "{url}{path} returned {status}: {}",
            output::short(body.trim(), 500)
        );
    }
    output::line(if args.json { body.trim() } else { "ok" })
}

/// Checks for a worker. It serves no requests, but reports to the ledger every few
/// seconds.
async fn worker(config: &Config, json: bool) -> anyhow::Result<()> {
    let system = System::open(config, Access::Look).await?;
    let mut workers = system.broker.inspect().workers().await?;
    workers.retain(termitary::inspect::WorkerStatus::is_local);
    if workers.is_empty() {
        bail!("no worker of this machine reported within the last 20 seconds");
    }
    if json {
        return output::json(&workers);
    }
    output::line("ok")
}

async fn get(url: &str, path: &str) -> anyhow::Result<String> {
    let host = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(LONGEST).read_to_end(&mut response).await?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}
