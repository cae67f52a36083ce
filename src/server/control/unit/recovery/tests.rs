//! Every transition of the recovery, as a table: each step with each input, of which there is exactly one row. A step or an
//! input that is new does not compile until it has a sample, and fails until it has its rows.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use nvme_platform::Time;

use super::super::super::super::message::{PairId, StuckCommand};
use super::*;

/// On pair 1, of the virtqueue 7.
const A: StuckCommand = command(1, 0x11, 7);
/// On pair 2, of the virtqueue 8.
const B: StuckCommand = command(2, 0x22, 8);

const NOW: Time = Time::from_nanos(1_000_000_000_000);
const LATER: Time = Time::from_nanos(NOW.as_nanos() + 1);

const fn command(queue: u16, cid: u16, token: u32) -> StuckCommand {
    StuckCommand { pair: PairId { controller: 0, queue }, cid, token: QueueTag::new(token, 1) }
}

fn times() -> RecoveryTimes {
    RecoveryTimes {
        grace: Duration::from_nanos(1),
        window: Duration::from_secs(120),
        ..RecoveryTimes::default()
    }
}

/// Each step, about `A` and its pair where it is about any, with the place of its kind.
const STEPS: [(&str, Step); 13] = [
    ("idle", Step::Idle),
    ("aborting", Step::Aborting(A)),
    ("asking", Step::Asking(A, Some(LATER))),
    ("asking-last", Step::Asking(A, None)),
    ("grace", Step::Grace(A, LATER)),
    ("looking", Step::Looking(A)),
    ("taking", Step::Taking(A)),
    ("deleting", Step::Deleting(A)),
    ("recreating", Step::Recreating(A)),
    ("gathering", Step::Gathering),
    ("resetting", Step::Resetting),
    ("reviving", Step::Reviving(1)),
    ("lost", Step::Lost),
];

/// How many numbers [`kind_of_step`] gives.
const STEP_KINDS: usize = 12;

const fn kind_of_step(step: Step) -> usize {
    match step {
        Step::Idle => 0,
        Step::Aborting(_) => 1,
        Step::Asking(..) => 2,
        Step::Grace(..) => 3,
        Step::Looking(_) => 4,
        Step::Taking(_) => 5,
        Step::Deleting(_) => 6,
        Step::Recreating(_) => 7,
        Step::Gathering => 8,
        Step::Resetting => 9,
        Step::Reviving(_) => 10,
        Step::Lost => 11,
    }
}

/// Each input, about the command or pair of the step and about others, and with each fact that comes with it.
const INPUTS: [(&str, Input, Time); 31] = [
    ("tick, early", Input::Tick, NOW),
    ("tick, in time", Input::Tick, LATER),
    ("late A", Input::Late(A), NOW),
    ("late B", Input::Late(B), NOW),
    ("aborted A", Input::Aborted { queue: 1, cid: 0x11 }, NOW),
    ("aborted, its pair", Input::Aborted { queue: 1, cid: 0x22 }, NOW),
    ("aborted, its cid", Input::Aborted { queue: 2, cid: 0x11 }, NOW),
    ("stuck A", Input::Stuck(A, true), NOW),
    ("ended A", Input::Stuck(A, false), NOW),
    ("stuck B", Input::Stuck(B, true), NOW),
    ("ended B", Input::Stuck(B, false), NOW),
    ("back 1, 2 away", Input::Back { queue: 1, away: 2 }, NOW),
    ("back 1, last", Input::Back { queue: 1, away: 0 }, NOW),
    ("back 2, 1 away", Input::Back { queue: 2, away: 1 }, NOW),
    ("back 2, last", Input::Back { queue: 2, away: 0 }, NOW),
    ("left 1, 2 away", Input::Left { queue: 1, away: 2 }, NOW),
    ("left 1, last", Input::Left { queue: 1, away: 0 }, NOW),
    ("left 2, 1 away", Input::Left { queue: 2, away: 1 }, NOW),
    ("left 2, last", Input::Left { queue: 2, away: 0 }, NOW),
    ("made 3", Input::Made(3), NOW),
    ("deleted 1", Input::Deleted(1), NOW),
    ("deleted 2", Input::Deleted(2), NOW),
    ("recreated 1, last", Input::Recreated { queue: 1, next: None }, NOW),
    ("recreated 1, next 2", Input::Recreated { queue: 1, next: Some(2) }, NOW),
    ("recreated 2", Input::Recreated { queue: 2, next: Some(1) }, NOW),
    ("not recreated 1, last", Input::NotRecreated { queue: 1, next: None }, NOW),
    ("not recreated 1, next 2", Input::NotRecreated { queue: 1, next: Some(2) }, NOW),
    ("not recreated 2", Input::NotRecreated { queue: 2, next: Some(1) }, NOW),
    ("reset needed, 2 away", Input::ResetNeeded { away: 2 }, NOW),
    ("reset needed, none away", Input::ResetNeeded { away: 0 }, NOW),
    ("lost", Input::Lost, NOW),
];

