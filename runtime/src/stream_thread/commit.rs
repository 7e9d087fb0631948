//! The transaction: begun with the first record, committed when it pays, aborted when anything is in doubt.
//! Owns the rule that overlay, outputs and positions become real together; never looks into a record.

use std::collections::BTreeSet;

use super::report::About;
use super::{StreamThread, ThreadError, Transaction, Trouble};
use crate::io::{Broker, BrokerError, Call, GroupOffsets, Landed};
use crate::planted;
use crate::record::{SubTopologyId, Timestamp, TopicPartition};
use crate::task::TaskState;

impl<B: Broker> StreamThread<B> {
    /// A task did something: its partition's positions belong to the transaction, input or not. Sending the positions
    /// even when they did not move is what fences a zombie.
    pub(super) fn touch(&mut self, key: (SubTopologyId, i32)) {
        let clock = &self.clock;
        let new = || Transaction { since: clock.now(), begun: false, records: 0, touched: BTreeSet::new() };
        self.transaction.get_or_insert_with(new).touched.insert(key);
    }

    pub(super) fn ensure_begun(&mut self) -> Result<(), Trouble> {
        if let Some(transaction) = self.transaction.as_mut().filter(|t| !t.begun) {
            self.broker.begin()?;
            transaction.begun = true;
        }
        Ok(())
    }

    pub(super) fn sent(&mut self, records: usize) {
        if let Some(transaction) = &mut self.transaction {
            transaction.records += records;
        }
    }

    /// Large enough, old enough, or nothing more to wait for.
    pub(super) fn commit_is_due(&self, now: Timestamp, idle: bool) -> bool {
        let engine = &self.topology.engine;
        self.transaction.as_ref().is_some_and(|transaction| {
            idle || transaction.records >= engine.commit_records || now - transaction.since >= engine.commit_latency_ms
        })
    }

    pub(super) fn commit_if_full(&mut self) -> Result<(), Trouble> {
        if self.transaction.as_ref().is_some_and(|t| t.records >= self.topology.engine.commit_records) {
            self.commit()?;
        }
        Ok(())
    }

    /// Commits the open transaction, if there is one. Then, and only then, the overlay is state.
    pub(super) fn commit(&mut self) -> Result<bool, Trouble> {
        if self.transaction.is_none() {
            return Ok(false);
        }
        self.ensure_begun()?;
        let Some(transaction) = &self.transaction else {
            return Ok(false);
        };
        let mut offsets: Vec<GroupOffsets> = Vec::new();
        for key in &transaction.touched {
            let Some(assigned) = self.assigned.get(key) else {
                continue;
            };
            match offsets.iter_mut().find(|group| group.sub_topology == key.0) {
                Some(group) => group.offsets.extend(assigned.offsets()),
                None => offsets.push(GroupOffsets { sub_topology: key.0, offsets: assigned.offsets().collect() }),
            }
        }
        let landed = self.broker.flush()?;
        self.check_landing(&landed)?;
        if planted::is(planted::Defect::OverlayBeforeCommit) {
            let stores = self.assigned.values_mut().flat_map(|a| &mut a.tasks).flat_map(|task| &mut task.stores);
            stores.for_each(|store| store.commit_overlay(|_, _| {}));
        }
        self.broker.commit(&offsets)?;
        let now = self.clock.now();
        if let Some(transaction) = self.transaction.take() {
            self.report.commits += 1;
            self.report.committed_records += transaction.records as u64;
            self.report.transaction_ms.push(now - transaction.since);
            for key in transaction.touched {
                self.apply(key, &landed);
            }
        }
        self.settle_readers(&landed, now)?;
        Ok(true)
    }

