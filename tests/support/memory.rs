//! A shop in memory: the whole topology on the engine's test driver, with a provider in memory.

use std::sync::Arc;

use millrace_psp::{CallBytes, LedgerEntry, MemoryProvider, handle_bytes};
use millrace_runtime::testing::Driver;
use millrace_runtime::{Grouping, check_definitions, parse};
use millrace_schemas::Codec;

use super::{Placed, Shop};

/// See the module.
pub struct MemoryShop {
    /// The driver, for faults.
    pub driver: Driver,
    provider: Arc<MemoryProvider>,
}

impl MemoryShop {
    /// One worker that has everything. `hand_over`: whether records are passed on in memory.
    #[must_use]
    pub fn start(grouping: Grouping, hand_over: bool) -> Self {
        let codec = Codec::offline();
        let definitions = millrace_processors::definitions(&codec);
        let mut topology = parse(include_str!("../../topology.toml")).expect("the shipped topology is right");
        topology.engine.hand_over = hand_over;
        check_definitions(&mut topology, &definitions).unwrap_or_else(|faults| panic!("{faults:#?}"));
        let provider = Arc::new(MemoryProvider::default());
        let answering = provider.clone();
        let handler = move |call: &millrace_runtime::Call| {
            let call = CallBytes { request: &call.request, repeated: call.repeated };
            Some(handle_bytes(&*answering, call))
        };
        let mut driver = Driver::new(topology.regrouped(grouping), definitions, Box::new(handler));
        driver.clock.set(1_790_000_000_000);
        driver.start_with_all(1);
        driver.settle().expect("an empty shop starts");
        Self { driver, provider }
    }
}

impl Shop for MemoryShop {
    fn codec(&self) -> Codec {
        Codec::offline()
    }

    fn produce_bytes(&mut self, topic: &str, key: &[u8], value: Option<&[u8]>) {
        self.driver.produce_raw(topic, key, value, Vec::new());
    }

    fn records(&mut self, topics: &[&str]) -> Vec<Placed> {
        let of = |topic: &&str| {
            let records = self.driver.records(topic);
            records.into_iter().map(|(partition, record)| ((*topic).to_owned(), partition, record)).collect::<Vec<_>>()
        };
        topics.iter().flat_map(of).collect()
    }

    fn until(&mut self, what: &str, done: &mut dyn FnMut(&mut Self) -> bool) {
        for _ in 0..50 {
            self.driver.settle().unwrap_or_else(|error| panic!("{what}: {error}"));
            if done(self) {
                return;
            }
            self.driver.clock.advance(1_000);
        }
        panic!("it did not come to this: {what}");
    }

    fn ledger(&mut self) -> Vec<LedgerEntry> {
        self.provider.ledger()
    }

    fn kill_and_restart(&mut self) {
        self.driver.crash(1);
        self.driver.start_with_all(1);
    }
}
