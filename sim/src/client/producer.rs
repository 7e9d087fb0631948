//! The transactional producer of a stream thread: the model of `worker/src/kafka_broker/producer.rs` on the client
//! library. It keeps records until it must send them, tells the coordinator of each partition first, repeats what is not
//! answered under the same sequence and epoch, and is replaced when it may have repeated the end of a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use millrace_broker::core::{CommitAs, ErrorCode, Outcome};
use millrace_runtime::{BrokerError, Landed, Offset, OutgoingRecord, TopicPartition};

use super::Line;
use crate::batches::{self, Draft};
use crate::defects::ClientDefect;
use crate::network::{Owner, Reply, Request};
use crate::plan::{MS, Micros, SECOND};
use crate::world::trace;

pub(crate) const TRANSACTION_TIMEOUT: Micros = 15 * SECOND;
const INIT_DEADLINE: Micros = 20 * SECOND;
const RETRY: Micros = 20 * MS;
/// Positions that are refused for an old generation so long are those of a member that is lost: two heartbeats.
const OVERTAKEN: Micros = 3 * SECOND;
/// An end of a transaction that took this long may have been asked for twice.
const SLOW_END: Micros = 140 * MS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Gone,
    Ready,
    Open,
}

/// See the module.
pub(crate) struct Producer {
    id: String,
    producer: i64,
    epoch: i16,
    state: State,
    sequences: BTreeMap<TopicPartition, i32>,
    drafts: BTreeMap<TopicPartition, Draft>,
    waiting: usize,
    added: BTreeSet<TopicPartition>,
    landed: BTreeMap<TopicPartition, Range<Offset>>,
    suspect: bool,
    /// Since when positions are refused because of an old generation.
    overtaken: Option<Micros>,
    /// The broker knows of the open transaction.
    known: bool,
}

/// What a request came to.
enum Came<T> {
    Well(T),
    /// The coordinator has not finished the transaction before.
    NotYet,
    Refused(ErrorCode),
    /// The deadline passed without an answer.
    Never,
}

impl Producer {
    pub(crate) fn new(id: String) -> Self {
        Self {
            id,
            producer: -1,
            epoch: -1,
            state: State::Gone,
            sequences: BTreeMap::new(),
            drafts: BTreeMap::new(),
            waiting: 0,
            added: BTreeSet::new(),
            landed: BTreeMap::new(),
            suspect: false,
            overtaken: None,
            known: false,
        }
    }

    fn owner(&self) -> Owner {
        Owner { id: self.id.clone(), producer: self.producer, epoch: self.epoch }
    }

    /// Starts the first producer, or a new one in place of the old.
    pub(crate) fn replace(&mut self, line: &Line<'_>) -> Result<(), BrokerError> {
        self.state = State::Gone;
        self.suspect = false;
        self.forget();
        let timeout = i64::try_from(TRANSACTION_TIMEOUT / MS).unwrap_or(0);
        let deadline = line.now() + INIT_DEADLINE;
        loop {
            match line.ask(Request::InitProducer { id: self.id.clone(), timeout }) {
                Some(Reply::Producer(Ok((producer, epoch)))) => {
                    self.producer = producer;
                    self.epoch = epoch;
                    self.sequences.clear();
                    self.state = State::Ready;
                    return Ok(());
                }
                Some(Reply::Producer(Err(code))) if may_pass(code) => {}
                Some(Reply::Disconnected) | None => {}
                Some(other) => return Err(BrokerError::Fatal(format!("InitProducerId: {}", other.say()))),
            }
            if line.now() > deadline {
                return Err(BrokerError::Retry("InitProducerId was not answered".into()));
            }
            line.sleep(RETRY);
        }
    }

    fn forget(&mut self) {
        self.drafts.clear();
        self.waiting = 0;
        self.added.clear();
        self.landed.clear();
        self.known = false;
    }

    fn wants(&self, state: State) -> Result<(), BrokerError> {
        if self.state == state {
            return Ok(());
        }
        Err(BrokerError::Unknown(format!("the producer is {:?}, not {state:?}", self.state)))
    }

    /// Only a new producer helps.
    fn give_up(&mut self, what: &str, code: Option<ErrorCode>) -> BrokerError {
        self.state = State::Gone;
        match code {
            Some(
                code @ (ErrorCode::ProducerFenced
                | ErrorCode::InvalidProducerEpoch
                | ErrorCode::InvalidProducerIdMapping),
            ) => BrokerError::Fenced(format!("{what}: {code:?}")),
            Some(code) => BrokerError::Unknown(format!("{what}: {code:?}")),
            None => BrokerError::Unknown(format!("{what}: no answer")),
        }
    }

