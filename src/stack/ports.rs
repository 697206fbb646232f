//! Ports on loopback.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Where free ports are looked for. Not among those that the system gives to outgoing connections (from 32768 on with Linux, from 49152 on
/// by RFC 6335): between the look and the start of the server that is to listen there, any connection could take one of these.
const RANGE: Range<u16> = 15_000..32_000;

/// How many ports of the range were looked at. Each goes to one who asks in this process, and where it begins is left to chance, so that
/// two processes that ask at the same time do not get the same ones.
static LOOKED_AT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(..)));

/// `usual`, or a free port where that is taken.
///
/// # Errors
/// When there is no free port either.
pub fn usual_or_free(usual: u16) -> io::Result<u16> {
    bind(usual).or_else(|_| free())
}

/// A free port.
///
/// # Errors
/// When there is none.
pub fn free() -> io::Result<u16> {
    let next = |_| RANGE.start + LOOKED_AT.fetch_add(1, Ordering::Relaxed) % (RANGE.end - RANGE.start);
    RANGE.map(next).find_map(|port| bind(port).ok()).map_or_else(|| bind(0), Ok)
}

fn bind(port: u16) -> io::Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))?
        .local_addr()
        .map(|address| address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_goes_to_one_who_asks_and_is_none_of_outgoing_connections() {
        let ports: Vec<u16> = (0..100).map(|_| free().expect("there are thousands")).collect();
        assert!(ports.iter().all(|port| RANGE.contains(port)), "{ports:?}");
        let mut different = ports.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), ports.len());
    }

    #[test]
    fn what_is_taken_is_not_free() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is one");
        let port = taken.local_addr().expect("it is bound").port();
        assert_ne!(usual_or_free(port).expect("there are thousands"), port);
    }
}
