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

/// Makes one call and gives its answer; blocks as long as the service takes. It bounds its own time-outs, and answers
/// "unknown" where it does not know.
pub type Handler = Arc<dyn Fn(&Call) -> Vec<u8> + Send + Sync>;

/// First pause before a call whose handler panicked is made again; doubles up to [`PAUSE_MOST`].
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MOST: Duration = Duration::from_secs(30);

struct Job {
    call: Call,
    /// Times its handler panicked.
    panics: u32,
}

enum Done {
    Answered(Answer),
    Panicked(Job),
}

/// [`Caller`] on threads. A call whose handler panicked is made again after a pause, as a repeated one, so that the
/// handler asks what became of it first.
pub struct CallPool {
    handler: Handler,
    threads_most: usize,
    threads: usize,
    /// Calls that wait for a thread or are being made.
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
    /// A pool of at most `threads_most` threads, started as they are needed. Each answer wakes the thread that takes it.
    #[must_use]
    pub fn new(threads_most: usize, handler: Handler, waker: Waker) -> Self {
        let (jobs, todo) = unbounded();
        let (done, results) = unbounded();
        Self {
            handler,
            threads_most: threads_most.max(1),
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

    /// Calls not answered yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.busy.load(Ordering::Relaxed) + self.again.len()
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
                    let result = make(&handler, job);
                    busy.fetch_sub(1, Ordering::Relaxed);
                    if done.send(result).is_err() {
                        return;
                    }
                    waker.wake();
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

fn make(handler: &Handler, mut job: Job) -> Done {
    match catch_unwind(AssertUnwindSafe(|| handler(&job.call))) {
        Ok(response) => Done::Answered(Answer { task: job.call.task, key: job.call.key, id: job.call.id, response }),
        Err(_) => {
            job.panics += 1;
            job.call.repeated = true;
            Done::Panicked(job)
        }
    }
}

impl Caller for CallPool {
    fn start(&mut self, call: Call) {
        self.give(Job { call, panics: 0 });
    }

    fn answers(&mut self, answers: &mut Vec<Answer>) {
        while let Ok(done) = self.results.try_recv() {
            match done {
                Done::Answered(answer) => answers.push(answer),
                Done::Panicked(job) => {
                    self.panics += 1;
                    let pause = (PAUSE_FIRST * 2_u32.saturating_pow(job.panics - 1).min(1 << 12)).min(PAUSE_MOST);
                    tracing::error!(
                        processor = job.call.processor,
                        task = %job.call.task,
                        call = job.call.id,
                        panics = job.panics,
                        "the handler of a call panicked; it is made again in {pause:?}"
                    );
                    self.again.push((Instant::now() + pause, job));
                }
            }
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
        let mut pool = CallPool::new(
            8,
            Arc::new(move |call: &Call| {
                barrier.wait();
                call.id.clone().into_bytes()
            }),
            Waker::default(),
        );
        for number in 0..8 {
            pool.start(call(&number.to_string()));
        }
        let mut ids: Vec<_> = wait_for(&mut pool, 8).into_iter().map(|a| (a.id.clone(), a.response)).collect();
        ids.sort();
        let wanted: Vec<_> = (0..8).map(|n| (n.to_string(), n.to_string().into_bytes())).collect();
        assert_eq!(ids, wanted);
        assert_eq!(pool.in_flight(), 0);
    }

    #[test]
    fn a_panic_loses_no_call_and_makes_it_a_repeated_one() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let mut pool = CallPool::new(
            2,
            Arc::new(move |call: &Call| {
                let times = {
                    let mut log = log.lock().unwrap();
                    log.push(call.repeated);
                    log.len()
                };
                assert!(times > 2, "the handler breaks twice");
                b"done".to_vec()
            }),
            Waker::default(),
        );
        pool.start(call("a"));
        assert_eq!(wait_for(&mut pool, 1)[0].response, b"done");
        assert_eq!(*seen.lock().unwrap(), vec![false, true, true]);
        assert_eq!(pool.panics(), 2);
    }

    #[test]
    fn threads_are_bounded() {
        let now = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let (at, top) = (now.clone(), most.clone());
        let mut pool = CallPool::new(
            3,
            Arc::new(move |_: &Call| {
                let running = at.fetch_add(1, Ordering::SeqCst) + 1;
                top.fetch_max(running, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(2));
                at.fetch_sub(1, Ordering::SeqCst);
                Vec::new()
            }),
            Waker::default(),
        );
        for number in 0..50 {
            pool.start(call(&number.to_string()));
        }
        wait_for(&mut pool, 50);
        assert!(most.load(Ordering::SeqCst) <= 3);
    }
}
