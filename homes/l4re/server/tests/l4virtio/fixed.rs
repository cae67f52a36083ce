//! Static clients, and what the server is started with.

use std::sync::Arc;

use nvme_l4re::model::{Answer, Kind, Model};
use nvme_l4re_server::StartError;
use nvme_soft::{MemoryMedium, NamespaceConfig};

use crate::driver::*;
use crate::rig::*;

/// A server with a static client `cl1`, and the client's end of its channel.
fn with_client(options: &str) -> (Rig, nvme_l4re::model::TaskCap) {
    let mut channel = None;
    let rig = Rig::start(options, vec![soft("soft0", &disk())], |_, ned| channel = Some(ned.channel("cl1")));
    (rig.unwrap(), channel.unwrap())
}

#[test]
fn a_server_that_nobody_could_use_says_so() {
    let model = Model::new();
    let ned = model.task();
    let svr = ned.irq();
    let failed = Rig::with(model, ned, svr, "", vec![]).err().unwrap();
    assert_eq!(failed, StartError::Nobody);
    assert!(failed.to_string().contains("svr") && failed.to_string().contains("--client"));
}

#[test]
fn a_capability_that_is_missing_is_named() {
    for (options, name) in [
        ("--client cl9 --device soft0:n1", "--client cl9"),
        ("-d ds7", "--register-ds ds7"),
        ("--factory t9 --device soft0:n1", "--factory t9"),
    ] {
        let failed = Rig::start(options, vec![], |_, _| {}).err().unwrap();
        assert!(failed.to_string().contains(name), "{failed}");
    }
}

#[test]
fn without_any_controller_every_device_is_absent() {
    let options = "--client cl1 --device soft0:n1";
    let mut rig = Rig::start(options, vec![], |_, ned| {
        ned.channel("cl1");
    })
    .unwrap();
    let before = rig.model.time();
    assert_eq!(rig.create(&["device=soft0:n1"]), Err(ENODEV));
    assert!(rig.model.time() - before < MS);
    assert!(rig.log.text().contains("client cl1: no such device"), "{}", rig.log.text());
}

#[test]
fn without_a_factory_static_clients_are_served() {
    let model = Model::new();
    let ned = model.task();
    let channel = ned.channel("cl1");
    let devices = vec![soft("soft0", &disk())];
    let mut rig = Rig::with(model, ned, channel, "--client cl1 --device soft0:n1", devices).unwrap();
    let task = rig.model.task();
    let session = rig.ned.give(channel, &task);
    Driver::setup(&mut rig, task, session, 1 << 20).serves(&mut rig, 1);
}

#[test]
fn a_static_clients_options_are_its_own() {
    let (mut rig, channel) = with_client("--client cl1 --device soft0:n1 --ds-max 3 --readonly");
    let task = rig.model.task();
    let session = rig.ned.give(channel, &task);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    assert_eq!(driver.request(&mut rig, IN, 0, 0, 4096), OK);
    assert_eq!(driver.request(&mut rig, OUT, 0, 0, 4096), IOERR);
    for (at, code) in [(1, 0), (2, 0), (3, ENOMEM)] {
        let ds = driver.task.dataspace(Kind::Memory, 4096);
        assert_eq!(rig.code(&driver.task, driver.session, register(ds, at << 30, 0, 4096)), code);
    }
}

#[test]
fn a_static_clients_device_is_its_own_before_anybody_else_is_served() {
    let (mut rig, _) = with_client("--client cl1 --device soft0:n1");
    // This call waits for the scan, as the client's would.
    assert_eq!(rig.create(&["device=soft0:n1"]), Err(EBUSY));
    assert_eq!(rig.create(&["device=soft0:n1", "read-only"]), Err(EBUSY));
}

#[test]
fn one_client_after_the_other_is_served_on_the_same_channel() {
    let (mut rig, channel) = with_client("--client cl1 --device soft0:n1 --ds-max 1");
    let slots = rig.model.slots();
    for seed in 0..6 {
        let task = rig.model.task();
        let session = rig.ned.give(channel, &task);
        let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
        driver.serves(&mut rig, seed);
        // It dies with something under way.
        driver.ask(IN, 0, 0, 4096).unwrap();
        driver.notify();
        driver.task.die();
    }
    rig.settle();
    assert!(rig.model.slots() <= slots + 5 && rig.model.attachments() == 2);
}

