use std::rc::Rc;

use termitary::prelude::*;

async fn handle(_: Tick) -> HandlerResult {
    let shared = Rc::new(1);
    std::future::ready(()).await;
    println!("{shared}");
    Ok(())
}

fn main() {
    let _: Registry<()> = Registry::new().on(subscribe("a.handle", handle));
}
