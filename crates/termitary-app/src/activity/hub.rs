//! One reader of the feed for all live streams of the process.
//!
//! A broadcast only wakes the reader: it reads new entries from the feed once, in order,
//! and hands them to the streams that may see them. So a lost broadcast costs a few
//! seconds but no entry, and a stream is woken only for its own entries.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use uuid::Uuid;

use super::frames;
use super::reader::Reader;
use super::store::Recorded;
use crate::accounts::Caller;
use crate::app::App;

/// The entries that wait for one stream; beyond them it reads the feed itself.
const QUEUED: usize = 64;

/// A handle; cheap to clone.
#[derive(Clone)]
pub(super) struct Hub(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// The last entry that was handed out; `None` while no task reads.
    position: watch::Sender<Option<i64>>,
    /// Notified when the last stream ends.
    left: Notify,
}

#[derive(Default)]
struct State {
    /// True while a task reads the feed; it ends with the last stream.
    reading: bool,
    next: u64,
    subscribers: HashMap<u64, Entry>,
    by_user: HashMap<Uuid, HashSet<u64>>,
    admins: HashSet<u64>,
}

/// The hub's side of a stream.
struct Entry {
    caller: Caller,
    shared: Arc<Shared>,
    items: mpsc::Sender<Arc<Item>>,
}

struct Shared {
    admin: AtomicBool,
    /// True if an entry did not fit into the queue: the stream then reads the feed.
    behind: AtomicBool,
}

/// A new entry.
pub(super) struct Item {
    pub(super) seq: i64,
    /// The frame to send.
    pub(super) frame: Bytes,
}

/// The stream's side of its entry in the hub.
pub(super) struct Subscriber {
    hub: Hub,
    id: u64,
    user: Uuid,
    shared: Arc<Shared>,
    items: mpsc::Receiver<Arc<Item>>,
}

impl Hub {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            position: watch::Sender::new(None),
            left: Notify::new(),
        }))
    }

    /// Subscribes `caller`; returns the last entry from before the subscription too.
    pub(super) async fn join(&self, app: &App, caller: Caller) -> (Subscriber, i64) {
        let (subscriber, is_first) = self.subscribe(caller);
        if is_first {
            tokio::spawn(Reader::of(self.clone()).run(app.clone()));
        }
        let mut known = self.0.position.subscribe();
        // The sender lives as long as the hub.
        let position = match known.wait_for(Option::is_some).await {
            Ok(position) => position.unwrap_or_default(),
            Err(_) => 0,
        };
        (subscriber, position)
    }

    fn subscribe(&self, caller: Caller) -> (Subscriber, bool) {
        let (sender, items) = mpsc::channel(QUEUED);
        let shared = Arc::new(Shared {
            admin: AtomicBool::new(caller.is_admin()),
            behind: AtomicBool::new(false),
        });
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.insert(
            id,
            Entry {
                caller,
                shared: Arc::clone(&shared),
                items: sender,
            },
        );
        let is_first = !std::mem::replace(&mut state.reading, true);
        drop(state);
        let subscriber = Subscriber {
            hub: self.clone(),
            id,
            user: caller.user,
            shared,
            items,
        };
        (subscriber, is_first)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last entry that was handed out; `None` before the first read.
    pub(super) fn position(&self) -> Option<i64> {
        *self.0.position.borrow()
    }

    /// Starts after the entry `newest`.
    pub(super) fn begin(&self, newest: i64) {
        self.0.position.send_replace(Some(newest));
    }

    /// Resolves when the last stream has ended.
    pub(super) async fn left(&self) {
        self.0.left.notified().await;
    }

    /// Returns true if no stream is left: the reading task must end then.
    pub(super) fn stop_if_idle(&self) -> bool {
        let mut state = self.lock();
        let empty = state.subscribers.is_empty();
        if empty {
            state.reading = false;
            self.0.position.send_replace(None);
        }
        empty
    }

    /// Ends every stream, since no task reads the feed any more.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        *state = State {
            next: state.next,
            ..State::default()
        };
        self.0.position.send_replace(None);
    }

    /// Hands each new entry to the streams that may see it.
    pub(super) fn hand_out(&self, entries: &[Recorded]) {
        let state = self.lock();
        for entry in entries {
            let ids = state.viewers_of(&entry.viewers);
            if ids.is_empty() {
                continue;
            }
            let Some(frame) = frames::entry(&entry.row) else {
                continue;
            };
            let item = Arc::new(Item {
                seq: entry.row.seq,
                frame,
            });
            for seat in ids.iter().filter_map(|id| state.subscribers.get(id)) {
                seat.offer(&item);
            }
        }
        // Under the lock, so that a new subscriber receives everything after it.
        if let Some(last) = entries.last() {
            self.0.position.send_replace(Some(last.row.seq));
        }
    }

    /// Ends the streams whose sessions have ended, and updates who is an admin.
    pub(super) async fn check(&self, app: &App) {
        let sessions: HashSet<Uuid> = {
            let state = self.lock();
            state
                .subscribers
                .values()
                .map(|seat| seat.caller.session)
                .collect()
        };
        let asked: Vec<Uuid> = sessions.iter().copied().collect();
        // If the database is unreachable, the next check decides.
        let Ok(live) = app.sessions().of_ids(&asked).await else {
            return;
        };
        let live: HashMap<Uuid, Caller> = live.into_iter().map(|c| (c.session, c)).collect();
        let mut state = self.lock();
        let known: Vec<(u64, Uuid)> = state
            .subscribers
            .iter()
            .map(|(id, seat)| (*id, seat.caller.session))
            .filter(|(_, session)| sessions.contains(session))
            .collect();
        for (id, session) in known {
            match live.get(&session) {
                Some(caller) => state.set_admin(id, caller.is_admin()),
                None => state.remove(id),
            }
        }
    }
}

