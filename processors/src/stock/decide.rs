//! What the ledger answers to a command: the whole policy of reserving, releasing and shipping. Pure; it reads no store
//! and writes none.

use millrace_schemas::{ShortLine, StockCommand, StockCommandKind, StockEventKind, StockLevel, StockLine};

use super::state::{Cause, Movement, Reservation, ReservationState, ReservedLine, TRANSITIONS, available};
use crate::planted;

/// What follows from a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The reservation, where it changes.
    pub reservation: Option<Reservation>,
    /// Balances that change, ascending by SKU: the SKU and by how much.
    pub movements: Vec<(String, Movement)>,
    /// What is answered.
    pub answer: StockEventKind,
    /// With which lines.
    pub lines: Vec<StockLine>,
    /// And what fell short.
    pub short: Vec<ShortLine>,
}

/// What follows from a command, given the reservation it names.
///
/// `levels` are the balances of the command's lines, place by place, `None` where the SKU was never heard of. They are
/// needed only for the first reserve ([`needs_levels`]), else may be empty. `fence_until` is how long a reservation
/// that holds nothing any more is to be remembered.
///
/// - A reserve is granted whole or not at all.
/// - What was answered once is answered again, and nothing changes.
/// - Nothing more is ever let go or shipped than is held.
///
/// # Errors
/// What is wrong with the command; it can never be carried out.
pub fn decide(
    reservation: Option<&Reservation>,
    command: &StockCommand,
    levels: &[Option<StockLevel>],
    fence_until: i64,
) -> Result<Decision, String> {
    check(command)?;
    let decision = match command.kind {
        StockCommandKind::Reserve => reserve(reservation, command, levels, fence_until),
        StockCommandKind::Release => release(reservation, fence_until),
        StockCommandKind::Ship => ship(reservation, command, fence_until),
        StockCommandKind::Unknown => return Err("its kind is not known here".to_owned()),
    };
    let cause = match command.kind {
        StockCommandKind::Reserve => Cause::Reserve,
        StockCommandKind::Ship => Cause::Ship,
        StockCommandKind::Release | StockCommandKind::Unknown => Cause::Release,
    };
    if let Some(next) = &decision.reservation {
        let step = (reservation.map(|r| r.state), cause, Some(next.state));
        assert!(TRANSITIONS.contains(&step), "{step:?} is not among the transitions of a reservation");
    }
    Ok(decision)
}

/// Whether the balances of the command's lines matter: only to the first reserve of a group.
#[must_use]
pub fn needs_levels(reservation: Option<&Reservation>, command: &StockCommand) -> bool {
    reservation.is_none() && command.kind == StockCommandKind::Reserve
}

fn check(command: &StockCommand) -> Result<(), String> {
    if command.kind == StockCommandKind::Release {
        return Ok(());
    }
    if command.lines.is_empty() {
        return Err("it names no lines".to_owned());
    }
    if let Some(line) = command.lines.iter().find(|l| l.quantity <= 0) {
        return Err(format!("it wants {} of {}", line.quantity, line.sku));
    }
    if let Some(pair) = command.lines.windows(2).find(|pair| pair[0].sku >= pair[1].sku) {
        return Err(format!("its lines do not ascend by SKU at {}", pair[1].sku));
    }
    if command.kind == StockCommandKind::Ship && command.command_id.is_empty() {
        return Err("it names no shipment".to_owned());
    }
    Ok(())
}

