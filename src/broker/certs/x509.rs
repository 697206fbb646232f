//! What stands in a certificate, and its key: ECDSA on P-256, which every TLS library of the last ten years knows.

use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use time::OffsetDateTime;

use crate::broker::digest::sha256;
use crate::observe::secret::Secret;

use super::error::AuthorityError;
use super::index::{Kind, Record};
use super::serial::Serial;

/// How far before its making a certificate is good already: the clocks of devices are late.
pub(super) const BACKDATED: SignedDuration = SignedDuration::from_hours(1);
/// RFC 5280, appendix A.1: ub-common-name.
const MAX_COMMON_NAME: usize = 64;
const MAX_HOST_NAME: usize = 253;

/// A certificate that is to be.
pub(super) struct Wanted<'a> {
    pub(super) kind: Kind,
    pub(super) common_name: &'a str,
    pub(super) names: &'a [String],
    pub(super) not_after: Timestamp,
    pub(super) file: String,
}

/// A certificate, and its line in the index.
pub(super) struct Made {
    pub(super) record: Record,
    pub(super) pem: String,
}

impl Wanted<'_> {
    /// Signs it for the holder of `key`.
    pub(super) fn signed_by(self, issuer: &Issuer<'_, KeyPair>, key: &KeyPair, now: Timestamp) -> Result<Made, AuthorityError> {
        let serial = Serial::random()?;
        let not_before = now - BACKDATED;
        let mut params = CertificateParams::new(self.names)?;
        params.serial_number = Some(serial.number());
        params.distinguished_name = distinguished_name(self.common_name);
        params.not_before = date(not_before);
        params.not_after = date(self.not_after);
        params.use_authority_key_identifier_extension = true;
        (params.is_ca, params.key_usages) = match self.kind {
            Kind::Ca => (
                IsCa::Ca(BasicConstraints::Constrained(0)),
                vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
            ),
            Kind::Server | Kind::Device => (IsCa::ExplicitNoCa, vec![KeyUsagePurpose::DigitalSignature]),
        };
        // A device cannot pass for the broker, nor the broker for a device.
        params.extended_key_usages = match self.kind {
            Kind::Ca => Vec::new(),
            Kind::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Kind::Device => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        let certificate = params.signed_by(key, issuer)?;
        Ok(Made {
            record: Record {
                serial,
                kind: self.kind,
                common_name: self.common_name.to_owned(),
                names: self.names.to_vec(),
                not_before,
                not_after: self.not_after,
                fingerprint: sha256(certificate.der()),
                revoked_at: None,
                file: Some(self.file),
            },
            pem: certificate.pem(),
        })
    }
}

/// A new key.
pub(super) fn new_key() -> Result<KeyPair, AuthorityError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// A key as PEM.
pub(super) fn key_pem(key: &KeyPair) -> Secret {
    Secret::new(key.serialize_pem())
}

/// The authority of this name as the signer of others. Its certificate is not read for that: its name and its key are all
/// that goes into what it signs.
pub(super) fn issuer(common_name: &str, key: KeyPair) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(common_name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Issuer::new(params, key)
}

/// By what an authority's key is known in the index.
pub(super) fn key_digest(key: &KeyPair) -> String {
    sha256(key.public_key_raw())
}

/// When a certificate made at `now` ends. Certificates know whole seconds only.
pub(super) fn end(now: Timestamp, validity: Duration) -> Result<Timestamp, AuthorityError> {
    if validity.as_secs() == 0 {
        return Err(AuthorityError::Validity);
    }
    let span = SignedDuration::try_from(validity).map_err(|_| AuthorityError::Validity)?;
    let end = now.checked_add(span).map_err(|_| AuthorityError::Validity)?;
    whole_seconds(end)
}

/// `time` without the fraction of its second.
pub(super) fn whole_seconds(time: Timestamp) -> Result<Timestamp, AuthorityError> {
    Timestamp::from_second(time.as_second()).map_err(|_| AuthorityError::Validity)
}

pub(super) fn date(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.as_second()).expect("both sides know the years to 9999")
}

/// Refuses what cannot be an authority's name.
pub(super) fn check_common_name(name: &str) -> Result<(), AuthorityError> {
    let fits = (1..=MAX_COMMON_NAME).contains(&name.chars().count());
    if fits && name.trim() == name && !name.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(AuthorityError::CommonName(name.to_owned()))
    }
}

/// Refuses what a client could never ask for. The first name is also the common name, and bounded as such.
pub(super) fn check_server_names(names: &[String]) -> Result<(), AuthorityError> {
    if names.is_empty() {
        return Err(AuthorityError::NoServerName);
    }
    for (index, name) in names.iter().enumerate() {
        let longest = if index == 0 { MAX_COMMON_NAME } else { MAX_HOST_NAME };
        if name.len() > longest || !(name.parse::<IpAddr>().is_ok() || is_host_name(name)) {
            return Err(AuthorityError::ServerName(name.clone()));
        }
    }
    Ok(())
}

/// RFC 6125: letters, digits and dashes, with a star for the first label at most.
fn is_host_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(allowed) && !label.starts_with('-') && !label.ends_with('-')
    };
    // What consists of digits and dots alone is a mistyped address.
    name.split('.').all(label) && !name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_are_hosts_or_addresses() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for good in [
            "localhost",
            "broker.example.org",
            "*.example.org",
            "127.0.0.1",
            "::1",
            "mosquitto_1",
        ] {
            assert!(check_server_names(&names(&[good])).is_ok(), "{good:?}");
        }
        let long = format!("{}.example.org", "a".repeat(63));
        assert!(check_server_names(&names(&["localhost", &long])).is_ok());
        for bad in [
            "",
            " ",
            "a b",
            "a..b",
            "-a",
            "a-",
            "*",
            "a.*.b",
            "ü",
            "1.2.3",
            "1.2.3.400",
            "a/b",
            "a\n",
            &long,
        ] {
            assert!(check_server_names(&names(&[bad])).is_err(), "{bad:?}");
        }
        assert!(check_server_names(&[]).is_err());
    }

    #[test]
    fn spans_that_no_certificate_has_are_refused() {
        let now = Timestamp::UNIX_EPOCH;
        assert!(end(now, Duration::from_millis(999)).is_err());
        assert!(end(now, Duration::MAX).is_err());
        assert_eq!(end(now, Duration::from_millis(1_900)).map(Timestamp::as_second).ok(), Some(1));
    }
}
