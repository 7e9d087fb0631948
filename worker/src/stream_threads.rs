//! The threads of a process: each drives one stream thread, answers queries about its state between turns, and hands
//! its numbers to whoever listens. Owns starting, stopping and the way a query finds its thread; never what is processed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use millrace_runtime::{Broker, Query, Report, StreamThread, TaskId, TaskState, ThreadError};

use crate::waker::Waker;
use crate::watchdog::{self, Patience, Pulse};

/// Longest wait at the broker of a thread with nothing to do. Whoever has something for it wakes it: the broker, calls,
/// questions; it only looks by itself whether it shall stop.
const IDLE_WAIT: Duration = Duration::from_millis(100);
const QUERIES_WAITING_MAX: usize = 10_000;
/// A thread fenced this often in quick succession, without having slept, ends for good.
const FENCED_MAX: u32 = 3;
const FENCED_AGAIN: Duration = Duration::from_secs(60);
/// A turn that takes longer was interrupted: the process slept, or the broker did. As short as the shortest session.
const ASLEEP: Duration = Duration::from_secs(1);

/// How long the threads may take to commit, write out and leave when they are told to end.
const ENDS: Duration = Duration::from_secs(60);
/// Between two looks whether they have.
const LOOK: Duration = Duration::from_millis(5);

/// A question for a committed state.
struct Question {
    processor: String,
    store: String,
    partition: i32,
    key: Vec<u8>,
    answer: Box<dyn FnOnce(Result<Query, String>) + Send>,
}

/// What a thread says after each turn that did something.
pub struct Said {
    /// Number of the thread, from 0.
    pub thread: usize,
    /// What it did.
    pub report: Report,
    /// Its tasks and where they are in their life; `None` when nothing changed.
    pub tasks: Option<Vec<(TaskId, TaskState)>>,
}

/// Takes what threads say. Called on the stream threads: it must be quick.
pub type Listener = Arc<dyn Fn(Said) + Send + Sync>;

/// The running threads. Dropping it stops nothing; see [`StreamThreads::stop`].
pub struct StreamThreads {
    stop: Arc<AtomicBool>,
    asks: Asks,
    threads: Vec<JoinHandle<Result<(), ThreadError>>>,
    failed: Receiver<ThreadError>,
    /// Until it is dropped, somebody looks whether the threads come back from what they call.
    _watched: Sender<()>,
}

/// Asks the threads of this process; clones ask the same.
#[derive(Clone)]
pub struct Asks {
    doors: Arc<Vec<(Sender<Question>, Waker)>>,
    owners: Arc<Mutex<BTreeMap<TaskId, (usize, TaskState)>>>,
}

/// Starts threads, each of which makes its own stream thread (a client must live where it is polled), with doors that wake
/// it by the waker they are given.
///
/// # Errors
/// When the system gives no thread.
pub fn start<B, F>(count: usize, make: F, listener: &Listener) -> std::io::Result<StreamThreads>
where
    B: Broker + 'static,
    F: Fn(usize, &Waker) -> Result<StreamThread<B>, ThreadError> + Send + Sync + 'static,
{
    start_watched(count, make, listener, watchdog::PATIENCE)
}

fn start_watched<B, F>(count: usize, make: F, listener: &Listener, patience: Patience) -> std::io::Result<StreamThreads>
where
    B: Broker + 'static,
    F: Fn(usize, &Waker) -> Result<StreamThread<B>, ThreadError> + Send + Sync + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let owners: Arc<Mutex<BTreeMap<TaskId, (usize, TaskState)>>> = Arc::default();
    let make = Arc::new(make);
    let (failing, failed) = crossbeam_channel::unbounded();
    let mut doors = Vec::new();
    let mut threads = Vec::new();
    let pulses: Vec<Pulse> = (0..count).map(|_| Pulse::default()).collect();
    for (number, pulse) in pulses.iter().enumerate() {
        let (door, questions) = crossbeam_channel::bounded(QUERIES_WAITING_MAX);
        let waker = Waker::default();
        doors.push((door, waker.clone()));
        let (stop, make, owners) = (stop.clone(), make.clone(), owners.clone());
        let (listener, failing, pulse) = (listener.clone(), failing.clone(), pulse.clone());
        let thread = std::thread::Builder::new().name(format!("stream-{number}")).spawn(move || {
            let _fallen = Fallen(failing.clone());
            let mut fencings = Fencings::default();
            let result = loop {
                pulse.beat();
                let made = make(number, &waker);
                let mut life = Life { began: Instant::now(), slept: false, pulse: &pulse };
                let ended =
                    made.and_then(|thread| drive(thread, number, &stop, &questions, &owners, &listener, &mut life));
                owners.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, (owner, _)| *owner != number);
                match ended {
                    Err(ThreadError::Fenced(reason))
                        if fencings.may_start_anew(life.began.elapsed(), life.slept)
                            && !stop.load(Ordering::Relaxed) =>
                    {
                        tracing::warn!(thread = number, reason, "fenced: the stream thread starts anew");
                    }
                    other => break other,
                }
            };
            if let Err(error) = &result {
                // The receiver lives as long as the handle; without it nobody asks why.
                let _ = failing.send(error.clone());
            }
            result
        })?;
        threads.push(thread);
    }
    let watched = watchdog::watch(pulses, patience, failing)?;
    Ok(StreamThreads { stop, asks: Asks { doors: Arc::new(doors), owners }, threads, failed, _watched: watched })
}

