//! Latencies, counted in buckets of about three per cent.

const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;

/// A histogram of nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; SUB * (65 - SUB_BITS as usize)], total: 0 }
    }
}

fn bucket(nanos: u64) -> usize {
    let shift = (64 - nanos.leading_zeros()).saturating_sub(SUB_BITS + 1);
    SUB * shift as usize + (nanos >> shift) as usize
}

/// The middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let shift = (bucket / SUB).saturating_sub(1) as u32;
    let low = (bucket - SUB * shift as usize) as u64;
    (low << shift) + ((1 << shift) >> 1)
}

impl Histogram {
    /// Counts one latency.
    #[inline]
    pub fn add(&mut self, nanos: u64) {
        if let Some(count) = self.counts.get_mut(bucket(nanos)) {
            *count += 1;
            self.total += 1;
        }
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The latency in nanoseconds that this part (0 to 1) of all stays within; 0 of none.
    pub fn quantile(&self, part: f64) -> u64 {
        let rank = ((self.total as f64 * part).ceil() as u64).max(1);
        let mut sum = 0;
        for (i, count) in self.counts.iter().enumerate() {
            sum += count;
            if sum >= rank {
                return middle(i);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_s_middle_is_near_what_was_counted() {
        for nanos in (0..64).map(|s| 1u64 << s).flat_map(|n| [n, n + n / 3, n + (n - 1)]) {
            let back = middle(bucket(nanos));
            assert!(back.abs_diff(nanos) <= nanos / 32, "{nanos} became {back}");
        }
    }

    #[test]
    fn quantiles_split_the_counts() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|n| histogram.add(n));
        let near = |q: f64, n: u64| histogram.quantile(q).abs_diff(n) <= n / 30;
        assert!(near(0.5, 500) && near(0.99, 990) && near(1.0, 1000));
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }
}