/// These are two more, apart for the length of the lines.
const RESETS: [(&str, Input, Time); 2] = [
    ("reset, next 2", Input::Reset { next: Some(2) }, NOW),
    ("reset, none here", Input::Reset { next: None }, NOW),
];

/// How many numbers [`kind_of_input`] gives.
const INPUT_KINDS: usize = 13;

const fn kind_of_input(input: Input) -> usize {
    match input {
        Input::Tick => 0,
        Input::Late(_) => 1,
        Input::Aborted { .. } => 2,
        Input::Stuck(..) => 3,
        Input::Back { .. } => 4,
        Input::Left { .. } => 5,
        Input::Made(_) => 6,
        Input::Deleted(_) => 7,
        Input::Recreated { .. } => 8,
        Input::NotRecreated { .. } => 9,
        Input::ResetNeeded { .. } => 10,
        Input::Reset { .. } => 11,
        Input::Lost => 12,
    }
}

/// All steps.
const ALL: &str = "idle aborting asking asking-last grace looking taking deleting recreating gathering resetting reviving lost";
/// Those in which nothing is the matter but one command, and its pair is with its worker.
const COMMAND: &str = "aborting asking asking-last grace looking taking";

/// Input, steps, and what comes of it: the next step if it is another one, effects in their order, whom it blames, what waits. One
/// row is one line: what is alike in several steps is said once.
const TABLE: &[(&str, &[&str], &str)] = &[
    ("tick, early", &[ALL], "nothing"),
    ("tick, in time", &["grace"], "asking A; ask A"),
    ("tick, in time", &["idle aborting asking asking-last looking taking deleting recreating"], "nothing"),
    ("tick, in time", &["gathering resetting reviving lost"], "nothing"),
    // A command is late.
    ("late A", &["idle"], "aborting A; abort A"),
    ("late A", &[COMMAND, "deleting recreating gathering resetting reviving"], "late A"),
    ("late A", &["lost"], "nothing"),
    ("late B", &["idle"], "aborting B; abort B"),
    ("late B", &[COMMAND, "deleting recreating gathering resetting reviving"], "late B"),
    ("late B", &["lost"], "nothing"),
    // The abort.
    ("aborted A", &["aborting"], "asking A until; ask A"),
    ("aborted A", &["idle asking asking-last grace looking taking deleting recreating"], "nothing"),
    ("aborted A", &["gathering resetting reviving lost"], "nothing"),
    ("aborted, its pair", &[ALL], "nothing"),
    ("aborted, its cid", &[ALL], "nothing"),
    // Is it still there?
    ("stuck A", &["asking"], "grace A"),
    ("stuck A", &["asking-last"], "taking A; take 1"),
    ("stuck A", &["looking"], "aborting A; abort A"),
    (
        "stuck A",
        &["idle aborting grace taking deleting recreating gathering resetting reviving lost"],
        "nothing",
    ),
    ("ended A", &["asking asking-last looking"], "idle"),
    (
        "ended A",
        &["idle aborting grace taking deleting recreating gathering resetting reviving lost"],
        "nothing",
    ),
    ("stuck B", &[ALL], "nothing"),
    ("ended B", &[ALL], "nothing"),
    // A pair is here.
    ("back 1, 2 away", &["taking"], "deleting A; delete 1; blame 7 on 1"),
    (
        "back 1, 2 away",
        &["idle aborting asking asking-last grace looking deleting recreating"],
        "anomaly; give 1",
    ),
    ("back 1, 2 away", &["gathering"], "nothing"),
    ("back 1, 2 away", &["resetting reviving"], "anomaly"),
    ("back 1, 2 away", &["lost"], "end 1"),
    ("back 1, last", &["taking"], "deleting A; delete 1; blame 7 on 1"),
    (
        "back 1, last",
        &["idle aborting asking asking-last grace looking deleting recreating"],
        "anomaly; give 1",
    ),
    ("back 1, last", &["gathering"], "resetting; reset"),
    ("back 1, last", &["resetting reviving"], "anomaly"),
    ("back 1, last", &["lost"], "end 1"),
    ("back 2, 1 away", &["idle", COMMAND, "deleting recreating"], "anomaly; give 2"),
    ("back 2, 1 away", &["gathering"], "nothing"),
    ("back 2, 1 away", &["resetting reviving"], "anomaly"),
    ("back 2, 1 away", &["lost"], "end 2"),
    ("back 2, last", &["idle", COMMAND, "deleting recreating"], "anomaly; give 2"),
    ("back 2, last", &["gathering"], "resetting; reset"),
    ("back 2, last", &["resetting reviving"], "anomaly"),
    ("back 2, last", &["lost"], "end 2"),
    // A pair will not come.
    ("left 1, 2 away", &["taking"], "idle"),
    ("left 1, 2 away", &["deleting"], "idle; blame nobody"),
    ("left 1, 2 away", &["recreating reviving"], "anomaly"),
    (
        "left 1, 2 away",
        &["idle aborting asking asking-last grace looking gathering resetting lost"],
        "nothing",
    ),
    ("left 1, last", &["taking"], "idle"),
    ("left 1, last", &["deleting"], "idle; blame nobody"),
    ("left 1, last", &["recreating reviving"], "anomaly"),
    ("left 1, last", &["gathering"], "resetting; reset"),
    ("left 1, last", &["idle aborting asking asking-last grace looking resetting lost"], "nothing"),
    ("left 2, 1 away", &[ALL], "nothing"),
    ("left 2, last", &["gathering"], "resetting; reset"),
    ("left 2, last", &["idle", COMMAND, "deleting recreating resetting reviving lost"], "nothing"),
    // A new pair: after the reset, its queues are those that the controller knows.
    ("made 3", &["idle", COMMAND, "deleting recreating reviving"], "give 3"),
    ("made 3", &["gathering resetting"], "nothing"),
    ("made 3", &["lost"], "end 3"),
    // The queues of a pair go and come.
    ("deleted 1", &["deleting"], "recreating A; recreate 1"),
    ("deleted 1", &["idle", COMMAND, "recreating reviving"], "anomaly"),
    ("deleted 1", &["gathering resetting lost"], "nothing"),
    ("deleted 2", &["idle", COMMAND, "deleting recreating reviving"], "anomaly"),
    ("deleted 2", &["gathering resetting lost"], "nothing"),
    ("recreated 1, last", &["recreating"], "idle; restart 1 but 7; blame nobody"),
    ("recreated 1, last", &["reviving"], "idle; restart 1 but 7; settle; blame nobody"),
    ("recreated 1, last", &["idle", COMMAND, "deleting gathering resetting"], "anomaly"),
    ("recreated 1, last", &["lost"], "nothing"),
    ("recreated 1, next 2", &["recreating"], "idle; restart 1 but 7; blame nobody"),
    ("recreated 1, next 2", &["reviving"], "reviving 2; restart 1 but 7; recreate 2"),
    ("recreated 1, next 2", &["idle", COMMAND, "deleting gathering resetting"], "anomaly"),
    ("recreated 1, next 2", &["lost"], "nothing"),
    ("recreated 2", &["idle", COMMAND, "deleting recreating gathering resetting reviving"], "anomaly"),
    ("recreated 2", &["lost"], "nothing"),
    ("not recreated 1, last", &["recreating"], "idle; drop 1; blame nobody"),
    ("not recreated 1, last", &["reviving"], "idle; drop 1; settle; blame nobody"),
    ("not recreated 1, last", &["idle", COMMAND, "deleting"], "anomaly"),
    ("not recreated 1, last", &["gathering resetting lost"], "nothing"),
    ("not recreated 1, next 2", &["recreating"], "idle; drop 1; blame nobody"),
    ("not recreated 1, next 2", &["reviving"], "reviving 2; drop 1; recreate 2"),
    ("not recreated 1, next 2", &["idle", COMMAND, "deleting"], "anomaly"),
    ("not recreated 1, next 2", &["gathering resetting lost"], "nothing"),
    ("not recreated 2", &["idle", COMMAND, "deleting recreating reviving"], "anomaly"),
    ("not recreated 2", &["gathering resetting lost"], "nothing"),
    // Resets.
    ("reset needed, 2 away", &["idle looking deleting recreating reviving"], "gathering; take all"),
    (
        "reset needed, 2 away",
        &["aborting asking asking-last grace taking"],
        "gathering; take all; blame 7 on 1",
    ),
    ("reset needed, 2 away", &["gathering resetting lost"], "nothing"),
    ("reset needed, none away", &["idle looking deleting recreating reviving"], "resetting; reset"),
    (
        "reset needed, none away",
        &["aborting asking asking-last grace taking"],
        "resetting; reset; blame 7 on 1",
    ),
    ("reset needed, none away", &["gathering resetting lost"], "nothing"),
    ("reset, next 2", &["resetting"], "reviving 2; recreate 2"),
    ("reset, next 2", &["idle", COMMAND, "deleting recreating gathering reviving"], "anomaly"),
    ("reset, next 2", &["lost"], "nothing"),
    ("reset, none here", &["resetting"], "idle; settle; blame nobody"),
    ("reset, none here", &["idle", COMMAND, "deleting recreating gathering reviving"], "anomaly"),
    ("reset, none here", &["lost"], "nothing"),
    // The end.
    ("lost", &["idle", COMMAND], "lost; lose"),
    ("lost", &["deleting recreating gathering resetting reviving"], "lost; lose; blame nobody"),
    ("lost", &["lost"], "nothing"),
];

