use std::time::Duration;

use nvme_core::nvme::Options;
use nvme_core::nvme::spec::command::admin;
use nvme_core::server::control::{Event, MemoryChange};
use nvme_session::factory::CreateError;

use crate::client::{Client, DISCARD, FLUSH, GUEST, IN, IOERR, LEN, OK, ZEROES};
use crate::machine::{Disk, Shape};
use crate::need::needs_qemu;
use crate::rig::pattern;
use crate::rival::Rival;
use crate::server::Server;

const GRACE: Duration = Duration::from_millis(50);

fn slow() -> Shape {
    Shape { disks: vec![Disk { slow: true, ..Disk::new(512) }, Disk::new(4096)], ..Shape::default() }
}

#[test]
fn clients_read_write_flush_discard_and_zero_through_sessions_on_somebody_elses_controller() {
    needs_qemu!();
    let mut server = Server::new(&Shape::default(), Options::default(), GRACE);
    let mut one = server.client(&["device=qtest 0:n1"]);
    let mut two = server.client(&["device=qtest 0:n2"]);
    assert!(matches!(server.create(&["device=qtest 0:n1"]), Err(CreateError::InUse { .. })));
    let at = Client::place(0);
    for (client, nsid) in [(&mut one, 1), (&mut two, 2)] {
        for round in 0..5_u64 {
            server.ask_writes(client, 32, round * 64);
            server.answered(client, 32);
            assert!((0..32).all(|slot| client.status(0, slot) == OK));
        }
        client.ask(0, 0, FLUSH, 0, 0, 0);
        assert_eq!(server.status(client, 0), OK);
        client.ask_range(0, 0, DISCARD, 8, 8);
        assert_eq!(server.status(client, 0), OK);
        client.ask_range(0, 0, ZEROES, 24, 16);
        assert_eq!(server.status(client, 0), OK);
        let mut want: Vec<u8> = (0..32).flat_map(|slot| pattern(256 + slot, 4096)).collect();
        want[4096..8192].fill(0);
        want[12288..20480].fill(0);
        assert!(server.machine.on_disk(nsid, 0, want.len()) == want);
        client.fill(at, &[0x77; 32 * 4096]);
        client.ask(0, 1, IN, 0, at, 32 * 4096);
        assert_eq!(server.status(client, 1), OK);
        assert!(client.bytes(at, want.len()) == want);
        client.ask(0, 2, IN, (8 << 20) / 512, at, 4096);
        assert_eq!(server.status(client, 2), IOERR, "over the end");
    }
    server.clean();
}

#[test]
fn memory_is_out_of_the_controllers_reach_when_it_was_taken_back_and_not_before_the_last_dma() {
    needs_qemu!();
    let mut server = Server::new(&slow(), Options::default(), GRACE);
    let mut client = server.client(&["device=qtest 0:n1"]);
    let reach = server.watch.domain.reservations();
    server.machine.throttle(8);
    server.ask_writes(&mut client, 6, 1);
    // All of it goes, with writes from it in flight.
    let remove = MemoryChange::Remove(GUEST, GUEST, LEN);
    let plan = server.control.plan_memory(client.key, &remove).unwrap();
    server.control.change_memory(&plan, Vec::new()).unwrap();
    server.step();
    assert_eq!(server.watch.domain.reservations(), reach, "still in use");
    server.done(&client).unwrap();
    assert_eq!(server.watch.domain.reservations(), reach - 1);
    for slot in 0..6 {
        assert!(server.machine.on_disk(1, slot * 4096, 4096) == pattern(1 + slot, 4096));
    }
    server.clean();
}

