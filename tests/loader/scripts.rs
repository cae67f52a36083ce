//! What scripts are, and how the loader runs them; no NVMe server is needed.

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
            vec![$(Trial::test(concat!("scripts::", stringify!($name)), || -> Result<(), Failed> { $name(); Ok(()) })),*]
        }
    };
}

trials! {
    exit_handlers_are_called_as_ned_calls_them
    a_nil_before_other_words_of_create_is_refused_by_its_place
    mistakes_in_calls_are_strings
    only_what_ned_has_is_there_when_asked_for
    output_is_tagged_when_asked_for
    the_environment_and_standard_input_are_as_documented
    mistakes_in_a_script_are_named_with_their_line
    an_endless_script_ends_on_sigterm
    several_scripts_and_statements_share_one_state
}

fn exit_handlers_are_called_as_ned_calls_them() {
    let place = place();
    let ended = place.run(
        r#"
        local loader = L4.default_loader
        local function told(what) return function(status) print(what, status) end end
        local t = loader:startv({}, "sh", "-c", "exit 3")
        print(t:exit_handler(told("waited for")))
        print(pcall(t.exit_handler, t, told("twice")))
        print(t:wait(), t:exit_handler(told("zapped")))
        t = loader:startv({}, "sleep", "60")
        t:exit_handler(told("killed"))
        print(t:kill())
        t = loader:startv({}, "true")
        while t:state() == "running" do L4.msleep(2) end
        print(t:exit_handler(told("a zombie")))
        print(type(select(2, pcall(t.exit_handler, t, 5))))
        -- After the scripts: a handler that starts another program, and one that fails.
        loader:startv({}, "sh", "-c", "exit 4"):exit_handler(function(status)
            print("first", status)
            loader:startv({}, "sh", "-c", "exit 5"):exit_handler(function(status)
                print("second", status)
                error("no more")
            end)
        end)
        t = nil
        collectgarbage()
        print("over")
        "#,
    );
    assert_eq!(
        ended.out.replace(place.path("script.lua").to_str().unwrap(), "SCRIPT"),
        "true\nfalse\tSCRIPT:6: exit_handler callback already registered\nwaited for\t3\nzapped\tnil\n3\tfalse\n\
         killed\tnil\nkilled\na zombie\t0\nfalse\nstring\nover\nfirst\t4\nsecond\t5\n"
    );
    assert!(ended.err.contains("lua error: ") && ended.err.contains("no more"), "{}", ended.err);
    assert_eq!(ended.status, Some(0), "the script has the statuses");
}

fn a_nil_before_other_words_of_create_is_refused_by_its_place() {
    let place = place();
    let ended = place.run(&format!(
        r#"{SERVER}
        local want
        local ok, why = pcall(bus.create, bus, 0, "device=1234:n1", want and "ds-max=5" or nil, "read-only")
        print(ok, why.code, why.msg)
        print(bus:create(0, "device=1234:n1", want):is_valid())
        print(pcall(L4.Env.user_factory.create, L4.Env.user_factory, L4.Proto.Dataspace, nil, 4096))
        print(L4.Env.user_factory:create(L4.Proto.Dataspace, 8192.0):is_valid(), bus:create(7, "device=1234:n1"):is_valid())
        server:kill()
        "#
    ));
    assert!(ended.out.contains("false\t-22\t") && ended.out.contains("argument 2 is nil"), "{}", ended.out);
    assert_eq!(ended.out.matches("argument 1 is nil").count(), 1, "{}", ended.out);
    assert!(ended.out.contains("\ntrue\n") && ended.out.contains("\ntrue\ttrue\n"), "{}", ended.out);
}

fn mistakes_in_calls_are_strings() {
    let place = place();
    let ended = place.run(
        r#"
        local factory = L4.Env.user_factory
        for _, f in ipairs {
            function() factory:create() end,
            function() factory:create("x") end,
            function() factory.create(5, 0) end,
            function() L4.msleep({}) end,
            function() L4.cast("L4::Factory", L4.Env.sigma0) end,
            function() L4.default_loader.start(5, {}, "true") end,
            function() factory:nonsense() end,
        } do
            local ok, why = pcall(f)
            print(ok, type(why), why)
            assert(not why:find("traceback"))
        end
        "#,
    );
    assert_eq!(ended.out.matches("false\tstring\t").count(), 7, "{}", ended.out);
    assert!(ended.out.contains("script.lua:4: "), "{}", ended.out);
    assert!(ended.out.contains("what of L4.Env belongs to io"), "{}", ended.out);
}