/// What comes of it instead when `B` was reported late meanwhile.
const WAITING: &[(&str, &[&str], &str)] = &[
    ("ended A", &["asking asking-last looking"], "looking B; ask B; nothing late"),
    ("left 1, 2 away", &["taking"], "looking B; ask B; nothing late"),
    ("left 1, 2 away", &["deleting"], "looking B; ask B; blame nobody; nothing late"),
    ("left 1, last", &["taking"], "looking B; ask B; nothing late"),
    ("left 1, last", &["deleting"], "looking B; ask B; blame nobody; nothing late"),
    ("recreated 1, last", &["recreating"], "looking B; restart 1 but 7; ask B; blame nobody; nothing late"),
    ("recreated 1, next 2", &["recreating"], "looking B; restart 1 but 7; ask B; blame nobody; nothing late"),
    ("not recreated 1, last", &["recreating"], "looking B; drop 1; ask B; blame nobody; nothing late"),
    ("not recreated 1, next 2", &["recreating"], "looking B; drop 1; ask B; blame nobody; nothing late"),
    // After a reset it failed, or was issued again.
    ("recreated 1, last", &["reviving"], "idle; restart 1 but 7; settle; blame nobody; nothing late"),
    ("not recreated 1, last", &["reviving"], "idle; drop 1; settle; blame nobody; nothing late"),
    ("reset, none here", &["resetting"], "idle; settle; blame nobody; nothing late"),
    ("late A", &[COMMAND, "deleting recreating gathering resetting reviving"], "late A B"),
    // It is there once.
    ("late B", &[COMMAND, "deleting recreating gathering resetting reviving"], "nothing"),
    ("lost", &[COMMAND], "lost; lose; nothing late"),
    ("lost", &["deleting recreating gathering resetting reviving"], "lost; lose; blame nobody; nothing late"),
];

