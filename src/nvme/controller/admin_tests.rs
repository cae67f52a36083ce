use nvme_platform::fake::FakeIommu;
use zerocopy::FromZeros;

use super::super::super::spec::identify::Controller as IdentifyController;
use super::*;

const NOW: Time = Time::from_nanos(1);
const PATIENCE: Patience = Patience { admin: Duration::from_secs(10), abort: Duration::from_secs(2) };

/// A controller that the test plays: it keeps the last tail that was rung.
#[derive(Default)]
struct Played {
    tail: u32,
    head: u32,
    posted: u16,
}

impl Registers for Played {
    fn read32(&self, _: u32) -> u32 {
        0
    }
    fn write32(&mut self, offset: u32, value: u32) {
        *(if offset == DOORBELLS { &mut self.tail } else { &mut self.head }) = value;
    }
}

impl Played {
    /// The commands that were submitted since the ring's start.
    fn commands(&self, admin: &AdminQueue) -> Vec<Command> {
        let window = admin.queues.window();
        (0..self.tail as usize).map(|at| window.read_value(at * 64).unwrap()).collect()
    }

    fn answer(&mut self, admin: &AdminQueue, command: &Command, dw0: u32) {
        self.end(admin, command, dw0, 0);
    }

    fn end(&mut self, admin: &AdminQueue, command: &Command, dw0: u32, status: u16) {
        let window = admin.queues.window().sub(PAGE, PAGE).unwrap();
        let (slot, phase) =
            (usize::from(self.posted % DEPTH), u32::from((self.posted / DEPTH).is_multiple_of(2)));
        window.store32(slot * 16, dw0).unwrap();
        window
            .store32(slot * 16 + 12, u32::from(command.cid.get()) | phase << 16 | u32::from(status) << 17)
            .unwrap();
        self.posted += 1;
    }
}

fn queue() -> (AdminQueue, Played) {
    (AdminQueue::new(&mut FakeIommu::new().pool(), PATIENCE, 8).unwrap(), Played::default())
}

fn abort(cid: u16) -> Job {
    Job::Abort { pair: 1, cid }
}

#[test]
fn what_is_asked_is_answered_with_a_copy_of_its_page() {
    let (mut admin, mut played) = queue();
    admin.ask(Job::IdentifyController).unwrap();
    assert!(admin.has(Job::IdentifyController) && played.tail == 0);
    admin.submit(&mut played, NOW).unwrap();
    assert_eq!(admin.next_deadline(), Some(NOW + PATIENCE.admin));
    let [command] = played.commands(&admin)[..] else { panic!() };
    assert_eq!(command.dptr[0].get(), admin.data.iova().0);
    admin.data.window().write(0, &[1, 2, 3, 4]).unwrap();
    played.answer(&admin, &command, 9);
    let Ok(Some(Answer { job: Job::IdentifyController, completion, data })) = admin.pop(NOW) else {
        panic!()
    };
    assert_eq!((completion.dw0, completion.status), (9, Status(0)));
    admin.data.window().fill(0, 4, 0xff).unwrap();
    assert_eq!(data.read::<[u8; 5]>(), [1, 2, 3, 4, 0]);
    admin.finish(&mut played);
    assert_eq!((played.head, admin.has(Job::IdentifyController)), (1, false));
}

#[test]
fn no_more_aborts_are_under_way_than_the_controller_takes() {
    let (mut admin, mut played) = queue();
    admin.tune(2, Delays::default());
    (0..5).for_each(|cid| admin.ask(abort(cid)).unwrap());
    admin.submit(&mut played, NOW).unwrap();
    let commands = played.commands(&admin);
    assert_eq!(commands.len(), 2);
    played.answer(&admin, &commands[0], 0);
    assert!(matches!(admin.pop(NOW), Ok(Some(answer)) if answer.job == abort(0)));
    admin.submit(&mut played, NOW).unwrap();
    assert_eq!(played.tail, 3);
}

#[test]
fn an_abort_that_is_never_answered_does_not_keep_the_next_from_being_asked() {
    let (mut admin, mut played) = queue();
    admin.ask(abort(1)).unwrap();
    admin.ask(abort(2)).unwrap();
    admin.submit(&mut played, NOW).unwrap();
    assert_eq!((played.tail, admin.expired(NOW)), (1, None));
    let late = NOW + PATIENCE.abort;
    assert!(matches!(admin.expired(late), Some((job, admin::ABORT)) if job == abort(1)));
    admin.submit(&mut played, late).unwrap();
    assert_eq!(played.tail, 2);
    // The first is answered after all.
    let commands = played.commands(&admin);
    played.answer(&admin, &commands[0], 0);
    played.answer(&admin, &commands[1], 0);
    assert!(matches!(admin.pop(NOW), Ok(Some(answer)) if answer.job == abort(2)), "it was told to be late");
    assert!(matches!(admin.pop(NOW), Ok(None)));
}

