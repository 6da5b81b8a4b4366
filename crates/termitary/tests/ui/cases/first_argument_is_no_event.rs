use termitary::prelude::*;

async fn handle(name: String) -> HandlerResult {
    println!("{name}");
    Ok(())
}

fn main() {
    let _: Registry<()> = Registry::new().on(subscribe("a.handle", handle));
}
