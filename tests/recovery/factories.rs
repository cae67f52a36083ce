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
