//! `termitary`, `dev`, `api` and `worker`: the processes that run until a signal stops
//! them.

use std::future::Future;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use termitary::Worker;
use tokio::net::TcpListener;

use super::banner;
use super::database_server;
use super::reachable;
use super::signals::Stop;
use super::system::{self, Access, System};
use crate::app::App;
use crate::config::{Config, Mistake};
use crate::secret::Secret;
use crate::wiring;

/// The part of the work that this process does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Everything.
    Dev,
    /// Serves HTTP.
    Api,
    /// Handles events and runs schedules.
    Worker,
}

impl Role {
    pub(super) fn api(self) -> bool {
        self != Self::Worker
    }

    pub(super) fn worker(self) -> bool {
        self != Self::Api
    }
}

pub(super) async fn run(config: Config, role: Role) -> anyhow::Result<()> {
    let stop = Stop::on_signals(config.grace)?;
    // The port first: without it the process should not touch the database.
    let listener = if role.api() {
        Some(bind(&config).await?)
    } else {
        None
    };
    let port = match &listener {
        Some(listener) => listener.local_addr()?.port(),
        None => config.port,
    };
    let access = if role.worker() {
        Access::Work
    } else {
        Access::Create
    };
    // Opening may wait for the lock of another process, or for the server of the database; a
    // signal ends the wait.
    let open = async {
        if config.on_postgres() {
            database_server::wait(&config).await;
        }
        System::open(&config, access).await
    };
    let system = tokio::select! {
        system = open => system?,
        () = stop.drain.cancelled() => return Ok(()),
    };
    // A worker seals nothing, so it need not be able to read the secret.
    let secret = async || {
        if role.api() {
            system::secret(&config, &system.db).await
        } else {
            Ok(Secret::default())
        }
    };
    let app = system.app(&config, config.local_url(port), secret).await?;
    banner::print(&config, role, port);
    let result = serve(&config, &system, &app, listener, role, &stop).await;
    // Closing may wait for the lock of another process: then the log stays as it is.
    if tokio::time::timeout(CLOSING, system.db.close())
        .await
        .is_err()
    {
        tracing::warn!("the database does not close in time: its log was left as it is");
    }
    result
}

/// The time that the end of the process waits for the database.
const CLOSING: Duration = Duration::from_secs(1);

/// Runs the parts; when the worker fails, the API drains too.
async fn serve(
    config: &Config,
    system: &System,
    app: &App,
    listener: Option<TcpListener>,
    role: Role,
    stop: &Stop,
) -> anyhow::Result<()> {
    let api = async {
        let Some(listener) = listener else {
            return;
        };
        // A worker logs this by itself.
        if !role.worker() && config.redis.is_some() {
            tokio::spawn(reachable::watch(system.broker.clone(), stop.drain.clone()));
        }
        tokio::select! {
            () = wiring::serve(listener, app.clone(), stop.drain.clone()) => {}
            () = stop.kill.cancelled() => {}
            () = grace_over(config, stop) => {}
        }
    };
    let worker = async {
        if !role.worker() {
            return Ok(());
        }
        Worker::new(system.broker.clone(), system.registry.clone())
            .state(app.clone())
            .concurrency(config.concurrency)
            .grace(config.grace)
            .kill(stop.kill.clone().cancelled_owned())
            .run(stop.drain.cancelled())
            .await
            .context("the worker failed")
    };
    let ((), worker) = tokio::join!(api, until_failure(worker, stop));
    worker
}

/// Resolves when the grace for open requests is over.
async fn grace_over(config: &Config, stop: &Stop) {
    stop.drain.cancelled().await;
    tokio::time::sleep(config.grace).await;
    tracing::warn!("the grace period is over: open requests are aborted");
}

async fn until_failure(
    part: impl Future<Output = anyhow::Result<()>>,
    stop: &Stop,
) -> anyhow::Result<()> {
    let result = part.await;
    if result.is_err() {
        stop.drain.cancel();
    }
    result
}

async fn bind(config: &Config) -> anyhow::Result<TcpListener> {
    TcpListener::bind((config.host.as_str(), config.port))
        .await
        .map_err(|error| cannot_listen(config, &error))
}

/// The error of a failed bind. A used port may become free, and a missing address may
/// appear with its network, so a restart may help. Other failures are mistakes in the
/// configuration.
fn cannot_listen(config: &Config, error: &std::io::Error) -> anyhow::Error {
    let Config { host, port, .. } = config;
    match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "PORT is `{port}`: another program already listens there. Stop it, or choose another port: PORT={}",
            port.checked_add(1).unwrap_or(3000)
        ),
        ErrorKind::AddrNotAvailable => anyhow!(
            "HOST is `{host}`: this machine does not have that address now. Write one of its addresses, such as 127.0.0.1 or 0.0.0.0"
        ),
        ErrorKind::PermissionDenied => Mistake::new(format!(
            "PORT is `{port}`: this user may not listen there ({error}). Choose one above 1023, such as PORT=3000"
        ))
        .into(),
        _ => Mistake::new(format!(
            "HOST is `{host}`: cannot listen there ({error}). Write an address of this machine, such as 127.0.0.1 or 0.0.0.0"
        ))
        .into(),
    }
}
