//! What needs no NVMe server.

use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use rustix::process::Signal;

use crate::ned::Place;

fn place() -> Place {
    Place::new(&std::env::current_exe().unwrap())
}

const SERVER: &str = r#"
local bus = L4.default_loader:new_channel()
local server = L4.default_loader:start({ caps = { svr = bus:svr() } }, "rom/nvme-drv")
"#;

macro_rules! trials {
    ($($name:ident)*) => {
        pub(crate) fn trials() -> Vec<Trial> {
            vec![$(Trial::test(concat!("fake::", stringify!($name)), || -> Result<(), Failed> { $name(); Ok(()) })),*]
        }
    };
}

trials! {
    a_program_inherits_exactly_what_its_caps_name
    a_name_may_repeat_and_a_spec_goes_to_the_server_as_cap
    a_session_is_minted_and_handed_on_by_number
    a_refusal_is_a_table_with_msg_and_code_and_prints
    an_uncaught_refusal_ends_everything_and_names_the_line
    a_static_client_s_channel_is_a_stream_socket_and_its_client_is_connected
    nobody_can_find_the_socket_of_a_channel
    a_channel_that_nobody_serves_says_so
    a_server_that_dies_is_an_error_of_create_with_its_status
    a_channel_is_served_by_one_program_at_a_time_and_again_later
    wait_kill_and_state_are_ned_s
    the_loader_waits_for_its_programs_and_passes_a_failure_on
    sigterm_is_handed_on_and_is_a_good_end
    a_second_sigterm_kills
    programs_die_with_the_loader
    a_dataspace_is_handed_on_with_its_rights
    a_session_ends_with_its_last_reference
    the_manual_s_examples_run_unchanged_against_the_fake
    the_examples_start_their_machines_with_sockets_and_memory
}

fn a_program_inherits_exactly_what_its_caps_name() {
    let place = place();
    let mut ned =
        place.start(&[place.write("a.lua", &format!("{SERVER} print('started')")).to_str().unwrap()]);
    ned.expect("started");
    assert_eq!(place.report(), "args rom/nvme-drv\nfd svr seqpacket listening\nothers 0\n");
    ned.signal(Signal::TERM);
    assert_eq!(ned.end().status, Some(0));
}

fn a_name_may_repeat_and_a_spec_goes_to_the_server_as_cap() {
    let place = place();
    let ended = place.run(
        r#"
        local a = L4.Env.user_factory:create(L4.Proto.Dataspace, 4096)
        local b = L4.Env.user_factory:create(L4.Proto.Dataspace, 4096)
        local t = L4.default_loader:startv({ caps = {
            vbus = { "soft:a b.img,serial=x", "soft:mem:1M" }, ram = { a, b:m("r") }, rom = L4.Env.rom,
        } }, "rom/nvme-drv", "-d", "ram", nil, "{ram.2}{ram}", 7, { FAKE_STATUS = 1 })
        print("ended " .. t:wait())
        "#,
    );
    assert_eq!(ended.out, "ended 5\n");
    assert_eq!(
        place.report(),
        "args rom/nvme-drv --cap vbus=soft:a b.img,serial=x --cap vbus=soft:mem:1M -d ram 43 7\n\
         fd ram file rw\nfd ram file ro\nothers 0\n"
    );
    assert_eq!(ended.status, Some(0), "the script has the status");
}

fn a_session_is_minted_and_handed_on_by_number() {
    let place = place();
    let ended = place.run(&format!(
        r#"{SERVER}
        vda = bus:create(0, "ds-max=5", "device=1234:n1", "read-only", nil)
        print(vda:is_valid(), tostring(vda):match("^L4::Cap<L4virtio::Device>") ~= nil)
        -- head reads what the fake session says about itself.
        local client = L4.default_loader:startv({{ caps = {{ vda = vda }} }},
            "sh", "-c", "head -c 42 <&{{vda}}; echo; test ${{LISTEN_FDNAMES}} = vda")
        print(client:wait())
        server:kill()
        "#
    ));
    assert_eq!(ended.status, Some(0));
    assert!(ended.out.contains("true\ttrue\n"), "{}", ended.out);
    assert!(ended.out.contains("create 0 ds-max=5 device=1234:n1 read-only\n"), "{}", ended.out);
    assert!(ended.out.ends_with("0\n"), "{}", ended.out);
}

