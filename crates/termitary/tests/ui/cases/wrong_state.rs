use termitary::prelude::*;

#[derive(Clone)]
struct App;

#[derive(Clone)]
struct Mailer;

async fn handle(_: Tick, State(_): State<Mailer>) -> HandlerResult {
    Ok(())
}

fn main() {
    let _: Registry<App> = Registry::new().on(subscribe("a.handle", handle));
}