#[test]
fn an_absent_device_is_warned_about_and_its_client_waits_until_it_appears() {
    let mut device = soft("soft0", &disk());
    device.namespaces_max = 4;
    let mut channel = None;
    let options = "--client cl1 --device soft0:n3 --ds-max 2";
    let mut rig = Rig::start(options, vec![device], |_, ned| channel = Some(ned.channel("cl1"))).unwrap();
    let task = rig.model.task();
    let session = rig.ned.give(channel.unwrap(), &task);
    let early = task.call(session, said(-21, &[0]));
    rig.pass_time(SECOND);
    let text = rig.log.text();
    assert!(
        text.contains("client cl1") && text.contains("soft0:n3") && text.contains("served when"),
        "{text}"
    );
    assert_eq!(task.answer(early), None, "as a call to a gate that nobody serves");
    assert!(rig.create(&["device=soft0:n1"]).is_ok(), "others are served");
    let medium = Arc::new(MemoryMedium::over(disk()));
    rig.handles[0].add(3, NamespaceConfig::new(medium)).unwrap();
    assert_eq!(label(&rig.answer(&task, early)), 2);
    Driver::setup(&mut rig, task, session, 1 << 20).serves(&mut rig, 1);
}

#[test]
fn a_device_that_went_and_came_back_has_its_clients_memory_registered_again() {
    let mut device = soft("soft0", &disk());
    device.namespaces_max = 4;
    device.namespaces.push(NamespaceConfig::new(Arc::new(MemoryMedium::over(disk()))));
    let mut channel = None;
    let options = "--client cl1 --device soft0:n2";
    let mut rig = Rig::start(options, vec![device], |_, ned| channel = Some(ned.channel("cl1"))).unwrap();
    let task = rig.model.task();
    let session = rig.ned.give(channel.unwrap(), &task);
    let mut driver = Driver::setup(&mut rig, task, session, 1 << 20);
    driver.serves(&mut rig, 1);
    assert!(rig.handles[0].remove(2));
    rig.until("the loss", |_| driver.capacity() == 0);
    assert_eq!(driver.request(&mut rig, IN, 0, 0, 4096), IOERR);
    // The guest reboots, and finds nothing.
    for status in [0, 1, 3] {
        assert_eq!(driver.set_status(&mut rig, status), 0);
    }
    rig.pass_time(SECOND);
    assert_eq!(driver.config_queue(&mut rig), ENODEV);
    let irqs = driver.task.raised(driver.irq);
    rig.handles[0].add(2, NamespaceConfig::new(Arc::new(MemoryMedium::over(disk())))).unwrap();
    rig.until("its return", |_| driver.capacity() > 0);
    assert_eq!(driver.status() & 0x40, 0x40, "what was begun has to begin again");
    assert_eq!(driver.task.raised(driver.irq), irqs, "and nobody is told before DRIVER_OK");
    rig.settle();
    driver.reset(&mut rig);
    driver.serves(&mut rig, 2);
}

#[test]
fn two_static_clients_in_each_others_way_are_found_out_when_the_scan_is_over() {
    let mut channels = Vec::new();
    let options = "--client cl1 --device soft0:n1 --client cl2 --device soft0:n1";
    let mut rig = Rig::start(options, vec![soft("soft0", &disk())], |_, ned| {
        channels = vec![ned.channel("cl1"), ned.channel("cl2")];
    })
    .unwrap();
    rig.pass_time(SECOND);
    assert!(rig.log.text().contains("client cl2"), "{}", rig.log.text());
    let task = rig.model.task();
    let [first, second] = [channels[0], channels[1]].map(|channel| rig.ned.give(channel, &task));
    let waits = task.call(second, said(-21, &[0]));
    Driver::setup(&mut rig, task, first, 1 << 20).serves(&mut rig, 1);
    let other = rig.model.task();
    assert_eq!(other.answer(waits), None::<Answer>);
}
