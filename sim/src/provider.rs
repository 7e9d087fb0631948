//! Calls on their way to the payment service provider and back, over a road that loses, delays and doubles. What the
//! provider does is `psp`'s.

use millrace_psp::{ProviderResponse, handle_bytes};
use millrace_runtime::{Answer, Call};

use crate::plan::{Fault, MS, SECOND};
use crate::world::{Event, Return, ThreadId, World, trace};

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
            Return::ComesContradicted
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
        let response = handle_bytes(&*self.provider, &call.request, call.repeated);
        trace!(self, "psp   answers {}: {}", call.id, String::from_utf8_lossy(&response));
        if back == Return::IsLost {
            return;
        }
        let most = if back == Return::ComesContradicted { 1_500 * MS } else { 30 * MS };
        let pause = self.rng.u64(MS..most);
        self.after(pause, Event::CallAnswer(thread, answer(call, response.clone())));
        if back == Return::ComesContradicted {
            self.calls_in_flight += 1;
            self.unknown(thread, call);
        }
        if back == Return::ComesTwice {
            self.calls_in_flight += 1;
            let later = pause + self.rng.u64(0..4 * SECOND);
            self.after(later, Event::CallAnswer(thread, answer(call, response)));
        }
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
