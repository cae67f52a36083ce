use nvme_platform::PAGE;
use nvme_session::memory::QuietBy;
use nvme_soft::{Config, SoftDevice};

use super::super::super::encode::Limited;
use super::super::super::info::SglSupport;
use super::super::super::retry::Delays;
use super::*;

const OK: Status = Status(0);
const NO: Status = Status(Status::INVALID_FIELD);
const NOW: Time = Time::from_nanos(1);

const LIMITED: Limited = Limited { bytes: 0, blocks: 0 };
const GRANTED: Granted = Granted {
    pairs: 8,
    depth: 32,
    vectors: u16::MAX,
    medium: false,
    stride: 4,
    caps: CommandCaps {
        transfer: 4096,
        sgl: SglSupport::None,
        discard: LIMITED,
        zeroes: LIMITED,
        delays: Delays::NONE,
    },
};

struct Rig {
    pairs: Pairs,
    device: SoftDevice,
}

/// A controller that granted so many pairs. It is not asked anything: the test answers.
fn rig(granted: u16) -> Rig {
    let mut pairs = Pairs::new(0, &Options::default());
    pairs.set_up(Granted { pairs: granted, ..GRANTED });
    Rig { pairs, device: SoftDevice::new(Config::default()).unwrap() }
}

impl Rig {
    fn create(&mut self) -> Job {
        self.pairs.create(&mut self.device, 8, 5).unwrap()
    }

    fn cq_created(&mut self, id: u16, status: Status) -> Result<Effect, Anomaly> {
        self.pairs.cq_created(self.device.pool(), id, status)
    }

    fn sq_created(&mut self, id: u16, status: Status) -> Result<Effect, Anomaly> {
        self.pairs.sq_created(&mut self.device, id, status, NOW)
    }

    fn cq_deleted(&mut self, id: u16, status: Status) -> Result<Effect, Anomaly> {
        self.pairs.cq_deleted(self.device.pool(), id, status)
    }

    fn live(&mut self) -> QueuePair {
        let Job::CreateCq { id, .. } = self.create() else { panic!() };
        assert!(matches!(self.cq_created(id, OK), Ok(Effect::Ask(Job::CreateSq { .. }))));
        match self.sq_created(id, OK) {
            Ok(Effect::Say(ControllerEvent::PairReady { token: 5, pair })) => pair,
            other => panic!("{other:?}"),
        }
    }

