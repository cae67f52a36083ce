extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::bucket::BURST;

const MS: u64 = 1_000_000;
const SECOND_NS: u64 = 1_000_000_000;
const START: u64 = 7 * SECOND_NS;

fn line(rate: u64, together: u64) -> Line {
    Line::new(NonZeroU64::new(rate), together)
}

/// Somebody who takes requests of so many units, one after the other.
#[derive(Clone)]
struct Taker {
    units: u64,
    /// From one request's being taken to the next one's being there, in nanoseconds; 0: there always is one.
    every: u64,
    /// By how much later it looks than it was told.
    late: Vec<u64>,
}

impl Taker {
    fn greedy(units: u64) -> Self {
        Self { units, every: 0, late: [0].into() }
    }
}

/// What they took, each: when and how much.
fn run(line: &Line, takers: &[Taker], time: u64) -> Vec<Vec<(u64, u64)>> {
    let places: Vec<Place> = takers.iter().map(|_| Place::default()).collect();
    let mut next: Vec<u64> = takers.iter().map(|_| START).collect();
    let mut looks: Vec<usize> = takers.iter().map(|_| 0).collect();
    let mut taken: Vec<Vec<(u64, u64)>> = takers.iter().map(|_| Vec::new()).collect();
    for _ in 0..200_000 {
        // Of those whose time has come the first one always looks first.
        let Some(who) = (0..takers.len()).min_by_key(|at| next[*at]) else { break };
        let now = next[who];
        if now > START + time {
            break;
        }
        let taker = &takers[who];
        match line.may(&places[who], taker.units, now) {
            Ok(_) => {
                line.take(&places[who], taker.units, now);
                taken[who].push((now, taker.units));
                if taker.every > 0 {
                    line.give_back(&places[who], now);
                    next[who] = now + taker.every;
                }
            }
            Err(until) => {
                assert!(until > now, "it would ask for ever");
                next[who] = until + taker.late[looks[who] % taker.late.len()];
                looks[who] += 1;
            }
        }
    }
    taken
}

fn sum(taken: &[(u64, u64)]) -> f64 {
    taken.iter().map(|(_, units)| *units as f64).sum()
}

#[test]
fn a_line_without_a_rate_holds_nobody_back() {
    let free = line(0, MS);
    free.take(&Place::default(), u64::MAX, 5);
    assert_eq!((free.may(&Place::default(), 1, 0), free.rate()), (Ok(u64::MAX), None));
}

#[test]
fn who_is_refused_is_in_line_and_nobody_takes_what_it_reserved() {
    let line = line(1000, 2 * MS);
    let (a, b) = (Place::default(), Place::default());
    assert_eq!(line.may(&a, 1, START), Ok(101), "what was not used of 100 ms, and one on credit");
    line.take(&a, 101, START);
    // Three units each, from when the one on credit is paid for; the last of them is on credit again.
    assert_eq!(line.may(&b, 1, START), Err(START + 3 * MS));
    assert_eq!(line.may(&a, 1, START), Err(START + 5 * MS), "two: the one on credit is left out");
    // It looks as often as it likes.
    assert_eq!(line.may(&a, 1, START + 4 * MS), Err(START + 5 * MS));
    assert_eq!((line.may(&b, 1, START + 6 * MS), line.may(&a, 1, START + 6 * MS)), (Ok(3), Ok(2)));
}

#[test]
fn who_takes_less_than_it_reserved_gives_the_rest_to_those_behind() {
    let line = line(1000, 9 * MS);
    let (a, b, c) = (Place::default(), Place::default(), Place::default());
    line.take(&a, 101, START);
    assert_eq!(line.may(&b, 1, START), Err(START + 10 * MS));
    assert_eq!(line.may(&c, 1, START), Err(START + 10 * MS), "20, of which half are over then");
    let now = START + 10 * MS;
    assert_eq!(line.may(&b, 1, now), Ok(10));
    line.take(&b, 2, now);
    line.give_back(&b, now);
    assert_eq!(line.may(&c, 1, now), Err(START + 12 * MS));
    // Nothing is given back before its time, and nothing twice.
    line.give_back(&c, now);
    line.give_back(&b, now);
    assert_eq!(line.may(&c, 1, now), Err(START + 12 * MS));
    // The next time it is taken to have use for twice what it had.
    assert_eq!(line.may(&b, 1, now), Err(START + 16 * MS), "four, from when all of c are paid for");
}