#[test]
fn where_nothing_is_answered_any_more_what_waits_is_late_too() {
    let (mut admin, mut played) = queue();
    let mut now = NOW;
    for cid in 1..DEPTH {
        admin.ask(abort(cid)).unwrap();
        admin.submit(&mut played, now).unwrap();
        assert_eq!(played.tail, cid.into());
        now = now + PATIENCE.abort;
        assert!(matches!(admin.expired(now), Some((job, _)) if job == abort(cid)));
    }
    admin.ask(Job::DeleteSq { id: 3 }).unwrap();
    admin.submit(&mut played, now).unwrap();
    assert_eq!(played.tail, u32::from(DEPTH) - 1, "there is no place for it");
    assert_eq!(admin.expired(now), Some((Job::DeleteSq { id: 3 }, admin::DELETE_SQ)));
    assert_eq!(admin.expired(now), None);
    admin.clear();
    admin.ask(Job::AsyncEvent).unwrap();
    admin.submit(&mut played, now).unwrap();
    assert_eq!((played.tail, admin.next_deadline()), (1, None), "an event may take its time");
}

#[test]
fn aborts_are_given_up_once() {
    let (mut admin, mut played) = queue();
    (1..=3).for_each(|cid| admin.ask(abort(cid)).unwrap());
    admin.submit(&mut played, NOW).unwrap();
    let mut aborts = admin.take_aborts();
    aborts.sort_unstable();
    assert_eq!(aborts, [(1, 1), (1, 2), (1, 3)]);
    assert_eq!(admin.take_aborts(), []);
}

#[test]
fn too_much_that_waits_is_an_anomaly() {
    let (mut admin, _) = queue();
    (0..WAITING_MAX).for_each(|_| admin.ask(Job::AsyncEvent).unwrap());
    assert_eq!(admin.ask(Job::AsyncEvent), Err(Anomaly::TooMuchAsked));
}

#[test]
fn what_fails_for_the_moment_is_asked_again_by_another_command_and_five_times() {
    let (mut admin, mut played) = queue();
    let job = Job::NamespaceList { after: 0 };
    admin.ask(job).unwrap();
    let mut now = NOW;
    let mut seen = Vec::new();
    for tries in 0..6 {
        admin.submit(&mut played, now).unwrap();
        let commands = played.commands(&admin);
        assert_eq!(commands.len(), tries + 1);
        let command = commands[tries];
        assert!(!seen.contains(&command.cid.get()), "a new command");
        seen.push(command.cid.get());
        played.end(&admin, &command, 0, Status::NAMESPACE_NOT_READY);
        let answer = admin.pop(now).unwrap();
        assert_eq!(answer.is_some(), tries == 5);
        assert_eq!(admin.has(job), tries != 5);
        if tries < 5 {
            let next = admin.next_deadline().unwrap();
            assert!(next > now && next < now + Duration::from_secs(1));
            admin.submit(&mut played, now).unwrap();
            assert_eq!(played.commands(&admin).len(), tries + 1, "not before its time");
            now = next;
        }
    }
}

#[test]
fn no_time_that_the_controller_asks_for_makes_a_job_last_longer_than_its_deadline() {
    let (mut admin, mut played) = queue();
    let mut identify = IdentifyController::new_zeroed();
    identify.crdt = [40.into(), 101.into(), 0.into()];
    admin.tune(1, Delays::of(&identify));
    admin.ask(Job::DeleteSq { id: 1 }).unwrap();
    admin.submit(&mut played, NOW).unwrap();
    let first = played.commands(&admin)[0];
    played.end(&admin, &first, 0, Status::INTERRUPTED | 1 << 11);
    assert!(matches!(admin.pop(NOW), Ok(None)));
    let at = NOW + Duration::from_secs(4);
    assert_eq!(admin.next_deadline(), Some(at));
    admin.submit(&mut played, at).unwrap();
    assert_eq!(admin.next_deadline(), Some(NOW + PATIENCE.admin), "it is still its own");
    let second = played.commands(&admin)[1];
    played.end(&admin, &second, 0, Status::INTERRUPTED | 2 << 11);
    assert!(matches!(admin.pop(at), Ok(Some(answer)) if answer.job == Job::DeleteSq { id: 1 }));
}

#[test]
fn what_would_fail_again_aborts_and_event_requests_are_not_repeated() {
    let (mut admin, mut played) = queue();
    for (at, (job, status)) in [
        (Job::IdentifyController, Status::NAMESPACE_NOT_READY | 1 << 14),
        (abort(1), Status::INTERRUPTED),
        (Job::AsyncEvent, Status::AER_LIMIT),
    ]
    .into_iter()
    .enumerate()
    {
        admin.ask(job).unwrap();
        admin.submit(&mut played, NOW).unwrap();
        let command = played.commands(&admin)[at];
        played.end(&admin, &command, 0, status);
        assert!(matches!(admin.pop(NOW), Ok(Some(answer)) if answer.job == job), "{job:?}");
    }
}

#[test]
fn the_host_says_that_it_heeds_retry_delays_in_the_page_of_its_command() {
    let (mut admin, mut played) = queue();
    admin.ask(Job::HostBehavior).unwrap();
    admin.submit(&mut played, NOW).unwrap();
    let command = played.commands(&admin)[0];
    assert_eq!((command.opcode, command.cdw10.get() & 0xff), (0x09, 0x16));
    assert_eq!(admin.data.window().read_value::<[u8; 4]>(0), Ok([1, 0, 0, 0]));
}

#[test]
fn a_submission_queue_is_urgent_but_of_those_that_want_medium_priority() {
    for (medium, flags) in [(false, 0b001), (true, 0b101)] {
        let job = Job::CreateSq { id: 3, depth: 8, at: Iova(0x1000), medium };
        let command = job.command(Iova(0));
        assert_eq!((command.cdw10.get(), command.cdw11.get()), (7 << 16 | 3, 3 << 16 | flags));
    }
}
