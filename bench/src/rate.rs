//! Looks for the highest rate that is sustained, by doubling and bisection. Pure: says which rate to try next, is told how
//! it went; never tries one itself.

/// A search in progress; rates in orders a second.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    held: Option<f64>,
    failed: Option<f64>,
    next: f64,
    stride: f64,
    tolerance: f64,
    left: usize,
}

/// How much further the next try goes while none has failed (or none has held); the square of it the next time. Guesses
/// are good: they come from what was done under pressure.
const STRIDE: f64 = 1.15;

impl Search {
    /// Begins at `guess`, ends when the highest rate that held and the lowest that failed differ by no more than
    /// `tolerance` (0.02: 2 %), or after `tries_max` tries.
    pub(crate) fn new(guess: f64, tolerance: f64, tries_max: usize) -> Self {
        Self { held: None, failed: None, next: guess.max(1.0), stride: STRIDE, tolerance, left: tries_max }
    }

    /// The rate to try next; none when the search is over.
    pub(crate) fn next(&self) -> Option<f64> {
        let near = match (self.held, self.failed) {
            (Some(held), Some(failed)) => failed / held <= 1.0 + self.tolerance,
            _ => false,
        };
        (self.left > 0 && !near && self.next >= 1.0).then_some(self.next)
    }

    /// The rate that was asked for last held, or did not.
    pub(crate) fn tried(&mut self, held: bool) {
        self.left = self.left.saturating_sub(1);
        let rate = self.next;
        if held {
            self.held = Some(self.held.map_or(rate, |before| before.max(rate)));
        } else {
            self.failed = Some(self.failed.map_or(rate, |before| before.min(rate)));
        }
        self.next = match (self.held, self.failed) {
            (Some(held), Some(failed)) => (held * failed).sqrt(),
            (Some(held), None) => held * self.stride,
            (None, Some(failed)) => failed / self.stride,
            (None, None) => rate,
        };
        self.stride *= self.stride;
    }

    /// The highest rate that held.
    pub(crate) fn found(&self) -> Option<f64> {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(guess: f64, limit: f64, tries: usize) -> (Option<f64>, usize) {
        let mut search = Search::new(guess, 0.02, tries);
        let mut tried = 0;
        while let Some(rate) = search.next() {
            tried += 1;
            search.tried(rate <= limit);
        }
        (search.found(), tried)
    }

    #[test]
    fn the_limit_is_found_from_below_and_from_above() {
        for guess in [100.0, 5_000.0, 9_900.0, 10_000.0, 30_000.0, 400_000.0] {
            let (found, tried) = search(guess, 10_000.0, 100);
            let found = found.unwrap();
            assert!((9_800.0..=10_000.0).contains(&found), "from {guess}: {found}");
            assert!(tried < 25, "from {guess}: {tried} tries");
        }
    }

    #[test]
    fn it_gives_up_after_so_many_tries_and_says_what_held() {
        assert_eq!(search(100.0, 1e9, 3), (Some(100.0 * STRIDE * STRIDE * STRIDE), 3));
        assert_eq!(search(100.0, 0.0, 4), (None, 4));
        assert_eq!(search(2.0, 0.0, 100).0, None, "below one order a second nothing is looked for");
    }
}
