use termitary::prelude::*;

struct UserRegistered;

impl Event for UserRegistered {
    const NAME: &'static str = "users.registered";
}

fn main() {}
