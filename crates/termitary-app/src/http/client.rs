//! Who is at the other end: the address and the agent of a request.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRef, FromRequestParts};
use axum::http::header::USER_AGENT;
use axum::http::request::Parts;

use crate::app::App;

/// The other end of a request.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    pub(crate) agent: Option<String>,
}

impl Client {
    pub(crate) fn of(parts: &Parts, trusted_hops: usize) -> Self {
        let peer = parts
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        let agent = parts
            .headers
            .get(USER_AGENT)
            .and_then(|value| value.to_str().ok());
        Self {
            address: forwarded(parts, trusted_hops)
                .unwrap_or(peer)
                .to_canonical(),
            agent: agent.map(|agent| agent.chars().take(300).collect()),
        }
    }
}

/// The address that the outermost trusted proxy saw. Each proxy appends the
/// address it saw, so only entries from the end can be believed.
fn forwarded(parts: &Parts, trusted_hops: usize) -> Option<IpAddr> {
    let entries: Vec<_> = parts
        .headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let index = entries.len().checked_sub(trusted_hops.max(1))?;
    if trusted_hops == 0 {
        None
    } else {
        entries.get(index)?.parse().ok()
    }
}

impl<S> FromRequestParts<S> for Client
where
    App: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(
            parts,
            App::from_ref(state).settings().trusted_proxy_hops,
        ))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn address(header: Option<&str>, hops: usize) -> String {
        let mut request = axum::http::Request::builder();
        if let Some(header) = header {
            request = request.header("x-forwarded-for", header);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts
            .extensions
            .insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 4711))));
        Client::of(&parts, hops).address.to_string()
    }

    #[test]
    fn a_forwarded_address_is_ignored_unless_proxies_are_trusted() {
        assert_eq!(address(Some("203.0.113.9"), 0), "192.0.2.1");
        assert_eq!(address(Some("203.0.113.9"), 1), "203.0.113.9");
        assert_eq!(address(Some("10.6.6.6, 203.0.113.9"), 1), "203.0.113.9");
        assert_eq!(
            address(Some("10.6.6.6, 203.0.113.9, 198.51.100.2"), 2),
            "203.0.113.9"
        );
        assert_eq!(address(Some("nonsense"), 1), "192.0.2.1");
        assert_eq!(address(None, 1), "192.0.2.1");
    }
}
