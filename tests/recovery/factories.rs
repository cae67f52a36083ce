//! A factory is taken back: what it minted ends, and nobody else notices.

use nvme_core::server::control::{Event, MemoryChange, SessionError};
use nvme_core::server::message::SessionKey;
use nvme_policy::{FactoryRequest, SessionRequest, Trusted};
use nvme_session::dataspace::RegistryError;
use nvme_session::factory::{CreateError, FactoryId};
use nvme_soft::faulty::{Action, Queue, When};

use crate::client::{Client, GUEST, IN, LEN, region};
use crate::rig::{IO, Rig, SECOND};

fn delegate(rig: &mut Rig, at: FactoryId, words: &[&str]) -> Result<FactoryId, CreateError> {
    let asked = FactoryRequest::from_words(words.iter().copied(), &Trusted::NONE).unwrap();
    rig.control.delegate(at, &asked)
}

fn create(rig: &mut Rig, at: FactoryId, words: &[&str]) -> Result<SessionKey, CreateError> {
    let asked = SessionRequest::from_words(words.iter().copied(), &Trusted::NONE).unwrap();
    rig.control.create_at(at, &asked)
}

/// Asks for a read that hangs, if reads hang.
fn ask(rig: &mut Rig, client: &mut Client) {
    client.ask(0, 0, IN, 0, Client::place(0), 4096);
    rig.kick(client, 0);
    rig.step();
}

#[test]
fn sixty_four_sessions_in_flight_under_a_hung_controller_end_within_the_recovery_s_deadlines() {
    let mut rig = Rig::new(2);
    let tenant =
        delegate(&mut rig, FactoryId::SERVER, &["device=d0:n1", "read-only", "factories=1"]).unwrap();
    let below = delegate(&mut rig, tenant, &["device=d0:n1", "read-only"]).unwrap();
    let mut clients: Vec<Client> = (0..64)
        .map(|i| {
            let key =
                create(&mut rig, if i % 2 == 0 { tenant } else { below }, &["device=d0:n1", "read-only"])
                    .unwrap();
            rig.client_of(key)
        })
        .collect();
    let mut bystander = rig.client(&["device=d1:n1"]);
    rig.inject(Queue::AnyIo, 0x02, When::Always, Action::Hang);
    for client in &mut clients {
        ask(&mut rig, client);
    }
    let start = rig.now;
    rig.control.end_factory(tenant);
    assert!(matches!(
        create(&mut rig, tenant, &["device=d0:n1", "read-only"]),
        Err(CreateError::FactoryEnded)
    ));
    assert!(matches!(
        create(&mut rig, below, &["device=d0:n1", "read-only"]),
        Err(CreateError::FactoryEnded)
    ));
    // Others go on meanwhile.
    rig.serves(&mut bystander, 0, 1);
    rig.expect("the factory below", |e| matches!(e, Event::FactoryEnded(id) if *id == below));
    rig.expect("the factory", |e| matches!(e, Event::FactoryEnded(id) if *id == tenant));
    // Each command is late after `IO`, and what is done about it then has deadlines of its own.
    assert!(rig.now - start <= IO + 60 * SECOND, "{:?}", rig.now - start);
    for client in &clients {
        assert!(rig.control.session(client.key).is_none());
        assert_eq!(std::sync::Arc::strong_count(client.memory.owner()), 1, "its memory is free");
    }
    rig.serves(&mut bystander, 0, 2);
    assert_eq!(rig.control.catalogue().factories().count(), 0);
}

#[test]
fn a_factory_without_anything_below_it_goes_at_once() {
    let mut rig = Rig::new(1);
    let f = delegate(&mut rig, FactoryId::SERVER, &["device=d0:n1"]).unwrap();
    rig.control.end_factory(f);
    rig.expect("its end", |e| matches!(e, Event::FactoryEnded(id) if *id == f));
    // Once more is nothing.
    rig.control.end_factory(f);
    rig.step();
    assert!(!rig.said(|e| matches!(e, Event::FactoryEnded(_))));
}

