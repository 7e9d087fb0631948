//! What a client may not do to the broker, decided by the core alone: write where its transaction does not reach, write
//! after its transaction has ended, or fill the machine with partitions.

mod core_bench;

use std::sync::Arc;

use core_bench::{CountingDisk, append, at, batch, create, offsets};
use millrace_broker::core::configs::Configs;
use millrace_broker::core::{Core, ErrorCode, Isolation, Outcome, Settings};

fn open(settings: Settings) -> Core {
    Core::open(Arc::new(CountingDisk::default()), settings, 0).expect("opens")
}

#[test]
fn a_batch_is_taken_only_into_an_open_transaction_that_was_told_of_its_partition() {
    let mut core = open(Settings::DEFAULT);
    create(&mut core, "t", &[]);
    create(&mut core, "other", &[]);
    let (id, epoch) = core.init_producer(0, Some("p"), 600_000, None).expect("a producer");
    let late = batch(0, b"k", b"v", Some((id, epoch, 0)), true);
    assert_eq!(append(&mut core, 0, "t", &late), Err(ErrorCode::InvalidTxnState), "none is open");
    core.add_partitions_to_transaction(0, "p", id, epoch, &[at("other")]).expect("added");
    assert_eq!(append(&mut core, 0, "t", &late), Err(ErrorCode::InvalidTxnState), "it does not reach here");
    append(&mut core, 0, "other", &late).expect("it reaches here");
    core.end_transaction(0, "p", id, epoch, Outcome::Abort).expect("ended");
    let later = batch(0, b"k", b"v", Some((id, epoch, 1)), true);
    assert_eq!(append(&mut core, 0, "other", &later), Err(ErrorCode::InvalidTxnState), "it is over");
    // The next instance fences the one before it.
    let next = core.init_producer(0, Some("p"), 600_000, None).expect("a producer");
    core.add_partitions_to_transaction(0, "p", next.0, next.1, &[at("other")]).expect("added");
    assert_eq!(append(&mut core, 0, "other", &later), Err(ErrorCode::InvalidProducerEpoch));
    assert_eq!(core.end_transaction(0, "p", id, epoch, Outcome::Commit), Err(ErrorCode::ProducerFenced));
    // Nothing of what was refused holds readers back.
    for topic in ["t", "other"] {
        let end = core.latest_offset(topic, 0, Isolation::ReadUncommitted);
        assert_eq!(core.latest_offset(topic, 0, Isolation::ReadCommitted), end);
        assert_eq!(offsets(&core, topic, Isolation::ReadCommitted), [0; 0]);
    }
}

#[test]
fn a_broker_takes_only_so_many_partitions() {
    let mut core = open(Settings { max_partitions: 5, ..Settings::DEFAULT });
    core.create_topic(0, "a", 3, Configs::new(), false).expect("created");
    let refused = core.create_topic(0, "b", 3, Configs::new(), false).expect_err("too many");
    assert_eq!(refused.code, ErrorCode::PolicyViolation);
    assert!(refused.message.contains("there are 3"), "{}", refused.message);
    core.create_topic(0, "b", 2, Configs::new(), false).expect("created");
    assert_eq!(core.add_partitions(0, "a", 4, false).expect_err("too many").code, ErrorCode::PolicyViolation);
    core.delete_topic("b").expect("deleted");
    core.add_partitions(0, "a", 5, false).expect("added");
}
