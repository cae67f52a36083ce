//! Runs of the simulator that every test run makes: some seeds, and what is to be said of replaying them.
#![forbid(clippy::disallowed_methods)]

#[path = "seeds/restarts.rs"]
mod restarts;

use nvme_sim::{Besides, Kind, Operation, Place, Setup, Spoil, Step, Wish, run_seed, run_steps};

#[test]
fn every_promise_is_kept_through_two_hundred_seeds() {
    for seed in 0..200 {
        let run = run_seed(seed, 600);
        assert!(run.finding.is_none(), "seed {seed}: {}", run.finding.unwrap());
    }
}

#[test]
fn a_run_is_its_seed_and_its_trace_is_the_run() {
    for seed in [3, 77, 4711] {
        let (first, again) = (run_seed(seed, 500), run_seed(seed, 500));
        assert_eq!((&first.setup, &first.steps), (&again.setup, &again.steps));
        let replayed = run_steps(&first.setup, &first.steps);
        for run in [again, replayed] {
            assert_eq!((run.taken, run.answered, run.judged), (first.taken, first.answered, first.judged));
        }
    }
}

#[test]
fn something_happens_in_a_run() {
    let (mut answered, mut judged) = (0, 0);
    for seed in 1000..1050 {
        let run = run_seed(seed, 600);
        answered += run.answered;
        judged += run.judged;
    }
    assert!(answered > 500 && judged > 500, "{answered} requests were answered, {judged} commands judged");
}

#[test]
fn servers_are_replaced_in_some_runs_and_in_others_not() {
    let replaces = |step: &Step| matches!(step, Step::Operate(Operation::Upgrade(_) | Operation::Kill));
    let keeps = |setup: &Setup| setup.store || setup.seats.iter().any(|place| place.inflight);
    let runs: Vec<_> = (2000..2100).map(|seed| run_seed(seed, 600)).collect();
    assert!(runs.iter().filter(|run| run.steps.iter().any(replaces)).count() > 12);
    assert!(runs.iter().filter(|run| !keeps(&run.setup)).count() > 40);
}

