use termitary::prelude::*;

async fn handle(_: Tick, id: u64) -> HandlerResult {
    println!("{id}");
    Ok(())
}

fn main() {
    let _: Registry<()> = Registry::new().on(subscribe("a.handle", handle));
}
