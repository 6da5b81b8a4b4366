//! The door for the layer above: its last statements in a database transaction.

use std::any::Any;

use async_trait::async_trait;
use tokio::runtime::Handle;

use crate::engine::Conn;
use crate::error::Error;

/// The work that a turn leaves for the end of the database transaction. Only the hook
/// knows its type.
pub(crate) type Work = Box<dyn Any + Send>;

/// Called once the commit is on the disk.
pub(crate) type AfterDisk = Box<dyn FnOnce() + Send>;

/// Runs what turns left for the end of their database transaction, and commits it.
#[async_trait]
pub(crate) trait CommitHook: Send + Sync {
    /// The statements begin with `nothing_lost!` and end with `COMMIT`, so that a
    /// commit takes one round trip to the database's thread. `runtime` is the one
    /// that began the transaction.
    async fn commit(
        &self,
        conn: &mut Conn,
        left: Vec<Work>,
        runtime: &Handle,
    ) -> Result<Option<AfterDisk>, Error>;
}
