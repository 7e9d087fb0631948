//! What a seed decides before anything runs: how large the shop and the processes are, which faults may happen and how
//! often, and when. Everything is drawn, and only then is it decided what of it happens; each part has a stream of chance
//! of its own. So a smaller run of the same seed is like the larger.

use fastrand::Rng;

/// Microseconds of simulated time.
pub(crate) type Micros = u64;
pub(crate) const MS: Micros = 1_000;
pub(crate) const SECOND: Micros = 1_000_000;

/// Everything that can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A request to the broker never arrives.
    RequestLost,
    /// A request is done, but its answer never arrives.
    AnswerLost,
    /// A request arrives long after its sender has given it up and asked again.
    RequestHeld,
    /// A request takes a thousand times as long as the others.
    RequestSlow,
    /// The broker ends, perhaps in the middle of a write, and starts again on its disk.
    BrokerCrash,
    /// A process ends as by `kill -9`; its disk is kept.
    ProcessCrash,
    /// The same, and the disk is gone.
    DiskLost,
    /// The same, and the disk is as it was some time ago.
    DiskStale,
    /// The same, and what is on the disk cannot be trusted.
    DiskCorrupt,
    /// The disk of a process takes no writes for a while.
    DiskFull,
    /// A process sleeps and does not know it; longer than its session, most often.
    ProcessPaused,
    /// A process stops in good order and starts again later.
    ProcessStopped,
    /// The clock of a process jumps forward.
    ClockJump,
    /// A call never reaches the provider.
    CallLost,
    /// The provider acted, but its answer never arrives.
    CallAnswerLost,
    /// The provider acts long after it was given up.
    CallLate,
    /// The provider's answer arrives twice.
    CallAnswerTwice,
    /// Two answers arrive to one call: one of them says that nothing is known, or the later one says the opposite.
    CallContradicted,
    /// A record that no processor can read, or that stands where it must not.
    PoisonRecord,
    /// An order is published twice.
    OrderTwice,
    /// Another order is published under an id that is taken.
    OrderConflict,
    /// Somebody wants an order cancelled, at any stage, also before it is placed.
    Cancel,
    /// The warehouse tells again what it has told before.
    WarehouseRepeats,
    /// Records of an older version of their schema.
    OldSchema,
    /// Records of a schema that is fetched only later.
    UnknownSchema,
    /// An order of hundreds of lines.
    LargeOrder,
    /// Stock is counted, received and written off while it is sold.
    Adjustment,
    /// A stranger writes a command again that was written before.
    CommandTwice,
    /// A stranger releases what is only going to be reserved.
    ReleaseFirst,
    /// What is read of one partition comes late, while others flow.
    FetchHeld,
    /// Somebody in the back office captures or refunds by hand.
    BackOffice,
    /// The warehouse ships a part, and of the rest only says that it never will, or nothing.
    RestLeft,
    /// An end of a transaction arrives long after its sender has asked again (KAFKA-17754).
    EndHeld,
    /// A submit never reaches the ingress.
    SubmitLost,
    /// A submit is taken, but the client never hears of it.
    SubmitAnswerLost,
    /// A client submits the same again that it submitted before, whatever it has heard.
    SubmitTwice,
    /// A client submits another body under a key that it has used.
    SubmitConflict,
    /// An ingress ends at some step of a submit.
    IngressCrash,
    /// The warehouse, or a stranger, tells of a shipment before its order is placed.
    ShipmentFirst,
    /// A process ends as by `kill -9`, and its clock is set back before it starts again: it is right again, or behind.
    ClockSetBack,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 40] = [
        Self::RequestLost,
        Self::AnswerLost,
        Self::RequestHeld,
        Self::RequestSlow,
        Self::BrokerCrash,
        Self::ProcessCrash,
        Self::DiskLost,
        Self::DiskStale,
        Self::DiskCorrupt,
        Self::DiskFull,
        Self::ProcessPaused,
        Self::ProcessStopped,
        Self::ClockJump,
        Self::CallLost,
        Self::CallAnswerLost,
        Self::CallLate,
        Self::CallAnswerTwice,
        Self::CallContradicted,
        Self::PoisonRecord,
        Self::OrderTwice,
        Self::OrderConflict,
        Self::Cancel,
        Self::WarehouseRepeats,
        Self::OldSchema,
        Self::UnknownSchema,
        Self::LargeOrder,
        Self::Adjustment,
        Self::CommandTwice,
        Self::ReleaseFirst,
        Self::FetchHeld,
        Self::BackOffice,
        Self::RestLeft,
        Self::EndHeld,
        Self::SubmitLost,
        Self::SubmitAnswerLost,
        Self::SubmitTwice,
        Self::SubmitConflict,
        Self::IngressCrash,
        Self::ShipmentFirst,
        Self::ClockSetBack,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> String {
        let mut name = String::new();
        for c in format!("{self:?}").chars() {
            if c.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.extend(c.to_lowercase());
        }
        name
    }

    /// The fault of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }
}

