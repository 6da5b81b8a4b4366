//! The client of a request: its address and its agent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Once;

use axum::extract::{ConnectInfo, FromRef, FromRequestParts};
use axum::http::header::USER_AGENT;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};

use crate::app::App;
use crate::network::network;

/// The client of a request.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    pub(crate) agent: Option<String>,
}

impl Client {
    pub(crate) fn of(parts: &Parts, trusted_hops: usize) -> Self {
        let agent = parts
            .headers
            .get(USER_AGENT)
            .and_then(|value| value.to_str().ok());
        Self {
            address: address(&parts.headers, &parts.extensions, trusted_hops),
            agent: agent.map(|agent| agent.chars().take(300).collect()),
        }
    }

    /// The network, which limits count as one source.
    pub(crate) fn network(&self) -> String {
        network(self.address)
    }
}

/// The client's address: the one that the outermost trusted proxy saw, or else the
/// other end of the connection.
pub(super) fn address(headers: &HeaderMap, extensions: &Extensions, trusted_hops: usize) -> IpAddr {
    let peer = extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip())
        .to_canonical();
    let forwarded = Forwarded::of(headers, trusted_hops);
    forwarded.warn_once(peer);
    match forwarded {
        Forwarded::By(address) => address.to_canonical(),
        Forwarded::Absent | Forwarded::NotTrusted | Forwarded::Unreadable => peer,
    }
}

/// The content of `X-Forwarded-For`.
#[derive(Debug, PartialEq, Eq)]
enum Forwarded {
    /// The header is absent.
    Absent,
    /// The header is present, but no proxy is trusted.
    NotTrusted,
    /// The address that the outermost trusted proxy saw.
    By(IpAddr),
    /// The entry that counts is not an address, or the header has too few entries.
    Unreadable,
}

impl Forwarded {
    /// Each proxy appends the address it saw, so only entries from the end are trusted.
    /// A client may write anything before them.
    fn of(headers: &HeaderMap, trusted_hops: usize) -> Self {
        let lines = headers.get_all("x-forwarded-for");
        let entries: Vec<&[u8]> = lines
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .collect();
        if entries.iter().all(|entry| entry.is_empty()) {
            return Self::Absent;
        }
        if trusted_hops == 0 {
            return Self::NotTrusted;
        }
        entries
            .len()
            .checked_sub(trusted_hops)
            .and_then(|index| parse(entries[index]))
            .map_or(Self::Unreadable, Self::By)
    }

    /// Logs a wrong setting once, without the content of the header.
    fn warn_once(&self, peer: IpAddr) {
        static UNREADABLE: Once = Once::new();
        static NOT_TRUSTED: Once = Once::new();
        match self {
            Self::Unreadable => UNREADABLE.call_once(|| {
                tracing::warn!(
                    source.ip = %peer,
                    "X-Forwarded-For has no address at the place that TERMITARY_TRUSTED_PROXIES names: such requests count as the proxy's own. Set it to the number of proxies that append to the header (logged once)"
                );
            }),
            Self::NotTrusted if is_near(peer) => NOT_TRUSTED.call_once(|| {
                tracing::warn!(
                    source.ip = %peer,
                    "a proxy sends X-Forwarded-For, but TERMITARY_TRUSTED_PROXIES is 0: all of its clients count as one source. Set it to the number of proxies in front (logged once)"
                );
            }),
            _ => {}
        }
    }
}

/// Returns true for this machine and its network, where proxies are. Clients elsewhere
/// may send any header.
fn is_near(peer: IpAddr) -> bool {
    match peer {
        IpAddr::V4(peer) => peer.is_loopback() || peer.is_private(),
        IpAddr::V6(peer) => peer.is_loopback() || peer.is_unique_local(),
    }
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`,
/// also in quotes and with a zone.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_matches('"').trim();
    let text = without_zone(text);
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some(socket.ip());
    }
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse().ok()
}

/// Drops a zone such as that of `fe80::1%eth0`: it names an interface of the proxy.
fn without_zone(text: &str) -> String {
    match text.split_once('%') {
        Some((address, rest)) => {
            let after = rest.find(']').map_or("", |end| &rest[end..]);
            format!("{address}{after}")
        }
        None => text.to_owned(),
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

    use axum::http::HeaderValue;

    use super::*;

    fn address_of(lines: &[&[u8]], hops: usize) -> String {
        let (mut parts, ()) = axum::http::Request::new(()).into_parts();
        for line in lines {
            let value = HeaderValue::from_bytes(line).unwrap();
            parts.headers.append("x-forwarded-for", value);
        }
        parts
            .extensions
            .insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 4711))));
        Client::of(&parts, hops).address.to_string()
    }

    fn address(header: &str, hops: usize) -> String {
        address_of(&[header.as_bytes()], hops)
    }

    #[test]
    fn a_forwarded_address_is_ignored_unless_proxies_are_trusted() {
        assert_eq!(address("203.0.113.9", 0), "192.0.2.1");
        assert_eq!(address("203.0.113.9", 1), "203.0.113.9");
        assert_eq!(address("10.6.6.6, 203.0.113.9", 1), "203.0.113.9");
        assert_eq!(
            address("10.6.6.6, 203.0.113.9, 198.51.100.2", 2),
            "203.0.113.9"
        );
        assert_eq!(address("nonsense", 1), "192.0.2.1");
        assert_eq!(address("203.0.113.9", 2), "192.0.2.1", "one is missing");
        assert_eq!(address_of(&[], 1), "192.0.2.1");
    }

    #[test]
    fn an_address_is_read_in_every_form_that_proxies_write() {
        for (written, meant) in [
            ("203.0.113.9:51234", "203.0.113.9"),
            ("2001:db8::9", "2001:db8::9"),
            ("[2001:db8::9]", "2001:db8::9"),
            ("[2001:db8::9]:51234", "2001:db8::9"),
            ("\"[2001:db8::9]:51234\"", "2001:db8::9"),
            ("[fe80::1%eth0]:51234", "fe80::1"),
            ("fe80::1%3", "fe80::1"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("  203.0.113.9  ", "203.0.113.9"),
            ("10.6.6.6, , 203.0.113.9", "203.0.113.9"),
        ] {
            assert_eq!(address(written, 1), meant, "{written}");
        }
        for nobody in [
            "unknown",
            "_hidden",
            "203.0.113.9:",
            "[2001:db8::9",
            "1.2.3",
            // An empty entry is one that a proxy appended: the entry before it is the
            // client's own.
            "203.0.113.9,",
            "10.6.6.6, 203.0.113.9, ",
        ] {
            assert_eq!(address(nobody, 1), "192.0.2.1", "{nobody}");
        }
    }

    #[test]
    fn several_lines_are_one_list_and_what_a_client_wrote_spoils_no_entry_after_it() {
        let lines: [&[u8]; 2] = [b"10.6.6.6", b"203.0.113.9"];
        assert_eq!(address_of(&lines, 1), "203.0.113.9");
        assert_eq!(address_of(&lines, 2), "10.6.6.6");
        assert_eq!(address_of(&[b"\xff\xfe, 203.0.113.9"], 1), "203.0.113.9");
        assert_eq!(address_of(&[b"\xff"], 1), "192.0.2.1");
    }
}
