//! `termitary`, `dev`, `api` and `worker`: the processes that run until they
//! are told to stop.

use std::future::Future;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use termitary::Worker;
use tokio::net::TcpListener;

use super::banner;
use super::open::{self, Missing, System};
use super::signals::Stop;
use crate::app::App;
use crate::config::{Config, Mistake};
use crate::http;
use crate::secret::Secret;

/// What this process does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Everything.
    Dev,
    /// Answers HTTP.
    Api,
    /// Handles events, keeps schedules.
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
    // The port first: whoever cannot have it should not touch the database.
    let listener = if role.api() {
        Some(bind(&config).await?)
    } else {
        None
    };
    let port = match &listener {
        Some(listener) => listener.local_addr()?.port(),
        None => config.port,
    };
    // Another process's lock may be waited for: not longer than we are wanted.
    let system = tokio::select! {
        system = System::open(&config, Missing::Create) => system?,
        () = stop.drain.cancelled() => return Ok(()),
    };
    // Workers seal nothing: they need not be able to read it.
    let secret = || {
        if role.api() {
            open::secret(&config, &system.db)
        } else {
            Ok(Secret::default())
        }
    };
    let app = system.app(&config, config.local_url(port), secret)?;
    banner::print(&config, role, port);
    let result = serve(&config, &system, &app, listener, role, &stop).await;
    // What waits for another process's lock is not waited for: the log stays as it is.
    if tokio::time::timeout(CLOSING, system.db.close())
        .await
        .is_err()
    {
        tracing::warn!("the database does not answer: left without tidying its log");
    }
    result
}

/// How long the end of the process waits for the database.
const CLOSING: Duration = Duration::from_secs(1);

/// Runs the parts; when one fails, the others drain too.
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
            return Ok(());
        };
        let serving = http::serve(listener, app.clone(), stop.drain.clone());
        tokio::select! {
            served = serving => served.context("the API failed"),
            () = stop.kill.cancelled() => Ok(()),
            () = grace_over(config, stop) => Ok(()),
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
    let (api, worker) = tokio::join!(until_failure(api, stop), until_failure(worker, stop));
    api.and(worker)
}

/// Resolves when the grace for open requests is over.
async fn grace_over(config: &Config, stop: &Stop) {
    stop.drain.cancelled().await;
    tokio::time::sleep(config.grace).await;
    tracing::warn!("the grace is over: open requests are cut off");
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

/// A port that another program holds becomes free, and an address appears with its
/// network: starting again can help. All else is a mistake in the configuration.
fn cannot_listen(config: &Config, error: &std::io::Error) -> anyhow::Error {
    let Config { host, port, .. } = config;
    match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "PORT is `{port}`: another program listens there already. Stop it, or choose another port: PORT={}",
            port.checked_add(1).unwrap_or(3000)
        ),
        ErrorKind::AddrNotAvailable => anyhow!(
            "HOST is `{host}`: this machine does not have that address now. Write one that it has, such as 127.0.0.1 or 0.0.0.0"
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