fn only_what_ned_has_is_there_when_asked_for() {
    let place = place();
    let script =
        place.write("a.lua", "print(math, os, utf8, coroutine, type(string), type(table), type(io))");
    let ended = place.start(&["--portable", script.to_str().unwrap()]).end();
    assert_eq!(ended.out, "nil\tnil\tnil\tnil\ttable\ttable\ttable\n");
}

fn output_is_tagged_when_asked_for() {
    let place = place();
    let ended = place.run(
        r#"
        local words = { "sh", "-c", "echo out; echo '<3>bad' >&2" }
        L4.default_loader:startv({ log = { "tag", "red" } }, table.unpack(words)):wait()
        L4.default_loader:startv({ log = {} }, table.unpack(words)):wait()
        L4.default_loader:startv({ log = L4.Env.user_factory:create(L4.Proto.Log, "cap") }, table.unpack(words)):wait()
        "#,
    );
    let mut lines: Vec<&str> = ended.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["cap     | out", "sh      | out", "tag     | out"]);
    assert!(ended.err.contains("<3>tag     | bad\n"), "{}", ended.err);
}

fn the_environment_and_standard_input_are_as_documented() {
    let place = place();
    let ended = place.run(
        r#"
        local e = { MINE = "a b", NUMBER = 7, NVME_ROM = false }
        L4.default_loader:startv({}, "sh", "-c",
            "echo $MINE $NUMBER ${NVME_ROM-gone} ${LISTEN_FDS-none} $(readlink /proc/self/fd/0)", e):wait()
        L4.default_loader:start({}, "sh -c echo\t$0", e):wait()
        "#,
    );
    assert_eq!(ended.out, "a b 7 gone none /dev/null\n\n");
}

fn mistakes_in_a_script_are_named_with_their_line() {
    let place = place();
    let start =
        |caps: &str, line: &str| format!("\nL4.default_loader:start({{ caps = {caps} }}, \"{line}\")");
    for (script, wanted) in [
        (start("{ a = { b = 1 } }", "true"), ":2: caps: `a` is a name space"),
        (start("{ a = true }", "true"), ":2: caps: `a` is a boolean"),
        (start("{ [1] = 'x' }", "true"), ":2: caps: every key must be a name"),
        (
            start("{ a = 'soft:x' }", "true"),
            ":2: runtime error Invalid argument (-22): capability `a` for true: `soft:x`: only nvme-drv",
        ),
        (start("{ a = 'file:/nonexistent' }", "true"), "capability `a` for true: `/nonexistent`"),
        (start("{ a = L4.Env.factory }", "true"), "capability `a` for true: it stands for nothing"),
        (
            start("{}", "rom/nothing"),
            ":2: runtime error No such object found (-2): there is no program `nothing`",
        ),
        (start("{}", "nothing-here"), "(-2): there is no program `nothing-here` in PATH"),
        (
            start("{}", "echo {vda}"),
            ":2: runtime error Invalid argument (-22): `{vda}` in `{vda}`: echo is given no descriptor",
        ),
        (
            "L4.default_loader:startv({}, 'true', {}, 'x')".to_owned(),
            ":1: argument 2 of the program is a table",
        ),
        ("x = = 1".to_owned(), "script.lua:1:"),
        ("local a = nil; a.b = 1".to_owned(), "script.lua:1: attempt to index a nil value"),
    ] {
        let ended = place.run(&script);
        assert_eq!(ended.status, Some(1), "{script}");
        assert!(ended.err.contains(wanted), "{script}: {wanted}");
    }
}

fn an_endless_script_ends_on_sigterm() {
    let place = place();
    let mut ned = place.start(&["-e", "print('on') while true do end"]);
    ned.expect("on");
    ned.signal(Signal::TERM);
    let ended = ned.end();
    assert_eq!(ended.status, Some(1));
    assert!(ended.err.contains("told to end"), "{}", ended.err);
}

fn several_scripts_and_statements_share_one_state() {
    let place = place();
    place.write("module.lua", "return { name = 'module' }");
    let a = place.write("a.lua", "#!/usr/bin/env nvme-ned\nx = x .. 'b' assert(require 'L4' == L4)");
    let b = place.write("b.lua", "print(x, arg[0] ~= nil, arg[1], arg[2], require('module').name)");
    let ned = place.start(&["-e", "x = 'a'", a.to_str().unwrap(), b.to_str().unwrap(), "--", "one", "-two"]);
    let ended = ned.end();
    assert_eq!(ended.out, "ab\ttrue\tone\t-two\tmodule\n");
    assert_eq!(ended.status, Some(0));
}