fn a_refusal_is_a_table_with_msg_and_code_and_prints() {
    let place = place();
    let ended = place.run(&format!(
        r#"{SERVER}
        local ok, why = pcall(function() return bus:create(0, "device=absent:n1") end)
        print(ok, type(why), why.code)
        print(why.msg)
        print(tostring(why) == why.msg, ("" .. why) == why.msg)
        for key in pairs(why) do assert(key == "msg" or key == "code") end
        server:kill()
        "#
    ));
    assert!(ended.out.contains("false\ttable\t-19\n"), "{}", ended.out);
    assert!(
        ended.out.contains(
            "script.lua:5: runtime error No such device (-19): `device=absent:n1`: no such device\n"
        ),
        "{}",
        ended.out
    );
    assert!(ended.out.contains("true\ttrue\n"));
    assert_eq!(ended.status, Some(0));
}

fn an_uncaught_refusal_ends_everything_and_names_the_line() {
    let place = place();
    let ended = place.run(&format!("{SERVER}bus:create(0, \"device=absent:n1\")"));
    assert_eq!(ended.status, Some(1));
    assert!(ended.err.contains("script.lua:4: runtime error No such device (-19): "));
    assert!(!ended.err.contains("traceback"));
}

fn a_static_client_s_channel_is_a_stream_socket_and_its_client_is_connected() {
    let place = place();
    let ended = place.run(
        r#"
        local cl1, bus = L4.default_loader:new_channel(), L4.default_loader:new_channel()
        local server = L4.default_loader:start({ caps = { svr = bus:svr(), cl1 = cl1:svr() } },
            "rom/nvme-drv --client cl1 --device 1234:n1")
        while not io.open("report") do L4.msleep(5) end
        for line in io.lines("report") do print(line) end
        os.remove("report")
        local client = L4.default_loader:start({ caps = { disk = cl1, bus = bus } }, "rom/nvme-drv", { FAKE_STATUS = 1 })
        client:wait()
        for line in io.lines("report") do print(line) end
        print(pcall(cl1.create, cl1, 0, "device=x"))
        server:kill()
        "#,
    );
    let wanted = "args rom/nvme-drv --client cl1 --device 1234:n1\nfd cl1 stream listening\nfd svr seqpacket listening\n\
                  others 0\n";
    assert!(ended.out.contains(wanted), "{}", ended.out);
    assert!(
        ended
            .out
            .contains("args rom/nvme-drv\nfd bus seqpacket connected\nfd disk stream connected\nothers 0\n")
    );
    assert!(ended.out.contains("a static client's channel makes no sessions"), "{}", ended.out);
    assert_eq!(ended.status, Some(0));
}

fn nobody_can_find_the_socket_of_a_channel() {
    let place = place();
    let mut ned =
        place.start(&[place.write("a.lua", &format!("{SERVER} print('started')")).to_str().unwrap()]);
    ned.expect("started");
    // A name in the file system, or an abstract one, would be in the last column; this one's leads nowhere.
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let ours: Vec<&str> = sockets
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .filter(|path| path.contains("nvme-ned-"))
        .collect();
    assert!(!ours.is_empty());
    assert!(
        ours.iter().all(|path| path.starts_with('/') && !std::path::Path::new(path).exists()),
        "{ours:?}"
    );
    ned.signal(Signal::TERM);
    ned.end();
}

fn a_channel_that_nobody_serves_says_so() {
    let place = place();
    let ended = place.run(
        r#"
        local bus = L4.default_loader:new_channel()
        print(pcall(bus.create, bus, 0, "device=x"))
        print(pcall(L4.default_loader.start, L4.default_loader, { caps = { bus = bus } }, "rom/nvme-drv"))
        print(pcall(function() bus:svr():create(0, "device=x") end))
        "#,
    );
    assert_eq!(ended.out.matches("nobody serves this channel yet").count(), 2, "{}", ended.out);
    assert!(ended.out.contains("the server's side of the channel"));
    assert_eq!(ended.status, Some(0));
}

fn a_server_that_dies_is_an_error_of_create_with_its_status() {
    let place = place();
    let ended = place.run(&format!(
        r#"{SERVER}
        local ok, why = pcall(bus.create, bus, 0, "device=fatal")
        print(ok, why.code, why.msg)
        print(server:wait())
        local ok, why = pcall(bus.create, bus, 0, "device=x")
        print(ok, why.code, why.msg)
        "#
    ));
    assert!(ended.out.contains("false\t-104\t"), "{}", ended.out);
    assert!(ended.out.contains("7\nfalse\t-111\t"), "{}", ended.out);
    assert!(
        ended.out.contains("runtime error Connection refused (-111): nobody listens: nvme-drv"),
        "{}",
        ended.out
    );
}