    fn deleted(&mut self, id: u16) -> QueueQuiet {
        assert_eq!(self.pairs.delete(id), Ok(Job::DeleteSq { id }));
        assert!(matches!(self.pairs.sq_deleted(id, OK), Ok(Effect::Ask(Job::DeleteCq { .. }))));
        match self.cq_deleted(id, OK) {
            Ok(Effect::Say(ControllerEvent::PairDeleted { quiet, .. })) => quiet,
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self, quiet: bool) -> Vec<Effect> {
        let quiet = quiet.then(|| QueueQuiet::reset(0, self.pairs.next_generation()));
        self.pairs.end(self.device.pool(), quiet)
    }
}

#[test]
fn a_pair_is_no_deeper_than_its_home_lets_it_and_takes_the_memory_of_that() {
    let mut rig = rig(8);
    rig.pairs = Pairs::new(0, &Options { depth_max: 16, bounce_chunks: 2, ..Options::default() });
    rig.pairs.set_up(Granted { depth: 1024, ..GRANTED });
    let job = rig.pairs.create(&mut rig.device, 256, 5).unwrap();
    assert!(matches!(job, Job::CreateCq { depth: 16, .. }), "{job:?}");
    // Two queues of a page, fifteen pages for lists, two chunks of 64 KiB.
    assert_eq!(rig.pairs.bytes(256), (2 + 15 + 2 * 16) * PAGE as u64);
}

#[test]
fn the_pair_for_reads_takes_the_memory_of_its_longest_read() {
    let mut rig = rig(8);
    rig.pairs.create_for_reads(&mut rig.device).unwrap();
    assert!(rig.cq_created(1, OK).is_ok());
    let Ok(Effect::ReadsMade(pair)) = rig.sq_created(1, OK) else { panic!() };
    let PairMemory { sq, cq, lists, bounce } = &pair.memory;
    let pages = [sq, cq, lists, bounce].map(|memory| memory.window().len() / PAGE);
    assert_eq!(pages, [1, 1, 3, 4]);
}

#[test]
fn a_pair_is_made_deleted_and_made_again_with_a_higher_generation() {
    let mut rig = rig(4);
    assert_eq!(rig.pairs.free(), 3, "one is for the control role's own reads");
    let mut pair = rig.live();
    assert_eq!((pair.id(), rig.pairs.free()), (2, 2));
    assert_eq!(rig.pairs.recreate(&mut pair), Err(PairError::Busy), "its queues are there");
    let quiet = rig.deleted(2);
    assert_eq!(quiet.by(), QuietBy::QueueDeleted);
    assert!(pair.is_covered(&quiet));
    assert!(matches!(rig.pairs.recreate(&mut pair), Ok(Job::CreateCq { id: 2, .. })));
    assert!(rig.cq_created(2, OK).is_ok());
    let Ok(Effect::Say(ControllerEvent::PairRecreated { id: 2, doorbells })) = rig.sq_created(2, OK) else {
        panic!()
    };
    assert!(pair.restart(quiet, doorbells, &mut |_| false).is_ok());
    assert!(!pair.is_covered(&quiet), "the proof is about its earlier queues");
    let pair = rig.pairs.retire(rig.device.pool(), Box::new(pair)).unwrap_err();
    rig.deleted(2);
    assert!(rig.pairs.retire(rig.device.pool(), pair).is_ok());
    assert_eq!(rig.pairs.free(), 3);
}

#[test]
fn what_the_controller_refuses_is_undone() {
    let mut rig = rig(4);
    rig.create();
    let Ok(Effect::Say(ControllerEvent::PairFailed { token: 5, why })) = rig.cq_created(2, NO) else {
        panic!()
    };
    assert_eq!((why, rig.pairs.free()), (PairError::Refused(NO.0), 3));
    rig.create();
    assert!(rig.cq_created(2, OK).is_ok());
    assert!(matches!(rig.sq_created(2, NO), Ok(Effect::Ask(Job::DeleteCq { id: 2 }))));
    assert!(matches!(rig.cq_deleted(2, OK), Ok(Effect::Say(ControllerEvent::PairFailed { token: 5, .. }))));
    assert_eq!(rig.pairs.free(), 3);
}

#[test]
fn queues_that_cannot_be_deleted_need_a_reset_and_keep_their_memory() {
    let mut rig = rig(4);
    let pair = rig.live();
    assert!(rig.pairs.delete(2).is_ok());
    let failed = ResetReason::DeleteFailed { id: 2 };
    assert!(matches!(rig.pairs.sq_deleted(2, NO), Ok(Effect::Stuck(why)) if why == failed));
    assert!(rig.pairs.retire(rig.device.pool(), Box::new(pair)).is_err());
    let told = rig.end(true);
    assert!(matches!(told.as_slice(), [Effect::Say(ControllerEvent::PairDeleted { id: 2, .. })]), "{told:?}");
}

#[test]
fn an_answer_that_nobody_waits_for_is_an_anomaly() {
    let mut rig = rig(4);
    let none = Some(Anomaly::NoPair(2));
    assert_eq!(rig.cq_created(2, OK).err(), none);
    assert_eq!(rig.sq_created(2, OK).err(), none);
    assert_eq!(rig.pairs.sq_deleted(2, OK).err(), none);
    assert_eq!(rig.cq_deleted(2, OK).err(), none);
    rig.live();
    let waits = Some(Anomaly::NotWaiting(2));
    for status in [OK, NO] {
        assert_eq!(rig.cq_created(2, status).err(), waits);
        assert_eq!(rig.sq_created(2, status).err(), waits);
        assert_eq!(rig.pairs.sq_deleted(2, status).err(), waits);
        assert_eq!(rig.cq_deleted(2, status).err(), waits);
    }
    assert_eq!(rig.pairs.delete_reads(), Err(Anomaly::NoReadsPair));
}

/// A controller that fails is ended twice: without proof, and with it once it was cut off.
#[test]
fn what_ended_is_told_once_and_its_memory_is_free_with_the_proof() {
    let mut rig = rig(6);
    rig.live();
    let mut again = rig.live();
    rig.deleted(3);
    assert!(rig.pairs.recreate(&mut again).is_ok());
    assert!(matches!(rig.create(), Job::CreateCq { id: 4, .. }));
    let deleting = rig.live();
    assert_eq!(deleting.id(), 5);
    assert!(rig.pairs.delete(5).is_ok() && rig.pairs.sq_deleted(5, OK).is_ok());
    let told = rig.end(false);
    assert!(
        matches!(
            told.as_slice(),
            [
                Effect::Say(ControllerEvent::PairLost { id: 3, why: PairError::Reset }),
                Effect::Say(ControllerEvent::PairFailed { token: 5, why: PairError::Reset }),
                Effect::Say(ControllerEvent::PairDeleted { id: 5, .. }),
            ]
        ),
        "{told:?}"
    );
    assert_eq!(rig.pairs.free(), 1, "nothing proves its memory free");
    assert!(rig.end(true).is_empty());
    assert_eq!(rig.pairs.free(), 2);
}

#[test]
fn the_pair_of_the_reads_is_not_a_workers() {
    let mut rig = rig(2);
    assert!(matches!(
        rig.pairs.create_for_reads(&mut rig.device),
        Ok(Job::CreateCq { id: 1, vector: 0, .. })
    ));
    assert_eq!(rig.pairs.create_for_reads(&mut rig.device), Err(PairError::None));
    assert!(rig.cq_created(1, OK).is_ok());
    assert!(matches!(rig.sq_created(1, OK), Ok(Effect::ReadsMade(_))));
    assert_eq!(rig.pairs.free(), 1);
    assert_eq!(rig.pairs.delete_reads(), Ok(Job::DeleteSq { id: 1 }));
    assert!(rig.pairs.sq_deleted(1, OK).is_ok());
    assert!(matches!(rig.cq_deleted(1, OK), Ok(Effect::ReadsDeleted)));
    assert!(rig.pairs.create_for_reads(&mut rig.device).is_ok());
    assert!(matches!(rig.end(true).as_slice(), [Effect::ReadsDeleted]));
}

#[test]
fn what_a_controller_needs_of_its_queues_it_gets() {
    let mut rig = rig(4);
    let vectors = |rig: &mut Rig| {
        let mut vector = || match rig.create() {
            Job::CreateCq { vector, depth, .. } => (vector, depth),
            other => panic!("{other:?}"),
        };
        [vector(), vector()]
    };
    assert_eq!(vectors(&mut rig), [(2, 8), (3, 8)]);
    rig.end(true);
    rig.pairs.set_up(Granted { vectors: 1, depth: 2, medium: true, ..GRANTED });
    assert_eq!(vectors(&mut rig), [(0, 2), (0, 2)]);
    assert!(matches!(rig.cq_created(2, OK), Ok(Effect::Ask(Job::CreateSq { medium: true, depth: 2, .. }))));
}