/// A set of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults(u64);

impl Faults {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Self((1 << Fault::ALL.len()) - 1)
    }

    /// None of them.
    #[must_use]
    pub fn none() -> Self {
        Self(0)
    }

    /// The same with one less.
    #[must_use]
    pub fn without(self, fault: Fault) -> Self {
        Self(self.0 & !(1 << fault as u64))
    }

    /// The same with one more.
    #[must_use]
    pub fn with(self, fault: Fault) -> Self {
        Self(self.0 | (1 << fault as u64))
    }

    /// Whether it is among them.
    #[must_use]
    pub fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u64) != 0
    }
}

/// What a run may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// How many orders are placed; `None` leaves it to the seed.
    pub orders: Option<usize>,
    /// What may go wrong.
    pub faults: Faults,
}

impl Options {
    /// A seed with everything that can go wrong.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        Self { seed, orders: None, faults: Faults::all() }
    }
}

/// A misfortune with its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Misfortune {
    pub(crate) at: Micros,
    pub(crate) fault: Fault,
    pub(crate) process: usize,
    /// How long it lasts, or how long until what ended starts again.
    pub(crate) lasts: Micros,
}

/// How often requests go wrong, of a million.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) lost: u32,
    pub(crate) answer_lost: u32,
    pub(crate) held: u32,
    /// The same of requests that end a transaction.
    pub(crate) end_held: u32,
    pub(crate) slow: u32,
    pub(crate) call: u32,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) options: Options,
    pub(crate) processes: usize,
    pub(crate) threads: usize,
    /// Each process keeps standby copies of some partitions.
    pub(crate) standbys: bool,
    pub(crate) partitions: i32,
    pub(crate) apart: bool,
    /// Group members keep their place over a restart (`group.instance.id`).
    pub(crate) static_members: bool,
    pub(crate) hand_over: bool,
    pub(crate) orders: usize,
    pub(crate) skus: usize,
    /// Orders are placed, and faults happen, until then.
    pub(crate) calm_at: Micros,
    pub(crate) commit_records: usize,
    pub(crate) commit_latency_ms: i64,
    pub(crate) write_out_ms: i64,
    pub(crate) memtable_bytes: usize,
    /// A partition gives at most so many records at a time.
    pub(crate) records_at_once: usize,
    /// So many records are sent before the transaction is over.
    pub(crate) flush_at: usize,
    pub(crate) park: bool,
    pub(crate) weather: Weather,
    pub(crate) misfortunes: Vec<Misfortune>,
    /// They happen only with [`Fault::FetchHeld`].
    pub(crate) late_reads: Vec<LateRead>,
    /// Little longer than goods may take to ship, or much longer.
    pub(crate) authorization_valid_ms: i64,
    /// So long an end of a transaction is asked for; then nobody knows what came of it.
    pub(crate) end_patience: Micros,
    /// Size of a segment of a compacted topic.
    pub(crate) segment_bytes: usize,
}

/// Fulfillment, alone in its group, is kept for a while from the accepted orders of a partition, while it hears of them from
/// others: from payments, and from those who cancel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LateRead {
    pub(crate) at: Micros,
    pub(crate) partition: i32,
    pub(crate) lasts: Micros,
}

/// Orders that are placed so soon after a late read begins are all heard of before it ends.
pub(crate) const LATE_ORDERS: Micros = 5 * SECOND;

/// A stream of chance for one part of a run.
pub(crate) fn stream(seed: u64, part: &str, number: u64) -> Rng {
    // FNV-1a: the streams need only differ.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in part.bytes().chain(number.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    Rng::with_seed(hash)
}

fn one_of<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}