fn a_channel_is_served_by_one_program_at_a_time_and_again_later() {
    let place = place();
    let ended = place.run(&format!(
        r#"{SERVER}
        local function again()
            return L4.default_loader:start({{ caps = {{ svr = bus:svr() }} }}, "rom/nvme-drv")
        end
        print(pcall(again))
        print(server:kill())
        server = again()
        print(bus:create(0, "device=1234:n1"):is_valid())
        server:kill()
        "#
    ));
    assert!(ended.out.contains("the channel is served already, by nvme-drv"), "{}", ended.out);
    assert!(ended.out.contains("killed\n") && ended.out.contains("true\n"), "{}", ended.out);
    assert_eq!(ended.status, Some(0));
}

fn wait_kill_and_state_are_ned_s() {
    let place = place();
    let ended = place.run(
        r#"
        local loader = L4.Loader.new({})
        local t = loader:startv({}, "sh", "-c", "exit 3")
        print(t:wait(), t:wait(), t:state(), t:kill())
        t = loader:startv({}, "sleep", "60")
        print(t:state(), t:exit_code(), t:kill(), t:state())
        t = loader:startv({}, "true")
        while t:state() == "running" do L4.msleep(2) end
        print(t:state(), t:exit_code(), t:kill())
        print(pcall(loader.start, {}, {}, "true"))
        print(loader:startv({}, "sh", "-c", "kill -9 $$"):wait())
        "#,
    );
    assert!(
        ended.out.starts_with("3\tnil\tnil\tnil\nrunning\tnil\tkilled\tnil\nzombie\t0\t0\n"),
        "{}",
        ended.out
    );
    assert!(ended.out.contains("method called with incompatible object"), "{}", ended.out);
    assert!(ended.out.ends_with("137\n"), "{}", ended.out);
    assert_eq!(ended.status, Some(0));
}

fn the_loader_waits_for_its_programs_and_passes_a_failure_on() {
    let place = place();
    let started = Instant::now();
    let ended = place.run(r#"L4.default_loader:startv({}, "sh", "-c", "sleep 0.3; echo last; exit 4")"#);
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!((ended.status, ended.out.as_str()), (Some(4), "last\n"));
    assert!(ended.err.contains("ended with status 4"), "{}", ended.err);
}

fn sigterm_is_handed_on_and_is_a_good_end() {
    let place = place();
    let script = r#"L4.default_loader:startv({}, "sh", "-c",
        "trap 'echo drained; exit 0' TERM; echo up; while :; do sleep 0.02; done")"#;
    let mut ned = place.start(&[place.write("a.lua", script).to_str().unwrap()]);
    ned.expect("up");
    ned.signal(Signal::TERM);
    ned.expect("drained");
    assert_eq!(ned.end().status, Some(0));
}

fn a_second_sigterm_kills() {
    let place = place();
    let script = r#"L4.default_loader:startv({}, "sh", "-c",
        "trap 'echo no' TERM; echo up; while :; do sleep 0.02; done")"#;
    let mut ned = place.start(&[place.write("a.lua", script).to_str().unwrap()]);
    ned.expect("up");
    ned.signal(Signal::TERM);
    ned.expect("no");
    ned.signal(Signal::TERM);
    assert_eq!(ned.end().status, Some(0));
}

