//! What compaction and retention leave. Both work in the background, so these cases wait for what they say.

use crate::Run;
use crate::wire::{Batch, Case, now};

/// Compacts whatever it may, as soon as it may.
const EAGER: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("segment.bytes", "1048576"),
    ("segment.ms", "100"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("delete.retention.ms", "0"),
];

/// Closes the newest segment by writing after its time.
fn close_segment(c: &mut Case, key: &str) {
    std::thread::sleep(std::time::Duration::from_millis(150));
    c.produce(&Batch::keyed(&[(key, Some("closing"))]));
}

pub const CASES: &[(&str, Run)] = &[
    ("compaction keeps the last of a key", |c| {
        c.create(1, EAGER);
        for value in ["1", "2", "3"] {
            c.produce(&Batch::keyed(&[("a", Some(value)), ("b", Some(value))]));
        }
        close_segment(c, "z");
        c.until("it is compacted", |c| !c.read(0).contains("a=1") && !c.read(0).contains("a=2"));
        format!("{} [{}]", c.bounds(), c.read(0))
    }),
    ("compaction takes tombstones in the end", |c| {
        c.create(1, EAGER);
        c.produce(&Batch::keyed(&[("a", Some("1")), ("b", Some("1"))]));
        c.produce(&Batch::keyed(&[("a", None)]));
        // A second pass is needed, and a pass needs something new.
        let mut n = 0;
        c.until("the tombstone is gone", |c| {
            n += 1;
            close_segment(c, &format!("z{}", n % 2));
            !c.read(0).contains("a=")
        });
        let rest: Vec<String> = c.read(0).split(' ').filter(|r| !r.contains(":z")).map(str::to_owned).collect();
        rest.join(" ")
    }),
    ("compaction spares the newest segment", |c| {
        c.create(1, &[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.01")]);
        c.produce(&Batch::keyed(&[("a", Some("1"))]));
        c.produce(&Batch::keyed(&[("a", Some("2"))]));
        std::thread::sleep(std::time::Duration::from_millis(500));
        c.read(0)
    }),
    ("retention by size", |c| {
        c.create(1, &[("segment.bytes", "1048576"), ("segment.ms", "100"), ("retention.bytes", "1")]);
        c.produce(&Batch::of(&["old"]));
        close_segment(c, "k");
        c.until("the old is gone", |c| c.list_offset(-2, 0, 7).1 > 0);
        format!("{} [{}]", c.bounds(), c.read(0))
    }),
    ("retention by time", |c| {
        c.create(1, &[("segment.ms", "100"), ("retention.ms", "60000")]);
        c.produce(&Batch::of(&["old"]).at(now() - 3_600_000));
        close_segment(c, "k");
        c.until("the old is gone", |c| c.list_offset(-2, 0, 7).1 > 0);
        format!("{} [{}]", c.bounds(), c.read(0))
    }),
    ("retention by time takes the newest segment", |c| {
        c.create(1, &[("retention.ms", "60000")]);
        c.produce(&Batch::of(&["old"]).at(now() - 3_600_000));
        c.until("the old is gone", |c| c.list_offset(-2, 0, 7).1 > 0);
        c.bounds()
    }),
    ("retention spares what is young", |c| {
        c.create(1, &[("segment.ms", "100"), ("retention.ms", "3600000")]);
        c.produce(&Batch::of(&["young"]));
        close_segment(c, "k");
        std::thread::sleep(std::time::Duration::from_millis(700));
        c.bounds()
    }),
];
