//! Single publishes that are asked at the same time share a pipeline: one send,
//! one deadline and one wake-up for many, instead of one of each for everyone.
//! Whoever is alone sends at once, by itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::Cmd;
use tokio::sync::oneshot;

use super::link::Link;
use crate::error::Error;

/// The most commands of one pipeline. Few, so that several are under way: the
/// server works at one while the callers of another prepare what comes next.
const SHARE: usize = 32;
/// The most pipelines under way; what is asked meanwhile waits.
const FLYING: usize = 4;

/// Where publishes meet.
pub(crate) struct Sharing(Arc<Inner>);

struct Inner {
    link: Link,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Somebody sends without a queue.
    alone: bool,
    /// Tasks that send what waits, one pipeline at a time. Never none while
    /// something waits.
    turns: usize,
    waiting: Vec<Waiting>,
}

struct Waiting {
    cmd: Cmd,
    reply: oneshot::Sender<Result<(), Error>>,
}

impl Sharing {
    pub(crate) fn new(link: Link) -> Self {
        Self(Arc::new(Inner {
            link,
            state: Mutex::default(),
        }))
    }

    /// Sends one command, together with whatever else is asked now. An error
    /// means that its outcome is unknown. What waits is sent even if its caller
    /// goes away.
    pub(crate) async fn send(&self, cmd: Cmd) -> Result<(), Error> {
        if let Some(_alone) = self.0.alone() {
            return self.0.link.shared().one(&cmd).await.map(drop);
        }
        let answer = self.queue(cmd).await;
        answer.map_err(|_| Error::unavailable("the runtime stopped before Redis answered"))?
    }

    fn queue(&self, cmd: Cmd) -> oneshot::Receiver<Result<(), Error>> {
        let (reply, answer) = oneshot::channel();
        let mut state = self.0.lock();
        state.waiting.push(Waiting { cmd, reply });
        if state.turns < FLYING {
            state.turns += 1;
            let serving = Serving {
                inner: Arc::clone(&self.0),
                over: false,
            };
            drop(state);
            tokio::spawn(serving.run());
        }
        answer
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody else sends now.
    fn alone(&self) -> Option<Alone<'_>> {
        let mut state = self.lock();
        if state.alone || state.turns > 0 {
            return None;
        }
        state.alone = true;
        Some(Alone(self))
    }

    /// What comes next; with nothing left, one turn less.
    fn take(&self) -> Vec<Waiting> {
        let mut state = self.lock();
        if state.waiting.is_empty() {
            state.turns -= 1;
        }
        let share = state.waiting.len().min(SHARE);
        state.waiting.drain(..share).collect()
    }

    async fn carry_out(&self, waiting: Vec<Waiting>) {
        let mut pipe = redis::Pipeline::with_capacity(waiting.len());
        let mut replies = Vec::with_capacity(waiting.len());
        for Waiting { cmd, reply } in waiting {
            pipe.add_command(cmd);
            replies.push(reply);
        }
        // Whoever does not wait any more needs no answer.
        match self.link.shared().many(&mut pipe).await {
            Ok(answers) => {
                for (reply, answer) in replies.into_iter().zip(answers) {
                    let _ = reply.send(answer.map(drop).map_err(Error::from));
                }
            }
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(error.repeat()));
                }
            }
        }
    }
}

/// While this lives, others queue.
struct Alone<'a>(&'a Inner);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.lock().alone = false;
    }
}

/// The turn to send what waits, until nothing does.
struct Serving {
    inner: Arc<Inner>,
    over: bool,
}

impl Serving {
    async fn run(mut self) {
        loop {
            // Whoever was just answered publishes again at once: let them, so
            // that they share this pipeline.
            tokio::task::yield_now().await;
            let next = self.inner.take();
            if next.is_empty() {
                break;
            }
            self.inner.carry_out(next).await;
        }
        self.over = true;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.over {
            return; // counted already
        }
        // Dropped half-way, with the runtime. Nobody else may be left to send
        // what waits: whoever waits is told.
        let mut state = self.inner.lock();
        state.turns -= 1;
        if state.turns == 0 {
            state.waiting.clear();
        }
    }
}
