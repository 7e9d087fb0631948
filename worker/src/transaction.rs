//! One transaction by hand: records to named partitions, all of them or none. For what a person does by a command; the
//! engine has a producer of its own. Never reads.
//!
//! Whoever takes a name with [`Transaction::take`] shuts out who had it before, and whatever that one left open has ended
//! by then: so what is read after that, and written before somebody else takes the name, is one step.

use std::time::{Duration, Instant};

use millrace_runtime::Headers;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use crate::config::KafkaConfig;
use crate::kafka_broker::errors::{Verdict, judge, say};

/// How long one call of a resumable function may block before it is resumed.
const SLICE: Duration = Duration::from_secs(1);
/// How long the broker may take for all of one function.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of a transaction that did not end as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// None of it was done.
    #[error("nothing was done: {0}")]
    NotDone(String),
    /// Somebody else took the name meanwhile; none of it was done.
    #[error("nothing was done: somebody else does the same at this moment ({0})")]
    ShutOut(String),
    /// All of it was done or none; the broker will know once it answers again.
    #[error("it is not known whether it was done, all of it or nothing: {0}. Look again before repeating it")]
    Unknown(String),
}

/// A transaction in the making. Dropped without a commit, it never was.
pub struct Transaction {
    producer: ThreadedProducer<DefaultProducerContext>,
    begun: bool,
}

impl Transaction {
    /// Takes a name, a `transactional.id`.
    ///
    /// # Errors
    /// [`TransactionError::NotDone`] when the broker does not answer.
    pub fn take(bootstrap: &str, application: &str, name: &str) -> Result<Self, TransactionError> {
        let mut kafka = KafkaConfig::new(bootstrap, name, 0);
        kafka.transaction_timeout_ms = 60_000;
        let config = kafka.producer(application);
        let producer: ThreadedProducer<DefaultProducerContext> =
            config.create().map_err(|error| TransactionError::NotDone(error.to_string()))?;
        resumed(|| producer.init_transactions(SLICE)).map_err(not_done)?;
        Ok(Self { producer, begun: false })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`TransactionError`]; the transaction is over.
    pub fn send(
        &mut self,
        (topic, partition): (&str, i32),
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        timestamp: i64,
        headers: &Headers,
    ) -> Result<(), TransactionError> {
        if !self.begun {
            self.producer.begin_transaction().map_err(not_done)?;
            self.begun = true;
        }
        let mut kept = OwnedHeaders::new_with_capacity(headers.len());
        for (name, value) in headers {
            kept = kept.insert(Header { key: name, value: Some(value) });
        }
        let mut record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(topic).partition(partition).timestamp(timestamp).headers(kept);
        record.key = key;
        record.payload = value;
        let since = Instant::now();
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if since.elapsed() < PATIENCE =>
                {
                    record = back;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err((error, _)) => {
                    let text = format!("{topic}-{partition}: {}", say(&error));
                    return Err(TransactionError::NotDone(self.given_up(text)));
                }
            }
        }
    }

    /// Ends it: all records are there, for readers of committed records at once.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn commit(self) -> Result<(), TransactionError> {
        if !self.begun {
            return Ok(());
        }
        match resumed(|| self.producer.commit_transaction(SLICE)) {
            Ok(()) => Ok(()),
            Err(error) => Err(match judge(&error) {
                Verdict::Abort => TransactionError::NotDone(self.given_up(say(&error))),
                Verdict::Fenced => TransactionError::ShutOut(say(&error)),
                Verdict::Refused => TransactionError::NotDone(say(&error)),
                Verdict::Again | Verdict::Broken => TransactionError::Unknown(say(&error)),
            }),
        }
    }

    /// Aborts. Where that fails too, the coordinator does it by its time-out, or when somebody takes the name again.
    fn given_up(&self, why: String) -> String {
        match resumed(|| self.producer.abort_transaction(SLICE)) {
            Ok(()) => why,
            Err(error) => format!("{why}; the broker will end it by itself ({})", say(&error)),
        }
    }
}

fn not_done(error: KafkaError) -> TransactionError {
    match judge(&error) {
        Verdict::Fenced => TransactionError::ShutOut(say(&error)),
        _ => TransactionError::NotDone(say(&error)),
    }
}

/// The same call again for as long as the library asks for it.
fn resumed(mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let since = Instant::now();
    loop {
        match call() {
            Err(error) if judge(&error) == Verdict::Again && since.elapsed() < PATIENCE => {}
            other => return other,
        }
    }
}