/// What all sessions below a factory register together is bounded, whichever factory minted them.
#[test]
fn memory_is_counted_for_all_below_a_factory() {
    let mut rig = Rig::new(1);
    let most = format!("mem-max={}", 2 * LEN);
    let words = ["device=d0:n1", "read-only", "factories=1", &most];
    let tenant = delegate(&mut rig, FactoryId::SERVER, &words).unwrap();
    let below = delegate(&mut rig, tenant, &["device=d0:n1", "read-only"]).unwrap();
    let session = ["device=d0:n1", "read-only"];
    let (a, b) = (create(&mut rig, tenant, &session).unwrap(), create(&mut rig, below, &session).unwrap());
    let (a, _b) = (rig.client_of(a), rig.client_of(b));
    let third = create(&mut rig, below, &session).unwrap();
    let third = Client::new(third);
    let (claim, file) = region(GUEST, LEN, 9);
    let add = MemoryChange::Add(claim, file);
    let refused = rig.change(&third, &add, |_| Some(third.memory.clone()));
    let over = RegistryError::TooMuchMemory { asked: 3 * LEN, allowed: 2 * LEN };
    assert_eq!(refused, Err(SessionError::Memory(over)));
    // What one gives back, another may have.
    rig.end(&a);
    rig.change(&third, &add, |_| Some(third.memory.clone())).unwrap();
    // A whole table in place of what there was counts once.
    let replace = MemoryChange::Replace(vec![region(GUEST, LEN, 10)]);
    rig.change(&third, &replace, |_| Some(third.memory.clone())).unwrap();
    // Others are not bounded by it.
    let free = rig.create(&session).unwrap();
    rig.client_of(free);
}

/// Commands hang, a controller fails, or is pulled out: a factory that is taken back at each moment of what is done about that ends all the
/// same, its sessions' memory free, and who shares the controller with them goes on where it is there.
#[test]
fn a_factory_that_is_taken_back_at_any_moment_of_a_recovery_ends_and_what_it_minted_is_free() {
    let troubles: [fn(&mut Rig); 5] = [
        // Its queue is deleted.
        |rig| rig.inject(Queue::AnyIo, 0x02, When::First(2), Action::Hang),
        // Deleting does not help: the controller is reset.
        |rig| {
            rig.inject(Queue::AnyIo, 0x02, When::First(2), Action::Hang);
            rig.inject(Queue::Admin, 0x00, When::First(2), Action::Drop);
        },
        |rig| {
            rig.inject(Queue::AnyIo, 0x02, When::First(2), Action::Hang);
            rig.handles[0].raise_fatal();
        },
        |rig| rig.control.device_failed(0),
        |rig| rig.handles[0].vanish(),
    ];
    for (which, trouble) in troubles.into_iter().enumerate() {
        let mut moments = 0;
        for moment in 0..60 {
            let mut rig = Rig::new(2);
            let words = ["device=d0:n1", "device=d1:n1", "read-only", "factories=1"];
            let tenant = delegate(&mut rig, FactoryId::SERVER, &words).unwrap();
            let below = delegate(&mut rig, tenant, &["device=d0:n1", "read-only"]).unwrap();
            let mut clients: Vec<Client> = [tenant, below]
                .into_iter()
                .map(|at| {
                    let key = create(&mut rig, at, &["device=d0:n1", "read-only"]).unwrap();
                    rig.client_of(key)
                })
                .collect();
            let mut beside = rig.client(&["device=d0:n1", "read-only"]);
            let mut elsewhere = rig.client(&["device=d1:n1"]);
            trouble(&mut rig);
            for client in &mut clients {
                ask(&mut rig, client);
            }
            let (mut over, begun) = (true, rig.now);
            for _ in 0..moment {
                let Some(next) = rig.step() else { break };
                if next > begun + 30 * SECOND {
                    break;
                }
                over = false;
                rig.now = next.max(rig.now);
            }
            rig.control.end_factory(tenant);
            let refused = create(&mut rig, below, &["device=d0:n1", "read-only"]);
            assert!(matches!(refused, Err(CreateError::FactoryEnded)), "{which} {moment}: {refused:?}");
            let start = rig.now;
            rig.expect("the factory below", |e| matches!(e, Event::FactoryEnded(id) if *id == below));
            rig.expect("the factory", |e| matches!(e, Event::FactoryEnded(id) if *id == tenant));
            assert!(rig.now - start <= IO + 60 * SECOND, "{which} {moment}: {:?}", rig.now - start);
            for client in &clients {
                assert!(rig.control.session(client.key).is_none());
                assert_eq!(std::sync::Arc::strong_count(client.memory.owner()), 1, "{which} {moment}");
            }
            rig.serves(&mut elsewhere, 0, 1);
            if which < 4 {
                beside.ask(0, 3, IN, 0, Client::place(3), 4096);
                assert_eq!(rig.status(&mut beside, 0, 3), crate::client::OK, "{which} {moment}");
            }
            assert_eq!(rig.control.catalogue().factories().count(), 0);
            if over && moment > 0 {
                break;
            }
            moments += 1;
        }
        // What is pulled out is gone at once.
        assert!(moments > usize::from(which < 4), "{which}: nothing was under way");
    }
}