fn row(table: &[(&'static str, &[&str], &'static str)], input: &str, step: &str) -> Option<&'static str> {
    let has = |steps: &[&str]| steps.iter().flat_map(|s| s.split(' ')).filter(|word| *word == step).count();
    let mut rows = table.iter().filter(|(of, steps, _)| *of == input && has(steps) > 0);
    let found = rows.next()?;
    assert!(rows.next().is_none() && has(found.1) == 1, "{step} with {input} is there twice");
    Some(found.2)
}

fn at(step: Step, late: &[StuckCommand]) -> Recovery {
    let mut recovery = Recovery::new(times());
    recovery.step = step;
    recovery.late = late.iter().map(|c| ((c.pair.queue, c.cid), *c)).collect();
    // From the moment on at which the pair of a late command is here, it is known who is to blame.
    if matches!(kind_of_step(step), 6..=10) {
        recovery.guilty = Some((1, QueueTag::new(7, 1)));
    }
    recovery
}

fn name(command: StuckCommand) -> &'static str {
    if command == A { "A" } else { "B" }
}

fn step_said(step: Step) -> String {
    match step {
        Step::Idle | Step::Gathering | Step::Resetting | Step::Lost => step.word().to_string(),
        Step::Asking(c, Some(_)) => format!("asking {} until", name(c)),
        Step::Asking(c, None) => format!("asking {}", name(c)),
        Step::Grace(c, until) => {
            assert_eq!(until, LATER);
            format!("grace {}", name(c))
        }
        Step::Aborting(c) | Step::Looking(c) | Step::Taking(c) | Step::Deleting(c) | Step::Recreating(c) => {
            format!("{} {}", step.word(), name(c))
        }
        Step::Reviving(queue) => format!("reviving {queue}"),
    }
}

