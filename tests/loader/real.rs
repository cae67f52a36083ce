//! The same loader, with the real server.

use std::path::PathBuf;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use nvme_client::{Client, Factory, Options};
use rustix::process::{Pid, Signal, kill_process};

use crate::ned::{PATIENCE, Place, Running};

/// The partition that the manual's examples name.
const PARTITION: &str = "88E59675-4DC8-469A-98E4-B7B021DC7FBE";

/// The server: the file that `NVME_DRV` names, or the one of this build.
fn server() -> PathBuf {
    let path = std::env::var_os("NVME_DRV").unwrap_or_else(|| env!("CARGO_BIN_EXE_nvme-drv").into());
    PathBuf::from(path).canonicalize().unwrap()
}

macro_rules! trials {
    ($($name:ident)*) => {
        pub(crate) fn trials() -> Vec<Trial> {
            let server = server();
            vec![$({
                let server = server.clone();
                Trial::test(concat!("real::", stringify!($name)), move || -> Result<(), Failed> {
                    $name(&Place::new(&server));
                    Ok(())
                })
            }),*]
        }
    };
}

trials! {
    expressions_are_answered_as_by_ned_or_as_the_page_says
    the_manual_starts_the_server
    the_manual_asks_for_a_partition
    the_manual_asks_for_a_namespace
    the_manual_has_a_static_client
    a_script_starts_the_server_and_mints_a_session
    a_second_client_of_a_static_client_s_disk_is_refused
    a_trusted_dataspace_is_taken_by_the_server
    refusals_of_the_server_come_with_their_codes
    two_tenants_have_factories_and_one_is_taken_back
    a_factory_is_handed_on_without_its_lifetime_and_mints_less
    a_server_with_a_wrong_option_fails_the_loader
    sessions_outlive_a_server_that_is_killed_and_one_that_took_over_from_it
}

/// What L4Re's ned answered, and what the loader has to: lua/tests/beside. Where they differ, doc/lua.md has both.
fn expressions_are_answered_as_by_ned_or_as_the_page_says(place: &Place) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside = root.join("lua/tests/beside");
    let page = std::fs::read_to_string(root.join("doc/lua.md")).unwrap();
    let answers = std::fs::read_to_string(beside.join("answers.tsv")).unwrap();
    let [here, expressions] = ["here.lua", "expressions.lua"].map(|name| beside.join(name));
    let words = ["-e", "vbus_nvme = 'soft:mem:64M,serial=1234'", here.to_str().unwrap(), "--"];
    let ended = place.start(&[&words[..], &[expressions.to_str().unwrap()]].concat()).end();
    let mut lines = ended.out.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    let mut count = 0;
    for row in answers.lines() {
        let cells: Vec<&str> = row.split('\t').collect();
        let [number, text, ned, ours] = cells[..] else { panic!("{row}") };
        assert_eq!(lines.next(), Some(format!("{number}\t{text}\t{ours}").as_str()), "{}", ended.err);
        assert!(!ned.is_empty() && !ours.contains("another text"), "{row}");
        if ned != ours {
            let told = format!("| `{text}` | {ned} | {ours} |");
            assert!(page.contains(&told), "doc/lua.md lacks: {told}");
        }
        count += 1;
    }
    assert!(count >= 60 && lines.next().is_none(), "{count} expressions");
}

/// An image with the manual's partition.
fn image(place: &Place) -> String {
    let path = place.path("disk.img");
    let mut file = std::fs::File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    file.set_len(16 << 20).unwrap();
    let blocks = u32::try_from((16 << 20) / 512 - 1).unwrap();
    gpt::mbr::ProtectiveMBR::with_lb_size(blocks).overwrite_lba0(&mut file).unwrap();
    let mut disk = gpt::GptConfig::new().writable(true).create_from_device(file, None).unwrap();
    let partition = gpt::partition::Partition {
        part_type_guid: gpt::partition_types::LINUX_FS,
        part_guid: uuid::Uuid::parse_str(PARTITION).unwrap(),
        first_lba: 2048,
        last_lba: 8191,
        flags: 0,
        name: "manual".to_owned(),
    };
    disk.update_partitions([(1, partition)].into()).unwrap();
    disk.write().unwrap();
    path.to_str().unwrap().to_owned()
}