    /// Overlay and positions of one partition move into the stores; calls that became open are made.
    fn apply(&mut self, key: (SubTopologyId, i32), landed: &Landed) {
        let Some(assigned) = self.assigned.get_mut(&key) else {
            return;
        };
        let (partition, inputs) = (assigned.partition, &assigned.inputs);
        for task in &mut assigned.tasks {
            task.letters.committed();
            let spec = self.topology.processor(task.id.processor);
            for (at, store) in task.stores.iter_mut().enumerate() {
                for topic in spec.stores[at].tables.iter().chain(&spec.stores[at].changelog) {
                    let from = TopicPartition { topic: *topic, partition };
                    // Its own input stands where the group stands; its own output where its records landed. The same
                    // topic may be the output of one task and the input of another.
                    let next = if spec.inputs.contains(topic) {
                        inputs.iter().find(|input| input.topic == *topic).map(|input| input.position)
                    } else {
                        landed.0.iter().find(|(to, _)| *to == from).map(|(_, at)| at.end)
                    };
                    if let Some(next) = next {
                        store.set_position(from, next);
                    }
                }
                let id = task.id;
                let (in_flight, caller, report) = (&mut self.in_flight, &mut self.caller, &mut self.report);
                let calls = task.definition.stores.get(at).is_some_and(|definition| definition.open.is_some());
                let mut opened = Vec::new();
                store.commit_overlay(|state, call| {
                    if !calls {
                        return;
                    }
                    let place = (id, state.clone());
                    let Some(request) = call else {
                        in_flight.remove(&place);
                        return;
                    };
                    if in_flight.get(&place) == Some(&request.id) {
                        return;
                    }
                    in_flight.insert(place, request.id.clone());
                    opened.push(Call {
                        task: id,
                        processor: spec.name.clone(),
                        key: state.to_vec(),
                        id: request.id.clone(),
                        request: request.request.clone(),
                        repeated: false,
                    });
                });
                // The overlay has no order, and what is seen outside must not depend on it.
                opened.sort_unstable_by(|one, other| one.key.cmp(&other.key));
                *report.calls.entry(id.processor).or_default() += opened.len() as u64;
                caller.start(opened);
            }
        }
    }

    /// What to do about trouble: everything that can be done again is.
    pub(super) fn settle_trouble(&mut self, trouble: Trouble) -> Result<(), ThreadError> {
        let mut trouble = trouble;
        for _ in 0..3 {
            match self.recover(trouble) {
                Ok(()) => return Ok(()),
                Err(Trouble::Stop(reason)) => return Err(ThreadError::Stopped(reason)),
                Err(Trouble::Broker(BrokerError::Fenced(reason))) => {
                    return Err(ThreadError::Fenced(reason));
                }
                Err(next) => trouble = next,
            }
        }
        Err(ThreadError::Stopped(format!("recovery failed again and again: {trouble:?}")))
    }

    /// Ends the transaction without a commit and puts every partition back to where the broker says it stands.
    pub(super) fn recover(&mut self, trouble: Trouble) -> Result<(), Trouble> {
        let open = self.transaction.take();
        self.outbox.truncate((0, 0));
        self.hand_over.forget();
        self.counts.clear();
        let what = match trouble {
            Trouble::Stop(reason) => {
                if open.is_some_and(|t| t.begun) {
                    let _ = self.broker.abort();
                }
                return Err(Trouble::Stop(reason));
            }
            Trouble::Broker(BrokerError::Fatal(reason)) => return Err(Trouble::Stop(reason)),
            Trouble::Broker(BrokerError::Fenced(reason)) => {
                return Err(Trouble::Broker(BrokerError::Fenced(reason)));
            }
            Trouble::Broker(BrokerError::Retry(reason)) if open.is_none() => {
                self.report.info(About::default(), format!("the broker is not ready: {reason}"));
                return Ok(());
            }
            Trouble::Broker(error) => error,
            Trouble::Rebuild(sub_topology, partition, processor, reason) => {
                let task = self.assigned.get_mut(&(sub_topology, partition)).and_then(|a| a.task_mut(processor));
                for store in task.into_iter().flat_map(|task| &mut task.stores) {
                    store.clear().map_err(|error| Trouble::Stop(error.to_string()))?;
                    self.report.rebuilt += 1;
                }
                BrokerError::Abort(reason)
            }
        };
        let text = format!("{what}; the work since the last commit is dropped and done again");
        self.report.warn(About::default(), text);
        self.report.aborts += 1;
        if matches!(what, BrokerError::Unknown(_)) {
            self.recreate()?;
        } else if open.is_some_and(|transaction| transaction.begun) {
            match self.broker.abort() {
                Ok(()) => {}
                Err(BrokerError::Fatal(reason)) => return Err(Trouble::Stop(reason)),
                Err(BrokerError::Fenced(reason)) => {
                    return Err(Trouble::Broker(BrokerError::Fenced(reason)));
                }
                Err(_) => self.recreate()?,
            }
        }
        if planted::is(planted::Defect::NoRewind) {
            self.assigned.values_mut().for_each(crate::task::AssignedPartition::drop_uncommitted);
            return Ok(());
        }
        self.rewinds += 1;
        for assigned in self.assigned.values_mut() {
            assigned.drop_uncommitted();
            if assigned.state() != TaskState::Created {
                self.report.moved(assigned.enter(TaskState::Created));
            }
        }
        // A state that went back may have its call open again under the same id: let it be made again.
        self.begin_restores()
    }

    fn recreate(&mut self) -> Result<(), Trouble> {
        self.report.recreated += 1;
        self.broker.recreate()?;
        Ok(())
    }
}
