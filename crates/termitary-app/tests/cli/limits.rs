//! Limits on guessing passwords hold over all processes, whatever a client claims.

use serde_json::json;

use crate::http::Client;
use crate::sandbox::Sandbox;

/// A wrong guess at somebody's password from an address that it makes up.
fn guess(port: u16, n: usize) -> u16 {
    let email = format!("user{n}@example.com");
    let body = json!({ "email": email, "password": "a wrong guess" });
    let client = Client::new(port).header(&format!("x-forwarded-for: 203.0.113.{n}"));
    client.post("/api/v1/auth/login", &body).0
}

#[test]
fn two_api_processes_share_the_limit_on_guesses_and_a_forged_address_is_no_way_around_it() {
    let sandbox = Sandbox::new();
    let mut apis = [sandbox.start(&["api"]), sandbox.start(&["api"])];
    let ports = [apis[0].port(), apis[1].port()];
    let mut refused = 0;
    // Fifty are free, each further one waits twice as long as the one before:
    // on the slowest machine some of these come too soon, on both processes.
    for n in 0..80 {
        let status = guess(ports[n % 2], n);
        assert!(n >= 50 || status == 401, "guess {n}: {status}");
        if status == 429 && guess(ports[(n + 1) % 2], n) == 429 {
            refused += 1;
        }
    }
    assert!(refused > 0);
    let ada =
        json!({ "email": "ada@example.com", "name": "Ada", "password": "a walk in the rain" });
    let (status, answer) = Client::new(ports[0]).post("/api/v1/auth/register", &ada);
    assert_eq!(status, 201, "registering is another limit: {answer}");
}