/// Runs a script of the loader's folder after the definition of `vbus_nvme`, until all scripts are over.
fn run(place: &Place, script: &str, before: &str, words: &[&str]) -> Running {
    let vbus = format!("vbus_nvme = 'soft:{},serial=1234'", image(place));
    let after = place.write("after.lua", "print('done')");
    let script = format!("{}/lua/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut line = vec!["-e", &vbus, "-e", before, &script, after.to_str().unwrap(), "--"];
    line.extend(words);
    let mut ned = place.start(&line);
    ned.expect("done");
    ned
}

fn ends_well(ned: Running) -> String {
    ned.signal(Signal::TERM);
    let ended = ned.end();
    assert_eq!(ended.status, Some(0));
    ended.out.clone()
}

const BUS: &str = "nvme_bus = L4.default_loader:new_channel() \
    L4.default_loader:start({ caps = { vbus = vbus_nvme, svr = nvme_bus:svr() } }, 'rom/nvme-drv')";

fn the_manual_starts_the_server(place: &Place) {
    ends_well(run(place, "tests/manual/start.lua", "", &[]));
}

fn the_manual_asks_for_a_partition(place: &Place) {
    ends_well(run(place, "tests/manual/partition.lua", BUS, &[]));
}

fn the_manual_asks_for_a_namespace(place: &Place) {
    ends_well(run(place, "tests/manual/namespace.lua", BUS, &[]));
}

fn the_manual_has_a_static_client(place: &Place) {
    ends_well(run(place, "tests/manual/static_client.lua", "", &[]));
}

fn a_script_starts_the_server_and_mints_a_session(place: &Place) {
    let script = place.write(
        "simple.lua",
        "local bus = L4.default_loader:new_channel()
         L4.default_loader:start({ caps = { vbus = vbus_nvme, svr = bus:svr() }, log = { 'nvme' } }, 'rom/nvme-drv')
         print('a session: ' .. tostring(bus:create(0, 'ds-max=5', 'device=1234:n1', 'read-only')))
         print('done')",
    );
    let vbus = format!("vbus_nvme = 'soft:{},serial=1234'", image(place));
    let mut ned = place.start(&["-e", &vbus, script.to_str().unwrap()]);
    ned.expect("done");
    let out = ends_well(ned);
    assert!(out.contains("a session: L4::Cap<L4virtio::Device>"), "{out}");
}

fn a_second_client_of_a_static_client_s_disk_is_refused(place: &Place) {
    let out = ends_well(run(place, "examples/static_client.lua", "", &["1234:n1"]));
    assert!(out.contains("a second client is refused: ") && out.contains("(-16)"), "{out}");
}

fn a_trusted_dataspace_is_taken_by_the_server(place: &Place) {
    let trusted = place.write(
        "trusted.lua",
        "local ram = L4.Env.user_factory:create(L4.Proto.Dataspace, 1 << 20)
         local bus = L4.default_loader:new_channel()
         local server = L4.default_loader:start(
           { caps = { vbus = vbus_nvme, svr = bus:svr(), ram = ram:m('rw') } }, 'rom/nvme-drv -d ram')
         local vda <close> = bus:create(0, 'device=1234:n1', 'ds-max=1')
         print('minted ' .. tostring(vda:is_valid()))
         server:kill()",
    );
    let vbus = format!("vbus_nvme = 'soft:{},serial=1234'", image(place));
    let ended = place.start(&["-e", &vbus, trusted.to_str().unwrap()]).end();
    assert!(ended.out.contains("minted true\n"));
    assert_eq!(ended.status, Some(0));
}

/// The example, with a machine that is nothing but its disk: it ends when that goes.
fn two_tenants_have_factories_and_one_is_taken_back(place: &Place) {
    let qemu = r#"#!/bin/bash
        for word; do case "$word" in socket,id=vda,fd=*) fd=${word##*=};; esac; done
        read -r -N 1 -u "$fd" && echo "the server said something"; echo "the disk is gone""#;
    let program = place.write("qemu", qemu);
    rustix::fs::chmod(&program, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_nvme-ned"), place.path("nvme-ned")).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/lua/examples/tenants.lua");
    let vbus = "vbus_nvme = { 'soft:mem:64M,serial=a', 'soft:mem:64M,serial=b' }";
    let mut ned = place.start(&["-e", vbus, script, "--", "a:n1", "b:n1", "6"]);
    ned.expect("green goes on: running");
    let ended = ned.end();
    let out = &ended.out;
    for (tenant, said) in
        [("blue", "vm 1 has its disk"), ("green", "vm 1 has its disk"), ("blue", "the disk is gone")]
    {
        assert!(
            out.lines().any(|line| line.contains(tenant) && line.contains(said)),
            "{tenant}: {said}: {out}"
        );
    }
    for tenant in ["blue", "green"] {
        let refused =
            |line: &str| line.contains(tenant) && line.contains("not its disk: ") && line.contains("(-13)");
        assert!(out.lines().any(refused), "{tenant}: {out}");
    }
    assert!(out.contains("blue is taken back: ") && out.contains("its disk is free: true"), "{out}");
    let undisturbed = out.split("green goes on").next().unwrap();
    assert!(!undisturbed.lines().any(|line| line.contains("green") && line.contains("gone")), "{out}");
}

fn a_factory_is_handed_on_without_its_lifetime_and_mints_less(place: &Place) {
    let script = place.write(
        "factory.lua",
        "local function try(f, ...) local ok, why = pcall(f.create, f, ...) print(ok and 'minted' or why.code) end
         local f = nvme_bus:create(L4.Proto.Factory, 'device=1234:n1', 'read-only', 'factories=1')
         print(tostring(f):match('^L4::Cap<L4::Factory>') ~= nil, f:is_valid())
         try(f, 0, 'device=1234:n1', 'read-only')
         try(f, 0, 'device=1234:n1')
         try(f, 0, 'device=other:n1', 'read-only')
         local g = f:create(L4.Proto.Factory, 'device=1234:n1', 'read-only')
         try(g, L4.Proto.Factory, 'device=1234:n1', 'read-only')
         -- One descriptor goes with it, and it mints.
         L4.default_loader:startv({ caps = { disks = g:m('rws') } }, 'sh', '-c', 'echo descriptors $LISTEN_FDS'):wait()
         local copy <const> = f:m('rws')
         do local over <close> = f end
         print(f:is_valid(), copy:is_valid())
         try(copy, 0, 'device=1234:n1', 'read-only')
         try(g, 0, 'device=1234:n1', 'read-only')
         print('done')",
    );
    let start = format!("local bus = L4.default_loader:new_channel(); local tenant = L4.default_loader:new_channel(); nvme_bus = bus
         L4.default_loader:start({{ caps = {{ vbus = 'soft:{},serial=1234', svr = bus:svr(), t = tenant:svr() }} }},
           'rom/nvme-drv --factory t --device 1234:n1 --readonly')
         print('through t: ' .. tostring(tenant:create(0, 'device=1234:n1', 'read-only'):is_valid()))
         print(pcall(tenant.create, tenant, 0, 'device=1234:n1'))", image(place));
    let mut ned = place.start(&["-e", "L4 = require 'L4'", "-e", &start, script.to_str().unwrap()]);
    ned.expect("done");
    let out = ends_well(ned);
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        lines[0] == "through t: true" && lines[1].starts_with("false") && lines[1].contains("(-13)"),
        "{out}"
    );
    let wanted =
        ["true\ttrue", "minted", "-13", "-13", "-12", "descriptors 1", "false\tfalse", "-9", "-104", "done"];
    assert_eq!(lines[2..], wanted, "{out}");
}

/// The loader keeps what sessions need, and starts the server again.
fn sessions_outlive_a_server_that_is_killed_and_one_that_took_over_from_it(place: &Place) {
    let other = place.path("other.img");
    std::fs::File::create(&other).unwrap().set_len(8 << 20).unwrap();
    let specs =
        [format!("soft:{},serial=1234", image(place)), format!("soft:{},serial=other", other.display())];
    let [factory, upgrade] = ["f", "u"].map(|name| format!("unix:{}", place.path(name).display()));
    let script = place.write(
        "kept.lua",
        &format!(
            "local bus = L4.default_loader:new_channel()
             local server = L4.default_loader:start({{ caps = {{ vbus = {{ '{}', '{}' }}, svr = bus:svr(),
                 f = '{factory}', upgrade = '{upgrade}' }} }}, 'rom/nvme-drv --factory f --device 1234:n1')
             local first = server:pid()
             print('up')
             L4.default_loader:startv({{}}, 'sh', '-c', 'until [ -e killed ]; do sleep 0.05; done'):wait()
             print(server:state(), server:pid() ~= first, bus:create(0, 'device=other:n1'):is_valid())",
            specs[0], specs[1]
        ),
    );
    let mut ned = place.start(&[script.to_str().unwrap()]);
    ned.expect("up");
    let factory_at = Factory::connect_retry(place.path("f"), PATIENCE).unwrap();
    let session = factory_at.create(&["device=1234:n1"], None).unwrap();
    let mut client = Client::from_fd(session, &Options::default()).unwrap();
    let mut pid = ned.server(0);
    let mut number = 0;
    let mut goes_on = |client: &mut Client| {
        let mut bytes = [0; 4096];
        if number > 0 {
            client.read(8 * number, &mut bytes).unwrap();
            assert_eq!(bytes, [number as u8; 4096]);
        }
        number += 1;
        client.write(8 * number, &[number as u8; 4096]).unwrap();
        // Who is in the middle of a message when the server dies loses the connection.
        std::thread::sleep(Duration::from_millis(300));
    };
    goes_on(&mut client);
    for _ in 0..3 {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        pid = ned.server(pid);
        goes_on(&mut client);
    }
    place.write("killed", "");
    ned.expect("running\ttrue\ttrue");
    // Another one takes over: it is the one that is killed and started again from there on.
    let mut next = std::process::Command::new(place.path("nvme-drv"));
    let [one, two] = specs.map(|spec| format!("vbus={spec}"));
    let (factory, upgrade) = (format!("f={factory}"), format!("upgrade={upgrade}"));
    for word in [&one, &two, &factory, &upgrade] {
        next.args(["--cap", word]);
    }
    next.args(["--factory", "f", "--device", "1234:n1"]).stderr(std::process::Stdio::null());
    let mut next = next.spawn().unwrap();
    ned.no_server();
    goes_on(&mut client);
    assert!(next.try_wait().unwrap().is_none(), "it serves");
    next.kill().unwrap();
    next.wait().unwrap();
    ned.server(pid);
    goes_on(&mut client);
    goes_on(&mut client);
    drop(client);
    ned.signal(Signal::TERM);
    let ended = ned.end();
    assert_eq!(ended.status, Some(0));
    assert_eq!(ended.err.matches("it is started again").count(), 4);
}

fn refusals_of_the_server_come_with_their_codes(place: &Place) {
    let script = place.write(
        "refusals.lua",
        "for _, words in ipairs { { 'device=none:n1' }, { 'device=1234:n1', 'readonly' }, { 'ds-max=0', 'device=1234:n1' }, {} } do
           local ok, why = pcall(nvme_bus.create, nvme_bus, 0, table.unpack(words))
           print(ok, why.code, why.msg)
         end
         local ok, why = pcall(nvme_bus.create, nvme_bus, 1, 'device=1234:n1')
         print(ok, why.code)",
    );
    let vbus = format!("vbus_nvme = 'soft:{},serial=1234'", image(place));
    let after = place.write("after.lua", "print('done')");
    let mut ned = place.start(&["-e", &vbus, "-e", BUS, script.to_str().unwrap(), after.to_str().unwrap()]);
    ned.expect("done");
    let out = ends_well(ned);
    let codes: Vec<&str> = out.lines().filter_map(|line| line.split('\t').nth(1)).collect();
    // The number of the object means nothing, as on L4Re.
    assert_eq!(codes, ["-19", "-22", "-22", "-22", "nil"], "{out}");
    assert!(out.contains("readonly"), "the message names the word: {out}");
}

fn a_server_with_a_wrong_option_fails_the_loader(place: &Place) {
    let script = "L4.default_loader:start({ caps = { vbus = 'soft:mem:1M' } }, 'rom/nvme-drv --nonsense')";
    let ended = place.run(script);
    assert_ne!(ended.status, Some(0));
    assert!(ended.err.contains("nonsense"), "{}", ended.err);
}
