//! `cargo xtask sim`: runs worlds by seeds, until time is over or a promise is broken.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time of the processor that this took: others may use it meanwhile.
fn spent() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// States of small worlds of single steps that are looked at, of which nobody has seen the end.
const FINE: u64 = 2000;

/// All interleavings of small worlds: how many states each has.
fn in_the_small(most: Option<u64>, only: Option<u64>) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    for (number, small) in (1..).zip(nvme_sim::smalls()).filter(|(n, _)| only.is_none_or(|only| only == *n)) {
        let begun = spent();
        let most = most.unwrap_or(if small.coarse { u64::MAX } else { FINE });
        let seen = nvme_sim::exhaust(&small, most);
        println!(
            "{number}, {}{}: {} states{}, {} steps between them, {} at rest, {} steps at most, {:.1} s",
            small.name,
            if small.coarse { ", in whole turns" } else { "" },
            seen.states,
            if seen.cut { " and more" } else { ", which is all" },
            seen.steps,
            seen.ends,
            seen.longest,
            (spent() - begun).as_secs_f64()
        );
        if let Some((finding, way)) = seen.finding {
            println!("{} steps: {finding}\n{:?}", way.len(), small.setup());
            way.iter().for_each(|step| println!("    Step::{step:?},"));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// After how many seeds it says how far it is.
const SAYS: u64 = 100_000;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (mut all, mut quick, mut cpu, mut exhaustive) = (false, false, None, false);
    let mut restarts = None;
    let (mut states, mut world) = (None, None);
    let (mut seed, mut trace, mut seconds, mut steps, mut seeds) = (None, false, 10, 1000, u64::MAX);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse().ok());
        match arg.as_str() {
            "--seed" => seed = number(),
            "--trace" => trace = true,
            "--all" => all = true,
            "--quick" => quick = true,
            "--restarts" => restarts = Some(true),
            "--without-restarts" => restarts = Some(false),
            "--exhaustive" => exhaustive = true,
            "--states" => states = number(),
            "--world" => world = number(),
            #[cfg(feature = "planted")]
            "--planted" => {
                nvme_mem::PLANTED.store(number().unwrap_or(0) as u32, std::sync::atomic::Ordering::Relaxed);
            }
            "--seconds" => seconds = number().unwrap_or(seconds),
            "--cpu" => cpu = number(),
            "--steps" => steps = number().unwrap_or(steps),
            "--seeds" => (seeds, seconds) = (number().unwrap_or(1), u64::MAX / 4),
            _ => {
                eprintln!(
                    "sim [--seed N] [--trace] [--seconds N | --cpu N | --seeds N] [--steps N] [--restarts | --without-restarts]\nsim --exhaustive [--world N] [--states N]"
                );
                return ExitCode::from(2);
            }
        }
    }
    if exhaustive {
        return in_the_small(states, world);
    }
    let one = seed.is_some() && seeds == u64::MAX && !quick;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let first = seed.unwrap_or(now.as_nanos() as u64 >> 8);
    let start = Instant::now();
    let (mut taken, mut answered, mut judged, mut runs) = (0, 0, 0, 0);
    let mut found: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    println!("seeds from {first} on, {steps} steps each");
    std::panic::set_hook(Box::new(|_| {}));
    let over = || match cpu {
        Some(seconds) => spent() >= Duration::from_secs(seconds),
        None => start.elapsed() >= Duration::from_secs(seconds),
    };
    while (!over() && runs < seeds) || (one && runs == 0) {
        let seed = first.wrapping_add(runs);
        let run_one = match restarts {
            None => nvme_sim::run_seed,
            Some(true) => nvme_sim::run_restarting,
            Some(false) => nvme_sim::run_without_restarts,
        };
        let run = run_one(seed, steps as usize);
        runs += 1;
        taken += run.taken;
        answered += run.answered;
        judged += run.judged;
        if trace {
            println!("{:?}", run.setup);
            run.steps.iter().for_each(|step| println!("{step:?},"));
        }
        if let Some(finding) = run.finding.as_ref().filter(|_| all) {
            // Numbers aside, it is one kind.
            let kind: String = finding
                .to_string()
                .chars()
                .map(|c| if c.is_ascii_digit() { '#' } else { c })
                .take(110)
                .collect();
            let times = &mut found.entry(kind).or_insert((0, seed)).0;
            *times += 1;
            if *times == 1 {
                println!("seed {seed}, after {} steps: {finding}", run.steps.len());
            }
        } else if let Some(finding) = &run.finding {
            println!("seed {seed}, after {} steps: {finding}", run.steps.len());
            println!("found in {:.2} s, seed {runs}", spent().as_secs_f64());
            if quick {
                return ExitCode::FAILURE;
            }
            let short = nvme_sim::shrink(&run);
            if let Some(finding) = &short.finding {
                println!("in {} steps: {finding}\n{:?}", short.steps.len(), short.setup);
                short.steps.iter().for_each(|step| println!("    Step::{step:?},"));
            }
            let restarts = match restarts {
                None => "",
                Some(true) => " --restarts",
                Some(false) => " --without-restarts",
            };
            println!("again: cargo xtask sim --seed {seed} --steps {steps}{restarts} --trace");
            return ExitCode::FAILURE;
        }
        if one {
            break;
        }
        if runs.is_multiple_of(SAYS) {
            println!("{runs} seeds, {taken} steps, {:.0} s", start.elapsed().as_secs_f64());
        }
    }
    for (kind, (count, seed)) in &found {
        println!("{count} times, first with seed {seed}: {kind}");
    }
    let secs = start.elapsed().as_secs_f64();
    println!(
        "{runs} seeds, {taken} steps ({:.0} a second), {answered} requests answered, {judged} commands judged{}",
        taken as f64 / secs,
        if found.is_empty() { ": every promise was kept" } else { "" }
    );
    if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
