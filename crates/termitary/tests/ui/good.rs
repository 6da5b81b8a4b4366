//! Compiles, so the mistakes beside it fail for the stated reason.
//! It needs no other crate than termitary and serde.
use serde::{Deserialize, Serialize};
use termitary::prelude::*;

#[derive(Clone)]
struct App;

#[derive(Serialize, Deserialize)]
struct Noted {
    text: String,
}

impl Event for Noted {
    const NAME: &'static str = "notes.noted";
}

async fn read(_: Noted) -> HandlerResult {
    Ok(())
}

async fn handle(_: Tick, State(_): State<App>, _: Meta) -> HandlerResult {
    Ok(())
}

async fn work(broker: Broker) -> Result<(), termitary::Error> {
    let registry = Registry::new()
        .on(subscribe("a.handle", handle))
        .on(subscribe("notes.read", read));
    Worker::new(broker, registry).state(App).run(async {}).await
}

fn main() {
    let _ = work;
}
