//! Waits for an order to come to a point: asks its owner again and again, each time for a newer version.
//!
//! Bounded by the caller's time, by the drain, and by a pause between two questions. Never changes anything.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::app::Ingress;
use crate::doors::{KnownOrder, Unavailable, WaitFor};

/// Least time between two questions about one order.
const PAUSE: Duration = Duration::from_millis(50);
/// What an owner may take on top of the wait it was asked for.
const GRACE: Duration = Duration::from_millis(500);

/// The order as it is known now; an owner that cannot answer is asked again until the look-up time is over.
pub(crate) async fn find_now(ingress: &Ingress, order_id: &str) -> Result<Option<KnownOrder>, Unavailable> {
    let deadline = Instant::now() + ingress.settings().lookup_timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = timeout(left, ingress.orders().find(order_id, None)).await.unwrap_or_else(|_| Err(too_slow()));
        match answer {
            Err(_) if left > PAUSE => sleep(PAUSE).await,
            answer => return answer,
        }
    }
}

/// The order once it has `min_version` and `reached` says so, or as it is when the time is up or the server drains.
pub(crate) async fn wait_until(
    ingress: &Ingress,
    order_id: &str,
    at_most: Duration,
    min_version: u64,
    reached: impl Fn(&KnownOrder) -> bool,
) -> Result<Option<KnownOrder>, Unavailable> {
    let deadline = Instant::now() + at_most;
    let mut min_version = min_version.max(1);
    loop {
        let asked = Instant::now();
        let left = deadline.saturating_duration_since(asked);
        if left.is_zero() || ingress.drain().has_begun() {
            return find_now(ingress, order_id).await;
        }
        let wait = WaitFor { min_version, at_most: left };
        let answer = tokio::select! {
            answer = timeout(left + GRACE, ingress.orders().find(order_id, Some(wait))) => {
                answer.unwrap_or_else(|_| Err(too_slow()))
            }
            () = ingress.drain().begun() => continue,
        };
        match answer {
            Ok(Some(order)) if order.version >= min_version && reached(&order) => return Ok(Some(order)),
            Ok(Some(order)) if order.version >= min_version => min_version = order.version + 1,
            // Not far enough, unknown, or the owner is moving: ask again, but never in a tight circle.
            Ok(_) | Err(_) => {
                let pause =
                    PAUSE.saturating_sub(asked.elapsed()).min(deadline.saturating_duration_since(Instant::now()));
                sleep(pause).await;
            }
        }
    }
}

fn too_slow() -> Unavailable {
    Unavailable("no answer in time".into())
}
