//! The task that reads the feed for the [`Hub`].

use std::time::Duration;

use termitary::Event;
use termitary::broadcast::Message;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::events::ActivityRecorded;
use super::hub::Hub;
use super::store;
use crate::app::App;

/// The feed is read at this interval even without a broadcast.
const POLL: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);
/// The next look at entries that the reader must not pass yet: a transaction that took a
/// smaller number still runs.
const SOON: Duration = Duration::from_millis(20);
/// The entries of one read.
const PAGE: u32 = 500;

/// The task that reads the feed.
pub(super) struct Reader {
    hub: Hub,
    finished: bool,
}

impl Reader {
    pub(super) fn of(hub: Hub) -> Self {
        Self {
            hub,
            finished: false,
        }
    }

    /// Reads until the last stream ends.
    pub(super) async fn run(mut self, app: App) {
        // Subscribed before the first read, so that no later entry is missed.
        let mut broadcasts = app.broker().broadcasts().subscribe();
        let mut poll = ticking(POLL);
        let mut check = ticking(app.settings().stream_check);
        let mut ended = app.session_changes();
        let (mut warned, mut soon) = (false, false);
        loop {
            let checks = tokio::select! {
                () = tokio::time::sleep(SOON), if soon => false,
                () = new_entries(&mut broadcasts) => false,
                _ = poll.tick() => false,
                _ = check.tick() => true,
                // The sender lives as long as the application.
                Ok(()) = ended.changed() => true,
                () = self.hub.left() => false,
            };
            if self.hub.stop_if_idle() {
                self.finished = true;
                return;
            }
            if checks {
                self.hub.check(&app).await;
                continue;
            }
            match self.read_on(&app).await {
                Ok(more) => (warned, soon) = (false, more),
                Err(error) => {
                    if !std::mem::replace(&mut warned, true) {
                        tracing::warn!(error = %error, "live streams wait, since the feed cannot be read");
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Returns true if there are entries that cannot be read in order yet.
    async fn read_on(&self, app: &App) -> Result<bool, termitary::Error> {
        let complete = app.feed().complete().await?;
        let mut reader = app.db().read().await?;
        let newest = store::newest(&mut reader).await?;
        let Some(mut position) = self.hub.position() else {
            self.hub.begin(newest.min(complete));
            return Ok(newest > complete);
        };
        loop {
            let entries = store::after(&mut reader, position, complete, PAGE).await?;
            self.hub.hand_out(&entries);
            match entries.last() {
                Some(last) if entries.len() == PAGE as usize => position = last.row.seq,
                _ => return Ok(newest > complete),
            }
        }
    }
}

/// If the task ends early, the streams end too, and their clients reconnect.
impl Drop for Reader {
    fn drop(&mut self) {
        if !self.finished {
            self.hub.end();
        }
    }
}

fn ticking(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Resolves when the feed may have new entries. Several broadcasts count as one.
async fn new_entries(broadcasts: &mut Receiver<Message>) {
    loop {
        match broadcasts.recv().await {
            Ok(message) if message.name != ActivityRecorded::NAME => {}
            Err(RecvError::Closed) => std::future::pending().await,
            Ok(_) | Err(RecvError::Lagged(_)) => break,
        }
    }
    while matches!(broadcasts.try_recv(), Ok(_) | Err(TryRecvError::Lagged(_))) {}
}
