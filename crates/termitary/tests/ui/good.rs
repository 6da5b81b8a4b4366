//! Compiles: the mistakes beside it fail for what they say, not for this.
use termitary::prelude::*;

#[derive(Clone)]
struct App;

async fn handle(_: Tick, State(_): State<App>, _: Meta) -> HandlerResult {
    Ok(())
}

async fn work(broker: Broker) -> Result<(), termitary::Error> {
    let registry = Registry::new().on(subscribe("a.handle", handle));
    Worker::new(broker, registry).state(App).run(async {}).await
}

fn main() {
    let _ = work;
}