    pub(crate) fn begin(&mut self, line: &Line<'_>) -> Result<(), BrokerError> {
        if std::mem::take(&mut self.suspect) && !line.has(ClientDefect::SuspectKept) {
            trace!(line.world.borrow_mut(), "{:<5} replaces its producer: it may have repeated itself", line.name);
            self.replace(line)?;
        }
        if self.state == State::Gone {
            self.replace(line)?;
        }
        self.wants(State::Ready)?;
        self.forget();
        self.state = State::Open;
        Ok(())
    }

    pub(crate) fn send(&mut self, record: &OutgoingRecord<'_>, line: &Line<'_>) -> Result<(), BrokerError> {
        self.wants(State::Open)?;
        let headers = record.headers.to_vec();
        self.drafts.entry(record.to).or_default().push(record.timestamp, Some(record.key), record.value, &headers);
        self.waiting += 1;
        if self.waiting >= line.flush_at {
            return self.deliver(line);
        }
        Ok(())
    }

    /// Asks until there is an answer that says something, or no time is left.
    fn insist<T>(
        &mut self,
        line: &Line<'_>,
        deadline: Micros,
        request: &Request,
        mut read: impl FnMut(Reply) -> Came<T>,
    ) -> Came<T> {
        loop {
            let came = match line.ask(request.clone()) {
                None | Some(Reply::Disconnected) => {
                    // The library repeats by itself, and says nothing but that a connection was lost.
                    self.suspect = true;
                    Came::Never
                }
                Some(reply) => read(reply),
            };
            let came = match came {
                Came::Never if request.ends_transaction() && line.has(ClientDefect::SilenceIsSuccess) => {
                    read(Reply::Done(Ok(())))
                }
                Came::Never if request.ends_transaction() && line.has(ClientDefect::CommitOnAnotherProducer) => {
                    if self.replace(line).is_err() {
                        return Came::Never;
                    }
                    read(Reply::Done(Ok(())))
                }
                came => came,
            };
            match came {
                Came::NotYet | Came::Never if line.now() < deadline => line.sleep(RETRY),
                came => return came,
            }
        }
    }

    /// Sends what waits, and waits until all of it has a place.
    pub(crate) fn deliver(&mut self, line: &Line<'_>) -> Result<(), BrokerError> {
        self.wants(State::Open)?;
        let deadline = line.now() + TRANSACTION_TIMEOUT;
        let new: Vec<TopicPartition> = self.drafts.keys().filter(|at| !self.added.contains(at)).copied().collect();
        if !new.is_empty() {
            let partitions = new.iter().map(|at| line.place(*at)).collect();
            let request = Request::AddPartitions { owner: self.owner(), partitions };
            self.known = true;
            match self.insist(line, deadline, &request, done) {
                Came::Well(()) => self.added.extend(new),
                Came::Refused(code) => return Err(self.abort_or_give_up("AddPartitionsToTxn", code)),
                Came::NotYet | Came::Never => return Err(BrokerError::Abort("partitions were not added".into())),
            }
        }
        let drafts = std::mem::take(&mut self.drafts);
        self.waiting = 0;
        if drafts.is_empty() {
            return Ok(());
        }
        let mut sent = Vec::new();
        for (at, draft) in &drafts {
            let sequence = self.sequences.entry(*at).or_insert(0);
            let who =
                batches::Producer { id: self.producer, epoch: self.epoch, sequence: *sequence, transactional: true };
            *sequence += draft.count;
            sent.push((line.place(*at), draft.seal(who)));
        }
        let request = Request::Produce { batches: sent };
        let came = self.insist(line, deadline, &request, |reply| match reply {
            Reply::Produced(places) => match places.iter().find_map(|place| place.err()) {
                None => Came::Well(places.into_iter().flatten().collect::<Vec<i64>>()),
                Some(ErrorCode::KafkaStorageError) => Came::NotYet,
                Some(code) => Came::Refused(code),
            },
            _ => Came::Never,
        });
        match came {
            Came::Well(bases) => {
                for ((at, draft), base) in drafts.iter().zip(bases) {
                    let next = base + i64::from(draft.count);
                    let landed = self.landed.entry(*at).or_insert(base..next);
                    landed.end = landed.end.max(next);
                }
                Ok(())
            }
            Came::Refused(code) => Err(BrokerError::Abort(format!("records were refused: {code:?}"))),
            Came::NotYet | Came::Never => Err(BrokerError::Abort("records were not delivered in time".into())),
        }
    }

