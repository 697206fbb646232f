//! Ports on loopback.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// `usual`, or a free port where that is taken.
///
/// # Errors
/// When there is no free port either.
pub fn usual_or_free(usual: u16) -> io::Result<u16> {
    let bind = |port| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))?
            .local_addr()
            .map(|address| address.port())
    };
    bind(usual).or_else(|_| bind(0))
}

/// A free port.
///
/// # Errors
/// When there is none.
pub fn free() -> io::Result<u16> {
    usual_or_free(0)
}
