//! The revocation list: always made from the whole index, so that nothing revoked is ever forgotten.

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams};

use super::error::AuthorityError;
use super::index::{Crl, Index};
use super::x509::{BACKDATED, date};

/// How long a list is good. OpenSSL refuses everybody when it is over, so it must outlive the longest holiday of whoever
/// renews it; and a stolen old list must not let a revoked device in for ever.
pub(super) const VALIDITY: SignedDuration = SignedDuration::from_hours(30 * 24);
/// A list with less than this left is due: ten days in which to hear of it.
const DUE_WITHIN: SignedDuration = SignedDuration::from_hours(10 * 24);

impl Crl {
    /// Whether the list should be made anew.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        now + DUE_WITHIN >= self.next_update
    }
}

/// Signs the list of what `index` calls revoked, and notes it there.
pub(super) fn sign(index: &mut Index, issuer: &Issuer<'_, KeyPair>, now: Timestamp) -> Result<String, AuthorityError> {
    index.crl = Crl {
        number: index.crl.number + 1,
        next_update: now + VALIDITY,
    };
    // A certificate that ended is refused for that. It stays listed for as long as a clock could be wrong.
    let revoked_certs = index
        .certificates
        .iter()
        .filter(|record| record.not_after > now - VALIDITY)
        .filter_map(|record| {
            Some(RevokedCertParams {
                serial_number: record.serial.number(),
                revocation_time: date(record.revoked_at?),
                reason_code: None,
                invalidity_date: None,
            })
        })
        .collect();
    let list = CertificateRevocationListParams {
        this_update: date(now - BACKDATED),
        next_update: date(index.crl.next_update),
        crl_number: rcgen::SerialNumber::from(index.crl.number),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(list.signed_by(issuer)?.pem()?)
}
