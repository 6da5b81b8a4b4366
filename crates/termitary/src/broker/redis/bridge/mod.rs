//! Plain Redis pub/sub of other programs: their messages become events, and events are
//! published on the channel of their name.

pub(crate) mod incoming;
pub(crate) mod outgoing;
mod own;
