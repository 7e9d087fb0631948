//! Sends orders at intended times, whatever becomes of them (open loop), or keeps so many on their way (pressure). Owns
//! when each was meant to be sent; never waits for a contender except under pressure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use millrace_schemas::{CancelRequested, Codec, topics};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use crate::ground::now_millis;
use crate::workload::{Orders, Workload, order_id};

/// What the sender and the reader of one run share: when each order was meant to be sent, in microseconds from the
/// run's beginning.
pub(crate) struct Clock {
    began: Instant,
    intended: Vec<AtomicU64>,
    sent: AtomicU64,
}

impl Clock {
    /// For at most so many orders.
    pub(crate) fn for_orders(orders: usize) -> Self {
        Self {
            began: Instant::now(),
            intended: std::iter::repeat_with(AtomicU64::default).take(orders).collect(),
            sent: AtomicU64::new(0),
        }
    }

    /// Microseconds since the run's beginning.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// When this order was meant to be sent.
    pub(crate) fn intended(&self, number: u32) -> Option<u64> {
        self.intended.get(number as usize).map(|at| at.load(Ordering::Relaxed))
    }

    /// Orders sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.sent() as usize >= self.intended.len()
    }
}

/// How orders are to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// So many a second, at times that are independent of each other, for so long.
    Rate { per_second: f64, lasting: Duration },
    /// So many at a time.
    AtOnce { orders: u64 },
    /// As fast as they are decided: at most so many are on their way, until told to stop.
    Pressure { in_flight: u64 },
}

/// How late the sender was, in microseconds, for each order.
pub(crate) type Lateness = Vec<u64>;

/// See the module. One a run: it goes through the run's orders.
pub(crate) struct Load {
    producer: ThreadedProducer<DefaultProducerContext>,
    codec: Codec,
    orders: Orders,
    clock: Arc<Clock>,
    bytes: Vec<u8>,
}

impl Load {
    pub(crate) fn new(
        client: &ClientConfig,
        codec: &Codec,
        workload: &Workload,
        run: u16,
        clock: Arc<Clock>,
    ) -> anyhow::Result<Self> {
        let producer = client
            .clone()
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "1")
            .set("queue.buffering.max.messages", "1000000")
            .set("queue.buffering.max.kbytes", "1000000")
            .create()?;
        Ok(Self { producer, codec: codec.clone(), orders: Orders::new(workload, run)?, clock, bytes: Vec::new() })
    }

    /// Sends at this pace; `decided` says how many orders have been, `stop` ends it.
    pub(crate) fn send(
        &mut self,
        pace: Pace,
        decided: impl Fn() -> u64,
        stop: &AtomicBool,
    ) -> anyhow::Result<Lateness> {
        let mut lateness = Vec::new();
        let from = self.clock.now();
        let mut at = from as f64;
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) && !self.clock.is_full() {
            let intended = match pace {
                Pace::Rate { per_second, lasting } => {
                    at += self.orders.gap() * 1e6 / per_second;
                    if at - from as f64 > lasting.as_micros() as f64 {
                        break;
                    }
                    self.wait_until(at as u64);
                    at as u64
                }
                Pace::AtOnce { orders } if sent == orders => break,
                Pace::AtOnce { .. } => self.clock.now(),
                Pace::Pressure { in_flight } => {
                    while self.clock.sent() >= decided() + in_flight && !stop.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    self.clock.now()
                }
            };
            lateness.push(self.clock.now().saturating_sub(intended));
            self.send_one(intended)?;
            sent += 1;
        }
        Ok(lateness)
    }

    /// Asks for these orders of this run to be cancelled.
    pub(crate) fn cancel(&mut self, run: u16, numbers: impl Iterator<Item = u32>) -> anyhow::Result<()> {
        for number in numbers {
            let order_id = order_id(run, number);
            let request = CancelRequested {
                request_id: format!("cancel-{number}"),
                reason: "the run is over".to_owned(),
                requested_by: "bench".to_owned(),
                at: now_millis(),
                order_id,
            };
            self.bytes.clear();
            self.codec.encode(topics::ORDERS_CANCEL_REQUESTED, &request, &mut self.bytes);
            let record = BaseRecord::to(topics::ORDERS_CANCEL_REQUESTED).key(&request.order_id).payload(&self.bytes);
            self.producer.send(record).map_err(|(error, _)| error)?;
        }
        self.producer.flush(Duration::from_secs(60))?;
        Ok(())
    }

    fn wait_until(&self, at: u64) {
        // Times that have come within half a millisecond are sent together: a sleep costs more than that.
        let early = at.saturating_sub(self.clock.now());
        if early > 500 {
            std::thread::sleep(Duration::from_micros(early));
        }
    }

    fn send_one(&mut self, intended: u64) -> anyhow::Result<()> {
        let next = self.orders.next(now_millis());
        let slot = self.clock.intended.get(next.number as usize);
        slot.ok_or_else(|| anyhow!("more orders than the run was made for"))?.store(intended, Ordering::Relaxed);
        self.bytes.clear();
        self.codec.encode(topics::ORDERS_PLACED, &next.order, &mut self.bytes);
        for _ in 0..=u8::from(next.twice) {
            let mut record = BaseRecord::to(topics::ORDERS_PLACED).key(&next.order.order_id).payload(&self.bytes);
            loop {
                match self.producer.send(record) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                        record = back;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err((error, _)) => return Err(error.into()),
                }
            }
        }
        self.clock.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
