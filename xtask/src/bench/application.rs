//! The application's own path, from the HTTP request to the last handler: the speed of the whole
//! program, with its own events, tables and broadcasts.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Options;
use super::build::Programs;
use super::place::Place;
use super::plan::OURS;
use super::program::call;
use super::samples::{Run, Sample};
use crate::http::client::{self, Connection};
use crate::steps::sheltered;

/// Number of todos in one measurement.
const TODOS: usize = 4_000;
/// Number of connections that send at once.
const CONNECTIONS: usize = 16;
/// Longest time until the API listens, and until everything is handled.
const PATIENCE: Duration = Duration::from_mins(3);

/// Measures the rows `redis/application` and `sqlite/application`.
pub(crate) fn measure(programs: &Programs, options: &Options, run: &mut Run) -> Result<()> {
    for round in 1..=options.rounds {
        for broker in ["redis", "sqlite"] {
            let row = format!("{broker}/application");
            if !options.wants(&row) {
                continue;
            }
            let place = Place::make(&programs.scratch, "application", broker == "redis")?;
            let stage = Stage { programs, place };
            match stage.sample(options.events(TODOS)) {
                Ok(result) => {
                    println!("{row} {round}: {}", Sample::shown(&result));
                    run.samples.push(Sample {
                        row,
                        system: OURS.to_owned(),
                        result,
                        server_cpu: None,
                    });
                }
                Err(error) => {
                    println!("{row} {round}: FAILED: {error:#}");
                    run.failures.push(format!("{row}: {error:#}"));
                }
            }
        }
    }
    Ok(())
}

/// A fresh database, and a Redis in the mode that uses one.
struct Stage<'a> {
    programs: &'a Programs,
    place: Place,
}

/// A process that is killed when this value is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stage<'_> {
    /// First measures the path with a worker beside the API, then drains the backlog of an API
    /// alone with a worker that starts afterwards.
    fn sample(&self, todos: usize) -> Result<Value> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let _api = self.start("api", port)?;
        wait_for(port)?;
        let token = client::register(port)?;

        let worker = self.start("worker", port)?;
        self.until_handled()?;
        let begin = Instant::now();
        make_todos(port, &token, todos)?;
        let answered = begin.elapsed();
        self.until_handled()?;
        let handled = begin.elapsed();
        drop(worker);

        let before = self.count("done")?;
        make_todos(port, &token, todos)?;
        let begin = Instant::now();
        let _worker = self.start("worker", port)?;
        self.until_handled()?;
        let drained = begin.elapsed();
        let deliveries = self.count("done")? - before;
        let rate = |count: u64, time: Duration| count as f64 / time.as_secs_f64();
        Ok(json!({
            "events": todos,
            "perSecond": rate(todos as u64, handled),
            "answeredPerSecond": rate(todos as u64, answered),
            "deliveries": deliveries,
            "drainedPerSecond": rate(deliveries, drained),
        }))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = sheltered(Command::new(self.programs.termitary()));
        command
            .args(args)
            .current_dir(self.place.folder())
            .envs(self.place.settings());
        command
    }

    fn start(&self, role: &str, port: u16) -> Result<Process> {
        let log = File::create(self.place.folder().join(format!("{role}.log")))?;
        let child = self
            .command(&[role])
            // One user makes all of them.
            .env("TERMITARY_TODOS_PER_USER", "1000000000")
            .env("PORT", port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start `termitary {role}`"))?;
        Ok(Process(child))
    }

    /// The sum over all subscriptions.
    fn count(&self, what: &str) -> Result<u64> {
        let status = call(&mut self.command(&["status", "--json"]))?;
        let subscriptions = status["subscriptions"].as_array();
        let subscriptions = subscriptions.context("the status has no subscriptions")?;
        Ok(subscriptions.iter().filter_map(|s| s[what].as_u64()).sum())
    }

    fn until_handled(&self) -> Result<()> {
        let begin = Instant::now();
        while self.count("pending")? + self.count("leased")? > 0 {
            if begin.elapsed() > PATIENCE {
                bail!("not everything was handled after {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn wait_for(port: u16) -> Result<()> {
    let begin = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if begin.elapsed() > PATIENCE {
            bail!("the API does not listen on port {port}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn make_todos(port: u16, token: &str, todos: usize) -> Result<()> {
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..CONNECTIONS)
            .map(|sender| {
                scope.spawn(move || -> Result<()> {
                    let mut connection = Connection::open(port)?;
                    for _ in (sender..todos).step_by(CONNECTIONS) {
                        connection.make_todo(token)?;
                    }
                    Ok(())
                })
            })
            .collect();
        for sender in senders {
            sender
                .join()
                .map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        Ok(())
    })
}
