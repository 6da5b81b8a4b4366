//! One look at the feed for all live streams of the process.
//!
//! A broadcast is only a bell: what is new is read from the feed once, in its
//! order, and handed to the streams that may see it. So a lost broadcast costs a
//! few seconds and no entry, and a stream that nothing concerns is not woken.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use uuid::Uuid;

use super::frames;
use super::reader::Reader;
use super::store::Recorded;
use crate::app::App;
use crate::auth;
use crate::http::Caller;

/// Entries that wait for one stream before it has to read the feed itself.
const AHEAD: usize = 64;

/// A handle; cheap to clone.
#[derive(Clone)]
pub(super) struct Hub(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// The entry up to which all was handed out; none while nobody reads.
    position: watch::Sender<Option<i64>>,
    /// Rung when the last stream ends.
    left: Notify,
}

#[derive(Default)]
struct State {
    /// A task reads the feed; it ends with the last stream.
    reading: bool,
    next: u64,
    seats: HashMap<u64, Taken>,
    by_user: HashMap<Uuid, HashSet<u64>>,
    admins: HashSet<u64>,
}

/// What the hub holds of a stream.
struct Taken {
    caller: Caller,
    shared: Arc<Shared>,
    items: mpsc::Sender<Arc<Item>>,
}

struct Shared {
    admin: AtomicBool,
    /// Something could not be handed over: the stream is to read the feed.
    behind: AtomicBool,
}

/// One new entry.
pub(super) struct Item {
    pub(super) seq: i64,
    /// As it is sent.
    pub(super) frame: Bytes,
}

/// What a stream holds of the hub.
pub(super) struct Seat {
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

    /// Hears for `caller` from now on; and the entry up to which all was there
    /// before.
    pub(super) async fn join(&self, app: &App, caller: Caller) -> (Seat, i64) {
        let (seat, begins) = self.sit(caller);
        if begins {
            tokio::spawn(Reader::of(self.clone()).run(app.clone()));
        }
        let mut known = self.0.position.subscribe();
        // The sender lives as long as the hub.
        let position = match known.wait_for(Option::is_some).await {
            Ok(position) => position.unwrap_or_default(),
            Err(_) => 0,
        };
        (seat, position)
    }

    fn sit(&self, caller: Caller) -> (Seat, bool) {
        let (sender, items) = mpsc::channel(AHEAD);
        let shared = Arc::new(Shared {
            admin: AtomicBool::new(caller.is_admin()),
            behind: AtomicBool::new(false),
        });
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.insert(
            id,
            Taken {
                caller,
                shared: Arc::clone(&shared),
                items: sender,
            },
        );
        let begins = !std::mem::replace(&mut state.reading, true);
        drop(state);
        let seat = Seat {
            hub: self.clone(),
            id,
            user: caller.user,
            shared,
            items,
        };
        (seat, begins)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry up to which all was handed out; none before the first look.
    pub(super) fn position(&self) -> Option<i64> {
        *self.0.position.borrow()
    }

    /// Begins after the entry `newest`.
    pub(super) fn begin(&self, newest: i64) {
        self.0.position.send_replace(Some(newest));
    }

    /// Resolves when the last stream has ended.
    pub(super) async fn left(&self) {
        self.0.left.notified().await;
    }

    /// Whether no stream is left: whoever reads the feed has to end then.
    pub(super) fn rests(&self) -> bool {
        let mut state = self.lock();
        let empty = state.seats.is_empty();
        if empty {
            state.reading = false;
            self.0.position.send_replace(None);
        }
        empty
    }

    /// Ends every stream: nobody reads the feed any more.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        *state = State {
            next: state.next,
            ..State::default()
        };
        self.0.position.send_replace(None);
    }

    /// Gives each new entry to the streams that may see it.
    pub(super) fn hand_out(&self, entries: &[Recorded]) {
        let state = self.lock();
        for entry in entries {
            let ids = state.who_sees(&entry.viewers);
            if ids.is_empty() {
                continue;
            }
            let item = Arc::new(Item {
                seq: entry.row.seq,
                frame: frames::entry(&entry.row),
            });
            for seat in ids.iter().filter_map(|id| state.seats.get(id)) {
                seat.offer(&item);
            }
        }
        // Under the lock: who joins now hears everything after it.
        if let Some(last) = entries.last() {
            self.0.position.send_replace(Some(last.row.seq));
        }
    }

    /// Ends the streams whose sessions are over, and notes who is an admin now.
    pub(super) async fn check(&self, app: &App) {
        let sessions: HashSet<Uuid> = {
            let state = self.lock();
            state
                .seats
                .values()
                .map(|seat| seat.caller.session)
                .collect()
        };
        let asked: Vec<Uuid> = sessions.iter().copied().collect();
        // The database is away for a moment: at the next time then.
        let Ok(live) = auth::sessions(app, &asked).await else {
            return;
        };
        let live: HashMap<Uuid, Caller> = live.into_iter().map(|c| (c.session, c)).collect();
        let mut state = self.lock();
        let known: Vec<(u64, Uuid)> = state
            .seats
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
    fn insert(&mut self, id: u64, seat: Taken) {
        self.by_user.entry(seat.caller.user).or_default().insert(id);
        if seat.caller.is_admin() {
            self.admins.insert(id);
        }
        self.seats.insert(id, seat);
    }

    fn remove(&mut self, id: u64) {
        let Some(seat) = self.seats.remove(&id) else {
            return;
        };
        self.admins.remove(&id);
        if let Some(ids) = self.by_user.get_mut(&seat.caller.user) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_user.remove(&seat.caller.user);
            }
        }
    }

    fn set_admin(&mut self, id: u64, admin: bool) {
        let Some(seat) = self.seats.get(&id) else {
            return;
        };
        seat.shared.admin.store(admin, Ordering::Relaxed);
        if admin {
            self.admins.insert(id);
        } else {
            self.admins.remove(&id);
        }
    }

    fn who_sees(&self, viewers: &[Uuid]) -> HashSet<u64> {
        let of_viewers = viewers.iter().filter_map(|user| self.by_user.get(user));
        self.admins
            .iter()
            .chain(of_viewers.flatten())
            .copied()
            .collect()
    }
}

