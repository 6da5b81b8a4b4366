//! One case: a process that is struck at a failpoint, one that continues, and the check of the
//! books.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{sleep, timeout};

use crate::stage::Stage;
use crate::{check, processes};

const SIGABRT: i32 = 6;
/// Duration of a suspension: less than others wait for a database lock that it may hold, more than
/// its leases last.
const SLEEP: Duration = Duration::from_secs(3);

/// The effect of a failpoint on the process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Death,
    /// As SIGSTOP and SIGCONT: it continues with its old beliefs.
    Sleep,
    /// The same, a little later if it held the database just then: nobody could take over its
    /// leases.
    #[cfg(feature = "planted-bugs")]
    SleepAlone,
}

pub(crate) struct Case {
    point: &'static str,
    nth: u32,
    mode: &'static str,
    fault: Fault,
    /// For every process of the case.
    env: Vec<(&'static str, &'static str)>,
}

impl Case {
    pub(crate) fn new(point: &'static str, mode: &'static str, fault: Fault) -> Self {
        Self {
            point,
            nth: 1,
            mode,
            fault,
            env: Vec::new(),
        }
    }

    /// It strikes when the place is reached this often.
    pub(crate) fn nth(mut self, nth: u32) -> Self {
        self.nth = nth;
        self
    }

    #[cfg(feature = "planted-bugs")]
    pub(crate) fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.env.push((name, value));
        self
    }

    /// Strikes, continues, checks; returns the errors.
    pub(crate) async fn play(self) -> Vec<String> {
        let stage = Stage::set(self.mode).await;
        match self.fault {
            Fault::Death => self.die(&stage).await,
            _ => self.sleep(&stage).await,
        }
    }

    fn first(&self, stage: &Stage, act: &str) -> Life {
        let failpoint = format!("{}:{}={act}", self.point, self.nth);
        let mut env = self.env.clone();
        env.push(("TERMITARY_FAILPOINT", &failpoint));
        start(stage, 1, &env)
    }

    async fn die(&self, stage: &Stage) -> Vec<String> {
        let died = self.first(stage, "abort").end().await;
        // Not every place is reached twice.
        if died.signal() != Some(SIGABRT) && !(self.nth > 1 && died.success()) {
            return vec![format!("never died there: {died}, {}", stage.tail(1))];
        }
        let went_on = start(stage, 2, &self.env).end().await;
        wrong(stage, &[(2, went_on)]).await
    }

    async fn sleep(&self, stage: &Stage) -> Vec<String> {
        let mut first = self.first(stage, "stop");
        if !first.falls_asleep().await {
            let ended = first.end().await;
            if self.nth > 1 && ended.success() {
                return Vec::new();
            }
            return vec![format!("never slept there: {ended}, {}", stage.tail(1))];
        }
        #[cfg(feature = "planted-bugs")]
        if self.fault == Fault::SleepAlone {
            first.lets_go_of(stage).await;
        }
        let mut second = start(stage, 2, &self.env);
        let _ = timeout(SLEEP, second.child.wait()).await;
        first.wake().await;
        let ended = (first.end().await, second.end().await);
        wrong(stage, &[(1, ended.0), (2, ended.1)]).await
    }
}

async fn wrong(stage: &Stage, lives: &[(u32, ExitStatus)]) -> Vec<String> {
    for (life, ended) in lives {
        if !ended.success() {
            return vec![format!("did not go on: {ended}, {}", stage.tail(*life))];
        }
    }
    check::books(stage).await
}

/// A process that plays the script.
pub(crate) struct Life {
    child: Child,
    /// Waiting for a child closes its standard input, where it has that.
    _parent: Option<ChildStdin>,
}

/// Starts a process of its own; it ends with us, at the latest.
pub(crate) fn start(stage: &Stage, life: u32, env: &[(&str, &str)]) -> Life {
    let log = std::fs::File::create(stage.log(life)).unwrap();
    let mut command = processes::role("a_process");
    command.envs(stage.place(life).env());
    command.envs(env.iter().copied());
    command.stdout(Stdio::from(log.try_clone().unwrap()));
    command.stderr(Stdio::from(log));
    let mut child = Command::from(command).kill_on_drop(true).spawn().unwrap();
    Life {
        _parent: child.stdin.take(),
        child,
    }
}

impl Life {
    pub(crate) async fn end(&mut self) -> ExitStatus {
        timeout(processes::PATIENCE, self.child.wait())
            .await
            .unwrap()
            .unwrap()
    }

    /// `false`: it ended instead.
    async fn falls_asleep(&mut self) -> bool {
        let patience = Instant::now() + processes::PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id().unwrap()));
            // After the name, which stands in brackets.
            if stat.is_ok_and(|stat| stat.rsplit(')').next().unwrap().starts_with(" T")) {
                return true;
            }
            assert!(Instant::now() < patience, "it neither sleeps nor ends");
            sleep(Duration::from_millis(10)).await;
        }
        false
    }

    async fn wake(&self) {
        self.signal("kill -CONT $0").await;
    }

    /// Wakes it for a moment, until it sleeps without the database.
    #[cfg(feature = "planted-bugs")]
    async fn lets_go_of(&mut self, stage: &Stage) {
        while stage.is_held().await {
            self.signal("kill -CONT $0; kill -STOP $0").await;
            assert!(self.falls_asleep().await);
        }
    }

    async fn signal(&self, kill: &str) {
        let pid = self.child.id().unwrap().to_string();
        let mut sh = Command::new("sh");
        sh.args(["-c", kill, &pid]);
        assert!(sh.status().await.unwrap().success());
    }
}
