//! Every class of error × every command that the broker sends, under load.

use std::time::{Duration, Instant};

use crate::proxy::Fault;
use crate::world::{Made, PATIENCE, Warnings, World, eventually};

/// Error replies of a server.
pub(crate) const ERRORS: [&str; 20] = [
    "READONLY You can't write against a read only replica.",
    "LOADING Redis is loading the dataset in memory",
    "NOSCRIPT No matching script. Please use EVAL.",
    "NOGROUP No such key or consumer group",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF Redis is configured to save RDB snapshots",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "NOPERM this user has no permissions to run the command",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "BUSY Redis is busy running a script.",
    "MASTERDOWN Link with MASTER is down",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "UNBLOCKED force unblock from blocking operation",
    "EXECABORT Transaction discarded because of previous errors.",
    "MOVED 3999 127.0.0.1:1",
    "NOREPLICAS Not enough good replicas to write.",
    "BUSYGROUP Consumer Group name already exists",
    "ERR something new",
];

/// Failures of a network.
pub(crate) const CUTS: [Fault; 5] = [
    Fault::Swallow,
    Fault::Half,
    Fault::Reset,
    Fault::HoleIn,
    Fault::HoleOut,
];

/// The cause for which the broker sends a command during the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// It is sent all the time.
    Load,
    /// Sent on new connections: those that are there are closed.
    Reconnect,
    /// Sent about entries that wait long.
    Backlog,
    /// Sent when the server has forgotten its scripts.
    Forgotten,
    /// Sent when a group is gone.
    Destroyed,
    /// Sent for a caller that asks for the state, or broadcasts.
    Asked,
}

const COMMANDS: [(&str, Cause); 22] = [
    ("*", Cause::Load),
    ("*", Cause::Reconnect),
    ("XREADGROUP", Cause::Load),
    ("XADD", Cause::Load),
    ("EVALSHA", Cause::Load),
    ("EVAL", Cause::Forgotten),
    ("SCRIPT", Cause::Reconnect),
    ("XAUTOCLAIM", Cause::Load),
    ("XPENDING", Cause::Load),
    ("XRANGE", Cause::Backlog),
    ("XINFO", Cause::Backlog),
    ("XGROUP", Cause::Destroyed),
    ("INFO", Cause::Reconnect),
    ("HELLO", Cause::Reconnect),
    ("SUBSCRIBE", Cause::Reconnect),
    ("PSUBSCRIBE", Cause::Reconnect),
    ("CLIENT", Cause::Reconnect),
    ("GET", Cause::Asked),
    ("XLEN", Cause::Asked),
    ("XREVRANGE", Cause::Asked),
    ("PING", Cause::Asked),
    ("PUBLISH", Cause::Asked),
];

/// Minimum duration of each fault, and the number of commands that it strikes if the broker retries
/// at once.
const FAULT: Duration = Duration::from_millis(100);
const STRIKES: u64 = 3;
/// The same where every command is struck: long enough to see a spin.
const LONG_FAULT: Duration = Duration::from_secs(1);
/// Commands per second that a world of two workers with four lanes each may send, its work and its
/// reconnects included.
const MOST_COMMANDS: f64 = 1600.0;
const MOST_CONNECTIONS: u64 = 70;
/// Each loop says that it fails, and says it once.
const MOST_WARNINGS: usize = 35;
/// Number of faults at once: each has a server, a proxy and two workers, which mostly wait.
const AT_ONCE: usize = 10;

#[test]
fn after_every_error_of_every_command_all_is_done_once() {
    run(ERRORS.into_iter().map(Fault::Answer).collect());
}

#[test]
fn after_every_cut_at_every_command_all_is_done_once() {
    run(CUTS.to_vec());
}

/// One world for each fault, one command after the other.
fn run(faults: Vec<Fault>) {
    let queue = std::sync::Mutex::new(faults);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(fault) = queue.lock().unwrap().pop() else {
                        return;
                    };
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    runtime.block_on(row(fault));
                }
            });
        }
    });
}

async fn row(fault: Fault) {
    let (warnings, _guard) = Warnings::catch();
    let mut world = World::new(2).await;
    world.commit().await;
    eventually("the first is done", async || world.all_done().await).await;
    for (command, cause) in COMMANDS {
        let cell = Cell {
            command,
            cause,
            fault,
        };
        cell.run(&mut world, &warnings).await;
        world.assert_once().await;
    }
    world.assert_lives(&format!("after {fault:?}")).await;
    world.stop().await;
}

