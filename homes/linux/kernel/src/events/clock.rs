//! The clock.

use nvme_platform::Time;
use rustix::time::{ClockId, clock_gettime};

/// The time on the monotonic clock. No system call where the vDSO serves it.
pub fn now() -> Time {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Time::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    use super::now;

    #[test]
    fn time_goes_forward() {
        let first = now();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!((now() - first).as_millis() >= 2);
    }
}
