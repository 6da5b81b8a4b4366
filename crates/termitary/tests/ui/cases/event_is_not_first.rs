use termitary::prelude::*;

async fn handle(_: State<()>, _: Tick) -> HandlerResult {
    Ok(())
}

fn main() {
    let _: Registry<()> = Registry::new().on(subscribe("a.handle", handle));
}
