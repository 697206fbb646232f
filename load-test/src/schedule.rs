//! When each message is due, whatever has become of those before it: an open loop.
//!
//! Messages are numbered through the fleet: number `k` is device `k mod devices`, round `k div devices`. The rate grows
//! linearly during the ramp, so by time `t` within it `rate · t² / (2 · ramp)` messages are due.

use std::time::Duration;

/// The due times of a fleet's messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    rate: f64,
    ramp: f64,
}

impl Schedule {
    /// `rate` messages a second after a ramp of `ramp` seconds; a rate of zero has no due times.
    pub(crate) fn new(rate: f64, ramp: f64) -> Self {
        Self { rate, ramp }
    }

    /// When message number `k` is due, from the start on; `None` where there is no schedule.
    #[expect(clippy::cast_precision_loss, reason = "a run has far fewer than 2^53 messages")]
    pub(crate) fn due(&self, k: u64) -> Option<Duration> {
        if self.rate <= 0.0 {
            return None;
        }
        let number = k as f64;
        let in_ramp = self.rate * self.ramp / 2.0;
        let seconds = if number < in_ramp {
            (2.0 * number * self.ramp / self.rate).sqrt()
        } else {
            (number - in_ramp) / self.rate + self.ramp
        };
        Some(Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_never_go_back_and_reach_the_rate() {
        let schedule = Schedule::new(1_000.0, 2.0);
        let due: Vec<f64> = (0..5_000)
            .map(|k| schedule.due(k).expect("there is a rate").as_secs_f64())
            .collect();
        assert!(due.is_sorted());
        assert!((due[1_000] - 2.0).abs() < 1e-9, "the ramp sends half of what its time would hold");
        assert!((due[3_000] - 4.0).abs() < 1e-9, "then 1,000 a second");
        assert_eq!(Schedule::new(0.0, 0.0).due(5), None);
    }
}