/// One fault at one command.
#[derive(Debug)]
struct Cell {
    command: &'static str,
    cause: Cause,
    fault: Fault,
}

impl Cell {
    async fn run(&self, world: &mut World, warnings: &Warnings) {
        drop(warnings.take());
        let (commands, connections) = (world.proxy.commands(), world.proxy.accepted());
        let began = Instant::now();
        world.proxy.strike(self.command, self.fault);
        provoke(world, self.cause).await;
        self.bear(world).await;
        // Reconnects come in one burst: in less than a second they are no rate.
        let lasted = began.elapsed().as_secs_f64().max(1.0);
        let (struck, sent) = (world.proxy.struck(), world.proxy.commands() - commands);
        let made = world.proxy.accepted() - connections;
        if self.command == "*" {
            self.assert_seen(world).await;
        }
        world.proxy.heal();
        world.gate.send_replace(true);
        let healed = Instant::now();
        eventually(&format!("all is done after {self:?}"), async || {
            world.all_done().await
        })
        .await;
        let (said, rate) = (warnings.take(), sent as f64 / lasted);
        eprintln!(
            "{self:?}: {struck} struck in {lasted:.1} s; {rate:.0} commands/s, {made} connections, {} warnings, well after {:.1} s",
            said.len(),
            healed.elapsed().as_secs_f64()
        );
        assert!(struck > 0, "{self:?}: never met");
        assert!(
            rate < MOST_COMMANDS,
            "{self:?}: {rate} commands each second"
        );
        assert!(made < MOST_CONNECTIONS, "{self:?}: {made} connections");
        assert!(said.len() < MOST_WARNINGS, "{self:?}: {said:#?}");
        if (self.command, self.cause) == ("*", Cause::Load) {
            self.assert_said(&said);
        }
    }

    /// Work goes on while the fault lasts.
    async fn bear(&self, world: &mut World) {
        let began = Instant::now();
        let fault = if self.command == "*" {
            LONG_FAULT
        } else {
            FAULT
        };
        // A command without a reply is not sent again before its deadline, and some commands are
        // sent only once.
        let again = self.is_loud() && matches!(self.cause, Cause::Load | Cause::Backlog);
        let strikes = if again { STRIKES } else { 1 };
        let struck = |world: &World| world.proxy.struck() >= strikes;
        let patience = PATIENCE / 4;
        while began.elapsed() < fault || !struck(world) && began.elapsed() < patience {
            world.commit().await;
            if self.is_loud() {
                world.try_bus().await;
            }
            if self.cause == Cause::Forgotten {
                // New connections bring the scripts with them.
                world.redis(&["SCRIPT", "FLUSH"]).await;
            }
            if self.cause == Cause::Asked {
                let _ = world.broker.ping().await;
                let _ = world.broker.bus().broadcast(Made { n: 0 }).await;
            }
            world.broker.inspect().status().await.unwrap();
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    }

    /// Callers get the error that Redis does not work.
    async fn assert_seen(&self, world: &World) {
        let asked = world.broker.ping().await;
        assert!(
            asked.as_ref().is_err_and(termitary::Error::is_unavailable),
            "{self:?}: {asked:?}"
        );
    }

    /// The log has a line that something fails, with the error of Redis.
    fn assert_said(&self, said: &[String]) {
        let why = match self.fault {
            Fault::Answer(error) => error.split_once(' ').unwrap().1,
            _ => "",
        };
        assert!(
            said.iter().any(|line| line.contains(why)),
            "{self:?}: silent: {said:#?}"
        );
    }

    /// Returns whether a publisher gets the error at once, and need not wait for a deadline.
    fn is_loud(&self) -> bool {
        matches!(self.fault, Fault::Answer(_) | Fault::Half | Fault::Reset)
    }
}

async fn provoke(world: &mut World, cause: Cause) {
    match cause {
        Cause::Load | Cause::Forgotten | Cause::Asked => {}
        Cause::Reconnect => {
            for kind in ["normal", "pubsub"] {
                world.redis(&["CLIENT", "KILL", "TYPE", kind]).await;
            }
        }
        Cause::Destroyed => {
            let stream = "termitary:{plain.bridged}:events";
            world.redis(&["XGROUP", "DESTROY", stream, "bridged"]).await;
        }
        Cause::Backlog => {
            world.gate.send_replace(false);
            for _ in 0..8 {
                world.commit().await;
            }
        }
    }
}
