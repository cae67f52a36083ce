//! What objects answer, to whatever is said to them.

use nvme_l4re::model::Answer;

use crate::driver::*;
use crate::rig::*;

fn words(answer: Answer) -> (i64, Vec<u64>) {
    match answer {
        Answer::Reply { label, words, cap: None } => (label, words),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_factory_says_what_it_is() {
    let (mut rig, _) = Rig::one();
    let (ned, svr) = (rig.model.task(), rig.svr);
    let svr = rig.ned.give(svr, &ned);
    assert_eq!(words(rig.call(&ned, svr, said(-21, &[0]))), (1, vec![]));
    let name = [u64::from_le_bytes(*b"N2L47Fac"), u64::from_le_bytes(*b"toryE\0\0\0")];
    let first = vec![-15i64 as u64, 14, name[0], name[1]];
    assert_eq!(words(rig.call(&ned, svr, said(-21, &[1, 0]))), (0, first));
    assert_eq!(rig.code(&ned, svr, said(-21, &[1, 1])), ERANGE);
    assert_eq!(rig.code(&ned, svr, said(-21, &[2, -15i64 as u64])), 1);
    assert_eq!(rig.code(&ned, svr, said(-21, &[2, 0])), 0);
    assert_eq!(rig.code(&ned, svr, said(-21, &[3])), ENOSYS);
    for protocol in [0, -1, -11, 7] {
        assert_eq!(rig.code(&ned, svr, said(protocol, &[0, 0])), EBADPROTO);
    }
}

#[test]
fn only_who_has_the_special_right_creates() {
    let (mut rig, _) = Rig::one();
    let weak = rig.ned.weaker(rig.svr);
    let ned = rig.model.task();
    let weak = rig.ned.give(weak, &ned);
    assert_eq!(refused(&rig.call(&ned, weak, create(&["device=soft0:n1"]))), EPERM);
    assert_eq!(rig.code(&ned, weak, said(-21, &[0])), 1, "but is told what it is");
    assert!(rig.create(&["device=soft0:n1"]).is_ok());
}

#[test]
fn what_create_refuses_it_refuses_by_its_error_number_and_prints_the_word() {
    let (mut rig, _) = Rig::one();
    for (words, code) in [
        (&["ds-max=3"][..], EINVAL),
        (&["device=nothing:n1"], ENODEV),
        (&["device=00000000-0000-0000-0000-000000000000"], ENODEV),
        (&["device=soft0:n1", "ds-max=0"], EINVAL),
        (&["device=soft0:n1", "ds-max=257"], EINVAL),
        (&["device=soft0:n1", "ds-max=x"], EINVAL),
        (&["device=soft0:n1", "readonly"], EINVAL),
        (&["device=soft0:n1", "read-only", "read-only"], EINVAL),
        (&["device=soft0:n1", ""], EINVAL),
        (&[], EINVAL),
    ] {
        assert_eq!(rig.create(words), Err(code), "{words:?}");
        rig.pass_time(SECOND);
    }
    let text = rig.log.text();
    for word in ["readonly", "ds-max=257", "nothing:n1", "no device"] {
        assert!(text.contains(word), "{word}:\n{text}");
    }
    assert!(rig.create(&["read-only", "ds-max=5", "device=soft0:n1"]).is_ok(), "in any order");
}

#[test]
fn a_create_that_is_garbage_is_refused_and_leaves_nothing() {
    let (mut rig, _) = Rig::one();
    let slots = rig.model.slots();
    let ned = rig.model.task();
    let svr = rig.ned.give(rig.svr, &ned);
    let junk = ned.other();
    let device = create(&["device=soft0:n1"]).words;
    let mut number = device.clone();
    number.extend([1 | 8 << 16, 5]);
    let mut nothing = device.clone();
    nothing.push(0);
    let mut flexpage = device.clone();
    flexpage.extend([3 | 16 << 16, 0x38, 0]);
    let mut cut = device.clone();
    cut.pop();
    let mut endless = device.clone();
    endless[1] |= 0xffff << 32;
    for (message, code) in [
        (vec![], EMSGTOOSHORT),
        (vec![0, 2 | 1000 << 16], EMSGTOOSHORT),
        (vec![u64::MAX; 63], EMSGTOOSHORT),
        (number, EINVAL),
        (nothing, EINVAL),
        (flexpage, EINVAL),
        (cut, EMSGTOOSHORT),
        (endless, EMSGTOOSHORT),
        (vec![0, 2, 0], EINVAL),
        (vec![0, 2 | 3 << 16, 0x0061_ff00], EINVAL),
        (vec![0, 2 | 3 << 16, 0x0000_fffe], EINVAL),
    ] {
        // A capability that nobody asked for comes with each.
        assert_eq!(refused(&rig.call(&ned, svr, with_cap(-15, &message, junk))), code, "{message:x?}");
    }
    rig.settle();
    assert_eq!(rig.model.slots(), slots, "what came with them was given back");
    assert!(rig.create(&["device=soft0:n1"]).is_ok());
}

#[test]
fn a_session_says_what_it_is() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    assert_eq!(rig.code(&task, session, said(-21, &[0])), 2);
    let (label, first) = words(rig.call(&task, session, said(-21, &[1, 0])));
    assert_eq!((label, first[0], first[1]), (0, 0, 19));
    let (label, second) = words(rig.call(&task, session, said(-21, &[1, 1])));
    assert_eq!((label, second[0] as i64, second[1]), (0, -1, 10));
    assert_eq!(second[2..], [u64::from_le_bytes(*b"N2L43Icu"), u64::from(b'E')]);
    assert_eq!(rig.code(&task, session, said(-21, &[1, 2])), ERANGE);
    assert_eq!(rig.code(&task, session, said(-21, &[2, -1i64 as u64])), 1, "uvmm asks for that");
}

#[test]
fn the_interrupt_controller_of_a_session_has_one_line() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    assert_eq!(words(rig.call(&task, session, said(-1, &[2]))), (0, vec![0, 1, 0]));
    let irq = task.irq();
    assert_eq!(rig.code(&task, session, with_cap(-1, &[0, 0], irq)), 0);
    assert_eq!(rig.code(&task, session, with_cap(-1, &[0, 1], irq)), ERANGE);
    assert_eq!(rig.code(&task, session, said(-1, &[0, 0])), EMSGTOOSHORT, "without an interrupt");
    for op in [1, 3, 5, 6, 99] {
        assert_eq!(rig.code(&task, session, said(-1, &[op, 0])), ENOSYS, "{op}");
    }
    assert_eq!(rig.model.unanswered(), 0);
    assert_eq!(rig.call(&task, session, said(-1, &[4, 0])), Answer::None, "unmask");
    let other = rig.call(&task, session, said(0, &[5 | 1 << 32]));
    assert_eq!(refused(&other), ENOSYS, "no other notification interrupt");
}

#[test]
fn what_is_said_to_a_session_and_makes_no_sense_is_refused() {
    let (mut rig, _) = Rig::one();
    let (task, session) = rig.client(&["device=soft0:n1"]);
    let junk = task.other();
    let slots = rig.model.slots();
    for (protocol, words, code) in [
        (0, &[][..], EMSGTOOSHORT),
        (0, &[2], ENOSYS),
        (0, &[6], ENOSYS),
        (0, &[0xffff_ffff], ENOSYS),
        (0, &[3, 0, 0], EMSGTOOSHORT),
        (0, &[1 << 40], EINVAL),
        (-1, &[], EMSGTOOSHORT),
        (-21, &[], EMSGTOOSHORT),
        (-15, &[0, 0], EBADPROTO),
        (1234, &[0, 0], EBADPROTO),
    ] {
        assert_eq!(refused(&rig.call(&task, session, with_cap(protocol, words, junk))), code, "{words:x?}");
    }
    assert_eq!(refused(&rig.call(&task, session, said(0, &[3, BASE, 0, 4096]))), EMSGTOOSHORT);
    rig.settle();
    assert_eq!(rig.model.slots(), slots);
    Driver::setup(&mut rig, task, session, 1 << 20).serves(&mut rig, 1);
}