fn reserve(
    reservation: Option<&Reservation>,
    command: &StockCommand,
    levels: &[Option<StockLevel>],
    fence_until: i64,
) -> Decision {
    let again_granted = planted::is(planted::Defect::ReserveAppliedTwice);
    if let Some(known) = reservation.filter(|known| !(again_granted && known.state == ReservationState::Held)) {
        return match known.state {
            ReservationState::Held | ReservationState::Shipped => again(StockEventKind::Reserved, known.granted()),
            ReservationState::Released => again(StockEventKind::Released, known.unshipped()),
            ReservationState::Refused => {
                Decision { short: known.short(), ..again(StockEventKind::Insufficient, Vec::new()) }
            }
        };
    }
    let in_stock = |place: usize| levels.get(place).and_then(Option::as_ref).map_or(0, available);
    let wanted = command.lines.iter().enumerate();
    let short: Vec<ReservedLine> = wanted
        .filter(|(place, line)| {
            in_stock(*place) < i64::from(line.quantity) && !planted::is(planted::Defect::BalanceClamped)
        })
        .map(|(place, line)| ReservedLine {
            sku: line.sku.clone(),
            quantity: line.quantity,
            shipped: 0,
            short: Some(in_stock(place)),
        })
        .collect();
    if short.is_empty() {
        let lines = command.lines.iter();
        let held = lines.clone().map(|line| ReservedLine {
            sku: line.sku.clone(),
            quantity: line.quantity,
            shipped: 0,
            short: None,
        });
        Decision {
            reservation: Some(Reservation {
                state: ReservationState::Held,
                lines: held.collect(),
                shipments: Vec::new(),
                fence_until: None,
            }),
            movements: lines.map(|line| (line.sku.clone(), Movement::Reserve(line.quantity))).collect(),
            ..again(StockEventKind::Reserved, command.lines.clone())
        }
    } else {
        let refused = Reservation {
            state: ReservationState::Refused,
            lines: short,
            shipments: Vec::new(),
            fence_until: Some(fence_until),
        };
        let short = refused.short();
        Decision { reservation: Some(refused), short, ..again(StockEventKind::Insufficient, Vec::new()) }
    }
}

fn release(reservation: Option<&Reservation>, fence_until: i64) -> Decision {
    let Some(known) = reservation else {
        let fence = Reservation {
            state: ReservationState::Released,
            lines: Vec::new(),
            shipments: Vec::new(),
            fence_until: Some(fence_until),
        };
        let fence = Some(fence).filter(|_| !planted::is(planted::Defect::ReleaseWithoutFence));
        return Decision { reservation: fence, ..again(StockEventKind::Released, Vec::new()) };
    };
    match known.state {
        ReservationState::Refused | ReservationState::Shipped => again(StockEventKind::Released, Vec::new()),
        ReservationState::Released => again(StockEventKind::Released, known.unshipped()),
        ReservationState::Held => {
            let rest = known.unshipped();
            let movements = rest.iter().map(|line| (line.sku.clone(), Movement::Release(line.quantity))).collect();
            let mut next = known.clone();
            next.state = ReservationState::Released;
            next.fence_until = Some(fence_until);
            Decision { reservation: Some(next), movements, ..again(StockEventKind::Released, rest) }
        }
    }
}

fn ship(reservation: Option<&Reservation>, command: &StockCommand, fence_until: i64) -> Decision {
    let refused = |short| Decision { short, ..again(StockEventKind::Refused, Vec::new()) };
    let more_than_held = |line: &StockLine, held: i32| ShortLine {
        sku: line.sku.clone(),
        wanted: line.quantity,
        available: i64::from(held),
    };
    let Some(known) = reservation else {
        return refused(command.lines.iter().map(|line| more_than_held(line, 0)).collect());
    };
    if known.shipments.contains(&command.command_id) && !planted::is(planted::Defect::CommandAppliedTwice) {
        return again(StockEventKind::Shipped, command.lines.clone());
    }
    let mut next = known.clone();
    let mut short = Vec::new();
    let mut place = 0;
    for line in &command.lines {
        // Both ascend by SKU, so one pass finds every line.
        while place < next.lines.len() && next.lines[place].sku < line.sku {
            place += 1;
        }
        match next.lines.get_mut(place).filter(|reserved| reserved.sku == line.sku) {
            Some(reserved) if known.held(reserved) >= line.quantity => reserved.shipped += line.quantity,
            Some(reserved) => short.push(more_than_held(line, known.held(reserved))),
            None => short.push(more_than_held(line, 0)),
        }
    }
    if !short.is_empty() {
        return refused(short);
    }
    if next.lines.iter().all(|line| line.shipped == line.quantity) {
        next.state = ReservationState::Shipped;
        next.fence_until = Some(fence_until);
    }
    next.shipments.push(command.command_id.clone());
    let movements = command.lines.iter().map(|line| (line.sku.clone(), Movement::Ship(line.quantity))).collect();
    Decision { reservation: Some(next), movements, ..again(StockEventKind::Shipped, command.lines.clone()) }
}

/// An answer that changes nothing.
fn again(answer: StockEventKind, lines: Vec<StockLine>) -> Decision {
    Decision { reservation: None, movements: Vec::new(), answer, lines, short: Vec::new() }
}