#[test]
fn whoever_looks_first_has_no_more_than_the_others() {
    for (rate, units) in [(600, [1, 1, 1]), (1, [1, 1, 1]), (2 << 20, [4096, 4096, 4096])] {
        let line = line(rate, 10 * MS);
        let takers: Vec<Taker> = units.iter().map(|units| Taker::greedy(*units)).collect();
        let seconds = if rate == 1 { 300 } else { 10 };
        let taken: Vec<f64> = run(&line, &takers, seconds * SECOND_NS).iter().map(|t| sum(t)).collect();
        let all: f64 = taken.iter().sum();
        let wanted = rate as f64 * seconds as f64;
        assert!((all / wanted - 1.0).abs() < 0.03, "{all} of {wanted}");
        assert!(taken.iter().all(|one| (one * 3.0 / wanted - 1.0).abs() < 0.05), "{taken:?} of {wanted}");
    }
}

#[test]
fn long_requests_bring_no_more_than_short_ones() {
    // 50 ms each, against 2 ms.
    let line = line(2 << 20, 10 * MS);
    let takers = [Taker::greedy(100_000), Taker::greedy(4096)];
    let taken: Vec<f64> = run(&line, &takers, 20 * SECOND_NS).iter().map(|t| sum(t)).collect();
    assert!((taken[0] / taken[1] - 1.0).abs() < 0.05, "{taken:?}");
    assert!((taken[0] + taken[1]) / (20.0 * 2_097_152.0) > 0.99, "{taken:?}");
}

#[test]
fn what_one_leaves_the_others_have() {
    let line = line(600, 10 * MS);
    let seldom = Taker { units: 1, every: SECOND_NS / 20, late: [0].into() };
    let taken = run(&line, &[seldom, Taker::greedy(1)], 10 * SECOND_NS);
    let (few, many) = (sum(&taken[0]), sum(&taken[1]));
    // It waits for two rounds at most each time.
    assert!(few >= 1000.0 / 70.0 * 10.0, "{few}");
    assert!((few + many) / 6000.0 > 0.98, "{few} {many}");
}

proptest! {
    /// Over any time, all of them together: the rate, one burst, and one request.
    #[test]
    fn never_more_than_the_rate_a_burst_and_one_request_together(
        rate in prop_oneof![1_u64..100, 100_u64..1_000_000, 1_000_000_u64..10_000_000_000],
        together in MS..10 * MS,
        takers in proptest::collection::vec(
            (1_u64..2_000_000, prop_oneof![Just(0), MS..200 * MS], proptest::collection::vec(0_u64..200 * MS, 1..6)),
            1..6,
        ),
    ) {
        let line = line(rate, together);
        let takers: Vec<Taker> =
            takers.into_iter().map(|(units, every, late)| Taker { units, every, late }).collect();
        let mut taken: Vec<(u64, u64)> = run(&line, &takers, 5 * SECOND_NS).into_iter().flatten().collect();
        taken.sort_unstable();
        let longest = u128::from(takers.iter().map(|taker| taker.units).max().unwrap_or(0));
        // From any request on that was the first after another time.
        for from in (0..taken.len()).step_by(taken.len() / 20 + 1) {
            let mut all = 0;
            for (when, units) in &taken[from..] {
                all += u128::from(*units);
                let time = u128::from(when - taken[from].0 + BURST);
                let most = u128::from(rate) * time / NANOS;
                prop_assert!(all <= most + longest + 1, "{all} of {most} by {when}");
            }
        }
    }

    /// Whoever always has something to take has four fifths of its part at least, whatever the others do, to the longest request.
    #[test]
    fn nobody_is_starved(
        rate in prop_oneof![100_u64..1_000_000, 1_000_000_u64..10_000_000_000],
        long in 1_u64..50,
        others in proptest::collection::vec((1_u64..50, prop_oneof![Just(0), 1_u64..20]), 1..5),
    ) {
        let line = line(rate, 10 * MS);
        // In milliseconds of the rate.
        let of = |ms: u64| (rate * ms / 1000).max(1);
        let mut takers = [Taker::greedy(of(long))].to_vec();
        takers.extend(others.iter().map(|(ms, every)| Taker { units: of(*ms), every: every * MS, late: [0].into() }));
        takers.rotate_left(1);
        let taken = run(&line, &takers, 10 * SECOND_NS);
        let part = 10.0 * rate as f64 / takers.len() as f64;
        let its = sum(&taken[takers.len() - 1]);
        prop_assert!(its > 0.8 * part - 2.0 * of(50) as f64, "{its} of {part}");
    }
}
