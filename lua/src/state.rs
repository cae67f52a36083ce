//! The Lua state: the module "L4", and running scripts in it.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlua::{AnyUserData, Function, HookTriggers, Lua, Table, UserData, UserDataMethods, Value, VmState};

use crate::cap::{Cap, Kind, METHODS, Object};
use crate::exec::{Loader, Request};
use crate::failure::Outcome;
use crate::memory::Allocator;
use crate::rights;
use crate::supervise::Program;
use crate::words::Rom;

/// How far up a script's line is looked for.
const FRAMES_MAX: usize = 32;

/// A started program, as a script sees it. It is nothing more once it was waited for.
struct Task(RefCell<Option<Arc<Program>>>);

impl UserData for Task {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("state", |_, this, ()| {
            let ended = this.0.borrow().as_ref().map(|program| program.ended());
            Ok(ended.map(|ended| if ended { "zombie" } else { "running" }))
        });
        methods.add_method("exit_code", |_, this, ()| {
            Ok(this
                .0
                .borrow()
                .as_ref()
                .and_then(|program| program.exit())
                .map(nvme_linux::spawn::Exit::status))
        });
        methods.add_method("wait", |_, this, ()| {
            let program = this.0.borrow_mut().take();
            Ok(program.and_then(|program| {
                let exit = program.wait(None);
                program.collect();
                exit.map(nvme_linux::spawn::Exit::status)
            }))
        });
        methods.add_method("kill", |lua, this, ()| {
            let Some(program) = this.0.borrow_mut().take() else { return Ok(Value::Nil) };
            program.collect();
            if let Some(exit) = program.exit() {
                return Ok(Value::Integer(exit.status().into()));
            }
            program.kill();
            Ok(Value::String(lua.create_string("killed")?))
        });
        methods.add_method("pid", |_, this, ()| Ok(this.0.borrow().as_ref().map(|program| program.pid())));
        methods.add_meta_method(mlua::MetaMethod::ToString, |_, this, ()| {
            Ok(this
                .0
                .borrow()
                .as_ref()
                .map_or_else(|| "ended program".to_owned(), |program| program.describe()))
        });
    }
}

/// Makes the Lua state; `inherited` becomes part of `L4.Env`.
pub(crate) fn new(loader: Rc<Loader>, inherited: Vec<(String, OwnedFd)>) -> mlua::Result<Lua> {
    let lua = Lua::new();
    let methods = lua.create_table()?;
    lua.set_named_registry_value(METHODS, &methods)?;
    let native = natives(&lua, &loader)?;
    native.set("methods", methods)?;
    native.set("env", environment(&lua, inherited)?)?;
    let module: Table = lua.load(include_str!("prelude.lua")).set_name("=L4").call(native)?;
    lua.register_module("L4", &module)?;
    // The manual's examples use it without a `require`.
    lua.globals().set("L4", module)?;
    let supervisor = Arc::clone(&loader.supervisor);
    let triggers = HookTriggers::new().every_nth_instruction(10_000);
    lua.set_global_hook(triggers, move |_, _| {
        if supervisor.ending() {
            return Err(mlua::Error::runtime("the loader was told to end"));
        }
        Ok(VmState::Continue)
    })?;
    Ok(lua)
}

