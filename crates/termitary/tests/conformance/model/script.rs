//! The steps of random histories.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// The end of one run of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Act {
    Done,
    Fail,
    GiveUp,
    Snooze,
    RetryAfter,
    Panic,
    /// Longer than the timeout.
    Stall,
    /// Effects and an echo through `Ledger`, committed.
    Commit,
    /// The same, and then an error.
    CommitThenFail,
    /// The same, rolled back, and then an error.
    RollBackThenFail,
    /// Ok with the transaction neither committed nor rolled back.
    LeaveOpen,
}

/// The subscriptions under test, by number. The second has a short timeout,
/// and nothing in it waits but a stall.
pub(crate) const SUBSCRIPTIONS: [&str; 2] = ["steady", "hasty"];

/// The actions of each subscription's handler in its first runs; later runs succeed.
pub(crate) type Plans = [Vec<Act>; 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    Bus,
    Commit,
    RollBack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    V1,
    /// Of a version that the first code does not know.
    V2,
    /// Not decodable by any code.
    Garbled,
    /// Under a name that nobody subscribes to.
    Unknown,
}

#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) via: Via,
    pub(crate) kind: Kind,
    pub(crate) delayed: bool,
    pub(crate) id: Option<u8>,
    pub(crate) plans: Plans,
}

/// One step of a history.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Publish(Wanted),
    PublishAll(Vec<Plans>),
    /// So many seconds pass.
    Advance(i64),
    /// So many workers start.
    Start(usize),
    /// All of them stop.
    Stop,
    /// A process begins everything that is due, and vanishes.
    Crash,
    /// The same, but it is asked to stop, and releases its deliveries.
    Interrupt,
    /// The same, but before it ends all of it, somebody else has leased it.
    Usurp,
    /// From now on, code that knows version 2.
    Upgrade,
    Replay,
    Drop,
    /// Redis loses everything.
    Flush,
}

impl Wanted {
    /// Returns whether it may be on a stream only, if the broker has streams.
    pub(crate) fn streams(&self) -> bool {
        self.via == Via::Bus && !self.delayed && self.id.is_none()
    }
}

fn steady() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => Just(Act::Done),
        3 => Just(Act::Fail),
        1 => Just(Act::GiveUp),
        2 => Just(Act::Snooze),
        1 => Just(Act::RetryAfter),
        1 => Just(Act::Panic),
        3 => Just(Act::Commit),
        1 => Just(Act::CommitThenFail),
        2 => Just(Act::RollBackThenFail),
        1 => Just(Act::LeaveOpen),
    ]
}

fn hasty() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => Just(Act::Done),
        2 => Just(Act::Fail),
        1 => Just(Act::GiveUp),
        1 => Just(Act::Snooze),
        1 => Just(Act::RetryAfter),
        1 => Just(Act::Panic),
        1 => Just(Act::Stall),
    ]
}

fn plans() -> impl Strategy<Value = Plans> {
    (vec(steady(), 0..4), vec(hasty(), 0..3)).prop_map(|(steady, hasty)| [steady, hasty])
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let via = prop_oneof![3 => Just(Via::Bus), 3 => Just(Via::Commit), 1 => Just(Via::RollBack)];
    let typed = prop_oneof![5 => Just(Kind::V1), 1 => Just(Kind::V2)];
    let id = option::weighted(0.2, 0..3_u8);
    let typed = (via, typed, prop::bool::weighted(0.15), id, plans()).prop_map(
        |(via, kind, delayed, id, plans)| Wanted {
            via,
            kind,
            delayed,
            id,
            plans,
        },
    );
    let raw =
        prop_oneof![3 => Just(Kind::Garbled), 1 => Just(Kind::Unknown)].prop_map(|kind| Wanted {
            via: Via::Bus,
            kind,
            delayed: false,
            id: None,
            plans: Plans::default(),
        });
    prop_oneof![10 => typed, 1 => raw]
}

/// The possible next steps; not every step makes sense in every state.
pub(crate) fn steps(works: bool, streams: bool) -> BoxedStrategy<Step> {
    let pass =
        || prop::sample::select(vec![600, 3_600, 3 * 3_600, 24 * 3_600]).prop_map(Step::Advance);
    let shared = prop_oneof![
        6 => wanted().prop_map(Step::Publish),
        2 => vec(plans(), 2..5).prop_map(Step::PublishAll),
        1 => Just(Step::Replay),
        1 => Just(Step::Drop),
    ];
    let shared = if streams {
        prop_oneof![10 => shared, 1 => Just(Step::Flush)].boxed()
    } else {
        shared.boxed()
    };
    if works {
        return prop_oneof![8 => shared, 4 => pass(), 2 => Just(Step::Stop)].boxed();
    }
    prop_oneof![
        8 => shared,
        1 => pass(),
        4 => (1..=2_usize).prop_map(Step::Start),
        4 => Just(Step::Crash),
        2 => Just(Step::Interrupt),
        3 => Just(Step::Usurp),
        1 => Just(Step::Upgrade),
    ]
    .boxed()
}
