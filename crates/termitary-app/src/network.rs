//! The network of an address: the unit that limits count as one source.

use std::net::IpAddr;

/// The address itself for IPv4; the /64 for IPv6, since one customer has all of it.
pub(crate) fn network(source: IpAddr) -> String {
    match source {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}
