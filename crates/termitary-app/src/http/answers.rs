//! Room for answers that their clients have not taken yet.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame, SizeHint};

use super::client::{self, network};
use super::problem::ApiError;
use crate::app::Settings;

/// Smaller ones are not counted: connections are.
const SMALL: u64 = 64 * 1024;

/// Counts the bytes of large answers until they are sent.
#[derive(Clone)]
pub(super) struct Answers {
    most: u64,
    trusted_hops: usize,
    held: Arc<Mutex<HeldBytes>>,
}

#[derive(Default)]
struct HeldBytes {
    total: u64,
    by_address: HashMap<String, u64>,
}

impl Answers {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            most: settings.connections.unsent,
            trusted_hops: settings.trusted_proxy_hops,
            held: Arc::default(),
        }
    }

    /// Room for one answer; none where there is too little.
    fn take(&self, address: IpAddr, bytes: u64) -> Option<Room> {
        let address = network(address);
        let mut held = self.lock();
        let mine = held.by_address.get(&address).copied().unwrap_or(0);
        // A single answer always fits: it would never be sent otherwise.
        let fits = |held: u64, most: u64| held == 0 || held + bytes <= most;
        if !fits(held.total, self.most) || !fits(mine, self.most / 4) {
            return None;
        }
        held.total += bytes;
        held.by_address.insert(address.clone(), mine + bytes);
        drop(held);
        Some(Room {
            answers: self.clone(),
            address,
            bytes,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HeldBytes> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of one answer, free again when it is dropped.
struct Room {
    answers: Answers,
    address: String,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut held = self.answers.lock();
        held.total -= self.bytes;
        if let Some(mine) = held.by_address.get_mut(&self.address) {
            *mine -= self.bytes;
            if *mine == 0 {
                held.by_address.remove(&self.address);
            }
        }
    }
}

/// Refuses a large answer while too many wait for clients that do not read.
pub(super) async fn bounded(
    State(answers): State<Answers>,
    request: Request,
    next: Next,
) -> Response {
    let hops = answers.trusted_hops;
    let address = client::address(request.headers(), request.extensions(), hops);
    let response = next.run(request).await;
    let Some(bytes) = response.body().size_hint().exact().filter(|&b| b > SMALL) else {
        return response;
    };
    match answers.take(address, bytes) {
        Some(room) => response.map(|body| Body::new(Held { body, _room: room })),
        None => ApiError::Busy("Too many answers wait for clients that do not take them.")
            .into_response(),
    }
}

struct Held {
    body: Body,
    _room: Room,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::net::Ipv4Addr;

    use super::*;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[test]
    fn answers_that_nobody_takes_fill_no_memory_and_one_address_not_the_share_of_others() {
        let mut settings = Settings::default();
        settings.connections.unsent = 400;
        let answers = Answers::new(&settings);
        let first = answers.take(address(1), 80).unwrap();
        assert!(answers.take(address(1), 80).is_none(), "a quarter is 100");
        let mut others: Vec<_> = (2..=5)
            .map(|n| answers.take(address(n), 80).unwrap())
            .collect();
        assert!(answers.take(address(6), 80).is_none(), "400 are held");
        others.clear();
        drop(first);
        assert!(answers.take(address(1), 900).is_some(), "alone it fits");
        assert!(answers.lock().by_address.is_empty());
        assert_eq!(answers.lock().total, 0);
    }
}