fn programs_die_with_the_loader() {
    let place = place();
    let script = r#"L4.default_loader:startv({}, "sh", "-c", "echo $$ > pid; mv pid pid2; exec sleep 100") print("ok")"#;
    let mut ned = place.start(&[place.write("a.lua", script).to_str().unwrap()]);
    ned.expect("ok");
    let deadline = Instant::now() + Duration::from_secs(20);
    let pid = loop {
        if let Ok(pid) = std::fs::read_to_string(place.path("pid2")) {
            break pid.trim().to_owned();
        }
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    };
    ned.signal(Signal::KILL);
    assert_eq!(ned.end().status, None);
    // Gone, or a zombie that nobody here can reap.
    let alive = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        !status.is_empty() && !status.contains("State:\tZ")
    };
    while alive() {
        assert!(Instant::now() < deadline, "it lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn a_dataspace_is_handed_on_with_its_rights() {
    let place = place();
    let ended = place.run(
        r#"
        local factory = L4.Env.user_factory:create(L4.Proto.Factory, 1024 * 1024)
        local ds = factory:create(L4.Proto.Dataspace, 5000)
        print(L4.cast("L4Re::Dataspace", ds) == ds, L4.cast("nonsense", ds), ds:m("rw"):m(), ds:m(L4.Rights.ro):rights())
        print(pcall(factory.create, factory, L4.Proto.Dataspace, 1024 * 1024))
        print(pcall(factory.create, factory, L4.Proto.Dataspace, "big"))
        local t = L4.default_loader:start({ caps = { a = ds:m("rw"), b = ds:m("r") } }, "rom/nvme-drv", { FAKE_STATUS = 1 })
        t:wait()
        local t = L4.default_loader:startv({ caps = { a = ds } },
            "sh", "-c", "stat -Lc %s /proc/self/fd/{a}; truncate -s 1 /proc/self/fd/{a}; echo x >&{a}")
        print(t:wait())
        "#,
    );
    assert!(ended.out.contains("false\tnil\t5\t4\n"), "{}", ended.out);
    assert!(
        ended.out.contains("(-12)") && ended.out.contains("(-22): `big` is not a number of bytes"),
        "{}",
        ended.out
    );
    assert!(ended.out.ends_with("8192\n0\n"), "{}", ended.out);
    assert!(ended.err.contains("not permitted"), "cutting it was refused: {}", ended.err);
    assert!(place.report().contains("fd a file rw\nfd b file ro\n"));
}

fn a_session_ends_with_its_last_reference() {
    let place = place();
    // The loader's own descriptors are counted from outside, once the script is over.
    let script = format!(
        "{SERVER}
        do local vda <close> = bus:create(0, 'device=1234:n1') end
        local vdb = bus:create(0, 'device=1234:n1')
        vdc = bus:create(0, 'device=1234:n1')
        L4.default_loader:startv({{}}, 'sh', '-c',
            'sleep 0.2; ls -l /proc/$PPID/fd | grep -c socket: > count; mv count count2; exec sleep 60')"
    );
    let ned = place.start(&[place.write("a.lua", &script).to_str().unwrap()]);
    let deadline = Instant::now() + Duration::from_secs(20);
    let count = loop {
        if let Ok(count) = std::fs::read_to_string(place.path("count2")) {
            break count;
        }
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    };
    ned.signal(Signal::TERM);
    ned.end();
    // The global's session and the two ends of the pair that signals come through; and of the server, where it listens and where it says what
    // is to be kept (the place of a socket is none).
    assert_eq!(count.trim(), "5");
}

fn the_manual_s_examples_run_unchanged_against_the_fake() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/lua/tests/manual");
    let bus = "nvme_bus = L4.default_loader:new_channel() \
               L4.default_loader:start({ caps = { svr = nvme_bus:svr() } }, 'rom/nvme-drv')";
    for (script, before) in [("start", ""), ("static_client", ""), ("partition", bus), ("namespace", bus)] {
        let place = place();
        let after = place.write("after.lua", "print('done')");
        let script = format!("{folder}/{script}.lua");
        let mut ned =
            place.start(&["-e", "vbus_nvme = 'soft:mem:1M'", "-e", before, &script, after.to_str().unwrap()]);
        ned.expect("done");
        let report = place.report();
        assert_eq!(report.contains("--cap vbus=soft:mem:1M"), before.is_empty(), "{script}");
        ned.signal(Signal::TERM);
        assert_eq!(ned.end().status, Some(0), "{script}");
    }
}

fn the_examples_start_their_machines_with_sockets_and_memory() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/lua/examples");
    // Plays QEMU: the descriptors that its words name must be what QEMU takes there.
    let qemu = r#"#!/bin/sh
        for word; do
          case "$word" in
          socket,id=*,fd=*) readlink /proc/$$/fd/${word##*=} | sed "s/socket:.*/${word%%,fd*} socket/" ;;
          *mem-path=*) path=${word##*mem-path=}; path=${path%%,*}; stat -Lc "memory %s" "/proc/$$/${path#/proc/self/}" ;;
          *memory-backend-memfd*) echo memory of its own ;;
          esac
        done"#;
    for (example, wanted) in [
        ("qemu_client", &["memory of its own", "socket,id=vda socket"][..]),
        ("trusted_dataspace", &["memory 536870912", "socket,id=vda socket"]),
        ("golden_image", &["machine 1 ended with 0", "machine 2 ended with 0", "socket,id=vdb socket"]),
    ] {
        let place = place();
        let program = place.write("qemu", qemu);
        rustix::fs::chmod(&program, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        let ended =
            place.start(&["-e", "vbus_nvme = 'soft:mem:1M'", &format!("{folder}/{example}.lua")]).end();
        assert_eq!(ended.status, Some(0), "{example}");
        for line in wanted {
            assert!(ended.out.contains(line), "{example}: {line}");
        }
        let trusted = place.report().contains("fd ram file rw\n");
        assert_eq!(trusted, example == "trusted_dataspace");
    }
}
