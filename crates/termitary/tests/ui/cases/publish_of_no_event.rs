use termitary::prelude::*;

struct UserRegistered;

async fn register(bus: Bus) -> Result<(), termitary::Error> {
    bus.publish(UserRegistered).await?;
    Ok(())
}

fn main() {
    let _ = register;
}
