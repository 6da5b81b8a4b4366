//! Compiles and runs the code of `docs/guide`, so that it stays true.

#[doc = include_str!("../../../docs/guide/service.md")]
mod service {}

#[doc = include_str!("../../../docs/guide/events.md")]
mod events {}

#[doc = include_str!("../../../docs/guide/handlers.md")]
mod handlers {}

#[doc = include_str!("../../../docs/guide/retries.md")]
mod retries {}

#[doc = include_str!("../../../docs/guide/schedules.md")]
mod schedules {}

#[doc = include_str!("../../../docs/guide/databases.md")]
mod databases {}

#[doc = include_str!("../../../docs/guide/testing.md")]
mod testing {}

#[doc = include_str!("../../../docs/guide/operations.md")]
mod operations {}

#[doc = include_str!("../../../docs/guide/interop.md")]
mod interop {}
