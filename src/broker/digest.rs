//! SHA-256 as text, the way files and certificates are told apart here.

use std::fmt::Write as _;
use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};

/// The SHA-256 of `bytes`, in lower-case hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A reader that hashes what passes through it.
#[derive(Debug)]
pub struct Hashed<R> {
    inner: R,
    hasher: Sha256,
    bytes: u64,
}

impl<R: Read> Hashed<R> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            bytes: 0,
        }
    }

    /// How many bytes passed, and their SHA-256.
    pub fn finish(self) -> (u64, String) {
        (self.bytes, hex(&self.hasher.finalize()))
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += u64::try_from(read).expect("usize has at most 64 bits");
        Ok(read)
    }
}

/// Copies `from` into `to`, and returns how many bytes that were and their SHA-256.
///
/// # Errors
/// Those of the two.
pub fn copy_sha256(from: impl Read, to: &mut impl Write) -> io::Result<(u64, String)> {
    let mut hashed = Hashed::new(from);
    io::copy(&mut hashed, to)?;
    Ok(hashed.finish())
}

/// `bytes` in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every write");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_standards() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), abc);
        let mut copy = Vec::new();
        assert_eq!(
            copy_sha256(b"abc".as_slice(), &mut copy).expect("it is memory"),
            (3, abc.to_owned())
        );
        assert_eq!(copy, b"abc");
    }
}
