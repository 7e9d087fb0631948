//! Calls to external services, many at a time on threads of their own. Owns the rule that every call is answered, also
//! when its handler panics; never knows what a call asks or what an answer means.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use millrace_runtime::{Answer, Call, Caller};

use crate::waker::Waker;

/// Makes calls and answers each by its place, in any order, as soon as its answer is there; blocks until all are answered.
/// It bounds its own time-outs, and answers "unknown" where it does not know.
pub type Handler = Arc<dyn Fn(&[Call], &mut dyn FnMut(usize, Vec<u8>)) + Send + Sync>;

/// First pause before a call whose handler panicked is made again; doubles up to [`PAUSE_MOST`].
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MOST: Duration = Duration::from_secs(30);

/// Calls that one thread makes together.
struct Job {
    calls: Vec<Call>,
    /// Times the handler panicked over them.
    panics: u32,
}

enum Done {
    Answered(Answer),
    /// The handler panicked before it had answered these.
    Panicked(Job),
}

/// [`Caller`] on threads. Calls over which a handler panicked are made again after a pause, each by itself, as repeated
/// ones, so that the handler asks what became of them first.
pub struct CallPool {
    handler: Handler,
    threads_most: usize,
    together_most: usize,
    threads: usize,
    /// Jobs that wait for a thread or are being done.
    busy: Arc<AtomicUsize>,
    jobs: Sender<Job>,
    todo: Receiver<Job>,
    done: Sender<Done>,
    results: Receiver<Done>,
    waker: Waker,
    again: Vec<(Instant, Job)>,
    panics: u64,
}

impl CallPool {
    /// A pool of at most `threads_most` threads, started as they are needed, each of which is given at most
    /// `together_most` calls at a time. Answers wake the thread that takes them.
    #[must_use]
    pub fn new(threads_most: usize, together_most: usize, handler: Handler, waker: Waker) -> Self {
        let (jobs, todo) = unbounded();
        let (done, results) = unbounded();
        Self {
            handler,
            threads_most: threads_most.max(1),
            together_most: together_most.max(1),
            threads: 0,
            busy: Arc::default(),
            jobs,
            todo,
            done,
            results,
            waker,
            again: Vec::new(),
            panics: 0,
        }
    }

    /// Times a handler panicked.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics
    }

    fn give(&mut self, job: Job) {
        let busy = self.busy.fetch_add(1, Ordering::Relaxed) + 1;
        if busy > self.threads && self.threads < self.threads_most {
            let (todo, done, waker) = (self.todo.clone(), self.done.clone(), self.waker.clone());
            let (handler, busy) = (self.handler.clone(), self.busy.clone());
            let spawned = thread::Builder::new().name(format!("calls-{}", self.threads)).spawn(move || {
                for job in todo {
                    let heard = make(&handler, job, &done, &waker);
                    busy.fetch_sub(1, Ordering::Relaxed);
                    if !heard {
                        return;
                    }
                }
            });
            match spawned {
                Ok(_) => self.threads += 1,
                Err(error) => tracing::error!(%error, threads = self.threads, "no further thread for calls"),
            }
        }
        // A receiver is held by this pool, so this cannot fail.
        let _ = self.jobs.send(job);
    }
}

/// Whether anybody takes the results: nobody does when the pool is gone, and what waits is not to be made then.
fn make(handler: &Handler, mut job: Job, done: &Sender<Done>, waker: &Waker) -> bool {
    let mut heard = true;
    let mut tell = |what: Done| {
        heard &= done.send(what).is_ok();
        waker.wake();
    };
    let mut answered = vec![false; job.calls.len()];
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        handler(&job.calls, &mut |place, response| {
            // Only the first answer to a call counts.
            if std::mem::replace(&mut answered[place], true) {
                return;
            }
            let call = &job.calls[place];
            let answer = Answer { task: call.task, key: call.key.clone(), id: call.id.clone(), response };
            tell(Done::Answered(answer));
        });
    }));
    let mut answered = answered.into_iter();
    job.calls.retain(|_| answered.next() == Some(false));
    if !job.calls.is_empty() {
        if outcome.is_ok() {
            tracing::error!(calls = job.calls.len(), "a handler has left calls unanswered");
        }
        job.panics += 1;
        job.calls.iter_mut().for_each(|call| call.repeated = true);
        tell(Done::Panicked(job));
    }
    heard
}

impl Caller for CallPool {
    fn start(&mut self, mut calls: Vec<Call>) {
        while !calls.is_empty() {
            let rest = calls.split_off(calls.len().min(self.together_most));
            self.give(Job { calls, panics: 0 });
            calls = rest;
        }
    }