#[test]
fn a_late_command_costs_its_queue_which_is_made_again_and_no_other_session_notices() {
    needs_qemu!();
    let options = Options { io_timeout: Duration::from_millis(300), ..Options::default() };
    let mut server = Server::new(&slow(), options, GRACE);
    let mut late = server.client(&["device=qtest 0:n1"]);
    let mut other = server.client(&["device=qtest 0:n2"]);
    server.machine.throttle(5);
    server.ask_writes(&mut late, 6, 1);
    server.until("the deletion", |server| server.watch.count(true, admin::DELETE_SQ) > 0);
    server.machine.throttle(0);
    server.answered(&mut late, 6);
    assert!((0..6).any(|slot| late.status(0, slot) == IOERR));
    assert!(server.watch.count(true, admin::ABORT) > 0);
    for client in [&mut late, &mut other] {
        server.ask_writes(client, 16, 100);
        server.answered(client, 16);
        assert!((0..16).all(|slot| client.status(0, slot) == OK));
    }
    assert!(!server.events.iter().any(|e| matches!(e, Event::Lost(_))));
    server.clean();
}

#[test]
fn a_namespace_that_goes_is_lost_to_its_session_alone_and_can_be_had_again_when_it_is_back() {
    needs_qemu!();
    let shape = Shape { controllers: vec!["", ""], ..Shape::default() };
    let mut server = Server::new(&shape, Options::default(), GRACE);
    let mut stays = server.client(&["device=qtest 0:n1"]);
    let goes = server.client(&["device=qtest 0:n2"]);
    let mut rival = Rival::new(server.machine.device(1));
    rival.attach(2, false);
    server.expect("the loss", |e| matches!(e, Event::Lost(key) if *key == goes.key));
    server.expect("the news", |e| matches!(e, Event::ConfigChanged(key) if *key == goes.key));
    // The other's table is read again first.
    server.until("an answer", |server| match server.create(&["device=qtest 0:n2"]) {
        Err(CreateError::Scanning) => false,
        other => matches!(other, Err(CreateError::NoDevice(_))) || panic!("{other:?}"),
    });
    server.ask_writes(&mut stays, 8, 1);
    server.answered(&mut stays, 8);
    assert!((0..8).all(|slot| stays.status(0, slot) == OK));
    server.control.end(goes.key);
    server.expect("the end", |e| matches!(e, Event::Ended(key) if *key == goes.key));
    rival.attach(2, true);
    server.until("the namespace", |server| {
        let mut all = server.control.catalogue().devices();
        all.any(|(entry, _)| entry.namespace().nsid == 2)
    });
    let mut again = server.client(&["device=qtest 0:n2"]);
    server.ask_writes(&mut again, 8, 2);
    server.answered(&mut again, 8);
    assert!((0..8).all(|slot| again.status(0, slot) == OK));
    server.clean();
}

#[test]
fn a_table_that_changed_without_a_word_is_read_when_the_operator_has_the_controller_looked_at() {
    needs_qemu!();
    let mut server = Server::new(&Shape::default(), Options::default(), GRACE);
    let mut other = server.client(&["device=qtest 0:n2"]);
    let word = &["device=qtest 0:n1:1"];
    assert!(matches!(server.create(word), Err(CreateError::NoDevice(_))));
    // One partition of Linux' kind, 2048 blocks from the 2048th.
    let mut mbr = vec![0; 512];
    mbr[446 + 4] = 0x83;
    mbr[446 + 8..][..8].copy_from_slice(&[0, 8, 0, 0, 0, 8, 0, 0]);
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    server.machine.change_disk(1, 0, &mbr);
    server.ask_writes(&mut other, 8, 1);
    server.control.look_again(0);
    assert!(server.control.is_looking(0));
    server.until("the end of the look", |server| !server.control.is_looking(0));
    server.create(word).unwrap();
    server.answered(&mut other, 8);
    assert!((0..8).all(|slot| other.status(0, slot) == OK));
    server.clean();
}

#[test]
fn a_controller_that_is_unplugged_in_mid_io_costs_its_sessions_and_the_server_ends_in_order() {
    needs_qemu!();
    let mut server = Server::new(&slow(), Options::default(), GRACE);
    let mut client = server.client(&["device=qtest 0:n1"]);
    server.machine.throttle(8);
    server.ask_writes(&mut client, 8, 1);
    server.watch.port.power_off();
    server.expect("the loss", |e| matches!(e, Event::Lost(key) if *key == client.key));
    server.answered(&mut client, 8);
    assert!((0..8).any(|slot| client.status(0, slot) == IOERR));
    server.clean();
}

