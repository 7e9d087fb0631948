//! Bytes that were once written, of every version of every record, are read as what they meant then.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::versions::VERSIONS;
use crate::{Codec, TOPICS, decode_json};

macro_rules! samples {
    ($( $file:literal $version:literal; )+) => {
        &[$( ($file, $version, include_str!(concat!("../../versions/", $file, ".v", $version, ".json"))) ),+]
    };
}

/// File, version and samples: each has the datum in hex and the record as the latest version has it.
const SAMPLES: &[(&str, u32, &str)] = samples! {
    "cancel-requested" 1;
    "order-accepted" 1;
    "order-event" 1;
    "order-placed" 0;
    "order-placed" 1;
    "order-rejected" 1;
    "payment-command" 1;
    "payment-event" 1;
    "product" 1;
    "shipment-update" 1;
    "stock-adjustment" 1;
    "stock-command" 1;
    "stock-event" 0;
    "stock-event" 1;
    "stock-level" 1;
};

fn bytes_of(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2));
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn every_stored_sample_is_read_as_what_it_meant() {
    for (file, version, samples) in SAMPLES {
        let topic = TOPICS.iter().find(|known| known.file == *file).unwrap().topic;
        let (.., schema) = VERSIONS.iter().find(|stored| (stored.0, stored.1) == (*file, *version)).unwrap();
        let codec = Codec::offline();
        codec.learn(7_000, Some(schema));
        let samples: Vec<Value> = serde_json::from_str(samples).unwrap();
        assert!(!samples.is_empty());
        for sample in samples {
            let bytes = [&[0], &7_000_u32.to_be_bytes()[..], &bytes_of(sample["datum"].as_str().unwrap())].concat();
            let read = decode_json(&codec, topic, &bytes).unwrap_or_else(|error| panic!("{file} v{version}: {error}"));
            assert_eq!(read, sample["record"], "{file} v{version}");
        }
    }
}

#[test]
fn every_version_has_samples() {
    let versions: BTreeSet<_> = VERSIONS.iter().map(|(file, version, _)| (*file, *version)).collect();
    let samples: BTreeSet<_> = SAMPLES.iter().map(|(file, version, _)| (*file, *version)).collect();
    assert_eq!(versions, samples);
}
