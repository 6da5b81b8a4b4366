use termitary::prelude::*;

#[derive(Clone)]
struct App;

async fn handle(_: Tick, State(_): State<App>) -> HandlerResult {
    Ok(())
}

async fn work(broker: Broker) -> Result<(), termitary::Error> {
    let registry = Registry::new().on(subscribe("a.handle", handle));
    Worker::new(broker, registry).run(async {}).await
}

fn main() {
    let _ = work;
}
