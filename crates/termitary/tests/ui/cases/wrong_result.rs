use termitary::prelude::*;

async fn handle(_: Tick) -> Result<(), std::io::Error> {
    Ok(())
}

fn main() {
    let _: Registry<()> = Registry::new().on(subscribe("a.handle", handle));
}