impl Taken {
    fn offer(&self, item: &Arc<Item>) {
        if !self.shared.behind.load(Ordering::Acquire)
            && self.items.try_send(Arc::clone(item)).is_err()
        {
            self.shared.behind.store(true, Ordering::Release);
        }
    }
}

impl Seat {
    /// The next entry; none where the session is over.
    pub(super) async fn next(&mut self) -> Option<Arc<Item>> {
        self.items.recv().await
    }

    /// Whether something was not handed over. From then on everything is again,
    /// and what waited is in the feed.
    pub(super) fn fell_behind(&mut self) -> bool {
        if !self.shared.behind.swap(false, Ordering::AcqRel) {
            return false;
        }
        while self.items.try_recv().is_ok() {}
        true
    }

    /// Whose entries these are; none for an admin, who sees all.
    pub(super) fn viewer(&self) -> Option<Uuid> {
        (!self.shared.admin.load(Ordering::Relaxed)).then_some(self.user)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        state.remove(self.id);
        if state.seats.is_empty() {
            self.hub.0.left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use jiff::Timestamp;

    use super::super::store::{Entry, Row};
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
                entry: Entry {
                    id: Uuid::from_u128(7),
                    event: "todos.created".to_owned(),
                    subject: "1".to_owned(),
                    actor: None,
                    at: Timestamp::UNIX_EPOCH,
                    title: None,
                    changes: None,
                },
            },
        }
    }

    fn heard(seat: &mut Seat) -> Vec<i64> {
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
        let mut seats = seats.map(|(user, role)| hub.sit(caller(user, role)).0);
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
        let (mut root, _) = hub.sit(caller(Uuid::from_u128(30), Role::Admin));
        hub.lock().set_admin(root.id, false);
        hub.hand_out(&[entry(1, &[])]);
        assert_eq!(heard(&mut root), Vec::<i64>::new());
        assert_eq!(root.viewer(), Some(root.user));
    }

    #[test]
    fn a_stream_that_does_not_keep_up_is_told_so_and_holds_no_more_than_its_share() {
        let ada = Uuid::from_u128(10);
        let hub = Hub::new();
        let (mut seat, _) = hub.sit(caller(ada, Role::User));
        let many: Vec<_> = (1..=1_000).map(|seq| entry(seq, &[ada])).collect();
        hub.hand_out(&many);
        assert_eq!(seat.items.len(), AHEAD);
        assert!(seat.fell_behind());
        assert!(!seat.fell_behind());
        hub.hand_out(&[entry(1_001, &[ada])]);
        assert_eq!(heard(&mut seat), [1_001]);
    }

    #[test]
    fn nothing_is_left_of_streams_that_ended() {
        let hub = Hub::new();
        let (seat, _) = hub.sit(caller(Uuid::from_u128(10), Role::Admin));
        drop(seat);
        let state = hub.lock();
        assert!(state.seats.is_empty() && state.by_user.is_empty() && state.admins.is_empty());
    }
}