fn effect_said(effect: Effect) -> String {
    match effect {
        Effect::Abort(c) => format!("abort {}", name(c)),
        Effect::Ask(c) => format!("ask {}", name(c)),
        Effect::Take(queue) => format!("take {queue}"),
        Effect::TakeAll => "take all".into(),
        Effect::Delete(queue) => format!("delete {queue}"),
        Effect::Recreate(queue) => format!("recreate {queue}"),
        Effect::Restart(queue, Fails::None) => format!("restart {queue}"),
        Effect::Restart(queue, Fails::Of(tag)) => format!("restart {queue} but {}", tag.token()),
        Effect::Restart(queue, Fails::All) => format!("restart {queue} with nothing"),
        Effect::Drop(queue) => format!("drop {queue}"),
        Effect::Give(queue) => format!("give {queue}"),
        Effect::End(queue) => format!("end {queue}"),
        Effect::Reset => "reset".into(),
        Effect::Settle => "settle".into(),
        Effect::Lose => "lose".into(),
        Effect::GiveUp(resets) => format!("give up after {resets}"),
        Effect::Anomaly => "anomaly".into(),
    }
}

/// What an input came to, in the words of the table.
fn said(before: &Recovery, after: &Recovery, effects: Effects) -> String {
    let mut said = Vec::new();
    if before.step != after.step {
        said.push(step_said(after.step));
    }
    said.extend(effects.into_iter().map(effect_said));
    match after.guilty {
        guilty if guilty == before.guilty => {}
        Some((queue, tag)) => said.push(format!("blame {} on {queue}", tag.token())),
        None => said.push("blame nobody".into()),
    }
    if before.late != after.late {
        let late: Vec<&str> = after.late.values().map(|c| name(*c)).collect();
        said.push(if late.is_empty() { "nothing late".into() } else { format!("late {}", late.join(" ")) });
    }
    if said.is_empty() { "nothing".into() } else { said.join("; ") }
}

fn inputs() -> impl Iterator<Item = (&'static str, Input, Time)> {
    INPUTS.into_iter().chain(RESETS)
}

