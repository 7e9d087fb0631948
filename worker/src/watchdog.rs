//! Notices that a stream thread does not come back from what it called: the client library has been seen to hang in more than
//! one place, and nothing in a process can end such a call. Owns how long that may take; never what is done about it.
//!
//! A thread gives a sign of life at each turn and whenever it begins anew. The watchdog counts its own looks, not the time: a
//! process that was stopped and continued, or a machine that slept, is not taken for one that hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use millrace_runtime::ThreadError;

/// How patient the watchdog is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Between two looks.
    pub(crate) look: Duration,
    /// So many looks without a sign of life in between are too many.
    pub(crate) looks: u32,
}

/// Five minutes: longer than a start waits for a cluster that does not answer, and far longer than any turn.
pub(crate) const PATIENCE: Patience = Patience { look: Duration::from_secs(1), looks: 300 };

/// A thread's sign of life; clones are of the same thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    pub(crate) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Watches until the other end of what it gives is dropped. Who does not come back is told to `failing`, once.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn watch(
    pulses: Vec<Pulse>,
    patience: Patience,
    failing: Sender<ThreadError>,
) -> std::io::Result<Sender<()>> {
    let (watched, over) = bounded::<()>(0);
    let name = "watchdog".to_owned();
    std::thread::Builder::new().name(name).spawn(move || look(&pulses, patience, &failing, &over))?;
    Ok(watched)
}

fn look(pulses: &[Pulse], patience: Patience, failing: &Sender<ThreadError>, over: &Receiver<()>) {
    let mut last: Vec<(u64, u32)> = pulses.iter().map(|pulse| (pulse.beats(), 0)).collect();
    while over.recv_timeout(patience.look) == Err(RecvTimeoutError::Timeout) {
        for (number, (pulse, (beats, still))) in pulses.iter().zip(&mut last).enumerate() {
            let now = pulse.beats();
            *still = if now == *beats { *still + 1 } else { 0 };
            *beats = now;
            if *still >= patience.looks {
                let waited = patience.look * patience.looks;
                // Nobody asks any more when the receiver is gone.
                let _ = failing.send(ThreadError::Stopped(format!(
                    "stream thread {number} has not come back for {waited:?}, most likely from the Kafka client library; \
                     nothing uncommitted was done. Start the process again: it goes on from what is committed"
                )));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Patience = Patience { look: Duration::from_millis(1), looks: 20 };
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn who_does_not_come_back_is_told_of_by_its_number() {
        let (failing, failed) = crossbeam_channel::unbounded();
        let (alive, hung) = (Pulse::default(), Pulse::default());
        let _watched = watch(vec![alive.clone(), hung], SHORT, failing).unwrap();
        let told = loop {
            alive.beat();
            if let Ok(told) = failed.recv_timeout(Duration::from_micros(100)) {
                break told;
            }
        };
        assert!(told.to_string().contains("stream thread 1"), "{told}");
    }

    #[test]
    fn who_lives_is_left_alone_and_the_watch_ends_when_nobody_wants_it() {
        let (failing, failed) = crossbeam_channel::unbounded();
        let pulse = Pulse::default();
        let watched = watch(vec![pulse.clone()], Patience { looks: 1_000_000, ..SHORT }, failing).unwrap();
        for _ in 0..100 {
            pulse.beat();
            assert!(failed.recv_timeout(SHORT.look).is_err());
        }
        drop(watched);
        let ended = failed.recv_timeout(LONG);
        assert_eq!(ended.unwrap_err(), RecvTimeoutError::Disconnected, "its sender is gone with it");
    }
}