    fn abort_or_give_up(&mut self, what: &str, code: ErrorCode) -> BrokerError {
        match code {
            ErrorCode::ProducerFenced | ErrorCode::InvalidProducerEpoch | ErrorCode::InvalidProducerIdMapping => {
                self.give_up(what, Some(code))
            }
            code => BrokerError::Abort(format!("{what}: {code:?}")),
        }
    }

    /// Adds a group's positions.
    pub(crate) fn send_offsets(
        &mut self,
        line: &Line<'_>,
        group: &str,
        who: CommitAs,
        offsets: Vec<(millrace_broker::core::TopicPartition, i64)>,
    ) -> Result<(), BrokerError> {
        self.wants(State::Open)?;
        let deadline = line.now() + TRANSACTION_TIMEOUT;
        self.known = true;
        let request = Request::AddGroup { owner: self.owner(), group: group.to_owned() };
        match self.insist(line, deadline, &request, done) {
            Came::Well(()) => {}
            Came::Refused(code) => return Err(self.abort_or_give_up("AddOffsetsToTxn", code)),
            Came::NotYet | Came::Never => return Err(BrokerError::Abort("the group was not added".into())),
        }
        let request = Request::CommitOffsets { owner: self.owner(), group: group.to_owned(), who, offsets };
        match self.insist(line, deadline, &request, done) {
            Came::Well(()) => {
                self.overtaken = None;
                Ok(())
            }
            Came::Refused(code) => {
                line.world.borrow_mut().coverage.count("positions refused", 1);
                Err(self.refused(line.now(), code))
            }
            Came::NotYet | Came::Never => Err(BrokerError::Abort("offsets were not answered".into())),
        }
    }

    /// A member that its group has forgotten starts anew, and so does one that has been of an old generation for long.
    fn refused(&mut self, now: Micros, code: ErrorCode) -> BrokerError {
        let gone = match code {
            ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId => true,
            ErrorCode::IllegalGeneration => now - *self.overtaken.get_or_insert(now) >= OVERTAKEN,
            _ => false,
        };
        if gone {
            self.state = State::Gone;
            return BrokerError::Fenced(format!("TxnOffsetCommit: {code:?}"));
        }
        self.abort_or_give_up("TxnOffsetCommit", code)
    }

    /// Where the records of the open transaction stand.
    pub(crate) fn landed(&self) -> Landed {
        Landed(self.landed.clone().into_iter().collect())
    }

    pub(crate) fn commit(&mut self, line: &Line<'_>) -> Result<(), BrokerError> {
        self.wants(State::Open)?;
        self.end(line, Outcome::Commit)
    }

    pub(crate) fn abort(&mut self, line: &Line<'_>) -> Result<(), BrokerError> {
        match self.state {
            State::Ready => return Ok(()),
            State::Gone => return Err(BrokerError::Unknown("there is no producer".into())),
            State::Open => {}
        }
        self.drafts.clear();
        self.end(line, Outcome::Abort)
    }

    fn end(&mut self, line: &Line<'_>, outcome: Outcome) -> Result<(), BrokerError> {
        let since = line.now();
        if self.known {
            let request = Request::End { owner: self.owner(), outcome };
            let patience = line.world.borrow().plan.end_patience;
            match self.insist(line, since + patience, &request, done) {
                Came::Well(()) => {}
                Came::Refused(code) => return Err(self.give_up("EndTxn", Some(code))),
                Came::NotYet | Came::Never => return Err(self.give_up("EndTxn", None)),
            }
        }
        self.suspect |= line.now() - since >= SLOW_END;
        self.state = State::Ready;
        Ok(())
    }
}

/// What the broker will do when it is asked again.
fn may_pass(code: ErrorCode) -> bool {
    use ErrorCode as E;
    matches!(code, E::ConcurrentTransactions | E::CoordinatorNotAvailable | E::KafkaStorageError)
}

fn done(reply: Reply) -> Came<()> {
    match reply {
        Reply::Done(Ok(())) => Came::Well(()),
        Reply::Done(Err(code)) if may_pass(code) => Came::NotYet,
        Reply::Done(Err(code)) => Came::Refused(code),
        _ => Came::Never,
    }
}
