//! Public keys in PEM: `BEGIN PUBLIC KEY`, a `SubjectPublicKeyInfo` (RFC 5280) in DER.

use rustls::pki_types::alg_id;
use rustls::pki_types::pem::{PemObject as _, SectionKind};

use super::keys::{Key, KeyFault, KeysError};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

/// The keys of all sections, in their order. PEM has no place for a name, so they have none.
pub(super) fn parse(file: &[u8]) -> Result<Vec<Key>, KeysError> {
    let mut keys = Vec::new();
    for (index, section) in <(SectionKind, Vec<u8>)>::pem_slice_iter(file).enumerate() {
        let number = index + 1;
        match section.map_err(KeysError::Pem)? {
            (SectionKind::PublicKey, der) => keys.push(key(&der).map_err(|fault| fault.of_key(number))?),
            (SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, _) => return Err(KeysError::Secret(number)),
            _ => return Err(KeysError::Section(number)),
        }
    }
    Ok(keys)
}

fn key(der: &[u8]) -> Result<Key, KeyFault> {
    let (algorithm, public) = info(der).ok_or(KeyFault::Malformed)?;
    if algorithm == alg_id::ED25519.as_ref() {
        Key::ed25519(None, public)
    } else if algorithm == alg_id::ECDSA_P256.as_ref() {
        Key::p256(None, public)
    } else if algorithm == alg_id::RSA_ENCRYPTION.as_ref() {
        let (n, e) = rsa_numbers(public).ok_or(KeyFault::Malformed)?;
        Key::rsa(None, n, e)
    } else {
        Err(KeyFault::Unsupported)
    }
}

/// The algorithm, and the key as that algorithm spells it.
fn info(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (info, []) = element(SEQUENCE, der)? else { return None };
    let (algorithm, rest) = element(SEQUENCE, info)?;
    // The first byte of a bit string counts the bits over, of which a key has none.
    let ([0, public @ ..], []) = element(BIT_STRING, rest)? else {
        return None;
    };
    Some((algorithm, public))
}

/// Modulus and exponent (RFC 8017, A.1.1).
fn rsa_numbers(public: &[u8]) -> Option<(&[u8], &[u8])> {
    let (numbers, []) = element(SEQUENCE, public)? else { return None };
    let (n, rest) = element(INTEGER, numbers)?;
    let (e, []) = element(INTEGER, rest)? else { return None };
    // A number whose first bit is set would be negative.
    let is_positive = |number: &[u8]| number.first().is_some_and(|first| first & 0x80 == 0);
    (is_positive(n) && is_positive(e)).then_some((n, e))
}

/// The contents of the element of type `tag` that `der` begins with, and what comes after it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // Longer ones do not fit into a file of keys; DER spells each length in the shortest way.
        0x81 => {
            let (&length, rest) = rest.split_first()?;
            (usize::from(length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let is_shortest = match first {
        0x81 => length > 0x7f,
        0x82 => length > 0xff,
        _ => true,
    };
    (found == tag && is_shortest).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_read_to_the_byte() {
        assert_eq!(element(2, &[2, 1, 7, 9]), Some((&[7][..], &[9][..])));
        let long = [&[4, 0x81, 0x80][..], &[5; 0x80]].concat();
        assert_eq!(element(4, &long), Some((&[5; 0x80][..], &[][..])));
        let longer = [&[4, 0x82, 1, 0][..], &[5; 0x100]].concat();
        assert_eq!(element(4, &longer), Some((&[5; 0x100][..], &[][..])));
        let bad: [&[u8]; 8] = [
            &[],
            &[2],
            &[2, 2, 7],
            &[3, 1, 7],
            &[2, 0x81, 1, 7],
            &[2, 0x82, 0, 1, 7],
            &[2, 0x80, 0, 0],
            &[2, 0x84, 0, 0, 0, 1, 7],
        ];
        for der in bad {
            assert_eq!(element(2, der), None, "{der:?}");
        }
    }
}
