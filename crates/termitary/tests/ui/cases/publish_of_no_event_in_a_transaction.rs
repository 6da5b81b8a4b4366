use termitary::prelude::*;

async fn register(tx: &mut Tx) -> Result<(), termitary::Error> {
    tx.publish("users.registered").await?;
    Ok(())
}

fn main() {
    let _ = register;
}
