//! Small worlds, looked at to the end, and others as far as there is time.
#![forbid(clippy::disallowed_methods)]

use nvme_sim::{Seen, exhaust, smalls};

/// What is seen of a world in whole turns, `most` states at most.
fn seen(name: &str, most: u64) -> Seen {
    let all = smalls();
    let small = all.iter().find(|small| small.coarse && small.name == name).unwrap();
    let seen = exhaust(small, most);
    println!("{name}: {} states, {} at rest", seen.states, seen.ends);
    if let Some((finding, way)) = &seen.finding {
        panic!("{name}: {finding}\n{way:?}");
    }
    seen
}

#[test]
fn every_promise_is_kept_in_each_interleaving_of_a_request_a_removal_of_its_memory_and_the_end_of_its_session()
 {
    let seen = seen("a request, its memory taken back, and its session ended", u64::MAX);
    // The request before the removal and behind it, each before the end and never.
    assert!(!seen.cut && seen.ends >= 100, "{} states, {} at rest", seen.states, seen.ends);
}

#[test]
fn every_promise_is_kept_as_far_as_the_other_small_worlds_are_looked_at() {
    for small in smalls().iter().filter(|small| small.coarse) {
        assert!(seen(small.name, 100).states >= 100, "{}", small.name);
    }
}