fn natives(lua: &Lua, loader: &Rc<Loader>) -> mlua::Result<Table> {
    let native = lua.create_table()?;
    native.set("arch", lua.create_function(|_, ()| Ok(std::env::consts::ARCH))?)?;
    native.set("mword_bits", lua.create_function(|_, ()| Ok(usize::BITS))?)?;
    let version = concat!("nvme-ned ", env!("CARGO_PKG_VERSION"), " on Linux");
    native.set("version", lua.create_function(move |_, ()| Ok(version))?)?;
    native.set(
        "where",
        lua.create_function(|lua, ()| {
            // The innermost line that is a script's, and not the prelude's.
            let place = (1..FRAMES_MAX).find_map(|level| {
                lua.inspect_stack(level, |frame| {
                    let line = frame.current_line()?;
                    let source = frame.source().short_src.filter(|source| *source != "L4")?;
                    Some(format!("{source}:{line}: "))
                })?
            });
            Ok(place.unwrap_or_default())
        })?,
    )?;
    native.set(
        "create",
        lua.create_function(|lua, (cap, protocol, arguments): (AnyUserData, i64, Table)| {
            let cap = cap.borrow::<Cap>()?.clone();
            Ok(Outcome(cap.create(lua, protocol, &arguments)))
        })?,
    )?;
    native.set(
        "server_side",
        lua.create_function(|_, cap: AnyUserData| {
            let cap = cap.borrow::<Cap>()?.clone();
            Ok(Cap { rights: rights::FULL, server: true, ..cap })
        })?,
    )?;
    native.set(
        "with_rights",
        lua.create_function(|lua, (cap, rights): (AnyUserData, Value)| {
            let cap = cap.borrow::<Cap>()?.clone();
            Ok(Outcome(cap.with_rights(lua, &rights)))
        })?,
    )?;
    let all = rights::R | rights::W | rights::S | rights::D;
    native.set(
        "rights",
        lua.create_function(move |_, cap: AnyUserData| Ok(cap.borrow::<Cap>()?.rights & all))?,
    )?;
    native
        .set("is_valid", lua.create_function(|_, cap: AnyUserData| Ok(cap.borrow::<Cap>()?.is_valid()))?)?;
    native.set(
        "is_cap",
        lua.create_function(|_, value: Value| Ok(value.as_userdata().is_some_and(AnyUserData::is::<Cap>)))?,
    )?;
    let supervisor = Arc::clone(&loader.supervisor);
    native.set(
        "sleep",
        lua.create_function(move |_, milliseconds: f64| {
            let wait = Duration::try_from_secs_f64(milliseconds / 1000.0).unwrap_or_default();
            let deadline = Instant::now().checked_add(wait);
            while deadline.is_none_or(|deadline| Instant::now() < deadline) && !supervisor.ending() {
                let left =
                    deadline.map_or(wait, |deadline| deadline.saturating_duration_since(Instant::now()));
                std::thread::sleep(left.min(Duration::from_millis(100)));
            }
            Ok(())
        })?,
    )?;
    let loader = Rc::clone(loader);
    native.set(
        "exec",
        lua.create_function(move |lua, arguments: (Table, Vec<String>, Table, Value, bool)| {
            let request = Request::new(lua, arguments)?;
            Ok(Outcome(request.start(&loader).map(|program| Task(RefCell::new(Some(program))))))
        })?,
    )?;
    Ok(native)
}

/// `L4.Env`: what ned has, and what the loader was given by name.
fn environment(lua: &Lua, inherited: Vec<(String, OwnedFd)>) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let memory = lua.create_userdata(Cap::new(Object::Memory(Allocator::default()), rights::R))?;
    table.set("mem_alloc", &memory)?;
    table.set("user_factory", memory)?;
    table.set("factory", Cap::new(Object::Kernel, rights::R))?;
    table.set("log", Cap::new(Object::Ambient("log"), rights::R))?;
    for name in ["rom", "parent", "rm", "scheduler"] {
        table.set(name, Cap::new(Object::Ambient(name), rights::R))?;
    }
    for (name, fd) in inherited {
        let object = Object::Open(RefCell::new(Some(fd)), Kind::Inherited);
        table.set(name, Cap::new(object, rights::R | rights::W | rights::S))?;
    }
    Ok(table)
}

/// Runs a chunk. The error is what the script raised, printed.
pub(crate) fn run(lua: &Lua, source: &[u8], name: &str) -> Result<(), String> {
    let run = || -> mlua::Result<Option<String>> {
        let chunk: Function = lua.load(source).set_name(name).into_function()?;
        // A raised table must be printed by Lua: outside, it would only be a table.
        let runner: Function = lua
            .load("local chunk = ...; local ok, why = pcall(chunk); if not ok then return tostring(why) end")
            .set_name("=runner")
            .into_function()?;
        runner.call(chunk)
    };
    match run() {
        Ok(None) => Ok(()),
        Ok(Some(why)) => Err(first_lines(&why)),
        Err(error) => Err(first_lines(&error.to_string())),
    }
}

/// Without the tracebacks that the library puts behind an error: they are of its own functions.
fn first_lines(text: &str) -> String {
    let end = text.find("\nstack traceback:").unwrap_or(text.len());
    text.get(..end).unwrap_or(text).trim_start_matches("runtime error: ").trim_end().to_owned()
}

/// Where `require` looks: beside the script, and among the installed programs.
pub(crate) fn set_search_path(lua: &Lua, script: Option<&Path>, rom: &Rom) -> mlua::Result<()> {
    let beside = script
        .and_then(Path::parent)
        .map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    let folders = beside.into_iter().chain(rom.folders.iter().map(std::path::PathBuf::as_path));
    let path: Vec<String> = folders.map(|folder| format!("{}/?.lua", folder.display())).collect();
    lua.globals().get::<Table>("package")?.set("path", path.join(";"))
}
