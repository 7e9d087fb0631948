//! The system's time for the engine, never going back.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use millrace_runtime::{Clock, Timestamp};

/// [`Clock`] on the system's. When that is set back, it stands still until it is reached again. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SystemClock(Arc<AtomicI64>);

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.at_least(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

impl SystemClock {
    fn at_least(&self, now: Timestamp) -> Timestamp {
        self.0.fetch_max(now, Ordering::Relaxed).max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_goes_back() {
        let clock = SystemClock::default();
        assert_eq!(clock.at_least(1_000), 1_000);
        assert_eq!(clock.at_least(400), 1_000);
        assert_eq!(clock.at_least(1_001), 1_001);
    }

    #[test]
    fn it_tells_the_time() {
        assert!(SystemClock::default().now() > 1_700_000_000_000);
    }
}