/// One life of a stream thread, from its clients' connection to its end.
struct Life<'a> {
    began: Instant,
    /// A turn was interrupted for [`ASLEEP`].
    slept: bool,
    pulse: &'a Pulse,
}

/// How often in quick succession a thread was fenced.
#[derive(Default)]
struct Fencings(u32);

impl Fencings {
    /// Whether a thread that was fenced starts anew. One that slept too long was given up by the coordinator: with new clients
    /// it rejoins as whoever it is. Two processes of one name would do this to each other for ever, so not without end.
    fn may_start_anew(&mut self, lived: Duration, slept: bool) -> bool {
        if lived > FENCED_AGAIN {
            self.0 = 0;
        }
        self.0 += u32::from(!slept);
        self.0 <= FENCED_MAX
    }
}

/// Says that a thread panicked: an invariant does not hold, and the process must end rather than go on without it.
struct Fallen(Sender<ThreadError>);

impl Drop for Fallen {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let reason = "a stream thread panicked, which its last message explains; nothing uncommitted was done";
            // The receiver lives as long as the handle; without it nobody asks why.
            let _ = self.0.send(ThreadError::Stopped(reason.into()));
        }
    }
}

fn drive<B: Broker>(
    mut thread: StreamThread<B>,
    number: usize,
    stop: &AtomicBool,
    questions: &Receiver<Question>,
    owners: &Mutex<BTreeMap<TaskId, (usize, TaskState)>>,
    listener: &Listener,
    life: &mut Life<'_>,
) -> Result<(), ThreadError> {
    let mut known: Vec<(TaskId, TaskState)> = Vec::new();
    let mut said_empty = false;
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        life.pulse.beat();
        let turn = thread.turn(IDLE_WAIT);
        let now = Instant::now();
        life.slept |= now.duration_since(last) > ASLEEP;
        last = now;
        let tasks: Vec<_> = thread.tasks().collect();
        let changed = tasks != known;
        if changed {
            let mut owners = owners.lock().unwrap_or_else(PoisonError::into_inner);
            owners.retain(|_, (owner, _)| *owner != number);
            owners.extend(tasks.iter().map(|(task, state)| (*task, (number, *state))));
            known.clone_from(&tasks);
        }
        for question in questions.try_iter() {
            let found = thread.query(&question.processor, &question.store, question.partition, &question.key);
            (question.answer)(found);
        }
        let worked = turn.as_ref().is_ok_and(|turn| turn.handled > 0 || turn.committed);
        if worked || changed || turn.is_err() || !said_empty || thread.has_notes() {
            said_empty = !worked;
            listener(Said { thread: number, report: thread.take_report(), tasks: changed.then_some(tasks) });
        }
        turn?;
    }
    let closed = thread.close();
    listener(Said { thread: number, report: thread.take_report(), tasks: Some(Vec::new()) });
    closed
}

impl StreamThreads {
    /// To ask for states.
    #[must_use]
    pub fn asks(&self) -> Asks {
        self.asks.clone()
    }

    /// Why a thread ended by itself, once one has.
    #[must_use]
    pub fn failure(&self, wait: Duration) -> Option<ThreadError> {
        self.failed.recv_timeout(wait).ok()
    }

    /// Lets every thread finish what it does, commit, write its stores out and leave its groups.
    ///
    /// # Errors
    /// The first thread's [`ThreadError`]; [`ThreadError::Stopped`] for one that does not end, which is left behind.
    pub fn stop(self) -> Result<(), ThreadError> {
        self.stop_within(ENDS)
    }

