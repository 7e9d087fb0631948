//! What one partition knows of the producers that wrote to it: the last batches of each, to answer repeats and refuse
//! gaps. Decides on sequence numbers only; transactions are checked by the coordinator.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::ErrorCode;
use super::batch::{BatchHeader, add_sequence};
use super::views::ProducerView;

/// How many batches a producer may have in flight; so many are remembered to recognise repeats.
const REMEMBERED_BATCHES: usize = 5;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct WrittenBatch {
    #[serde(rename = "f")]
    base_sequence: i32,
    #[serde(rename = "l")]
    last_sequence: i32,
    #[serde(rename = "o")]
    base_offset: i64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Producer {
    #[serde(rename = "e")]
    epoch: i16,
    #[serde(rename = "b")]
    batches: VecDeque<WrittenBatch>,
    /// First offset of the open transaction.
    #[serde(rename = "t")]
    open_since: Option<i64>,
    #[serde(rename = "s")]
    last_seen: i64,
    /// What its last batch or marker gives as its time; a snapshot of an earlier version has none.
    #[serde(rename = "m", default = "unknown")]
    last_timestamp: i64,
}

fn unknown() -> i64 {
    -1
}

impl Producer {
    fn view(&self, id: i64) -> ProducerView {
        ProducerView {
            id,
            epoch: self.epoch,
            last_sequence: self.batches.back().map(|batch| batch.last_sequence),
            last_seen: self.last_seen,
            last_timestamp: self.last_timestamp,
            open_since: self.open_since,
        }
    }
}

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceCheck {
    /// The batch continues the producer's sequence.
    Next,
    /// The batch was written before, at this offset.
    Duplicate {
        /// Offset the first record got then.
        base_offset: i64,
    },
}

/// The producers of one partition.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Producers {
    by_id: HashMap<i64, Producer>,
    /// Producers by the first offset of their open transaction. Follows from the field above.
    #[serde(skip)]
    open: BTreeMap<i64, i64>,
}

impl Producers {
    /// Judges the sequence numbers of a batch. `previous` is the batch of the same request just before it, if any.
    ///
    /// # Errors
    /// `INVALID_PRODUCER_EPOCH` for an epoch older than the newest seen, `INVALID_TXN_STATE` for a batch outside of the
    /// transaction the producer has open here, `OUT_OF_ORDER_SEQUENCE_NUMBER` for a gap.
    pub fn check(&self, header: &BatchHeader, previous: Option<&BatchHeader>) -> Result<SequenceCheck, ErrorCode> {
        if let Some(previous) = previous
            && previous.producer_id == header.producer_id
            && previous.producer_epoch == header.producer_epoch
        {
            return if add_sequence(previous.last_sequence(), 1) == header.base_sequence {
                Ok(SequenceCheck::Next)
            } else {
                Err(ErrorCode::OutOfOrderSequenceNumber)
            };
        }
        let Some(producer) = self.by_id.get(&header.producer_id) else {
            return Ok(SequenceCheck::Next);
        };
        if header.producer_epoch < producer.epoch {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        if producer.open_since.is_some() && !header.is_transactional() {
            return Err(ErrorCode::InvalidTxnState);
        }
        if header.producer_epoch > producer.epoch {
            return if header.base_sequence == 0 {
                Ok(SequenceCheck::Next)
            } else {
                Err(ErrorCode::OutOfOrderSequenceNumber)
            };
        }
        let repeated = producer.batches.iter().find(|written| {
            written.base_sequence == header.base_sequence && written.last_sequence == header.last_sequence()
        });
        if let Some(written) = repeated {
            return Ok(SequenceCheck::Duplicate { base_offset: written.base_offset });
        }
        match producer.batches.back() {
            Some(last) if add_sequence(last.last_sequence, 1) != header.base_sequence => {
                Err(ErrorCode::OutOfOrderSequenceNumber)
            }
            _ => Ok(SequenceCheck::Next),
        }
    }

    /// Finds the open transactions again after the producers were read from disk.
    pub fn reopen(&mut self) {
        let open = self.by_id.iter().filter_map(|(id, producer)| Some((producer.open_since?, *id)));
        self.open = open.collect();
    }

    /// Takes note of a data batch that is now in the log, with its final offsets.
    pub fn written(&mut self, header: &BatchHeader, now: i64) {
        let producer = self.by_id.entry(header.producer_id).or_default();
        if header.producer_epoch > producer.epoch {
            producer.batches.clear();
        }
        producer.epoch = header.producer_epoch;
        producer.last_seen = now;
        producer.last_timestamp = header.max_timestamp;
        producer.batches.push_back(WrittenBatch {
            base_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
        });
        if producer.batches.len() > REMEMBERED_BATCHES {
            producer.batches.pop_front();
        }
        if header.is_transactional() && producer.open_since.is_none() {
            producer.open_since = Some(header.base_offset);
            self.open.insert(header.base_offset, header.producer_id);
        }
    }

    /// Takes note of a transaction marker and returns the first offset of the transaction it ended here, if any.
    pub fn ended(&mut self, marker: &BatchHeader, now: i64) -> Option<i64> {
        let producer = self.by_id.entry(marker.producer_id).or_default();
        if marker.producer_epoch > producer.epoch {
            producer.epoch = marker.producer_epoch;
            producer.batches.clear();
        }
        producer.last_seen = now;
        producer.last_timestamp = marker.max_timestamp;
        let first = producer.open_since.take()?;
        self.open.remove(&first);
        Some(first)
    }

    /// First offset of the oldest open transaction.
    #[must_use]
    pub fn first_open_offset(&self) -> Option<i64> {
        self.open.keys().next().copied()
    }

    /// Producers with an open transaction here.
    pub fn open_producers(&self) -> impl Iterator<Item = i64> + '_ {
        self.open.values().copied()
    }

