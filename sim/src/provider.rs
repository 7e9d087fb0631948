//! Calls on their way to the payment service provider and back, over a road that loses, delays, doubles and contradicts.
//! What the provider does is `psp`'s.

use millrace_psp::{CallBytes, ProviderRequest, ProviderResponse, handle_bytes};
use millrace_runtime::{Answer, Call, TopicPartition};
use millrace_schemas::{DeclineKind, topics};

use crate::plan::{Fault, MS, Micros, SECOND};
use crate::world::{Event, Return, ThreadId, World, trace};

/// An opposite answer whose true one has led to nothing for so long never comes.
const OPPOSITE_WAITS: Micros = 20 * SECOND;

impl World {
    /// A stream thread makes a call; it is always answered, if only with "unknown".
    pub(crate) fn call(&mut self, thread: ThreadId, call: Call) {
        trace!(
            self,
            "{:<5} calls   {}{}",
            self.name_of(thread),
            call.id,
            if call.repeated { " (repeated)" } else { "" }
        );
        self.calls_in_flight += 1;
        let rate = self.plan.weather.call;
        let there = self.rng.u64(MS..30 * MS);
        if self.strikes(Fault::CallLost, rate) {
            return self.unknown(thread, &call);
        }
        if self.strikes(Fault::CallAnswerLost, rate) {
            self.unknown(thread, &call);
            return self.after(there, Event::Call(thread, call, Return::IsLost));
        }
        if self.strikes(Fault::CallLate, rate) {
            self.unknown(thread, &call);
            let late = self.rng.u64(2 * SECOND..20 * SECOND);
            return self.after(late, Event::Call(thread, call, Return::IsLost));
        }
        let back = if self.strikes(Fault::CallAnswerTwice, rate) {
            Return::ComesTwice
        } else if self.strikes(Fault::CallContradicted, rate) {
            if self.rng.bool() { Return::ComesWithUnknown } else { Return::ComesWithOpposite }
        } else {
            Return::Comes
        };
        self.after(there, Event::Call(thread, call, back));
    }

    /// Nothing was heard in time.
    fn unknown(&mut self, thread: ThreadId, call: &Call) {
        let response = ProviderResponse::Unknown { detail: "no answer within the time allowed".into() };
        let pause = self.rng.u64(1..1_500 * MS);
        self.after(pause, Event::CallAnswer(thread, answer(call, response.to_json())));
    }

    /// A call has reached the provider.
    pub(crate) fn provider_acts(&mut self, thread: ThreadId, call: &Call, back: Return) {
        let response = handle_bytes(&*self.provider, CallBytes { request: &call.request, repeated: call.repeated });
        trace!(self, "psp   answers {}: {}", call.id, String::from_utf8_lossy(&response));
        if back == Return::IsLost {
            return;
        }
        let opposite = if back == Return::ComesWithOpposite { opposite_of(call, &response) } else { None };
        let most = if back == Return::ComesWithUnknown { 1_500 * MS } else { 30 * MS };
        let pause = self.rng.u64(MS..most);
        self.after(pause, Event::CallAnswer(thread, answer(call, response.clone())));
        match (back, opposite) {
            (Return::ComesWithOpposite, Some(opposite)) => {
                self.calls_in_flight += 1;
                let later = pause + self.rng.u64(0..4 * SECOND);
                let until = self.now + later + OPPOSITE_WAITS;
                self.after(later, Event::OppositeAnswer(thread, answer(call, opposite), until));
            }
            // What is unknown has no opposite.
            (Return::ComesWithUnknown | Return::ComesWithOpposite, _) => {
                self.calls_in_flight += 1;
                self.unknown(thread, call);
            }
            (Return::ComesTwice, _) => {
                self.calls_in_flight += 1;
                let later = pause + self.rng.u64(0..4 * SECOND);
                self.after(later, Event::CallAnswer(thread, answer(call, response)));
            }
            (Return::Comes | Return::IsLost, _) => {}
        }
    }

    /// An answer that says the opposite of what was answered before. While the call is open nobody can tell which of the
    /// two is true: it comes when what followed from the true one has been committed, and must then have no effect.
    pub(crate) fn opposite_answers(&mut self, thread: ThreadId, answer: Answer, until: Micros) {
        let settled = self.is_settled(&answer);
        if !settled && self.now < until && self.slots.contains_key(&thread) {
            return self.after(300 * MS, Event::OppositeAnswer(thread, answer, until));
        }
        if settled {
            trace!(
                self,
                "psp   answers {} with the opposite: {}",
                answer.id,
                String::from_utf8_lossy(&answer.response)
            );
            self.coverage.count("opposite answers", 1);
            return self.call_answered(thread, answer);
        }
        self.calls_in_flight -= 1;
    }

    /// Whether a committed event follows from an answer to this call.
    fn is_settled(&self, answer: &Answer) -> bool {
        let topic = self.topology.find_topic(topics::PAYMENTS_EVENTS).expect("the topology has the topic");
        let cause = [answer.key.as_slice(), b"/answer/", answer.id.as_bytes(), b"/"].concat();
        let records = self.all_records(TopicPartition { topic, partition: answer.task.partition });
        let mut headers = records.iter().flat_map(|record| &record.headers);
        headers.any(|(name, id)| name == "ce_id" && id.starts_with(&cause))
    }

    /// An answer has come back, if its thread still lives.
    pub(crate) fn call_answered(&mut self, thread: ThreadId, answer: Answer) {
        self.calls_in_flight -= 1;
        if let Some(slot) = self.slots.get_mut(&thread) {
            slot.answers.push(answer);
        }
        self.wake_poll(thread);
    }
}

fn answer(call: &Call, response: Vec<u8>) -> Answer {
    Answer { task: call.task, key: call.key.clone(), id: call.id.clone(), response }
}

/// What would be said if it were the other way round.
fn opposite_of(call: &Call, response: &[u8]) -> Option<Vec<u8>> {
    let opposite = match ProviderResponse::from_json(response) {
        ProviderResponse::Approved { .. } => {
            ProviderResponse::Declined { kind: DeclineKind::Hard, code: "do_not_honor".into() }
        }
        ProviderResponse::Declined { .. } => ProviderResponse::Approved {
            reference: "contradicted".into(),
            amount_minor: ProviderRequest::from_json(&call.request).ok()?.amount_minor,
        },
        ProviderResponse::Unknown { .. } | ProviderResponse::NotFound => return None,
    };
    Some(opposite.to_json())
}
