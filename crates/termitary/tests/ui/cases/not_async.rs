use termitary::prelude::*;

fn handle(_: Tick) -> HandlerResult {
    Ok(())
}

fn main() {
    let _: Registry<()> = Registry::new().on(subscribe("a.handle", handle));
}
