//! How long devices' status messages have been heard without a break, and stored: who was not heard in that time was silent.
//!
//! Heartbeats come at QoS 0 and are kept by nobody. So while the connection was down, the process stood still or the database did not
//! take what came, a device's silence says nothing of it, and a whole time of hearing begins anew.

use std::sync::Mutex;
use std::time::Duration;

/// A break that is not noticed: as long as this, what was heard may be on its way into the table.
const UNNOTICED: Duration = Duration::from_secs(10);

/// See the module's documentation. Times are microseconds of the clock that stamps what is received.
#[derive(Debug, Default)]
pub struct Hearing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    subscribed: bool,
    /// Since when there was no break.
    since: i64,
    /// All that came until then is stored.
    through: i64,
}

impl Hearing {
    /// The status topics are subscribed to.
    pub fn begin(&self, now: i64) {
        let mut state = self.state();
        *state = State {
            subscribed: true,
            since: now,
            through: now,
        };
    }

    /// The connection ended.
    pub fn end(&self) {
        self.state().subscribed = false;
    }

    /// All that came until `through` is stored.
    pub fn stored(&self, through: i64) {
        let mut state = self.state();
        if through.saturating_sub(state.through) > micros(UNNOTICED) {
            state.since = through;
        }
        state.through = state.through.max(through);
    }

    /// Who was last heard before this has been silent for `timeout`; nobody is known to be where it has not been heard for as long.
    #[must_use]
    pub fn silent_before(&self, now: i64, timeout: Duration) -> Option<i64> {
        let (state, timeout) = (self.state(), micros(timeout));
        let is_deaf = !state.subscribed || now.saturating_sub(state.through) > micros(UNNOTICED);
        let before = state.through.saturating_sub(timeout);
        (!is_deaf && before >= state.since).then_some(before)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it is held")
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const TIMEOUT: Duration = Duration::from_secs(300);

    /// Heard from the first second on, and stored each second until the last.
    fn heard(from: i64, to: i64) -> Hearing {
        let hearing = Hearing::default();
        hearing.begin(from * SECOND);
        hear(&hearing, from, to);
        hearing
    }

    fn hear(hearing: &Hearing, from: i64, to: i64) {
        (from..=to).for_each(|second| hearing.stored(second * SECOND));
    }

    fn silent(hearing: &Hearing, now: i64) -> Option<i64> {
        hearing.silent_before(now * SECOND, TIMEOUT).map(|at| at / SECOND)
    }

    #[test]
    fn nobody_is_silent_before_all_were_listened_to_for_a_whole_timeout() {
        assert_eq!(silent(&Hearing::default(), 1_000), None, "never subscribed");
        let hearing = heard(1_000, 1_299);
        assert_eq!(silent(&hearing, 1_299), None);
        hear(&hearing, 1_300, 1_310);
        assert_eq!(silent(&hearing, 1_311), Some(1_010));
    }

    #[test]
    fn what_breaks_the_hearing_gives_everybody_a_whole_timeout_again() {
        type Break = fn(&Hearing);
        let breaks: [(&str, Break); 3] = [
            ("a connection that ended", |hearing| {
                hearing.end();
                hear(hearing, 1_401, 1_420);
                assert_eq!(silent(hearing, 1_420), None, "it is not there");
                hearing.begin(1_421 * SECOND);
            }),
            // Whoever looks first after it sees that nothing was stored, or stores something.
            ("a process that stood still", |hearing| assert_eq!(silent(hearing, 1_421), None)),
            ("a database that took nothing", |_| {}),
        ];
        for (what, break_it) in breaks {
            let hearing = heard(1_000, 1_400);
            assert_eq!(silent(&hearing, 1_400), Some(1_100));
            break_it(&hearing);
            hear(&hearing, 1_421, 1_720);
            assert_eq!(silent(&hearing, 1_720), None, "{what}");
            hear(&hearing, 1_721, 1_722);
            assert_eq!(silent(&hearing, 1_722), Some(1_422), "{what}");
        }
    }

    #[test]
    fn a_clock_that_goes_back_sweeps_nobody_early() {
        let hearing = heard(1_000, 1_400);
        hearing.stored(900 * SECOND);
        assert_eq!(silent(&hearing, 901), Some(1_100));
        hearing.end();
        hearing.begin(901 * SECOND);
        hear(&hearing, 902, 1_200);
        assert_eq!(silent(&hearing, 1_200), None);
    }
}