    fn stop_within(self, limit: Duration) -> Result<(), ThreadError> {
        self.stop.store(true, Ordering::Relaxed);
        let since = Instant::now();
        let mut result = Ok(());
        for (number, thread) in self.threads.into_iter().enumerate() {
            while !thread.is_finished() && since.elapsed() < limit {
                std::thread::sleep(LOOK);
            }
            if !thread.is_finished() {
                let reason = format!(
                    "stream thread {number} did not end within {limit:?} and is left behind, most likely in the Kafka \
                     client library; what it had not committed is done again by whoever takes over"
                );
                result = result.and(Err(ThreadError::Stopped(reason)));
                continue;
            }
            let ended = thread.join().unwrap_or_else(|_| Err(ThreadError::Stopped("a stream thread panicked".into())));
            result = result.and(ended);
        }
        result
    }
}

impl Asks {
    /// The tasks of this process and where they are in their life.
    #[must_use]
    pub fn tasks(&self) -> Vec<(TaskId, TaskState)> {
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.iter().map(|(task, (_, state))| (*task, *state)).collect()
    }

    /// The committed state of a key; `answer` is called on the stream thread that has it.
    pub fn ask(
        &self,
        task: TaskId,
        processor: &str,
        store: &str,
        key: &[u8],
        answer: impl FnOnce(Result<Query, String>) + Send + 'static,
    ) {
        let owner = self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(&task).copied();
        let Some((door, waker)) = owner.and_then(|(thread, _)| self.doors.get(thread)) else {
            return answer(Ok(Query::NotHere));
        };
        let question = Question {
            processor: processor.to_owned(),
            store: store.to_owned(),
            partition: task.partition,
            key: key.to_vec(),
            answer: Box::new(answer),
        };
        if let Err(refused) = door.try_send(question) {
            let reason = if refused.is_full() { "too many queries wait" } else { "the stream thread has ended" };
            return (refused.into_inner().answer)(Err(reason.into()));
        }
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KafkaBroker;

    const SHORT: Duration = Duration::from_secs(5);

    #[test]
    fn a_thread_that_is_fenced_again_and_again_ends() {
        let mut fencings = Fencings::default();
        let anew = [(); 4].map(|()| fencings.may_start_anew(SHORT, false));
        assert_eq!(anew, [true, true, true, false]);
    }

    /// A thread that hangs where its clients are made, until the sender is dropped.
    fn one_that_hangs(patience: Patience) -> (Sender<()>, StreamThreads) {
        let (release, held) = crossbeam_channel::bounded::<()>(0);
        let make = move |_: usize, _: &Waker| -> Result<StreamThread<KafkaBroker>, ThreadError> {
            let _ = held.recv();
            Err(ThreadError::Stopped("released".into()))
        };
        let listener: Listener = Arc::new(|_| {});
        (release, start_watched(1, make, &listener, patience).unwrap())
    }

    #[test]
    fn a_thread_that_does_not_come_back_is_told_of() {
        let patience = Patience { look: Duration::from_millis(1), looks: 10 };
        let (_release, threads) = one_that_hangs(patience);
        let failure = threads.failure(Duration::from_secs(60)).expect("the watchdog looks");
        assert!(failure.to_string().contains("has not come back"), "{failure}");
    }

    #[test]
    fn who_is_told_to_end_does_not_wait_for_ever_for_one_that_hangs() {
        let (_release, threads) = one_that_hangs(watchdog::PATIENCE);
        let ended = threads.stop_within(Duration::from_millis(20)).unwrap_err();
        assert!(ended.to_string().contains("did not end"), "{ended}");
    }

    #[test]
    fn one_that_ends_in_time_says_why_itself() {
        let (release, threads) = one_that_hangs(watchdog::PATIENCE);
        drop(release);
        let ended = threads.stop_within(Duration::from_secs(60)).unwrap_err();
        assert!(ended.to_string().contains("released"), "{ended}");
    }

    #[test]
    fn a_thread_that_was_asleep_or_ran_for_long_starts_anew() {
        let mut fencings = Fencings::default();
        assert!((0..10).all(|_| fencings.may_start_anew(SHORT, true)), "asleep each time");
        assert!((0..10).all(|_| fencings.may_start_anew(2 * FENCED_AGAIN, false)), "long after the last time");
    }
}
