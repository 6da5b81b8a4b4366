//! Redis accepts connections and never replies for a while: memory, connections and attempts stay
//! bounded.

use std::time::Duration;

use futures_util::future::join_all;

use crate::proxy::Fault;
use crate::world::{Made, World, eventually};

const PUBLISHERS: usize = 300;
const OUTAGE: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn in_a_black_hole_memory_connections_and_attempts_stay_bounded() {
    let mut world = World::new(2).await;
    world.commit().await;
    eventually("the first is done", async || world.all_done().await).await;
    let (before, connections) = (resident(), world.proxy.accepted());
    let commands = world.proxy.commands();
    world.proxy.strike("*", Fault::HoleIn);
    let began = std::time::Instant::now();
    while began.elapsed() < OUTAGE {
        // A publisher outside a transaction gets an error, without a long wait.
        let bus = world.broker.bus();
        let told = join_all((0..PUBLISHERS).map(|_| bus.publish(Made { n: -1 })));
        let told = tokio::time::timeout(Duration::from_secs(30), told).await;
        for refused in told.unwrap() {
            let refused = refused.unwrap_err();
            assert!(refused.is_unavailable(), "{refused:?}");
        }
        // In a transaction it goes on.
        for _ in 0..20 {
            world.commit().await;
        }
        world.broker.inspect().status().await.unwrap();
    }
    let lasted = began.elapsed().as_secs_f64();
    let made = (world.proxy.accepted() - connections) as f64 / lasted;
    let sent = (world.proxy.commands() - commands) as f64 / lasted;
    let grown = resident().saturating_sub(before);
    eprintln!(
        "{lasted:.0} s: {made:.1} connections/s, {sent:.1} commands/s, at most {} open, {grown} KiB more",
        world.proxy.most_open()
    );
    assert!(
        made < 50.0 && sent < 400.0,
        "{made} connections, {sent} commands each second"
    );
    assert!(
        world.proxy.most_open() < 200,
        "{} connections",
        world.proxy.most_open()
    );
    assert!(grown < 64 * 1024, "{grown} KiB more");
    world.proxy.heal();
    eventually("all is done", async || world.all_done().await).await;
    world.assert_once().await;
    world.stop().await;
}

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