/// A namespace comes, goes or changes its size: at each moment of the scan of it.
#[test]
fn a_factory_that_is_taken_back_during_a_scan_ends_and_mints_no_more() {
    let changes: [fn(&mut Rig); 3] = [
        |rig| rig.handles[0].add(5, nvme_soft::NamespaceConfig::new(crate::rig::medium())).unwrap(),
        |rig| assert!(rig.handles[0].remove(1)),
        |rig| assert!(rig.handles[0].resize(1, 4 << 20)),
    ];
    for (which, change) in changes.into_iter().enumerate() {
        for moment in 0..24 {
            let mut rig = Rig::new(1);
            // A scan takes its time.
            rig.inject(Queue::Admin, 0x06, When::Always, Action::Delay(crate::rig::MS));
            let tenant =
                delegate(&mut rig, FactoryId::SERVER, &["device=d0:n1", "read-only", "factories=1"]).unwrap();
            let below = delegate(&mut rig, tenant, &["device=d0:n1", "read-only"]).unwrap();
            let key = create(&mut rig, below, &["device=d0:n1", "read-only"]).unwrap();
            let client = rig.client_of(key);
            change(&mut rig);
            for _ in 0..moment {
                let Some(next) = rig.step() else { break };
                rig.now = next.max(rig.now);
            }
            rig.control.end_factory(tenant);
            for at in [tenant, below] {
                let refused = create(&mut rig, at, &["device=d0:n1", "read-only"]);
                assert!(matches!(refused, Err(CreateError::FactoryEnded)), "{which} {moment}: {refused:?}");
                let refused = delegate(&mut rig, at, &["device=d0:n1", "read-only"]);
                assert!(matches!(refused, Err(CreateError::FactoryEnded)), "{which} {moment}: {refused:?}");
            }
            rig.expect("the factory below", |e| matches!(e, Event::FactoryEnded(id) if *id == below));
            rig.expect("the factory", |e| matches!(e, Event::FactoryEnded(id) if *id == tenant));
            assert!(rig.control.session(key).is_none());
            assert_eq!(std::sync::Arc::strong_count(client.memory.owner()), 1, "{which} {moment}");
        }
    }
}

/// What is gone is not had; what else its factory holds is; and all of it is taken back as ever.
#[test]
fn the_factory_of_a_controller_that_is_pulled_out_has_the_rest_and_is_taken_back() {
    let mut rig = Rig::new(2);
    let tenant =
        delegate(&mut rig, FactoryId::SERVER, &["device=d0:n1", "device=d1:n1", "factories=2"]).unwrap();
    let below = delegate(&mut rig, tenant, &["device=d0:n1"]).unwrap();
    let key = create(&mut rig, below, &["device=d0:n1"]).unwrap();
    let mut client = rig.client_of(key);
    rig.serves(&mut client, 0, 1);
    rig.handles[0].vanish();
    rig.until("the loss", |rig| rig.lost(&client));
    for at in [tenant, below] {
        let refused = create(&mut rig, at, &["device=d0:n1", "read-only"]);
        assert!(matches!(refused, Err(CreateError::NoDevice(_))), "{refused:?}");
        assert!(delegate(&mut rig, tenant, &["device=d0:n1", "read-only"]).is_err());
    }
    let other = create(&mut rig, tenant, &["device=d1:n1"]).unwrap();
    let mut other = rig.client_of(other);
    rig.serves(&mut other, 0, 2);
    rig.control.end_factory(tenant);
    rig.expect("the factory below", |e| matches!(e, Event::FactoryEnded(id) if *id == below));
    rig.expect("the factory", |e| matches!(e, Event::FactoryEnded(id) if *id == tenant));
    for memory in [&client.memory, &other.memory] {
        assert_eq!(std::sync::Arc::strong_count(memory.owner()), 1);
    }
    let mut again = rig.client(&["device=d1:n1"]);
    rig.serves(&mut again, 0, 3);
}

#[test]
fn sessions_of_a_factory_have_together_what_it_allows_to_all() {
    let mut rig = Rig::new(1);
    let words = ["device=d0:n1", "read-only", "iops-all=100"];
    let tenant = delegate(&mut rig, FactoryId::SERVER, &words).unwrap();
    let mut clients = [(); 2].map(|()| {
        let key = create(&mut rig, tenant, &["device=d0:n1", "read-only"]).unwrap();
        rig.client_of(key)
    });
    rig.pass_time(SECOND);
    for client in &mut clients {
        for slot in 0..8 {
            client.ask(0, slot, IN, 0, Client::place(slot), 4096);
        }
        rig.kick(client, 0);
    }
    rig.step();
    let mut answered = || clients.iter_mut().map(|client| client.used(0).len()).sum::<usize>();
    let at_once = answered();
    assert!((10..=12).contains(&at_once), "a burst of 10, and one of each on credit: {at_once}");
    rig.pass_time(SECOND / 5);
    assert_eq!(at_once + answered(), 16);
}
