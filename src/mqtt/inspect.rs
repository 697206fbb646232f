//! A TLS handshake that goes through whatever the broker shows, and tells what it showed and what to think of it.
//!
//! For whoever has to say what is wrong with a certificate. What carries data uses the handshake that refuses.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::config::TlsConfig;
use super::tls::{TlsError, certificates, with_client};

/// What a broker showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// When its certificate ends, where that can be read.
    pub not_after: Option<Timestamp>,
    /// Why a client that trusts these authorities, and asked for this host, would refuse it.
    pub objection: Option<String>,
}

/// Shakes hands without refusing anything. Judges by the authorities of `files`, and by `host`.
///
/// # Errors
/// When there is no handshake all the same, or the authorities' file cannot be read.
pub async fn handshake(files: &TlsConfig, host: &str, tcp: TcpStream) -> Result<(TlsStream<TcpStream>, Shown), TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca_cert)? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| TlsError::Handshake(io::Error::other(error)))?;
    let witness = Arc::new(Witness {
        judge,
        provider: Arc::clone(&provider),
        seen: Mutex::default(),
    });
    let verifier: Arc<dyn ServerCertVerifier> = Arc::<Witness>::clone(&witness);
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = with_client(config, files)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let shown = witness.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    let nothing = || TlsError::Handshake(io::Error::other("the broker showed no certificate"));
    Ok((stream, shown.ok_or_else(nothing)?))
}

/// When each certificate in a PEM file ends.
///
/// # Errors
/// When the file cannot be read, or is no PEM.
pub fn ends(file: &Path) -> Result<Vec<Option<Timestamp>>, TlsError> {
    Ok(certificates(file)?.iter().map(|certificate| not_after(certificate)).collect())
}

#[derive(Debug)]
struct Witness {
    judge: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Option<Shown>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = self.judge.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Shown {
            not_after: not_after(end_entity),
            objection: judged.err().map(|error| error.to_string()),
        });
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The version, which the oldest form leaves out.
const VERSION: u8 = 0xa0;

/// The end of a certificate's validity (RFC 5280, 4.1): behind the serial number, the algorithm and the issuer.
fn not_after(der: &[u8]) -> Option<Timestamp> {
    let (_, certificate, _) = element(der)?;
    let (_, mut fields, _) = element(certificate)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (tag, validity, _) = element(fields)?;
    let (_, _, end) = element(validity)?;
    let (kind, text, _) = element(end)?;
    (tag == SEQUENCE).then(|| time(kind, std::str::from_utf8(text).ok()?))?
}

/// Tag and contents of the first element, and what is behind it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        // A length of up to four bytes: no certificate has more.
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((*tag, contents, rest))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`; two digits are a year from 1950 to 2049.
fn time(kind: u8, text: &str) -> Option<Timestamp> {
    let digits = text.strip_suffix('Z')?;
    let full = match kind {
        UTC_TIME if digits.get(..2)? < "50" => format!("20{digits}"),
        UTC_TIME => format!("19{digits}"),
        GENERALIZED_TIME => digits.to_owned(),
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%S", full).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_read() {
        let ends = |year, month, day| {
            let key = rcgen::KeyPair::generate().expect("randomness");
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
            params.not_after = rcgen::date_time_ymd(year, month, day);
            let certificate = params.self_signed(&key).expect("a sound certificate");
            not_after(certificate.der()).map(|end| end.to_string())
        };
        assert_eq!(ends(2031, 5, 17).as_deref(), Some("2031-05-17T00:00:00Z"), "as UTCTime");
        assert_eq!(ends(2087, 12, 1).as_deref(), Some("2087-12-01T00:00:00Z"), "as GeneralizedTime");
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        for der in [
            &b""[..],
            b"\x30",
            b"\x30\x84\xff\xff\xff\xff",
            b"\x30\x05\x30\x03\x02\x01\x01",
            &[0x30; 64],
        ] {
            assert_eq!(not_after(der), None, "{der:?}");
        }
    }
}
