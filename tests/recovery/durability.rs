//! What an answer promises when the power goes away.

use std::sync::Arc;

use nvme_core::server::control::{Adopted, Event, InForce};
use nvme_session::blk::features;
use nvme_soft::{MemoryMedium, NamespaceConfig, WriteCache};

use crate::client::{ALL, Client, DISCARD, FLUSH, IN, OK, ZEROES, pattern};
use crate::rig::{Rig, config, soft};

/// `writeback` in the configuration space (virtio 1.2, 5.2.4).
const WRITE_BACK: u32 = 32;

type Cache = Arc<WriteCache<MemoryMedium>>;

/// A server of a disk whose cache really loses data.
fn server(cache: &Cache) -> Rig {
    let mut device = soft("d0");
    device.namespaces = vec![NamespaceConfig::new(Arc::new(Arc::clone(cache)))];
    Rig::with(config(), vec![device])
}

/// A client of it that acknowledged these features.
fn caching(features: u64) -> (Rig, Client, Cache) {
    let cache: Cache = Arc::new(WriteCache::new(MemoryMedium::new(8 << 20).unwrap()).unwrap());
    let mut rig = server(&cache);
    let mut client = rig.registered(&["device=d0:n1"]);
    rig.control.set_features(client.key, features).unwrap();
    rig.start(&mut client).unwrap();
    (rig, client, cache)
}

fn write(rig: &mut Rig, client: &mut Client, seed: u64) {
    rig.ask_writes(client, 0, 0..4, seed);
    rig.answered(client, 0, (0..4).collect());
    assert!((0..4).all(|slot| client.status(0, slot) == OK));
}

fn flush(rig: &mut Rig, client: &mut Client) {
    client.ask(0, 9, FLUSH, 0, 0, 0);
    assert_eq!(rig.status(client, 0, 9), OK);
}

/// The first of them, as it is read now.
fn first(rig: &mut Rig, client: &mut Client) -> Vec<u8> {
    client.fill(Client::place(9), &[0x77; 4096]);
    client.ask(0, 9, IN, 0, Client::place(9), 4096);
    assert_eq!(rig.status(client, 0, 9), OK);
    client.bytes(Client::place(9), 4096)
}

#[test]
fn in_write_back_mode_a_flush_makes_durable_and_only_a_flush() {
    let (mut rig, mut a, cache) = caching(ALL);
    let mut mode = [0xff];
    rig.control.session(a.key).unwrap().read_config(WRITE_BACK, &mut mode);
    assert_eq!(mode, [1], "the controller has a volatile write cache");
    write(&mut rig, &mut a, 1);
    flush(&mut rig, &mut a);
    write(&mut rig, &mut a, 50);
    assert!(first(&mut rig, &mut a) == pattern(50, 4096));
    cache.lose_power();
    assert!(first(&mut rig, &mut a) == pattern(1, 4096));
}

#[test]
fn a_driver_that_cannot_flush_loses_nothing_that_was_answered() {
    let (mut rig, mut a, cache) = caching(ALL & !(features::FLUSH | features::CONFIG_WCE));
    write(&mut rig, &mut a, 1);
    cache.lose_power();
    assert!(first(&mut rig, &mut a) == pattern(1, 4096));
    assert_eq!((cache.dirty(), rig.handles[0].statistics().flushes), (0, 0), "by FUA");
}

#[test]
fn in_write_through_mode_nothing_that_was_answered_is_lost() {
    let (mut rig, mut a, cache) = caching(ALL);
    rig.control.write_config(a.key, WRITE_BACK, &[0]).unwrap();
    rig.step();
    write(&mut rig, &mut a, 1);
    cache.lose_power();
    assert!(first(&mut rig, &mut a) == pattern(1, 4096));
    // And back.
    rig.control.write_config(a.key, WRITE_BACK, &[1]).unwrap();
    rig.step();
    write(&mut rig, &mut a, 50);
    cache.lose_power();
    assert!(first(&mut rig, &mut a) == pattern(1, 4096));
}