impl State {
    fn insert(&mut self, id: u64, entry: Entry) {
        self.by_user
            .entry(entry.caller.user)
            .or_default()
            .insert(id);
        if entry.caller.is_admin() {
            self.admins.insert(id);
        }
        self.subscribers.insert(id, entry);
    }

    fn remove(&mut self, id: u64) {
        let Some(entry) = self.subscribers.remove(&id) else {
            return;
        };
        self.admins.remove(&id);
        if let Some(ids) = self.by_user.get_mut(&entry.caller.user) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_user.remove(&entry.caller.user);
            }
        }
    }

    fn set_admin(&mut self, id: u64, admin: bool) {
        let Some(seat) = self.subscribers.get(&id) else {
            return;
        };
        seat.shared.admin.store(admin, Ordering::Relaxed);
        if admin {
            self.admins.insert(id);
        } else {
            self.admins.remove(&id);
        }
    }

    fn viewers_of(&self, viewers: &[Uuid]) -> HashSet<u64> {
        let of_viewers = viewers.iter().filter_map(|user| self.by_user.get(user));
        self.admins
            .iter()
            .chain(of_viewers.flatten())
            .copied()
            .collect()
    }
}

impl Entry {
    fn offer(&self, item: &Arc<Item>) {
        if !self.shared.behind.load(Ordering::Acquire)
            && self.items.try_send(Arc::clone(item)).is_err()
        {
            self.shared.behind.store(true, Ordering::Release);
        }
    }
}

impl Subscriber {
    /// The next entry; `None` when the session has ended.
    pub(super) async fn next(&mut self) -> Option<Arc<Item>> {
        self.items.recv().await
    }

    /// Returns true if an entry was not handed over. The queue is emptied, since the feed
    /// has its entries, and handing over starts again.
    pub(super) fn fell_behind(&mut self) -> bool {
        if !self.shared.behind.swap(false, Ordering::AcqRel) {
            return false;
        }
        while self.items.try_recv().is_ok() {}
        true
    }

    /// The user whose entries the stream gets; `None` for an admin, who sees all.
    pub(super) fn viewer(&self) -> Option<Uuid> {
        (!self.shared.admin.load(Ordering::Relaxed)).then_some(self.user)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        state.remove(self.id);
        if state.subscribers.is_empty() {
            self.hub.0.left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use jiff::Timestamp;

    use super::super::store::{self, Row};
    use super::*;
    use crate::accounts::Role;

    fn caller(user: Uuid, role: Role) -> Caller {
        Caller {
            user,
            role,
            session: Uuid::from_u128(user.as_u128() + 1),
        }
    }

    fn entry(seq: i64, viewers: &[Uuid]) -> Recorded {
        Recorded {
            viewers: viewers.to_vec(),
            row: Row {
                seq,
                entry: Some(store::Entry {
                    id: Uuid::from_u128(7),
                    event: "todos.created".to_owned(),
                    subject: "1".to_owned(),
                    actor: None,
                    at: Timestamp::UNIX_EPOCH,
                    title: None,
                    changes: None,
                }),
            },
        }
    }

    fn heard(seat: &mut Subscriber) -> Vec<i64> {
        std::iter::from_fn(|| seat.items.try_recv().ok())
            .map(|item| item.seq)
            .collect()
    }

    #[test]
    fn an_entry_is_made_ready_once_and_wakes_only_the_streams_that_may_see_it() {
        let (ada, bob, root) = (
            Uuid::from_u128(10),
            Uuid::from_u128(20),
            Uuid::from_u128(30),
        );
        let hub = Hub::new();
        let seats = [
            (ada, Role::User),
            (ada, Role::User),
            (bob, Role::User),
            (root, Role::Admin),
        ];
        let mut seats = seats.map(|(user, role)| hub.subscribe(caller(user, role)).0);
        hub.hand_out(&[entry(1, &[ada])]);
        let first = seats[0].items.try_recv().unwrap();
        let second = seats[1].items.try_recv().unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(heard(&mut seats[2]), Vec::<i64>::new());
        assert_eq!(heard(&mut seats[3]), [1]);
        assert_eq!(*hub.0.position.borrow(), Some(1));
    }

    #[test]
    fn who_is_no_admin_any_more_sees_no_more_than_others() {
        let hub = Hub::new();
        let (mut root, _) = hub.subscribe(caller(Uuid::from_u128(30), Role::Admin));
        hub.lock().set_admin(root.id, false);
        hub.hand_out(&[entry(1, &[])]);
        assert_eq!(heard(&mut root), Vec::<i64>::new());
        assert_eq!(root.viewer(), Some(root.user));
    }

    #[test]
    fn a_stream_that_does_not_keep_up_is_told_so_and_holds_no_more_than_its_share() {
        let ada = Uuid::from_u128(10);
        let hub = Hub::new();
        let (mut seat, _) = hub.subscribe(caller(ada, Role::User));
        let many: Vec<_> = (1..=1_000).map(|seq| entry(seq, &[ada])).collect();
        hub.hand_out(&many);
        assert_eq!(seat.items.len(), QUEUED);
        assert!(seat.fell_behind());
        assert!(!seat.fell_behind());
        hub.hand_out(&[entry(1_001, &[ada])]);
        assert_eq!(heard(&mut seat), [1_001]);
    }

    #[test]
    fn nothing_is_left_of_streams_that_ended() {
        let hub = Hub::new();
        let (seat, _) = hub.subscribe(caller(Uuid::from_u128(10), Role::Admin));
        drop(seat);
        let state = hub.lock();
        assert!(
            state.subscribers.is_empty() && state.by_user.is_empty() && state.admins.is_empty()
        );
    }
}
