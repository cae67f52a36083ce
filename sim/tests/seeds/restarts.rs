//! Runs in which a client keeps what is in flight, connects again, or finds another server.

use nvme_sim::{Kind, Operation, Place, Setup, Spoil, Step, Wish, run_steps};

use super::{alone, ask};

/// A world whose one client keeps what is in flight.
fn kept(words: &[&'static str]) -> Setup {
    let mut setup = alone(words);
    setup.seats[0].inflight = true;
    setup.seats[0].listens = true;
    setup
}

fn keeps(setup: &Setup, steps: &[Step]) {
    let begin =
        [Step::Settle, Step::Operate(Operation::Create(0)), Step::Want(0, Wish::Connect), Step::Chat(0)];
    let run = run_steps(setup, &[&begin, steps].concat());
    assert!(run.finding.is_none(), "{}", run.finding.unwrap());
}

/// In the second region, with header and status beside it.
const BESIDE: u32 = 5 << 4 | 3 << 26;

/// Seed 7015758902599611.
#[test]
fn a_ring_that_breaks_on_what_was_in_flight_lets_its_worker_sleep() {
    let steps = [
        Step::Want(0, Wish::Remove(0)),
        Step::Talk(0),
        ask(Kind::Id, 24, BESIDE),
        Step::Want(0, Wish::Disable(0)),
    ];
    keeps(&kept(&["device=d0:n2", "ds-max=4"]), &steps);
}

/// Seed 7015758902600990: the rings' memory was taken away, and the journal said where to go on after the reset.
#[test]
fn a_ring_that_was_reset_has_nothing_in_flight() {
    for table in [252, 255] {
        keeps(
            &kept(&["device=d0:n2", "ds-max=4"]),
            &[ask(Kind::Id, 0, 0), Step::Want(0, Wish::Table(table))],
        );
    }
}

/// Seeds 7015848859109304 and 7015848859090895: a simulated driver asked of a ring that had not started since its reset, and its front-end said that it begins behind that.
#[test]
fn a_ring_that_was_not_started_since_its_reset_begins_with_what_is_asked_next() {
    for store in [false, true] {
        let mut setup = kept(&["device=d1:n2", "ds-max=4"]);
        setup.store = store;
        let steps = [
            Step::Want(0, Wish::Reset),
            Step::Talk(0),
            Step::Talk(0),
            Step::Want(0, Wish::Reconnect),
            Step::Control,
            Step::Control,
            ask(Kind::Write, 16, 0),
            Step::Want(0, Wish::Connect),
            Step::Want(0, Wish::Reconnect),
        ];
        keeps(&setup, &steps);
    }
}

/// Seed 7015767257450988: the second half of a read-modify-write was not wanted any more.
#[test]
fn what_is_not_done_when_a_connection_ends_is_left_to_be_done_again() {
    for worker in 0..6 {
        let steps = [
            &[ask(Kind::Write, 20, 0), Step::Kick(0, 0)][..],
            &[Step::Deliver(0), Step::Worker(0), Step::Engine(0, 1)].repeat(worker),
            &[Step::Want(0, Wish::Reconnect), Step::Deliver(0), Step::Worker(0)],
        ];
        let mut setup = kept(&["device=d0:n2", "ds-max=4"]);
        setup.apart = [true, false];
        keeps(&setup, &steps.concat());
    }
}

/// Seed 7015767257451360: a command did not end in time, and the ring that it was of was stopped for good.
#[test]
fn a_ring_that_stands_still_too_late_for_an_upgrade_goes_on() {
    let steps = [
        Step::Spoil(Spoil::Rule(0, 107, 153)),
        ask(Kind::Read, 22, 0),
        Step::Kick(0, 0),
        Step::Worker(0),
        Step::Operate(Operation::Upgrade(3)),
        Step::Time(1_000_000_000),
        Step::Settle,
        ask(Kind::Write, 4, 0),
    ];
    let mut setup = kept(&["device=d0:n1:2", "ds-max=4"]);
    setup.faulty = true;
    keeps(&setup, &steps);
}

/// Seeds 7015782807271297 and 7015782807302510: its ring had stopped for another server when its device was lost, and could not be started again.
#[test]
fn a_ring_whose_device_is_lost_while_it_stands_still_for_an_upgrade_is_answered() {
    for lost in [Spoil::Vanish(0), Spoil::Remove(0)] {
        for deliver in [false, true] {
            let mut steps =
                vec![Step::Operate(Operation::Upgrade(2)), ask(Kind::Read, 46, 0), Step::Kick(0, 0)];
            if deliver {
                steps.insert(1, Step::Deliver(0));
            }
            steps.extend([Step::Spoil(lost), Step::Settle, ask(Kind::Read, 4, 0)]);
            let mut setup = alone(&["device=d0:n1:1", "read-only", "ds-max=4"]);
            setup.seats[0].listens = true;
            keeps(&setup, &steps);
        }
    }
}

/// Seed 7015771510807118: the second server had not begun to do again what the first had in flight, and the third one's journal was a new one.
#[test]
fn what_a_killed_server_left_is_not_forgotten_when_the_next_one_is_upgraded() {
    for drained in [false, true] {
        let mut setup = kept(&["device=d1:n2", "ds-max=4"]);
        setup.seats[0].inflight = false;
        (setup.store, setup.apart) = (true, [false, true]);
        let mut steps =
            vec![ask(Kind::Flush, 0, 0), Step::Kick(0, 0), Step::Worker(0), Step::Operate(Operation::Kill)];
        if drained {
            steps.splice(3..3, [Step::Operate(Operation::Drain(0))]);
        }
        steps.push(Step::Operate(Operation::Upgrade(0)));
        keeps(&setup, &steps);
    }
}

/// Seed 7015767257450855.
#[test]
fn memory_that_was_added_twice_goes_on_once() {
    let steps = [
        Step::Want(0, Wish::Add(20)),
        Step::Chat(0),
        Step::Operate(Operation::Upgrade(0)),
        Step::Settle,
        ask(Kind::Write, 4, 5 << 4),
    ];
    keeps(&kept(&["device=d0:n1:2", "ds-max=4"]), &steps);
}

#[test]
fn requests_go_on_through_upgrades_and_kills_and_are_answered_once() {
    for store in [false, true] {
        let mut setup = kept(&["device=d0:n2", "ds-max=4"]);
        setup.store = store;
        let mut steps = Vec::new();
        for round in 0..4 {
            steps.extend([ask(Kind::Write, 8 * round, 0), ask(Kind::Write, 8 * round + 1, 0)]);
            steps.extend([Step::Kick(0, 0), Step::Worker(0)]);
            let next = if round % 2 == 0 { Operation::Kill } else { Operation::Upgrade(0) };
            steps.extend([Step::Operate(next), Step::Operate(Operation::Create(0)), Step::Settle]);
            steps.extend([Step::Want(0, Wish::Connect), Step::Chat(0), Step::Reap(0, 0)]);
        }
        keeps(&setup, &steps);
        let begin =
            [Step::Settle, Step::Operate(Operation::Create(0)), Step::Want(0, Wish::Connect), Step::Chat(0)];
        let run = run_steps(&setup, &[&begin[..], &steps].concat());
        // Eight writes, and what is read back at the end.
        assert!(run.answered >= 8, "{store}: {} answered", run.answered);
    }
}

/// Seed 8100000000113962: the simulator forgot what the first server had made when the second began, though its client had not looked yet.
#[test]
fn memory_for_what_is_in_flight_that_a_server_gave_is_taken_by_the_next() {
    for talks in 0..16 {
        let mut steps = vec![Step::Settle, Step::Operate(Operation::Create(0)), Step::Want(0, Wish::Connect)];
        steps.extend([Step::Talk(0)].repeat(talks));
        steps.push(Step::Operate(Operation::Upgrade(4)));
        let run = run_steps(&kept(&["device=d1:n2", "read-only", "ds-max=4"]), &steps);
        assert!(run.finding.is_none(), "{talks}: {}", run.finding.unwrap());
    }
}

#[test]
fn the_cache_mode_that_a_driver_chose_goes_on_with_its_session() {
    let mut setup = alone(&["device=d0:n2", "ds-max=4"]);
    setup.cache = true;
    setup.seats[0].listens = true;
    let mode = [Step::Want(0, Wish::WriteBack(false)), Step::Chat(0), Step::Settle];
    let write = [ask(Kind::Write, 4, 0), Step::Kick(0, 0), Step::Settle, Step::Reap(0, 0)];
    // Power is lost at the end.
    keeps(&setup, &[&mode[..], &[Step::Operate(Operation::Upgrade(0)), Step::Settle], &write].concat());
}

/// What it asked of storage lands when the last steps are over.
#[test]
fn nobody_is_served_where_a_killed_server_s_write_may_still_land() {
    let mut setup = kept(&["device=d0:n2", "ds-max=4"]);
    (setup.slow, setup.store) = (true, true);
    let mut steps = vec![ask(Kind::Write, 4, 0), Step::Kick(0, 0)];
    steps.extend([Step::Deliver(0), Step::Worker(0), Step::Engine(0, 64)].repeat(3));
    steps.extend([Step::Operate(Operation::Kill), ask(Kind::Write, 4, 0), Step::Kick(0, 0)]);
    steps.extend([Step::Deliver(0), Step::Worker(0), Step::Hear(0), Step::Control].repeat(4));
    keeps(&setup, &steps);
}

/// Seed 8100000000031527: where a ring went on was said at once, and what a killed server had left of it was done when it started again; a
/// client that goes on elsewhere never does that.
#[test]
fn a_ring_stops_once_what_a_killed_server_left_of_it_is_done() {
    let mut setup = alone(&["device=d0:n1:2", "ds-max=4", "iops=500"]);
    setup.apart = [true, true];
    setup.store = true;
    setup.seats[0].listens = true;
    setup.seats[0].declines = 8192;
    let other = Place {
        words: vec!["device=d1:n2", "ds-max=4"],
        listens: true,
        hostile: false,
        sealed: true,
        queues: 2,
        declines: 512,
        inflight: true,
    };
    setup.seats.push(other);
    let begin =
        |seat| [Step::Operate(Operation::Create(seat)), Step::Want(seat, Wish::Connect), Step::Chat(seat)];
    let mut steps = vec![Step::Settle];
    steps.extend(begin(0));
    steps.extend(begin(1));
    steps.extend([ask(Kind::Write, 44, 0), Step::Kick(0, 2), ask(Kind::Id, 48, 0), Step::Worker(0)]);
    steps.extend([Step::Want(0, Wish::Stop(58)), Step::Operate(Operation::Kill), Step::Talk(0)]);
    let run = run_steps(&setup, &steps);
    assert!(run.finding.is_none(), "{}", run.finding.unwrap());
}

/// Seeds 8100000000024502 and 8100000000119145: what virtqueues had begun when they stopped was done at once, and nobody paid for it.
#[test]
fn who_stops_in_the_middle_of_long_requests_has_no_more_than_it_may() {
    let mut setup = kept(&["device=d1:n1", "ds-max=4", "bytes=64K"]);
    setup.mqes = 3;
    setup.seats[0].queues = 1;
    let long = |slot: u16| {
        [
            Step::Ask { seat: 0, queue: 0, kind: Kind::Read, sector: 32 * slot, sectors: 31, layout: 0 },
            Step::Kick(0, 0),
            Step::Settle,
        ]
    };
    let again =
        [Wish::Stop(0), Wish::Start(0)].map(|wish| [Step::Want(0, wish), Step::Chat(0), Step::Settle]);
    let connected =
        [Step::Want(0, Wish::Reconnect), Step::Settle, Step::Want(0, Wish::Connect), Step::Chat(0)];
    for how in [again.concat(), connected.to_vec()] {
        let mut steps = Vec::new();
        for slot in 0..4 {
            steps.extend(long(slot));
            steps.extend(&how);
            steps.push(Step::Time(50_000_000));
        }
        keeps(&setup, &steps);
    }
}

/// Seed 8200000000011570: a session that waited for what a killed server had asked of storage was not said to be quiet once it was.
#[test]
fn a_drain_right_after_a_kill_comes_to_its_end() {
    let mut setup = alone(&["device=d0:n1:2", "ds-max=4", "iops=20"]);
    (setup.slow, setup.store, setup.pairs) = (true, true, 2);
    setup.seats[0].queues = 2;
    let mut other = setup.seats[0].clone();
    other.words = vec!["device=d0:n2", "ds-max=4"];
    setup.seats.push(other);
    let begin =
        |seat| [Step::Operate(Operation::Create(seat)), Step::Want(seat, Wish::Connect), Step::Chat(seat)];
    let mut steps = vec![Step::Settle];
    steps.extend(begin(0));
    steps.extend(begin(1));
    steps.extend([
        Step::Ask { seat: 1, queue: 0, kind: Kind::Flush, sector: 244, sectors: 0, layout: 0 },
        Step::Deliver(1),
        Step::Worker(0),
        Step::Operate(Operation::Kill),
        // What the first one has.
        Step::Operate(Operation::Drain(39)),
    ]);
    let run = run_steps(&setup, &steps);
    assert!(run.finding.is_none(), "{}", run.finding.unwrap());
}

/// Seed 8100000000132512: a device was lost in the moment of an upgrade that did not come off, while storage had a request of its session. That ends, and its client
/// is told so: with the end of its connection.
#[test]
fn a_session_that_ends_in_the_moment_of_an_upgrade_is_said_to_have_ended() {
    let mut setup = kept(&["device=d1:n2", "read-only", "ds-max=4", "bytes=64K"]);
    (setup.slow, setup.shared) = (true, true);
    setup.seats[0].declines = 512;
    let other = Place {
        words: vec!["device=d0:n3", "read-only", "ds-max=4"],
        listens: true,
        hostile: false,
        sealed: true,
        queues: 3,
        declines: 2048,
        inflight: false,
    };
    setup.seats.push(other);
    let begin =
        |seat| [Step::Operate(Operation::Create(seat)), Step::Want(seat, Wish::Connect), Step::Chat(seat)];
    let mut steps = vec![Step::Settle];
    steps.extend(begin(0));
    steps.extend(begin(1));
    steps.extend([
        ask(Kind::Read, 21, 0),
        Step::Kick(0, 2),
        Step::Worker(0),
        Step::Spoil(Spoil::Vanish(1)),
        Step::Operate(Operation::Upgrade(45)),
    ]);
    let run = run_steps(&setup, &steps);
    assert!(run.finding.is_none(), "{}", run.finding.unwrap());
}

/// Seed 9200000000006465: an upgrade did not come off, since a request takes long; the server was killed before that had ended, and the ring that was to go on then was
/// one that does not run for the next server.
#[test]
fn a_ring_that_goes_on_once_it_has_stopped_runs_in_the_next_server() {
    let mut setup = alone(&["device=d0:n1:1", "ds-max=4", "iops=500"]);
    (setup.faulty, setup.store) = (true, true);
    setup.seats[0].listens = true;
    setup.seats[0].queues = 2;
    let mut other = setup.seats[0].clone();
    other.words = vec!["device=d1:n1", "ds-max=4"];
    setup.seats.push(other);
    let begin =
        |seat| [Step::Operate(Operation::Create(seat)), Step::Want(seat, Wish::Connect), Step::Chat(seat)];
    let mut steps = vec![Step::Settle];
    steps.extend(begin(0));
    steps.extend(begin(1));
    let ask = |queue, kind, sector, sectors| Step::Ask { seat: 1, queue, kind, sector, sectors, layout: 0 };
    steps.extend([
        Step::Spoil(Spoil::Rule(1, 197, 116)),
        Step::Control,
        ask(0, Kind::Read, 24, 20),
        Step::Deliver(1),
        ask(0, Kind::Write, 26, 0),
        Step::Operate(Operation::Upgrade(30)),
        Step::Deliver(1),
        ask(2, Kind::Read, 56, 0),
        Step::Worker(1),
        Step::Settle,
    ]);
    steps.extend([Step::Time(1_000_000_000)].repeat(5));
    steps.extend([Step::Settle, Step::Operate(Operation::Kill)]);
    let run = run_steps(&setup, &steps);
    assert!(run.finding.is_none(), "{}", run.finding.unwrap());
}

/// Seeds 70728, 8400000000111831 and 8400000000151458: a controller that storage is behind was gone with a Flush under way, and with a write by way of the driver's own
/// memory, and the simulated home handed it over; the Linux home has no such controller.
#[test]
fn a_controller_that_is_gone_with_something_under_way_is_not_handed_over() {
    let begin =
        [Step::Settle, Step::Operate(Operation::Create(0)), Step::Want(0, Wish::Connect), Step::Chat(0)];
    let (one, end) =
        ([Step::Worker(0), Step::Engine(1, 1)], [Step::Settle, Step::Operate(Operation::Upgrade(8))]);
    let mut setup = alone(&["device=d1:n1", "ds-max=4"]);
    setup.slow = true;
    for how in [Spoil::Vanish(1), Spoil::Remove(1)] {
        for asked in [ask(Kind::Flush, 0, 0), ask(Kind::Zeroes, 0, 0)] {
            let steps = [
                &begin[..],
                &[Step::Control, asked],
                &[Step::Deliver(0), Step::Deliver(0)],
                &one,
                &[Step::Spoil(how)],
                &end,
            ]
            .concat();
            let run = run_steps(&setup, &steps);
            assert!(run.finding.is_none(), "{how:?}: {}", run.finding.unwrap());
        }
    }
}

/// Seed 1002225: a ring that a driver had broken was served by the next server, behind what had broken it, and what it was answered there was done again after a kill.
#[test]
fn a_ring_that_broke_is_not_started_by_an_upgrade() {
    for how in [5, 7] {
        let mut setup = alone(&["device=d1:n2", "ds-max=4"]);
        setup.store = true;
        (setup.seats[0].queues, setup.seats[0].declines) = (3, 8192);
        let ask =
            |queue, kind, sectors, layout| Step::Ask { seat: 0, queue, kind, sector: 0, sectors, layout };
        let steps = [
            Step::Settle,
            Step::Operate(Operation::Create(0)),
            Step::Want(0, Wish::Connect),
            Step::Chat(0),
            Step::Control,
            Step::Deliver(0),
            ask(2, Kind::Read, 21, 3744914546),
            Step::Deliver(0),
            Step::Deliver(0),
            ask(2, Kind::Zeroes, 0, 0),
            Step::Deliver(0),
            Step::Worker(0),
            Step::Operate(Operation::Upgrade(how)),
            Step::Settle,
            Step::Operate(Operation::Kill),
            ask(1, Kind::Write, 0, 0),
        ];
        let run = run_steps(&setup, &steps);
        assert!(run.finding.is_none(), "{how}: {}", run.finding.unwrap());
    }
}

/// Seed 7015960080386169: a client's ring stops while it is drained, and a killed server has left a request of it that a later one had overtaken.
#[test]
fn a_ring_that_stops_while_it_is_drained_does_so_once_it_is_resumed() {
    let mut setup = kept(&["device=d1:n2", "read-only", "ds-max=4"]);
    (setup.apart, setup.store) = ([true, true], true);
    (setup.seats[0].queues, setup.seats[0].listens) = (3, false);
    let steps = [
        Step::Control,
        ask(Kind::Read, 0, 0),
        ask(Kind::Flush, 43, 0),
        Step::Deliver(0),
        Step::Deliver(0),
        Step::Operate(Operation::Drain(0)),
        Step::Worker(0),
        Step::Operate(Operation::Kill),
        Step::Want(0, Wish::Stop(21)),
    ];
    keeps(&setup, &steps);
}

/// Seed 8900000000000294: a ring was disabled before what a killed server had left of it was done, and the next server, to which that did not run, forgot that.
#[test]
fn what_a_killed_server_left_of_a_ring_that_is_disabled_is_not_forgotten_by_the_next_one() {
    let mut setup = alone(&["device=d1:n2", "read-only", "ds-max=4"]);
    (setup.apart, setup.store) = ([false, true], true);
    let seat = |words: &[&'static str], queues, declines, inflight| Place {
        words: words.to_vec(),
        queues,
        declines,
        inflight,
        ..setup.seats[0].clone()
    };
    let mut second = seat(&["device=d1:n1", "read-only", "ds-max=4", "bytes=64K"], 1, 268435968, true);
    (second.listens, second.sealed) = (true, true);
    setup.seats = vec![
        seat(&["device=d1:n2", "read-only", "ds-max=4"], 3, 0, false),
        second,
        seat(&["device=d1:n2", "read-only", "ds-max=4"], 2, 0, false),
        seat(&["device=d1:n1", "read-only", "ds-max=4"], 2, 512, true),
    ];
    let ask = |kind, sector| Step::Ask { seat: 2, queue: 1, kind, sector, sectors: 0, layout: 0 };
    let steps = [
        Step::Settle,
        Step::Operate(Operation::Create(2)),
        Step::Want(2, Wish::Connect),
        Step::Chat(2),
        Step::Operate(Operation::Create(3)),
        Step::Want(3, Wish::Connect),
        Step::Chat(3),
        ask(Kind::Read, 4),
        ask(Kind::Write, 24),
        Step::Kick(2, 1),
        Step::Want(2, Wish::Disable(255)),
        Step::Worker(0),
        Step::Operate(Operation::Kill),
        Step::Talk(2),
        Step::Operate(Operation::Create(0)),
        Step::Operate(Operation::Upgrade(114)),
    ];
    let run = run_steps(&setup, &steps);
    assert!(run.finding.is_none(), "{}", run.finding.unwrap());
}
