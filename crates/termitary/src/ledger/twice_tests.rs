//! One process may hold two claims of one delivery: the lease that it lost, and
//! the next, which it got itself. They end in one batch, and only one is real.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::broker::Broker;
use crate::delivery::{Claim, Outcome, Settlement};
use crate::prelude::*;

#[derive(Serialize, Deserialize)]
struct Made {}
impl Event for Made {
    const NAME: &'static str = "things.made";
}

async fn made(_: Made) -> HandlerResult {
    Ok(())
}

/// The claim that was lost, and the one that replaced it.
async fn two_claims(broker: &Broker) -> (Claim, Claim) {
    let registry = Registry::<()>::new().on(subscribe("made", made));
    let route = broker.declare(&registry).await.unwrap().remove(0);
    broker.bus().publish(Made {}).await.unwrap();
    let mut claims = Vec::new();
    for _ in 0..2 {
        let leased = broker
            .transport()
            .lease(&route, &Arc::from("w"), 1, secs(0))
            .await;
        claims.push(leased.unwrap().remove(0).claim);
        let mut tx = broker.db().begin().await.unwrap();
        if claims.len() == 1 {
            // The first lease ends.
            let due_again = "UPDATE termitary_deliveries SET state = 0";
            sqlx::query(due_again).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
    }
    let newer = claims.remove(1);
    (claims.remove(0), newer)
}

async fn broker(folder: &tempfile::TempDir) -> Broker {
    let file = folder.path().join("a.db");
    let db = Db::open(&format!("sqlite://{}", file.display())).await;
    Broker::sql(db.unwrap())
}

#[tokio::test]
async fn of_two_claims_that_end_together_only_the_newer_counts() {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(&folder).await;
    let (older, newer) = two_claims(&broker).await;
    let done = |claim: &Claim| Settlement {
        claim: claim.clone(),
        outcome: Outcome::Done { committed: false },
    };
    // The newer one even twice: it is finished once.
    let all = vec![done(&older), done(&newer), done(&newer)];
    let held = broker.transport().settle(&all).await.unwrap();
    assert_eq!(held, [false, true, false]);
    let counted: i64 =
        sqlx::query_scalar("SELECT done FROM termitary_subscriptions WHERE name = 'made'")
            .fetch_one(&mut *broker.db().read().await.unwrap())
            .await
            .unwrap();
    assert_eq!(counted, 1);
}

#[tokio::test]
async fn the_lost_claim_is_told_so_while_the_newer_one_is_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(&folder).await;
    let (older, newer) = two_claims(&broker).await;
    let held = broker.transport().renew(&[older, newer]).await.unwrap();
    assert_eq!(held, [false, true]);
}
