use termitary::prelude::*;

async fn handle(_: Tick) -> HandlerResult {
    Ok(())
}

fn main() {
    let _: Registry<()> = Registry::new().on(handle);
}
