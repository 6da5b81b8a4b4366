//! Single publishes of one moment share a pipeline: one send, one deadline and one
//! wake-up for all of them. A publish that is alone is sent at once, by itself.

use std::sync::Arc;

use redis::Cmd;

use super::link::Link;
use super::pipeline::Pipeline;
use crate::error::Error;
use crate::together::{Batch, Together, Turn};

/// The most commands of one pipeline. Few, so that several are under way: the server
/// works at one while the callers of another prepare their next publish.
const SHARE: usize = 32;
/// The most pipelines under way; later commands wait.
const IN_FLIGHT: usize = 4;

pub(crate) struct Sharing {
    link: Link,
    waiting: Arc<Together<Cmd, ()>>,
}

impl Sharing {
    pub(crate) fn new(link: Link) -> Self {
        Self {
            link,
            waiting: Together::new(IN_FLIGHT),
        }
    }

    /// Sends one command, together with others of this moment. It is sent even if its
    /// caller stops waiting.
    ///
    /// # Errors
    /// Any error means that the outcome of the command is unknown.
    pub(crate) async fn send(&self, cmd: Cmd) -> Result<(), Error> {
        if let Some(_alone) = self.waiting.alone() {
            return self.link.shared().one(&cmd).await.map(drop);
        }
        let (reply, turn) = self.waiting.ask(cmd);
        if let Some(turn) = turn {
            tokio::spawn(take_turn(self.link.clone(), turn));
        }
        let reply = reply.await;
        reply.map_err(|_| Error::unavailable("the runtime stopped before Redis answered"))?
    }
}

async fn take_turn(link: Link, mut turn: Turn<Cmd, ()>) {
    loop {
        // Callers that just received their reply publish again at once: their commands join
        // this pipeline.
        tokio::task::yield_now().await;
        let Some(batch) = turn.next(SHARE) else {
            return;
        };
        send_batch(&link, batch).await;
    }
}

async fn send_batch(link: &Link, mut batch: Batch<Cmd, ()>) {
    let mut pipe: Pipeline = batch.requests.drain(..).collect();
    match link.shared().many(&mut pipe).await {
        Ok(replies) => {
            let replies = replies.into_iter();
            batch.answer(replies.map(|reply| reply.map(drop).map_err(Error::from)));
        }
        Err(error) => batch.fail(&error),
    }
}
