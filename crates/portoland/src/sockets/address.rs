//! Addresses in a network out of what a job file says.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::SocketCause;
use crate::job::{SocketAddress, SocketFamily};

/// Addresses to listen at: one for each version of IP at the most.
pub(super) type Resolved = Vec<SocketAddr>;

/// The addresses that a node's name stands for, without asking anybody.
pub(super) fn resolve(
    node: Option<&str>,
    port: u16,
    family: Option<SocketFamily>,
) -> Result<Resolved, SocketCause> {
    use SocketFamily::{Both, V4, V6};
    let (v4, v6) = match node.unwrap_or_default() {
        "" | "*" => (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
        "localhost" => (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
        name => return numeric(name, family).map(|address| vec![SocketAddr::new(address, port)]),
    };
    let (v4, v6) = (IpAddr::from(v4), IpAddr::from(v6));
    let addresses = match family {
        Some(V4) => vec![v4],
        // The one socket for both can be reached by IPv4 only at the address that is any.
        Some(V6 | Both) => vec![v6],
        None => vec![v4, v6],
    };
    let addresses = addresses.into_iter();
    Ok(addresses
        .map(|address| SocketAddr::new(address, port))
        .collect())
}

fn numeric(name: &str, family: Option<SocketFamily>) -> Result<IpAddr, SocketCause> {
    let address = name.parse().map_err(|_| SocketCause::NodeName)?;
    match (address, family) {
        (IpAddr::V4(address), Some(SocketFamily::Both)) => Ok(IpAddr::V6(address.to_ipv6_mapped())),
        (IpAddr::V4(_), Some(SocketFamily::V6)) | (IpAddr::V6(_), Some(SocketFamily::V4)) => {
            Err(SocketCause::NodeFamily)
        }
        (address, _) => Ok(address),
    }
}

/// A port by its number, or by a name in the table that `services` reads.
pub(super) fn port(
    name: &str,
    protocol: &str,
    services: impl FnOnce() -> io::Result<String>,
) -> Result<u16, SocketCause> {
    if let Ok(port) = name.parse() {
        return Ok(port);
    }
    let table = services().map_err(SocketCause::System)?;
    let found = table.lines().find_map(|line| entry(line, name, protocol));
    found.ok_or(SocketCause::ServiceName)
}

/// The port, if this line of services(5) is about the service.
fn entry(line: &str, name: &str, protocol: &str) -> Option<u16> {
    let line = line.split('#').next()?;
    let mut words = line.split_whitespace();
    let (official, port) = (words.next()?, words.next()?);
    let (port, of) = port.split_once('/')?;
    let named = official == name || words.any(|alias| alias == name);
    if named && of == protocol {
        port.parse().ok()
    } else {
        None
    }
}

/// An address as it is said to people.
pub(super) fn display(address: &SocketAddress) -> String {
    match address {
        SocketAddress::Unix { sock_path_name, .. } => sock_path_name.display().to_string(),
        SocketAddress::Inet {
            sock_node_name,
            sock_service_name,
            ..
        } => {
            let node = sock_node_name.as_deref().filter(|node| !node.is_empty());
            match node.unwrap_or("*") {
                node if node.contains(':') => format!("[{node}]:{sock_service_name}"),
                node => format!("{node}:{sock_service_name}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(node: Option<&str>, family: Option<SocketFamily>) -> Vec<String> {
        let addresses = resolve(node, 80, family).expect("an address");
        addresses.iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn addresses_are_what_the_keys_say() {
        use SocketFamily::{Both, V4, V6};
        assert_eq!(resolved(None, None), ["0.0.0.0:80", "[::]:80"]);
        assert_eq!(resolved(Some(""), Some(V4)), ["0.0.0.0:80"]);
        assert_eq!(resolved(None, Some(Both)), ["[::]:80"]);
        assert_eq!(
            resolved(Some("localhost"), None),
            ["127.0.0.1:80", "[::1]:80"]
        );
        assert_eq!(resolved(Some("localhost"), Some(V6)), ["[::1]:80"]);
        assert_eq!(resolved(Some("10.0.0.1"), None), ["10.0.0.1:80"]);
        assert_eq!(
            resolved(Some("10.0.0.1"), Some(Both)),
            ["[::ffff:10.0.0.1]:80"]
        );
        assert_eq!(resolved(Some("fe80::1"), Some(V6)), ["[fe80::1]:80"]);
    }

    #[test]
    fn names_are_not_looked_up() {
        let why = |node, family| resolve(Some(node), 80, family).expect_err("no address");
        assert!(matches!(why("example.org", None), SocketCause::NodeName));
        let v4 = Some(SocketFamily::V4);
        assert!(matches!(why("::1", v4), SocketCause::NodeFamily));
        let v6 = Some(SocketFamily::V6);
        assert!(matches!(why("127.0.0.1", v6), SocketCause::NodeFamily));
    }

    #[test]
    fn a_service_is_found_by_its_name_and_protocol() {
        let table = || {
            Ok(
                "# comment\nssh 22/tcp # SecSH\ndomain 53/tcp\ndomain 53/udp\n\
                http\t80/tcp www web#x\nbroken\nbad x/tcp\ntftp 69/udp"
                    .to_owned(),
            )
        };
        let found = |name, protocol| port(name, protocol, table).ok();
        assert_eq!(found("8080", "tcp"), Some(8080));
        assert_eq!(found("ssh", "tcp"), Some(22));
        assert_eq!(found("www", "tcp"), Some(80));
        assert_eq!(found("web", "tcp"), Some(80));
        assert_eq!(found("domain", "udp"), Some(53));
        assert_eq!(found("tftp", "tcp"), None);
        assert_eq!(found("SecSH", "tcp"), None);
        assert_eq!(found("bad", "tcp"), None);
        assert_eq!(found("65536", "tcp"), None);
        let missing = port("ssh", "tcp", || Err(io::ErrorKind::NotFound.into()));
        assert!(matches!(missing, Err(SocketCause::System(_))));
    }
}