/// A world with one seat, whose driver does without event indices.
fn alone(words: &[&'static str]) -> Setup {
    Setup {
        workers: 1,
        apart: [false, false],
        mqes: 63,
        mdts: 8,
        sgl: false,
        cache: false,
        pairs: 8,
        slow: false,
        shared: false,
        faulty: false,
        store: false,
        seats: vec![Place {
            words: words.to_vec(),
            listens: false,
            hostile: false,
            sealed: false,
            queues: 1,
            declines: nvme_testkit::feature::EVENT_IDX,
            inflight: false,
        }],
        besides: Besides::default(),
    }
}

/// Seed 7015499453638472: the ring that was disabled could not be enabled again, since its device was gone, and its driver said that it begins where it had begun
/// at first.
#[test]
fn a_ring_that_was_disabled_begins_again_behind_what_was_answered() {
    let steps = [
        Step::Settle,
        Step::Operate(Operation::Create(0)),
        Step::Want(0, Wish::Connect),
        Step::Chat(0),
        Step::Ask { seat: 0, queue: 0, kind: Kind::Read, sector: 0, sectors: 0, layout: 0 },
        Step::Want(0, Wish::Disable(0)),
        Step::Want(0, Wish::Start(0)),
        Step::Want(0, Wish::Stop(0)),
        Step::Spoil(Spoil::Vanish(0)),
    ];
    let run = run_steps(&alone(&["device=d0:n2", "read-only", "ds-max=4"]), &steps);
    assert!(run.finding.is_none(), "{}", run.finding.unwrap());
    assert_eq!(run.answered, 1);
}

/// What a worker said of the first drain came while it had not heard of the second.
#[test]
fn a_device_that_is_drained_again_is_not_taken_for_quiet_by_an_earlier_answer() {
    let steps = [
        Step::Settle,
        Step::Operate(Operation::Create(0)),
        Step::Want(0, Wish::Connect),
        Step::Chat(0),
        Step::Settle,
        Step::Operate(Operation::Drain(0)),
        Step::Deliver(0),
        Step::Worker(0),
        Step::Operate(Operation::Resume(0)),
        Step::Operate(Operation::Drain(0)),
        Step::Hear(0),
        Step::Ask { seat: 0, queue: 0, kind: Kind::Read, sector: 0, sectors: 0, layout: 0 },
        Step::Kick(0, 0),
        Step::Deliver(0),
        Step::Worker(0),
    ];
    let run = run_steps(&alone(&["device=d0:n2", "ds-max=4"]), &steps);
    assert!(run.finding.is_none(), "{}", run.finding.unwrap());
}

/// Seed 7015632880847898: a device was drained and then lost, and something else was resumed: its session's driver was told to kick no more, and nobody looked.
#[test]
fn a_session_that_was_drained_when_its_device_was_lost_is_answered_whatever_is_resumed() {
    let place = |words: &[&'static str], queues| {
        let (words, declines) = (words.to_vec(), 0);
        Place { words, listens: false, hostile: false, sealed: false, queues, declines, inflight: false }
    };
    let seats = vec![place(&["device=d0:n1", "ds-max=4"], 1), place(&["device=d1:n1", "ds-max=4"], 1)];
    let setup = Setup { seats, faulty: true, ..alone(&[]) };
    for lost in [Spoil::Vanish(0), Spoil::Another(0), Spoil::Remove(0)] {
        let steps = [
            Step::Settle,
            Step::Operate(Operation::Create(0)),
            Step::Want(0, Wish::Connect),
            Step::Chat(0),
            Step::Operate(Operation::Create(1)),
            Step::Operate(Operation::Drain(2)),
            Step::Spoil(lost),
            Step::Settle,
            // What the second one has.
            Step::Operate(Operation::Resume(15)),
            Step::Ask { seat: 0, queue: 0, kind: Kind::Flush, sector: 0, sectors: 0, layout: 0 },
        ];
        let run = run_steps(&setup, &steps);
        assert!(run.finding.is_none(), "{lost:?}: {}", run.finding.unwrap());
    }
}

/// Seed 7015635085264296: a disk that two controllers have was granted by the second when the first had gone. Who lost it had nothing in flight;
/// whose commands nobody can see the end of keeps the blocks, by whatever way.
#[test]
fn a_shared_disk_is_granted_by_the_other_way_when_the_first_is_proven_quiet_and_not_before() {
    let place = |words: &[&'static str]| Place {
        words: words.to_vec(),
        listens: false,
        hostile: false,
        sealed: false,
        queues: 1,
        declines: 0,
        inflight: false,
    };
    let seats = vec![place(&["device=d0:n3", "ds-max=4"]), place(&["device=d1:n3", "ds-max=4"])];
    let setup = Setup { seats, faulty: true, shared: true, ..alone(&[]) };
    for ends in [&[Spoil::Vanish(0)][..], &[Spoil::Remove(0)], &[Spoil::Unprovable(0), Spoil::Fatal(0)]] {
        let mut steps = vec![
            Step::Settle,
            Step::Operate(Operation::Create(0)),
            Step::Want(0, Wish::Connect),
            Step::Chat(0),
            Step::Ask { seat: 0, queue: 0, kind: Kind::Write, sector: 0, sectors: 7, layout: 0 },
            Step::Kick(0, 0),
            Step::Worker(0),
        ];
        steps.extend(ends.iter().map(|spoil| Step::Spoil(*spoil)));
        steps.extend([Step::Control, Step::Operate(Operation::Create(1)), Step::Settle]);
        steps.extend([Step::Operate(Operation::Create(1)), Step::Settle]);
        let run = run_steps(&setup, &steps);
        assert!(run.finding.is_none(), "{ends:?}: {}", run.finding.unwrap());
    }
}

/// Seed 7015709183743861: storage had a request of one session under way when its controller vanished, and the memory of another, which had
/// nothing in flight, was kept for ever.
#[test]
fn what_storage_has_under_way_keeps_no_memory_of_others_when_the_controller_vanishes() {
    let place = |words: &[&'static str], queues, sealed| Place {
        words: words.to_vec(),
        listens: true,
        hostile: false,
        sealed,
        queues,
        declines: 0,
        inflight: false,
    };
    let seats = vec![
        place(&["device=d0:n1:1", "read-only", "ds-max=4"], 3, false),
        place(&["device=d0:n2", "read-only", "ds-max=4"], 1, true),
    ];
    let setup = Setup { seats, slow: true, mqes: 63, mdts: 8, pairs: 2, ..alone(&[]) };
    let (mint, meet) =
        (|n| Step::Operate(Operation::Create(n)), |n| [Step::Want(n, Wish::Connect), Step::Chat(n)]);
    let mut steps = vec![Step::Settle, mint(0)];
    steps.extend(meet(0));
    steps.push(mint(1));
    steps.extend(meet(1));
    steps.push(Step::Want(0, Wish::Vanish));
    steps.push(Step::Ask { seat: 1, queue: 0, kind: Kind::Read, sector: 0, sectors: 0, layout: 0 });
    steps.extend([Step::Deliver(0); 4]);
    steps.extend([
        Step::Worker(0),
        Step::Hear(0),
        Step::Hear(0),
        Step::Deliver(0),
        Step::Worker(0),
        Step::Hear(0),
    ]);
    steps.extend([Step::Control, Step::Engine(0, 1), Step::Spoil(Spoil::Vanish(0))]);
    let run = run_steps(&setup, &steps);
    assert!(run.finding.is_none(), "{}", run.finding.unwrap());
}

/// Seeds 7015635841444316 and 7015720022408248: a completion that belonged to no command filled the completion queue of a pair without any, and the
/// engine of the software controller went round for ever.
#[test]
fn a_full_completion_queue_is_no_work_where_nothing_is_to_be_completed() {
    let place = |words: &[&'static str], queues, hostile| Place {
        words: words.to_vec(),
        listens: hostile,
        hostile,
        sealed: false,
        queues,
        declines: 0,
        inflight: false,
    };
    let read = |queue, sector, sectors, layout| Step::Ask {
        seat: 1,
        queue,
        kind: Kind::Read,
        sector,
        sectors,
        layout,
    };
    let seats = vec![
        place(&["device=d0:n1", "ds-max=4"], 2, false),
        place(&["device=d1:n2", "read-only", "ds-max=4"], 2, true),
    ];
    let setup = Setup {
        seats,
        apart: [true, true],
        mqes: 1,
        mdts: 1,
        slow: true,
        faulty: true,
        store: false,
        pairs: 8,
        ..alone(&[])
    };
    // Some of these are of queues that have nothing in flight.
    for forged in 0..16 {
        let steps = [
            Step::Settle,
            Step::Operate(Operation::Create(0)),
            Step::Want(0, Wish::Connect),
            Step::Operate(Operation::Create(1)),
            Step::Want(1, Wish::Connect),
            Step::Chat(1),
            read(0, 24, 18, 17),
            Step::Settle,
            read(1, 175, 0, 0),
            Step::Spoil(Spoil::Freeze(175)),
            Step::Kick(1, 1),
            Step::Spoil(Spoil::Forge(1, forged)),
            Step::Settle,
        ];
        let run = run_steps(&setup, &steps);
        assert!(run.finding.is_none(), "{forged}: {}", run.finding.unwrap());
    }
}

/// Seed 7015782807303978: the judge took whoever has the same disk by another controller for drained, too.
#[test]
fn a_device_that_is_drained_holds_nobody_who_has_its_disk_by_another_controller() {
    let seat = |words: &[&'static str]| alone(words).seats.remove(0);
    let seats = vec![
        seat(&["device=d1:n3", "read-only", "ds-max=4"]),
        seat(&["device=d0:n3", "read-only", "ds-max=4"]),
    ];
    let setup = Setup { seats, faulty: true, shared: true, ..alone(&[]) };
    let steps = [
        Step::Settle,
        Step::Operate(Operation::Create(1)),
        Step::Spoil(Spoil::Vanish(0)),
        Step::Settle,
        Step::Operate(Operation::Create(0)),
        Step::Want(0, Wish::Connect),
        Step::Chat(0),
        // What the second one had.
        Step::Operate(Operation::Drain(15)),
        ask(Kind::Read, 4, 0),
        Step::Kick(0, 0),
        Step::Settle,
        Step::Reap(0, 0),
    ];
    let run = run_steps(&setup, &steps);
    assert!(run.finding.is_none(), "{}", run.finding.unwrap());
    assert_eq!(run.answered, 6, "one while the other way is drained, and what is read back");
}

fn ask(kind: Kind, sector: u16, layout: u32) -> Step {
    Step::Ask { seat: 0, queue: 0, kind, sector, sectors: 0, layout }
}

/// Seed 8610000000039983: a judge forgot the memory of a session whose device nothing proved quiet, and that device ended what it had been asked.
#[test]
fn a_device_that_is_not_proven_quiet_may_end_what_it_was_asked_by_who_is_gone() {
    let mut setup = alone(&["device=d1:n2", "read-only", "ds-max=4", "bytes=64K"]);
    (setup.workers, setup.apart, setup.pairs, setup.faulty) = (1, [false, true], 3, true);
    let seat = |words: &[&'static str], queues, listens| Place {
        words: words.to_vec(),
        queues,
        listens,
        ..setup.seats[0].clone()
    };
    let seats = vec![
        seat(&["device=d1:n2", "read-only", "ds-max=4", "bytes=64K"], 1, true),
        seat(&["device=d0:n1:2", "ds-max=4"], 2, false),
        seat(&["device=d1:n1", "read-only", "ds-max=4"], 2, false),
        seat(&["device=d1:n1", "read-only", "ds-max=4"], 2, true),
    ];
    setup.seats = seats;
    let begin =
        |seat| [Step::Operate(Operation::Create(seat)), Step::Want(seat, Wish::Connect), Step::Chat(seat)];
    let ask =
        |seat, queue, kind, sector, sectors, layout| Step::Ask { seat, queue, kind, sector, sectors, layout };
    let mut steps = vec![Step::Settle];
    (0..4).for_each(|seat| steps.extend(begin(seat)));
    steps.extend([
        ask(3, 2, Kind::Read, 37, 25, 162461205),
        Step::Deliver(0),
        Step::Worker(0),
        Step::Engine(1, 1),
        Step::Spoil(Spoil::Rule(1, 157, 100)),
        ask(1, 1, Kind::Write, 147, 0, 0),
        Step::Spoil(Spoil::Rule(0, 178, 51)),
        Step::Engine(1, 1),
        ask(0, 2, Kind::Read, 501, 0, 0),
        Step::Spoil(Spoil::Unprovable(1)),
        Step::Spoil(Spoil::Remove(1)),
        Step::Kick(0, 1),
        Step::Worker(0),
        Step::Engine(1, 2),
        Step::Kick(1, 1),
        Step::Worker(1),
    ]);
    let run = run_steps(&setup, &steps);
    assert!(run.finding.is_none(), "{}", run.finding.unwrap());
}

/// Seed 9200000000077865: the model took what was written for flushed, since one who may only read had flushed.
#[test]
fn a_flush_of_who_may_only_read_makes_nothing_durable() {
    let seat = |words: &[&'static str]| alone(words).seats.remove(0);
    let seats = vec![seat(&["device=d1:n2", "ds-max=4"]), seat(&["device=d1:n2", "read-only", "ds-max=4"])];
    let setup = Setup { seats, cache: true, ..alone(&[]) };
    let begin =
        |seat| [Step::Operate(Operation::Create(seat)), Step::Want(seat, Wish::Connect), Step::Chat(seat)];
    let mut steps = vec![Step::Settle];
    steps.extend(begin(0));
    steps.extend([
        ask(Kind::Write, 32, 0),
        Step::Kick(0, 0),
        Step::Settle,
        Step::Reap(0, 0),
        Step::Operate(Operation::End(0)),
        Step::Settle,
    ]);
    steps.extend(begin(1));
    let flush = Step::Ask { seat: 1, queue: 0, kind: Kind::Flush, sector: 0, sectors: 0, layout: 0 };
    steps.extend([flush, Step::Kick(1, 0), Step::Settle, Step::Reap(1, 0)]);
    // At the end power is lost, and what was not flushed is gone.
    let run = run_steps(&setup, &steps);
    assert!(run.finding.is_none(), "{}", run.finding.unwrap());
}

/// Seed 9200000000268760: a pair that nobody used, and that a reset could not make again, kept its number, and who came next waited for one.
#[test]
fn a_pair_that_nobody_uses_and_a_reset_cannot_make_again_keeps_nobody_from_one() {
    let seat = |words: &[&'static str], queues| Place { queues, ..alone(words).seats.remove(0) };
    let seats = vec![
        seat(&["device=d1:n1", "read-only", "ds-max=4"], 1),
        seat(&["device=d1:n1", "ds-max=4"], 1),
        seat(&["device=d0:n1", "ds-max=4"], 3),
        seat(&["device=d0:n2", "ds-max=4"], 2),
    ];
    let setup = Setup { seats, pairs: 2, ..alone(&[]) };
    let begin =
        |seat| [Step::Operate(Operation::Create(seat)), Step::Want(seat, Wish::Connect), Step::Chat(seat)];
    let mut steps = vec![Step::Settle];
    steps.extend(begin(0));
    steps.extend(begin(2));
    steps.extend(begin(3));
    steps.extend([
        Step::Deliver(1),
        Step::Deliver(0),
        Step::Operate(Operation::End(0)),
        Step::Deliver(0),
        Step::Deliver(1),
        Step::Worker(0),
        Step::Hear(1),
        Step::Spoil(Spoil::Fatal(1)),
        Step::Control,
        Step::Control,
        Step::Deliver(0),
        Step::Hear(0),
        Step::Spoil(Spoil::Internal(1)),
        Step::Operate(Operation::Create(0)),
        Step::Want(0, Wish::Connect),
    ]);
    let run = run_steps(&setup, &steps);
    assert!(run.finding.is_none(), "{}", run.finding.unwrap());
}

/// Seed 9300000000031231: whoever reset a device whose session was ending was told that its rings stood still before they did.
#[test]
fn a_reset_beside_the_end_of_its_session_is_answered_once_its_rings_stand_still() {
    let mut setup = alone(&["device=d1:n2", "ds-max=4", "iops=100", "bytes=300K"]);
    (setup.slow, setup.seats[0].sealed, setup.seats[0].declines) = (true, true, 268435968);
    let steps = [
        Step::Settle,
        Step::Operate(Operation::Create(0)),
        Step::Want(0, Wish::Connect),
        Step::Chat(0),
        Step::Control,
        Step::Deliver(1),
        ask(Kind::Write, 19, 0),
        Step::Deliver(1),
        Step::Worker(0),
        Step::Engine(1, 5),
        Step::Spoil(Spoil::Vanish(1)),
        Step::Control,
        Step::Want(0, Wish::Reset),
        Step::Deliver(1),
        Step::Hear(0),
        Step::Talk(0),
        Step::Deliver(0),
        Step::Talk(0),
        Step::Worker(0),
    ];
    let run = run_steps(&setup, &steps);
    assert!(run.finding.is_none(), "{}", run.finding.unwrap());
}