    fn answers(&mut self, answers: &mut Vec<Answer>) {
        while let Ok(done) = self.results.try_recv() {
            match done {
                Done::Answered(answer) => answers.push(answer),
                Done::Panicked(Job { calls, panics }) => {
                    self.panics += 1;
                    let pause = (PAUSE_FIRST * 2_u32.saturating_pow(panics - 1).min(1 << 12)).min(PAUSE_MOST);
                    for call in calls {
                        tracing::error!(
                            processor = call.processor,
                            task = %call.task,
                            call = call.id,
                            panics,
                            "the handler of a call panicked; it is made again in {pause:?}"
                        );
                        self.again.push((Instant::now() + pause, Job { calls: vec![call], panics }));
                    }
                }
            }
        }
        if self.again.is_empty() {
            return;
        }
        let now = Instant::now();
        for (_, job) in self.again.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            self.give(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use millrace_runtime::{ProcessorId, TaskId};

    use super::*;

    fn call(id: &str) -> Call {
        Call {
            task: TaskId { processor: ProcessorId(1), partition: 2 },
            processor: "payment".into(),
            key: b"order".to_vec(),
            id: id.into(),
            request: b"authorize".to_vec(),
            repeated: false,
        }
    }

    /// A handler that makes one call after the other.
    fn each(one: impl Fn(&Call) -> Vec<u8> + Send + Sync + 'static) -> Handler {
        Arc::new(move |calls: &[Call], answer: &mut dyn FnMut(usize, Vec<u8>)| {
            calls.iter().enumerate().for_each(|(place, call)| answer(place, one(call)));
        })
    }

    fn wait_for(pool: &mut CallPool, count: usize) -> Vec<Answer> {
        let (mut answers, since) = (Vec::new(), Instant::now());
        while answers.len() < count {
            pool.answers(&mut answers);
            assert!(since.elapsed() < Duration::from_secs(20), "only {} answers", answers.len());
            thread::yield_now();
        }
        answers
    }

    #[test]
    fn calls_run_side_by_side_and_each_is_answered_once() {
        // Each waits for all the others: with fewer threads than calls this would never end.
        let barrier = Arc::new(std::sync::Barrier::new(8));
        let handler = each(move |call| {
            barrier.wait();
            call.id.clone().into_bytes()
        });
        let mut pool = CallPool::new(8, 1, handler, Waker::default());
        pool.start((0..8).map(|number| call(&number.to_string())).collect());
        let mut ids: Vec<_> = wait_for(&mut pool, 8).into_iter().map(|a| (a.id.clone(), a.response)).collect();
        ids.sort();
        let wanted: Vec<_> = (0..8).map(|n| (n.to_string(), n.to_string().into_bytes())).collect();
        assert_eq!(ids, wanted);
    }

    #[test]
    fn a_panic_loses_no_call_and_makes_it_a_repeated_one() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let handler = each(move |call| {
            let times = {
                let mut log = log.lock().unwrap();
                log.push(call.repeated);
                log.len()
            };
            assert!(times > 2, "the handler breaks twice");
            b"done".to_vec()
        });
        let mut pool = CallPool::new(2, 1, handler, Waker::default());
        pool.start(vec![call("a")]);
        assert_eq!(wait_for(&mut pool, 1)[0].response, b"done");
        assert_eq!(*seen.lock().unwrap(), vec![false, true, true]);
        assert_eq!(pool.panics(), 2);
    }

    #[test]
    fn threads_are_bounded() {
        let now = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let (at, top) = (now.clone(), most.clone());
        let handler = each(move |_| {
            let running = at.fetch_add(1, Ordering::SeqCst) + 1;
            top.fetch_max(running, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(2));
            at.fetch_sub(1, Ordering::SeqCst);
            Vec::new()
        });
        let mut pool = CallPool::new(3, 1, handler, Waker::default());
        pool.start((0..50).map(|number| call(&number.to_string())).collect());
        wait_for(&mut pool, 50);
        assert!(most.load(Ordering::SeqCst) <= 3);
    }

    #[test]
    fn calls_that_became_open_together_are_made_together_and_a_panic_parts_them() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let log = sizes.clone();
        let handler: Handler = Arc::new(move |calls: &[Call], answer: &mut dyn FnMut(usize, Vec<u8>)| {
            log.lock().unwrap().push(calls.len());
            for (place, call) in calls.iter().enumerate() {
                assert!(call.id != "3" || call.repeated, "the handler breaks once");
                answer(place, call.id.clone().into_bytes());
            }
        });
        let mut pool = CallPool::new(1, 4, handler, Waker::default());
        pool.start((0..6).map(|number| call(&number.to_string())).collect());
        let mut ids: Vec<_> = wait_for(&mut pool, 6).into_iter().map(|answer| answer.id).collect();
        ids.sort();
        assert_eq!(ids, ["0", "1", "2", "3", "4", "5"]);
        assert_eq!(*sizes.lock().unwrap(), [4, 2, 1], "the one that broke is made again by itself");
    }

    #[test]
    fn what_waits_when_the_pool_goes_is_not_made() {
        let made = Arc::new(AtomicUsize::new(0));
        let (release, held) = unbounded::<()>();
        let count = made.clone();
        let handler = each(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = held.recv();
            Vec::new()
        });
        let mut pool = CallPool::new(1, 1, handler.clone(), Waker::default());
        pool.start((0..3).map(|number| call(&number.to_string())).collect());
        let since = Instant::now();
        let wait_until = |is_so: &dyn Fn() -> bool| {
            while !is_so() {
                assert!(since.elapsed() < Duration::from_secs(20));
                thread::yield_now();
            }
        };
        wait_until(&|| made.load(Ordering::SeqCst) == 1);
        drop(pool);
        drop(release);
        wait_until(&|| Arc::strong_count(&handler) == 1);
        assert_eq!(made.load(Ordering::SeqCst), 1, "only the one that was being made");
    }
}