impl Plan {
    pub(crate) fn draw(options: Options) -> Self {
        let mut rng = stream(options.seed, "plan", 0);
        let drawn_orders = rng.usize(50..64);
        let orders = options.orders.unwrap_or(drawn_orders);
        let calm_at = rng.u64(12..40) * SECOND;
        let processes = rng.usize(3..=4);
        let rough = one_of(&mut rng, &[0, 500, 2_000, 8_000]);
        let weather = Weather {
            lost: rng.u32(0..=rough),
            answer_lost: rng.u32(0..=rough),
            held: rng.u32(0..=rough),
            end_held: one_of(&mut rng, &[0, 2_000, 30_000]),
            slow: rng.u32(0..=rough * 8),
            call: one_of(&mut rng, &[0, 10_000, 60_000, 200_000]),
        };
        let threads = if rng.u8(..4) == 0 { 2 } else { 1 };
        let partitions = rng.i32(2..=3);
        let apart = rng.u8(..4) == 0;
        Self {
            options,
            processes,
            threads,
            standbys: stream(options.seed, "standbys", 0).u8(..3) == 0,
            partitions,
            apart,
            static_members: stream(options.seed, "members", 0).u8(..3) != 0,
            hand_over: stream(options.seed, "hand-over", 0).u8(..3) != 0,
            orders,
            skus: rng.usize(4..24),
            calm_at,
            commit_records: one_of(&mut rng, &[1, 5, 20, 100, 10_000]),
            commit_latency_ms: one_of(&mut rng, &[1, 10, 50, 100, 300]),
            write_out_ms: one_of(&mut rng, &[100, 500, 2_000, 5_000, 60_000]),
            memtable_bytes: one_of(&mut rng, &[2_000, 50_000, 1 << 20, 1 << 28]),
            records_at_once: one_of(&mut rng, &[1, 3, 20, 500]),
            flush_at: one_of(&mut rng, &[1, 4, 16, 1_000]),
            park: rng.u8(..4) == 0,
            weather,
            misfortunes: misfortunes(options, processes, calm_at),
            late_reads: late_reads(options.seed, apart, partitions, calm_at),
            end_patience: one_of(&mut stream(options.seed, "patience", 0), &[2 * SECOND, 15 * SECOND]),
            authorization_valid_ms: one_of(&mut stream(options.seed, "validity", 0), &[90_200, 150_000]),
            segment_bytes: one_of(&mut stream(options.seed, "segments", 0), &[1_024, 4_096, 16_384]),
        }
    }
}

fn late_reads(seed: u64, apart: bool, partitions: i32, calm_at: Micros) -> Vec<LateRead> {
    let mut rng = stream(seed, "late-reads", 0);
    if !apart {
        return Vec::new();
    }
    let draw = |_| LateRead {
        at: rng.u64(SECOND..calm_at - 8 * SECOND),
        partition: rng.i32(0..partitions),
        lasts: rng.u64(16 * SECOND..24 * SECOND),
    };
    (0..4).map(draw).collect()
}

/// Drawn kind by kind, also of kinds that do not happen: leaving one out leaves the others as they are.
fn misfortunes(options: Options, processes: usize, calm_at: Micros) -> Vec<Misfortune> {
    const KINDS: [(Fault, usize); 11] = [
        (Fault::BrokerCrash, 3),
        (Fault::ProcessCrash, 5),
        (Fault::DiskLost, 2),
        (Fault::DiskStale, 2),
        (Fault::DiskCorrupt, 2),
        (Fault::DiskFull, 2),
        (Fault::ProcessPaused, 4),
        (Fault::ProcessStopped, 4),
        (Fault::ClockJump, 3),
        (Fault::FetchHeld, 5),
        (Fault::ClockSetBack, 1),
    ];
    let mut all = Vec::new();
    for (fault, most) in KINDS {
        let mut rng = stream(options.seed, "misfortunes", fault as u64);
        for _ in 0..rng.usize(0..=most) {
            let at = rng.u64(SECOND / 2..calm_at);
            let lasts = match fault {
                Fault::ProcessPaused => rng.u64(SECOND / 2..14 * SECOND),
                Fault::BrokerCrash => rng.u64(SECOND / 20..6 * SECOND),
                Fault::DiskFull => rng.u64(SECOND..10 * SECOND),
                Fault::ClockJump => rng.u64(SECOND..40 * SECOND),
                Fault::FetchHeld => rng.u64(SECOND..12 * SECOND),
                _ => rng.u64(SECOND / 20..12 * SECOND),
            };
            all.push(Misfortune { at, fault, process: rng.usize(..processes), lasts });
        }
    }
    // Who took over from a process that sleeps goes, too, while what the sleeper left is still open.
    let mut rng = stream(options.seed, "successions", 0);
    let asleep: Vec<Misfortune> =
        all.iter().filter(|one| one.fault == Fault::ProcessPaused && one.lasts > 7 * SECOND).copied().collect();
    for sleeper in asleep {
        let at = sleeper.at + rng.u64(6 * SECOND..12 * SECOND);
        let process = (sleeper.process + rng.usize(1..processes)) % processes;
        if at < calm_at && rng.bool() {
            all.push(Misfortune { at, fault: Fault::ProcessStopped, process, lasts: rng.u64(SECOND..6 * SECOND) });
        }
    }
    // A clock that has jumped is set right by somebody who starts the process again.
    let mut rng = stream(options.seed, "clocks", 0);
    let jumps: Vec<Misfortune> = all.iter().filter(|one| one.fault == Fault::ClockJump).copied().collect();
    for jump in jumps {
        let at = jump.at + rng.u64(SECOND..12 * SECOND);
        let lasts = rng.u64(SECOND / 20..4 * SECOND);
        if at < calm_at && rng.bool() {
            all.push(Misfortune { at, fault: Fault::ClockSetBack, process: jump.process, lasts });
        }
    }
    all.retain(|misfortune| options.faults.has(misfortune.fault));
    all.sort_by_key(|misfortune| misfortune.at);
    all
}
