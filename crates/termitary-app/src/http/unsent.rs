//! A limit on the bytes of large responses that clients have not read yet.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame, SizeHint};

use super::client;
use super::problem::ApiError;
use crate::network::network;
use crate::quota::{Quota, Share};
use crate::settings::Settings;

/// Smaller responses are not counted, since connections are.
const SMALL: u64 = 64 * 1024;

/// The bytes of large responses, counted until they are sent.
#[derive(Clone)]
pub(super) struct Unsent {
    bytes: Quota<String>,
    most_per_address: u64,
    trusted_hops: usize,
}

impl Unsent {
    pub(super) fn new(settings: &Settings) -> Self {
        let most = settings.connections.unsent;
        Self {
            bytes: Quota::new(most, most / 4),
            most_per_address: most / 4,
            trusted_hops: settings.trusted_proxy_hops,
        }
    }

    /// Room for one response, if there is any. A response larger than the share of its
    /// address counts as the whole share: otherwise it could never be sent.
    fn take(&self, address: IpAddr, bytes: u64) -> Option<Share<String>> {
        let bytes = bytes.min(self.most_per_address);
        self.bytes.take(network(address), bytes).ok()
    }
}

/// Refuses a large response while too many wait for clients that do not read.
pub(super) async fn limit(State(unsent): State<Unsent>, request: Request, next: Next) -> Response {
    let hops = unsent.trusted_hops;
    let address = client::address(request.headers(), request.extensions(), hops);
    let response = next.run(request).await;
    let Some(bytes) = response.body().size_hint().exact().filter(|&b| b > SMALL) else {
        return response;
    };
    match unsent.take(address, bytes) {
        Some(share) => response.map(|body| {
            Body::new(Counted {
                body,
                _share: share,
            })
        }),
        None => ApiError::Busy("Too many responses wait for clients that do not read them.")
            .into_response(),
    }
}

/// A body that holds its share until it is sent.
struct Counted {
    body: Body,
    _share: Share<String>,
}

impl HttpBody for Counted {
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
        let unsent = Unsent::new(&settings);
        let first = unsent.take(address(1), 80).unwrap();
        assert!(unsent.take(address(1), 80).is_none(), "a quarter is 100");
        let mut others: Vec<_> = (2..=5)
            .map(|n| unsent.take(address(n), 80).unwrap())
            .collect();
        assert!(unsent.take(address(6), 80).is_none(), "400 are held");
        others.clear();
        drop(first);
        assert!(unsent.take(address(1), 900).is_some(), "alone it fits");
    }
}
