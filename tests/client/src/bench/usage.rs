//! What a process has used, from `/proc`.

use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::time::Duration;

/// CPU time and sleeps per thread, and memory, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    threads: BTreeMap<u64, Thread>,
    /// Anonymous memory in bytes (`RssAnon`).
    pub rss_anon: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Thread {
    /// Nanoseconds on a CPU, user and system.
    cpu: u64,
    /// Nanoseconds for which it was ready to run, and had no CPU.
    ready: u64,
    /// Times it went to sleep by itself.
    sleeps: u64,
    /// Times others had its processor though it was not done.
    put_aside: u64,
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.get(name.len()..)?.split_whitespace().next()?.parse().ok()
}

/// Nanoseconds on a CPU, and ready to run without one: the first numbers of a `schedstat` file.
fn nanos(sched: &str) -> Result<(u64, u64)> {
    let mut numbers = sched.split_whitespace().map_while(|n| n.parse().ok());
    numbers.next().zip(numbers.next()).ok_or_else(|| Error::other("this kernel has no schedstat"))
}

/// CPU time of the calling thread.
pub(super) fn own_cpu() -> Result<Duration> {
    let (cpu, _) = nanos(&std::fs::read_to_string("/proc/thread-self/schedstat")?)?;
    Ok(Duration::from_nanos(cpu))
}

impl Usage {
    /// Looks at a process.
    pub fn of(pid: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rss_anon = field(&status, "RssAnon:").unwrap_or(0) * 1024;
        let mut threads = BTreeMap::new();
        for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = entry?.path();
            let id = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
            // A thread may end while we look.
            let (Some(id), Ok(sched), Ok(status)) = (
                id,
                std::fs::read_to_string(path.join("schedstat")),
                std::fs::read_to_string(path.join("status")),
            ) else {
                continue;
            };
            let sleeps = field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            let put_aside = field(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
            let (cpu, ready) = nanos(&sched)?;
            threads.insert(id, Thread { cpu, ready, sleeps, put_aside });
        }
        Ok(Self { threads, rss_anon })
    }

    fn sum_since(&self, before: &Usage, what: impl Fn(&Thread) -> u64) -> u64 {
        let old = |id| before.threads.get(id).map_or(0, &what);
        self.threads.iter().map(|(id, thread)| what(thread).saturating_sub(old(id))).sum()
    }

    /// CPU time of all threads since an earlier look. What a thread used that has ended meanwhile is not in it.
    pub fn cpu_since(&self, before: &Usage) -> Duration {
        Duration::from_nanos(self.sum_since(before, |thread| thread.cpu))
    }

    /// For how long threads were ready to run and had no CPU, summed, since an earlier look.
    pub fn ready_since(&self, before: &Usage) -> Duration {
        Duration::from_nanos(self.sum_since(before, |thread| thread.ready))
    }

    /// How often threads went to sleep since an earlier look.
    pub fn sleeps_since(&self, before: &Usage) -> u64 {
        self.sum_since(before, |thread| thread.sleeps)
    }

    /// How often others had a thread's processor though it was not done, since an earlier look.
    pub fn put_aside_since(&self, before: &Usage) -> u64 {
        self.sum_since(before, |thread| thread.put_aside)
    }

    /// Threads.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_busy_loop_is_seen_and_memory_is_counted() {
        let pid = std::process::id();
        let before = Usage::of(pid).unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(30) {
            std::hint::spin_loop();
        }
        let after = Usage::of(pid).unwrap();
        assert!(after.cpu_since(&before) > Duration::from_micros(500));
        assert!(after.rss_anon > 0 && after.threads() > 0);
    }

    #[test]
    fn time_on_a_cpu_and_without_one_are_told_apart() {
        assert_eq!(nanos("120 34 5\n").unwrap(), (120, 34));
        assert!(nanos("120").is_err() && nanos("").is_err());
    }
}
