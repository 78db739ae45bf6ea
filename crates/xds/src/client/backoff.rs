//! How long to wait before the next attempt: 10 ms to 15 s, doubling, each with jitter so that
//! the daemons of a mesh do not return to a restarted controller in step.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(10);
const LAST: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(super) struct Backoff {
    ceiling: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { ceiling: FIRST }
    }
}

impl Backoff {
    /// Between half of the current step and all of it.
    pub(super) fn next_delay(&mut self) -> Duration {
        let delay = self.ceiling.mul_f64(rand::random_range(0.5..=1.0));
        self.ceiling = (self.ceiling * 2).min(LAST);
        delay
    }

    pub(super) fn reset(&mut self) {
        self.ceiling = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_limit_and_begin_again_after_a_reset() {
        let mut backoff = Backoff::default();
        let mut step = FIRST;
        for _ in 0..20 {
            let delay = backoff.next_delay();
            assert!(
                delay >= step / 2 && delay <= step,
                "{delay:?} at step {step:?}"
            );
            step = (step * 2).min(LAST);
        }
        assert_eq!(step, LAST);
        backoff.reset();
        assert!(backoff.next_delay() <= FIRST);
    }
}
