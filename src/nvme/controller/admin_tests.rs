use nvme_platform::fake::FakeIommu;

use super::super::super::spec::command::Status;
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
        let window = admin.sq_memory.window();
        (0..self.tail as usize).map(|at| window.read_value(at * 64).unwrap()).collect()
    }

    fn answer(&mut self, admin: &AdminQueue, command: &Command, dw0: u32) {
        let window = admin.cq_memory.window();
        let (slot, phase) =
            (usize::from(self.posted % DEPTH), u32::from((self.posted / DEPTH).is_multiple_of(2)));
        window.store32(slot * 16, dw0).unwrap();
        window.store32(slot * 16 + 12, u32::from(command.cid.get()) | phase << 16).unwrap();
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
    let Ok(Some(Answer { job: Job::IdentifyController, completion, data })) = admin.pop() else { panic!() };
    assert_eq!((completion.dw0, completion.status), (9, Status(0)));
    admin.data.window().fill(0, 4, 0xff).unwrap();
    assert_eq!(data.read::<[u8; 5]>(), [1, 2, 3, 4, 0]);
    admin.finish(&mut played);
    assert_eq!((played.head, admin.has(Job::IdentifyController)), (1, false));
}

#[test]
fn no_more_aborts_are_under_way_than_the_controller_takes() {
    let (mut admin, mut played) = queue();
    admin.limit_aborts(2);
    (0..5).for_each(|cid| admin.ask(abort(cid)).unwrap());
    admin.submit(&mut played, NOW).unwrap();
    let commands = played.commands(&admin);
    assert_eq!(commands.len(), 2);
    played.answer(&admin, &commands[0], 0);
    assert!(matches!(admin.pop(), Ok(Some(answer)) if answer.job == abort(0)));
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
    assert!(matches!(admin.pop(), Ok(Some(answer)) if answer.job == abort(2)), "it was told to be late");
    assert!(matches!(admin.pop(), Ok(None)));
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
fn too_much_that_waits_is_a_contradiction() {
    let (mut admin, _) = queue();
    (0..WAITING_MAX).for_each(|_| admin.ask(Job::AsyncEvent).unwrap());
    assert_eq!(admin.ask(Job::AsyncEvent), Err(Contradiction::TooMuchAsked));
}
