//! Who asks too much, and who guesses: rates by caller, and a lock-out by address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::error::{Kind, Problem};

/// How long failures count, and how long a lock-out lasts.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses, or networks, that are remembered at once; beyond, the oldest is forgotten.
const MOST_ADDRESSES: usize = 10_000;

/// Both.
#[derive(Debug)]
pub(super) struct Guard {
    rates: Option<DefaultKeyedRateLimiter<String>>,
    clock: DefaultClock,
    most_failures: u32,
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    since: Instant,
}

impl Guard {
    /// Lets each caller make `rate` requests a second, and twice as many at once; locks an address out that shows `most_failures`
    /// wrong credentials within [`WINDOW`]. 0 limits nothing.
    pub(super) fn new(rate: u32, most_failures: u32) -> Self {
        let quota =
            NonZeroU32::new(rate).map(|rate| Quota::per_second(rate).allow_burst(rate.saturating_mul(NonZeroU32::MIN.saturating_add(1))));
        Self {
            rates: quota.map(RateLimiter::keyed),
            clock: DefaultClock::default(),
            most_failures,
            failures: Mutex::default(),
        }
    }

    /// Counts a request of `caller`.
    ///
    /// # Errors
    /// A problem that says when to come again.
    pub(super) fn admit(&self, caller: &str) -> Result<(), Problem> {
        let Some(rates) = &self.rates else { return Ok(()) };
        rates.check_key(&caller.to_owned()).map_err(|until| {
            let wait = until.wait_time_from(self.clock.now());
            Problem::new(
                Kind::TooManyRequests,
                "more requests than one caller may make in a second (API_RATE); slow down, and come again after Retry-After",
            )
            .retry_after(wait.as_secs() + 1)
        })
    }

    /// Whether credentials from `address` are looked at at all.
    ///
    /// # Errors
    /// A problem that says when they are again.
    pub(super) fn look_at(&self, address: IpAddr) -> Result<(), Problem> {
        if self.most_failures == 0 {
            return Ok(());
        }
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = failures.get(&household(address)) else {
            return Ok(());
        };
        let left = WINDOW.saturating_sub(entry.since.elapsed());
        if entry.count < self.most_failures || left.is_zero() {
            return Ok(());
        }
        Err(Problem::new(
            Kind::TooManyRequests,
            "too many wrong credentials came from this address; none is looked at until Retry-After has passed",
        )
        .retry_after(left.as_secs() + 1))
    }

    /// Notes a wrong credential from `address`.
    pub(super) fn note_failure(&self, address: IpAddr) {
        let address = household(address);
        let now = Instant::now();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MOST_ADDRESSES && !failures.contains_key(&address) {
            failures.retain(|_, entry| now - entry.since < WINDOW);
            if failures.len() >= MOST_ADDRESSES
                && let Some(oldest) = failures.iter().min_by_key(|(_, entry)| entry.since).map(|(address, _)| *address)
            {
                failures.remove(&oldest);
            }
        }
        let entry = failures.entry(address).or_insert(Failures { count: 0, since: now });
        if now - entry.since >= WINDOW {
            *entry = Failures { count: 0, since: now };
        }
        entry.count += 1;
        if entry.count == self.most_failures {
            // The lock-out lasts from the last straw on.
            entry.since = now;
        }
    }

    /// Forgets callers that have asked for nothing lately.
    pub(super) fn upkeep(&self) {
        if let Some(rates) = &self.rates {
            rates.retain_recent();
        }
    }
}

/// Whom an address stands for: of the sixth family everybody is given 2^64 of them (a /64), and could guess from another each time.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_household_of_the_sixth_family_is_one_guesser() {
        let guard = Guard::new(0, 2);
        let [one, other, stranger] = ["2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"].map(|text| text.parse().expect(text));
        guard.note_failure(one);
        guard.note_failure(other);
        assert!(guard.look_at(one).is_err() && guard.look_at(other).is_err());
        assert!(guard.look_at(stranger).is_ok());
    }

    #[test]
    fn who_guesses_is_locked_out_and_nobody_else() {
        let guard = Guard::new(0, 20);
        let (guesser, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for _ in 0..20 {
            assert!(guard.look_at(guesser).is_ok());
            guard.note_failure(guesser);
        }
        assert!(guard.look_at(guesser).is_err());
        assert!(guard.look_at(other).is_ok());
    }

    #[test]
    fn memory_is_bounded_however_many_addresses_fail() {
        let guard = Guard::new(0, 20);
        for number in 0..u32::try_from(MOST_ADDRESSES).expect("it fits") + 50 {
            guard.note_failure(IpAddr::from(number.to_be_bytes()));
        }
        assert_eq!(guard.failures.lock().expect("no panic").len(), MOST_ADDRESSES);
    }

    #[test]
    fn who_asks_too_much_is_told_when_to_come_again() {
        let guard = Guard::new(1, 20);
        assert!(guard.admit("token:a").is_ok() && guard.admit("token:a").is_ok());
        assert!(guard.admit("token:a").is_err());
        assert!(guard.admit("token:b").is_ok(), "another has its own");
    }
}
