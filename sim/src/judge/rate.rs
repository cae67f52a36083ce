//! The judge of limits: what somebody got answered, held against how much it may do a second.
//!
//! A request that was asked for after one moment and answered before another was done between the two. So over the time from any request's
//! beginning until now, no more was answered than the rate, what may be made up for, and one request of each worker.

use std::collections::VecDeque;

/// What was not used of so many nanoseconds may be made up for.
const BURST: u64 = 100_000_000;
/// Requests that are looked back at.
const KEPT: usize = 256;
/// A long request is done in pieces that are not shorter.
const PIECE: u64 = 8192;

/// How much somebody may do a second, and what it did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter {
    iops: Option<u64>,
    bytes: Option<u64>,
    /// When each was asked for, the first one first, and its bytes.
    done: VecDeque<(u64, u64)>,
    /// What was asked for before is not looked at.
    since: u64,
}

/// What a word like `iops=200` or `bytes=64K` says.
pub(crate) fn number(words: &[&str], name: &str) -> Option<u64> {
    let value = words.iter().find_map(|w| w.strip_prefix(name)?.strip_prefix('='))?;
    let (digits, scale) = match value.chars().last()? {
        'K' => (&value[..value.len() - 1], 10),
        'M' => (&value[..value.len() - 1], 20),
        _ => (value, 0),
    };
    digits.parse::<u64>().ok().map(|n| n << scale)
}

/// The stricter of two bounds.
pub(crate) fn stricter(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    [a, b].into_iter().flatten().min()
}

impl Meter {
    /// Of so much a second from now on; none: any.
    pub(crate) fn new(iops: Option<u64>, bytes: Option<u64>, now: u64) -> Self {
        Self { iops, bytes, done: VecDeque::new(), since: now }
    }

    /// What was asked for so far does not count any more.
    pub(crate) fn begin(&mut self, now: u64) {
        self.done.clear();
        self.since = now + 1;
    }

    /// Whether there is any bound.
    pub(crate) fn any(&self) -> bool {
        self.iops.is_some() || self.bytes.is_some()
    }

    /// How long, in nanoseconds, so many requests of so many bytes take at most, if nothing else is in their way.
    pub(crate) fn takes(&self, requests: u64, bytes: u64) -> u64 {
        let time = |count: u64, rate: Option<u64>| rate.map_or(0, |rate| count * 1_000_000_000 / rate.max(1));
        time(requests, self.iops).max(time(bytes, self.bytes))
    }

    /// A request is answered. So many may be beyond what may be done: one of each worker, since what it comes to is known when it was taken; and where virtqueues
    /// stop that had begun long ones, all that each of these comes to.
    pub(crate) fn answered(
        &mut self,
        asked: u64,
        bytes: u64,
        now: u64,
        (workers, begun): (u64, u64),
    ) -> Result<(), String> {
        if !self.any() || asked < self.since {
            return Ok(());
        }
        let at = self.done.partition_point(|(other, _)| *other <= asked);
        self.done.insert(at, (asked, bytes));
        let (mut requests, mut sum, mut longest) = (0, 0, PIECE);
        for (asked, bytes) in self.done.iter().rev() {
            requests += 1;
            sum += bytes;
            longest = longest.max(*bytes);
            let time = u128::from(now - asked + BURST);
            let most = |rate: u64| (u128::from(rate) * time).div_ceil(1_000_000_000) as u64;
            if self.iops.is_some_and(|rate| requests > most(rate) + workers) {
                return Err(format!("{requests} requests in {} ns at {:?} a second", now - asked, self.iops));
            }
            if self.bytes.is_some_and(|rate| sum > most(rate) + begun * longest) {
                return Err(format!("{sum} bytes in {} ns at {:?} a second", now - asked, self.bytes));
            }
        }
        if self.done.len() > KEPT {
            self.done.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_rate_a_burst_and_one_request_are_allowed_and_no_more() {
        let mut meter = Meter::new(Some(20), None, SECOND);
        // Two of the burst, one on credit.
        assert!((0..3).all(|_| meter.answered(SECOND, 0, SECOND, (1, 1)).is_ok()));
        assert!(meter.answered(SECOND, 0, SECOND + 40_000_000, (1, 1)).is_ok());
        assert!(meter.answered(SECOND, 0, SECOND + 40_000_000, (1, 1)).is_err());
        meter.begin(2 * SECOND);
        assert!(meter.answered(2 * SECOND, 0, 2 * SECOND, (1, 1)).is_ok());
        let mut meter = Meter::new(None, Some(1 << 20), 0);
        assert!((0..7).all(|_| meter.answered(5, 16 << 10, 5, (1, 1)).is_ok()));
        assert!(meter.answered(5, 16 << 10, 5, (1, 1)).is_err());
        let mut meter = Meter::new(None, Some(1 << 20), 0);
        assert!(
            (0..9).all(|_| meter.answered(5, 16 << 10, 5, (1, 3)).is_ok()),
            "three virtqueues had begun one each"
        );
        assert!(meter.answered(5, 16 << 10, 5, (1, 3)).is_err());
    }

    #[test]
    fn words_say_numbers() {
        let words = ["device=d0:n1", "iops=20", "bytes=64K"];
        assert_eq!((number(&words, "iops"), number(&words, "bytes")), (Some(20), Some(65536)));
        assert_eq!((number(&words, "iops-all"), stricter(None, Some(3))), (None, Some(3)));
    }
}
