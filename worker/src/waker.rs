//! Wakes a stream thread that waits at its broker. One for each thread, cloned into whatever may have news for it: the
//! queues of the client library, calls that are answered, questions. Never says what the news is.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

/// See the module. Clones wake the same thread.
#[derive(Clone, Debug)]
pub struct Waker {
    wake: Sender<()>,
    woken: Receiver<()>,
}

impl Default for Waker {
    fn default() -> Self {
        let (wake, woken) = bounded(1);
        Self { wake, woken }
    }
}

impl Waker {
    /// Ends the wait, or the next one if there is none.
    pub fn wake(&self) {
        // One that was not taken yet stands for this one too.
        let _ = self.wake.try_send(());
    }

    /// Waits to be woken, at most so long; whether it was. A wake-up from before the wait ends it as well, so nothing that
    /// came in between is missed.
    pub(crate) fn wait(&self, most: Duration) -> bool {
        self.woken.recv_timeout(most).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_from_before_the_wait_counts_once() {
        let waker = Waker::default();
        waker.clone().wake();
        waker.wake();
        assert!(waker.wait(Duration::ZERO));
        assert!(!waker.wait(Duration::ZERO));
    }
}
