//! A thread that makes those calls of the client library that have been seen never to come back. Owns the limit after which
//! such a call is given up; never what it asked for, and never the caller's own thread.

use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use millrace_runtime::BrokerError;

/// Calls that may hang at the same time before the process is worth starting anew: each keeps a client and its threads.
const HUNG_MAX: usize = 4;

type Call = Box<dyn FnOnce() + Send>;

/// See the module. A thread whose call hangs is left to it, and the next call has a new one.
#[derive(Default)]
pub(super) struct LibraryThread {
    calls: Option<Sender<Call>>,
    hung: Vec<Receiver<()>>,
}

impl LibraryThread {
    /// What the call gives, or `None` when it does not come back within the limit.
    ///
    /// # Errors
    /// Fatal, when no thread can be had or too many calls hang.
    pub(super) fn call<T: Send + 'static>(
        &mut self,
        limit: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>, BrokerError> {
        let (answer, answered) = bounded(1);
        let (alive, ended) = bounded::<()>(0);
        let call: Call = Box::new(move || {
            let result = call();
            drop(alive);
            let _ = answer.send(result);
        });
        let unsent = match &self.calls {
            Some(calls) => calls.send(call).err().map(|unsent| unsent.0),
            None => Some(call),
        };
        if let Some(call) = unsent {
            let calls = start()?;
            let _ = calls.send(call);
            self.calls = Some(calls);
        }
        if let Ok(result) = answered.recv_timeout(limit) {
            return Ok(Some(result));
        }
        self.calls = None;
        self.hung.retain(|ended| ended.try_recv() == Err(crossbeam_channel::TryRecvError::Empty));
        self.hung.push(ended);
        if self.hung.len() > HUNG_MAX {
            return Err(BrokerError::Fatal(format!("{} calls of the Kafka client do not come back", self.hung.len())));
        }
        Ok(None)
    }
}

/// Ends with the last of its senders.
fn start() -> Result<Sender<Call>, BrokerError> {
    let (calls, due) = bounded::<Call>(1);
    let spawned =
        thread::Builder::new().name("kafka-calls".into()).spawn(move || due.into_iter().for_each(|call| call()));
    spawned
        .map(|_| calls)
        .map_err(|error| BrokerError::Fatal(format!("no thread for calls of the Kafka client: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    /// A call that waits until the other end is dropped.
    fn hang() -> (Sender<()>, impl FnOnce() + Send + 'static) {
        let (release, held) = bounded::<()>(0);
        (release, move || {
            let _ = held.recv();
        })
    }

    #[test]
    fn a_call_gives_what_it_finds() {
        let mut thread = LibraryThread::default();
        let first = thread.call(LONG, || thread::current().id()).unwrap();
        assert_eq!(thread.call(LONG, || 7).unwrap(), Some(7));
        assert_eq!(first, thread.call(LONG, || thread::current().id()).unwrap(), "the thread is kept");
        assert_ne!(first, Some(thread::current().id()));
    }

    #[test]
    fn a_call_that_hangs_is_left_behind_and_the_next_one_is_made() {
        let mut thread = LibraryThread::default();
        let (release, call) = hang();
        assert_eq!(thread.call(SHORT, call).unwrap(), None);
        assert_eq!(thread.call(LONG, || 7).unwrap(), Some(7));
        drop(release);
    }

    #[test]
    fn too_many_that_hang_are_fatal_and_those_that_came_back_do_not_count() {
        let mut thread = LibraryThread::default();
        let mut held = Vec::new();
        for _ in 0..HUNG_MAX {
            let (release, call) = hang();
            assert_eq!(thread.call(SHORT, call).unwrap(), None);
            held.push(release);
        }
        let (_first, call) = hang();
        assert!(matches!(thread.call(SHORT, call), Err(BrokerError::Fatal(_))));
        held.clear();
        let all_back = |thread: &LibraryThread| {
            thread.hung[..HUNG_MAX]
                .iter()
                .all(|ended| ended.recv_timeout(LONG) == Err(crossbeam_channel::RecvTimeoutError::Disconnected))
        };
        assert!(all_back(&thread));
        let (_second, call) = hang();
        assert_eq!(thread.call(SHORT, call).unwrap(), None);
    }
}
