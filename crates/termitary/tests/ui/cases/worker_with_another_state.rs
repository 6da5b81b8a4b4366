use termitary::prelude::*;

#[derive(Clone)]
struct App;

async fn work(broker: Broker, registry: Registry<App>) -> Result<(), termitary::Error> {
    Worker::new(broker, registry).state(1).run(async {}).await
}

fn main() {
    let _ = work;
}