#[test]
fn a_namespace_that_two_controllers_share_is_one_disk_and_is_had_by_one_way_at_a_time() {
    needs_qemu!();
    let private = Disk { more: ",shared=off", ..Disk::new(4096) };
    let shape = Shape { disks: vec![Disk::new(512), private], controllers: vec!["", ""], ..Shape::default() };
    let mut server = Server::over(2, &shape, Options::default(), GRACE);
    let ways = |server: &Server| -> Vec<(u16, u32)> {
        let all = server.control.catalogue().devices();
        all.map(|(entry, _)| (entry.namespace().controller, entry.namespace().nsid)).collect()
    };
    assert_eq!(ways(&server), [(0, 1), (0, 2)]);
    assert_eq!(
        server.control.controllers().map(|(_, c, _)| c.namespaces().len()).collect::<Vec<_>>(),
        [2, 1],
        "both have the first"
    );
    // One name for both ways, and no second writer.
    let mut writer = server.client(&["device=qtest 0:n1"]);
    assert!(matches!(server.create(&["device=qtest 0:n1"]), Err(CreateError::InUse { .. })));
    server.ask_writes(&mut writer, 8, 1);
    server.answered(&mut writer, 8);
    assert!((0..8).all(|slot| writer.status(0, slot) == OK));
    // The other way, when the first is gone.
    server.watch.port.power_off();
    server.expect("the loss", |e| matches!(e, Event::Lost(key) if *key == writer.key));
    server.until("the other way", |server| ways(server) == [(1, 1)]);
    let mut reader = server.client(&["device=qtest 0:n1", "read-only"]);
    reader.ask(0, 0, IN, 0, Client::place(0), 8 * 4096);
    assert_eq!(server.status(&mut reader, 0), OK);
    let want: Vec<u8> = (1..9).flat_map(|seed| pattern(seed, 4096)).collect();
    assert!(reader.bytes(Client::place(0), want.len()) == want);
    server.clean();
}

/// Two drives with one serial number, and so with one name of their subsystem, as QEMU makes it of that.
#[test]
fn two_drives_of_one_serial_number_are_two_disks_and_are_named_by_their_places() {
    needs_qemu!();
    let shape = Shape {
        disks: vec![Disk::new(512), Disk::new(512)],
        controllers: vec!["", ""],
        apart: true,
        ..Shape::default()
    };
    let mut server = Server::over(2, &shape, Options::default(), GRACE);
    let named =
        server.control.controllers().map(|(_, c, _)| (c.info().serial.clone(), c.info().subsystem.clone()));
    let named: Vec<_> = named.collect();
    assert_eq!(named[0], named[1]);
    let why = server.create(&["device=qtest 0:n1"]).unwrap_err();
    let places = "pci:0000:01:00.0:n1, pci:0000:02:00.0:n1";
    assert_eq!(why.to_string(), format!("qtest 0:n1 names 2 devices; say which: {places}"));
    let mut first = server.client(&["device=pci:0000:01:00.0:n1"]);
    let mut second = server.client(&["device=pci:0000:02:00.0:n1"]);
    for (client, seed) in [(&mut first, 1), (&mut second, 50)] {
        server.ask_writes(client, 8, seed);
        server.answered(client, 8);
        assert!((0..8).all(|slot| client.status(0, slot) == OK));
    }
    for (disk, seed) in [(1, 1), (2, 50)] {
        let want: Vec<u8> = (seed..seed + 8).flat_map(|seed| pattern(seed, 4096)).collect();
        assert!(server.machine.on_disk(disk, 0, want.len()) == want, "disk {disk}");
    }
    // One does not stand in for the other.
    server.watch.port.power_off();
    server.expect("the loss", |e| matches!(e, Event::Lost(key) if *key == first.key));
    assert!(matches!(server.create(&["device=pci:0000:01:00.0:n1"]), Err(CreateError::NoDevice(_))));
    server.clean();
}
