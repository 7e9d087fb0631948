//! Keeps the catalog and the topic `_schemas` in step: a fact is stored before it is true.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::catalog::Catalog;
use super::records::Fact;
use super::refused::Refused;
use crate::core::batch::{self, BatchHeader, HEADER_BYTES, Records};
use crate::core::codec::decompress;
use crate::core::configs::Configs;
use crate::core::{ErrorCode, Isolation};
use crate::wire::Shared;

const TOPIC: &str = "_schemas";
const READ_BYTES: usize = 1 << 20;

/// The registry: its catalog and where it is stored.
pub(crate) struct Registry {
    shared: Arc<Shared>,
    catalog: Mutex<Catalog>,
}

impl Registry {
    /// Reads the catalog from its topic, which is created if it does not exist.
    pub(crate) fn open(shared: Arc<Shared>) -> Result<Self, String> {
        let configs = Configs::from([("cleanup.policy".to_owned(), "compact".to_owned())]);
        let created = shared.with_core(|core, now| core.create_topic(now, TOPIC, 1, configs, false));
        match created {
            Ok(()) => {}
            Err(refusal) if refusal.code == ErrorCode::TopicAlreadyExists => {}
            Err(refusal) => return Err(refusal.message),
        }
        let mut catalog = Catalog::new();
        let mut offset = 0;
        loop {
            let fetched = shared
                .read(|core| {
                    let start = core.earliest_offset(TOPIC, 0)?.max(offset);
                    core.fetch(TOPIC, 0, start, READ_BYTES, true, Isolation::ReadCommitted)
                })
                .map_err(|code| code.to_string())?;
            if fetched.records.is_empty() {
                break;
            }
            let mut rest = fetched.records;
            while let Some(header) = BatchHeader::parse(&rest) {
                let batch = rest.split_to(header.length);
                read_batch(&header, batch.slice(HEADER_BYTES..), &mut catalog)
                    .map_err(|what| format!("{TOPIC} at offset {}: {what}", header.base_offset))?;
                offset = header.last_offset() + 1;
            }
        }
        Ok(Self { shared, catalog: Mutex::new(catalog) })
    }

    /// The catalog, for reading.
    pub(crate) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        // Facts are taken in whole or not at all.
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides on the catalog, stores the facts that follow, then takes them in. One change at a time.
    pub(crate) fn change<R>(
        &self,
        decide: impl FnOnce(&Catalog) -> Result<(R, Vec<Fact>), Refused>,
    ) -> Result<R, Refused> {
        let mut catalog = self.catalog();
        let (result, facts) = decide(&catalog)?;
        for fact in facts {
            self.store(&fact)?;
            catalog.apply(fact);
        }
        Ok(result)
    }

    /// Waits until what was stored is as durable as was promised.
    pub(crate) async fn settled(&self) -> std::io::Result<()> {
        self.shared.settled().await
    }

    fn store(&self, fact: &Fact) -> Result<(), Refused> {
        let failed = |why: String| Refused::Storage(why);
        let (key, value) = fact.encode().map_err(|error| failed(error.to_string()))?;
        self.shared
            .with_core(|core, now| {
                let bytes = batch::single_record(now, &key, value.as_deref());
                let headers = batch::check_produced(&bytes)?;
                core.append(now, TOPIC, 0, &bytes, &headers)
            })
            .map(|_| ())
            .map_err(|code| failed(code.to_string()))
    }
}

fn read_batch(header: &BatchHeader, records: bytes::Bytes, catalog: &mut Catalog) -> Result<(), String> {
    if header.is_control() {
        return Ok(());
    }
    let records = decompress(header.codec(), records).map_err(|error| error.to_string())?;
    for record in Records::new(&records) {
        let record = record.map_err(|_| "malformed record".to_owned())?;
        let key = record.key.ok_or("record without a key")?;
        match Fact::decode(key, record.value) {
            Ok(fact) => catalog.apply(fact),
            // Other registries write keys that this one has no use for.
            Err(error) => tracing::warn!(topic = TOPIC, %error, "record ignored"),
        }
    }
    Ok(())
}
