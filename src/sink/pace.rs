//! How often a sink may speak: at most so many messages in any minute.

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// A pace; none is as fast as it goes.
#[derive(Default)]
pub struct Pace(Option<DefaultDirectRateLimiter>);

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Pace(limited)" } else { "Pace(free)" })
    }
}

impl Pace {
    /// At most `per_minute` messages in any minute; 0 is no limit. Half of them may come at once; the
    /// others are spread over the minute, so that no minute has more, wherever it begins.
    pub fn new(per_minute: u32) -> Self {
        let at_once = (per_minute / 2).max(1);
        let spread = Duration::from_secs(60) / per_minute.saturating_sub(at_once).saturating_add(1);
        let quota = (per_minute > 0).then(|| Quota::with_period(spread)).flatten();
        let burst = NonZeroU32::new(at_once).unwrap_or(NonZeroU32::MIN);
        Self(quota.map(|quota| RateLimiter::direct(quota.allow_burst(burst))))
    }

    /// Whether there is a limit.
    pub fn is_limited(&self) -> bool {
        self.0.is_some()
    }

    /// Takes leave for one message.
    ///
    /// # Errors
    /// How long to wait for it.
    pub fn take(&self) -> Result<(), Duration> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        limiter.check().map_err(|not_yet| not_yet.wait_time_from(DefaultClock::default().now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_may_come_at_once_and_the_next_waits_for_its_part_of_the_minute() {
        let pace = Pace::new(20);
        assert!(pace.is_limited());
        assert_eq!((0..10).map(|_| pace.take()).collect::<Result<Vec<()>, _>>(), Ok(vec![(); 10]));
        let wait = pace.take().unwrap_err();
        // 60 s over the other ten, and one for the edge.
        assert!(wait <= Duration::from_secs_f64(60.0 / 11.0) && wait > Duration::ZERO, "{wait:?}");
    }

    #[test]
    fn one_in_a_minute_is_one() {
        let pace = Pace::new(1);
        pace.take().unwrap();
        let wait = pace.take().unwrap_err();
        assert!(wait > Duration::from_secs(30) && wait <= Duration::from_secs(60), "{wait:?}");
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let pace = Pace::new(0);
        assert!(!pace.is_limited());
        assert!((0..10_000).all(|_| pace.take().is_ok()));
    }
}
