//! Publishing loads: by callers that each await their own publish, or at planned times independent
//! of the responses.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::event::now_us;
use crate::{Result, TodoCreated};

/// `callers` tasks publish `events` in all, each awaiting one before the next. Returns the time
/// from the first call to the last response.
pub async fn closed<F, Fut>(callers: usize, events: usize, publish: F) -> Result<Duration>
where
    F: Fn(TodoCreated) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks: JoinSet<Result> = JoinSet::new();
    let start = Instant::now();
    for _ in 0..callers {
        let (next, publish) = (Arc::clone(&next), publish.clone());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= events {
                    return Ok(());
                }
                publish(TodoCreated::now(number)).await?;
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    Ok(start.elapsed())
}

/// Publishes in batches of `size`, with `flying` of them at once.
pub async fn batches<F, Fut>(
    flying: usize,
    size: usize,
    events: usize,
    publish: F,
) -> Result<Duration>
where
    F: Fn(Vec<TodoCreated>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks: JoinSet<Result> = JoinSet::new();
    let start = Instant::now();
    for _ in 0..flying {
        let (next, publish) = (Arc::clone(&next), publish.clone());
        tasks.spawn(async move {
            loop {
                let from = next.fetch_add(size, Ordering::Relaxed);
                if from >= events {
                    return Ok(());
                }
                let until = events.min(from + size);
                publish((from..until).map(TodoCreated::now).collect()).await?;
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    Ok(start.elapsed())
}

/// The system wakes a sleeping thread about this much late; the thread spins for the rest.
const AWAKE: Duration = Duration::from_micros(80);

/// Publishes `rate` events a second at planned times without waiting for responses: a slow response
/// delays nothing, and a late start counts as latency. Returns when all are confirmed.
pub async fn open<F, Fut>(rate: f64, events: usize, publish: F) -> Result
where
    F: Fn(TodoCreated) -> Fut + Send + 'static,
    Fut: Future<Output = Result> + Send + 'static,
{
    let (answer, mut answers) = mpsc::unbounded_channel();
    let runtime = Handle::current();
    // Timers of the runtime have a resolution of 1 ms, so a separate thread keeps the time, as in
    // `termitary bench`.
    std::thread::spawn(move || {
        let start = Instant::now() + Duration::from_millis(20);
        let start_us = now_us() + 20_000;
        for number in 0..events {
            let offset = Duration::from_secs_f64(number as f64 / rate);
            let planned = start + offset;
            std::thread::sleep(planned.saturating_duration_since(Instant::now() + AWAKE));
            while Instant::now() < planned {
                std::hint::spin_loop();
            }
            let event = TodoCreated::planned(number, start_us + offset.as_micros() as u64);
            let (publish, answer) = (publish(event), answer.clone());
            runtime.spawn(async move { answer.send(publish.await) });
        }
    });
    for _ in 0..events {
        answers.recv().await.ok_or("a publish ended without a result")??;
    }
    Ok(())
}
