use termitary::prelude::*;

async fn handle(_: Tick) {}

fn main() {
    let _: Registry<()> = Registry::new().on(subscribe("a.handle", handle));
}