#[test]
fn a_cache_mode_is_in_force_when_its_worker_says_so_and_not_before() {
    let (mut rig, mut a, cache) = caching(ALL);
    let key = a.key;
    let in_force = |e: &Event| matches!(e, Event::WriteBackSet(set) if *set == key);
    // So that its worker has the queue.
    write(&mut rig, &mut a, 50);
    assert_eq!(rig.control.write_config(key, WRITE_BACK, &[0]), Ok(InForce::Later));
    // Its worker has not had its turn.
    rig.control.poll(rig.now);
    while let Some(event) = rig.control.take_event() {
        assert!(!in_force(&event));
    }
    rig.expect("the worker's word", in_force);
    write(&mut rig, &mut a, 1);
    cache.lose_power();
    assert!(first(&mut rig, &mut a) == pattern(1, 4096));
    // One whose queues no worker has waits for none.
    rig.control.stop_queue(key, 0).unwrap();
    rig.expect("its end", |e| matches!(e, Event::QueueStopped(..)));
    assert_eq!(rig.control.write_config(key, WRITE_BACK, &[1]), Ok(InForce::Now));
}

#[test]
fn the_cache_mode_that_a_driver_chose_is_in_force_in_the_next_server() {
    for back in [0, 1] {
        let (mut rig, a, cache) = caching(ALL);
        let key = a.key;
        // The other one first: neither is what there is anyway.
        for mode in [1 - back, back] {
            rig.control.write_config(key, WRITE_BACK, &[mode]).unwrap();
            rig.step();
        }
        let mut next = server(&cache);
        let (session, catalogue) = (rig.control.session(key).unwrap(), rig.control.catalogue());
        let minted = session.minted();
        let adopted = Adopted {
            number: minted.session().number(),
            policy: minted.policy(),
            factory: minted.factory(),
            at: &catalogue.placed(minted.session()).unwrap(),
            is_static: false,
            rate: session.rate(),
        };
        let key = next.control.adopt(&adopted).unwrap();
        next.control.adopt_features(key, ALL, session.write_back()).unwrap();
        rig.end(&a);
        let mut mode = [0xff];
        next.control.session(key).unwrap().read_config(WRITE_BACK, &mut mode);
        assert_eq!(mode, [back]);
        let mut a = next.with_memory(key);
        next.start(&mut a).unwrap();
        write(&mut next, &mut a, 1);
        cache.lose_power();
        assert_eq!(first(&mut next, &mut a) == pattern(1, 4096), back == 0);
    }
}

#[test]
fn a_discard_is_followed_by_a_flush_where_it_has_to_be() {
    for through in [true, false] {
        let (mut rig, mut a, cache) = caching(ALL);
        write(&mut rig, &mut a, 1);
        flush(&mut rig, &mut a);
        if through {
            rig.control.write_config(a.key, WRITE_BACK, &[0]).unwrap();
            rig.step();
        }
        let flushes = rig.handles[0].statistics().flushes;
        a.ask_range(0, 5, DISCARD, 0, 8);
        assert_eq!(rig.status(&mut a, 0, 5), OK);
        assert_eq!(rig.handles[0].statistics().flushes - flushes, u64::from(through));
        cache.lose_power();
        let left = first(&mut rig, &mut a);
        assert_eq!(left == vec![0; 4096], through);
        assert_eq!(left == pattern(1, 4096), !through);
    }
}

#[test]
fn write_zeroes_reads_back_as_zero_and_is_durable_where_it_has_to_be() {
    for through in [true, false] {
        let (mut rig, mut a, cache) = caching(ALL);
        write(&mut rig, &mut a, 1);
        flush(&mut rig, &mut a);
        if through {
            rig.control.write_config(a.key, WRITE_BACK, &[0]).unwrap();
            rig.step();
        }
        a.ask_range(0, 5, ZEROES, 0, 8);
        assert_eq!(rig.status(&mut a, 0, 5), OK);
        assert!(first(&mut rig, &mut a) == vec![0; 4096]);
        cache.lose_power();
        assert_eq!(first(&mut rig, &mut a) == vec![0; 4096], through);
    }
}

#[test]
fn what_was_answered_before_a_reset_is_there_after_it() {
    let (mut rig, mut a, cache) = caching(ALL);
    write(&mut rig, &mut a, 1);
    flush(&mut rig, &mut a);
    rig.handles[0].raise_fatal();
    rig.step();
    rig.control.write_config(a.key, WRITE_BACK, &[0]).unwrap();
    write(&mut rig, &mut a, 50);
    cache.lose_power();
    assert!(first(&mut rig, &mut a) == pattern(50, 4096));
}

#[test]
fn a_shutdown_makes_everything_durable() {
    let (mut rig, mut a, cache) = caching(ALL);
    write(&mut rig, &mut a, 1);
    assert!(cache.dirty() > 0);
    rig.control.shut_down(rig.now);
    rig.expect("the shutdown", |e| matches!(e, nvme_core::server::control::Event::ShutDown));
    assert_eq!(cache.dirty(), 0);
}
