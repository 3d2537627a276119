//! Hosts that are called: which of them is this machine, and through what the others are reached.

use std::net::IpAddr;
use ureq::Proxy;
use ureq::http::Uri;

/// Whether the host of an address is this machine: `localhost`, or a loopback address, with brackets
/// or without.
pub fn is_this_machine(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// The proxy that the environment names (`ALL_PROXY`, `HTTPS_PROXY`, `HTTP_PROXY`, but for the hosts in
/// `NO_PROXY`) for an address. None for plain HTTP, of which a proxy could read all, tokens too, and
/// none for this machine: to a proxy, its name would mean another one.
pub fn proxy_to(url: &str) -> Option<Proxy> {
    let address: Uri = url.parse().ok()?;
    let through = address.scheme_str() == Some("https")
        && address.host().is_some_and(|host| !is_this_machine(host));
    if through { Proxy::try_from_env() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_few_names() {
        for host in ["localhost", "LocalHost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in ["localhost.example.org", "128.0.0.1", "::2", "[::1", "", "0.0.0.0"] {
            assert!(!is_this_machine(host), "{host}");
        }
    }

    #[test]
    fn neither_plain_http_nor_this_machine_goes_through_a_proxy() {
        for url in ["http://hooks.example.org/x", "https://127.0.0.1:1/", "https://[::1]/", "x"] {
            assert!(proxy_to(url).is_none(), "{url}");
        }
    }
}
