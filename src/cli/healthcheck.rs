//! `healthcheck`: for images that have no other HTTP client.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::Failure;

/// Fails unless a service on `address` answers `/healthz` with 200.
pub fn healthcheck(address: SocketAddr) -> Result<(), Failure> {
    // A service that listens on every address is asked at the loopback's; on `::` it may have
    // either.
    let hosts: &[IpAddr] = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            &[IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)]
        }
        host => &[host],
    };
    let addresses: Vec<_> = hosts.iter().map(|&host| (host, address.port()).into()).collect();
    let timeout = Duration::from_secs(3);
    let connect = |address: &SocketAddr| TcpStream::connect_timeout(address, timeout);
    let connected = addresses.iter().map(connect).reduce(Result::or).expect("one at least");
    let mut stream = connected.map_err(|error| format!("nothing answers on {address}: {error}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err("the service is not alive".into())
    }
}