    /// Every producer remembered here, by id.
    pub(super) fn views(&self) -> Vec<ProducerView> {
        let mut views: Vec<ProducerView> = self.by_id.iter().map(|(id, producer)| producer.view(*id)).collect();
        views.sort_by_key(|view| view.id);
        views
    }

    /// The newest epoch seen of a producer.
    pub(super) fn epoch(&self, id: i64) -> Option<i16> {
        self.by_id.get(&id).map(|producer| producer.epoch)
    }

    /// Forgets producers without an open transaction that have not written since `before`.
    pub fn forget_idle(&mut self, before: i64) {
        self.by_id.retain(|_, producer| producer.open_since.is_some() || producer.last_seen >= before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i16, sequence: i32, count: i32, offset: i64) -> BatchHeader {
        BatchHeader {
            base_offset: offset,
            length: 100,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: 7,
            producer_epoch: epoch,
            base_sequence: sequence,
            record_count: count,
        }
    }

    #[test]
    fn repeats_are_recognised_up_to_five_batches_back() {
        let mut producers = Producers::default();
        for n in 0..6 {
            producers.written(&batch(0, n, 1, i64::from(n) + 100), 0);
        }
        for n in 1..6 {
            assert_eq!(
                producers.check(&batch(0, n, 1, 0), None),
                Ok(SequenceCheck::Duplicate { base_offset: i64::from(n) + 100 })
            );
        }
        assert_eq!(producers.check(&batch(0, 0, 1, 0), None), Err(ErrorCode::OutOfOrderSequenceNumber));
    }

    #[test]
    fn gaps_and_old_epochs_are_refused() {
        let mut producers = Producers::default();
        producers.written(&batch(1, 0, 10, 0), 0);
        assert_eq!(producers.check(&batch(1, 10, 1, 0), None), Ok(SequenceCheck::Next));
        assert_eq!(producers.check(&batch(1, 11, 1, 0), None), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(producers.check(&batch(0, 10, 1, 0), None), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(producers.check(&batch(2, 5, 1, 0), None), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(producers.check(&batch(2, 0, 1, 0), None), Ok(SequenceCheck::Next));
    }

    #[test]
    fn a_marker_with_a_newer_epoch_fences_the_older() {
        let mut producers = Producers::default();
        producers.written(&batch(0, 0, 1, 0), 0);
        producers.ended(&batch(1, 0, 1, 1), 0);
        assert_eq!(producers.check(&batch(0, 1, 1, 0), None), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(producers.check(&batch(1, 0, 1, 0), None), Ok(SequenceCheck::Next));
    }
}
