use termitary::prelude::*;

#[derive(Clone)]
struct App;

async fn handle(_: Tick, _: App) -> HandlerResult {
    Ok(())
}

fn main() {
    let _: Registry<App> = Registry::new().on(subscribe("a.handle", handle));
}