#[test]
fn every_step_takes_every_input_as_the_table_says() {
    for (step_name, step) in STEPS {
        for (input_name, input, now) in inputs() {
            let usual = row(TABLE, input_name, step_name);
            let usual = usual.unwrap_or_else(|| panic!("{step_name} with {input_name} is not in the table"));
            let waiting = row(WAITING, input_name, step_name).unwrap_or(usual);
            for (late, wanted) in [(&[][..], usual), (&[B][..], waiting)] {
                // Nothing can wait in these.
                if matches!(step, Step::Idle | Step::Lost) && !late.is_empty() {
                    continue;
                }
                let before = at(step, late);
                let mut after = before.clone();
                let effects = after.on(input, now);
                assert_eq!(said(&before, &after, effects), wanted, "{step_name} with {input_name}, {late:?}");
                let ends = matches!(after.step, Step::Idle | Step::Lost);
                assert!(
                    !ends || after.late.is_empty() && after.guilty.is_none(),
                    "{step_name}, {input_name}"
                );
            }
        }
    }
}

#[test]
fn the_table_has_a_sample_of_each_step_and_input_and_no_row_of_none() {
    for kind in 0..STEP_KINDS {
        assert!(STEPS.iter().any(|(_, step)| kind_of_step(*step) == kind), "step {kind}");
    }
    for kind in 0..INPUT_KINDS {
        assert!(inputs().any(|(_, input, _)| kind_of_input(input) == kind), "input {kind}");
    }
    for (input, steps, _) in TABLE.iter().chain(WAITING) {
        assert!(inputs().any(|(name, ..)| name == *input), "{input}");
        for word in steps.iter().flat_map(|s| s.split(' ')) {
            assert!(STEPS.iter().any(|(name, _)| *name == word), "{word} with {input}");
        }
    }
}

/// One reset, from the trouble until the only pair goes on. What is done with it, or with the controller.
fn reset(recovery: &mut Recovery, now: Time) -> Effect {
    let first = |effects: Effects| effects.into_iter().next().unwrap();
    match first(recovery.on(Input::ResetNeeded { away: 0 }, now)) {
        Effect::Reset => {}
        other => return other,
    }
    assert_eq!(first(recovery.on(Input::Reset { next: Some(1) }, now)), Effect::Recreate(1));
    first(recovery.on(Input::Recreated { queue: 1, next: None }, now))
}

#[test]
fn from_the_third_reset_on_nothing_is_issued_again_and_the_seventh_is_not_made() {
    let mut recovery = Recovery::new(times());
    let all: Vec<Effect> = (0..7).map(|_| reset(&mut recovery, NOW)).collect();
    let again = Effect::Restart(1, Fails::None);
    let not = Effect::Restart(1, Fails::All);
    assert_eq!(all, [again, again, not, not, not, not, Effect::GiveUp(7)]);
    assert_eq!(recovery.step(), Step::Lost);
}

#[test]
fn resets_count_for_as_long_as_the_window() {
    let mut recovery = Recovery::new(times());
    let second = Duration::from_secs(1);
    // Six at a time, with a window between them, for ever.
    for round in 0..4 {
        let begin = NOW + 120 * second * round;
        let all: Vec<Effect> = (0..6).map(|_| reset(&mut recovery, begin)).collect();
        assert_eq!(all[0], Effect::Restart(1, Fails::None), "{round}");
        assert_eq!(all[5], Effect::Restart(1, Fails::All), "{round}");
    }
    // One nanosecond earlier they still count.
    let end = NOW + 120 * second * 3 + (120 * second - Duration::from_nanos(1));
    assert_eq!(reset(&mut recovery, end), Effect::GiveUp(7));
}

#[test]
fn after_a_reset_only_the_guilty_virtqueue_of_its_own_pair_fails() {
    let mut recovery = at(Step::Reviving(2), &[]);
    let effects = recovery.on(Input::Recreated { queue: 2, next: Some(1) }, NOW);
    assert_eq!(effects, Effects::two(Effect::Restart(2, Fails::None), Effect::Recreate(1)));
    let effects = recovery.on(Input::Recreated { queue: 1, next: None }, NOW);
    assert_eq!(effects, Effects::two(Effect::Restart(1, Fails::Of(QueueTag::new(7, 1))), Effect::Settle));
}

#[test]
fn only_a_time_of_grace_wants_to_be_looked_at() {
    for (name, step) in STEPS {
        let wanted = (name == "grace").then_some(LATER);
        assert_eq!(at(step, &[]).deadline(), wanted, "{name}");
    }
}
