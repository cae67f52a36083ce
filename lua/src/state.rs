//! The Lua state: the module "L4", and running scripts in it.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlua::{
    AnyUserData, Function, HookTriggers, Lua, Table, UserData, UserDataMethods, UserDataRef, Value, VmState,
};

use crate::cap::{Cap, Kind, METHODS, Object};
use crate::exec::{Loader, Request};

use crate::failure::{self, Outcome, first_lines};
use crate::memory::Allocator;
use crate::rights;
use crate::supervise::Program;
use crate::words::Rom;

/// Lua's libraries that ned does not have.
const NOT_IN_NED: [&str; 4] = ["math", "os", "utf8", "coroutine"];
/// How far up a script's line is looked for.
const FRAMES_MAX: usize = 32;

/// Where the table of a program's methods is kept.
const TASK_METHODS: &str = "nvme-ned task methods";

/// A started program, as a script sees it. It is nothing more once it was waited for.
struct Task {
    program: RefCell<Option<Arc<Program>>>,
    /// The script was told that it has ended.
    known: Cell<bool>,
}

impl UserData for Task {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(mlua::MetaMethod::Index, |lua, _, key: Value| {
            let methods: Table = lua.named_registry_value(TASK_METHODS)?;
            methods.get::<Value>(key)
        });
        methods.add_meta_method(mlua::MetaMethod::ToString, |_, this, ()| {
            let program = this.program.borrow();
            Ok(program.as_ref().map_or_else(|| "ended program".to_owned(), |program| program.describe()))
        });
    }
}

/// The status of a program that has ended.
fn status(program: &Program) -> Option<i32> {
    program.exit().map(nvme_linux::spawn::Exit::status)
}

fn task_natives(lua: &Lua, native: &Table, loader: &Rc<Loader>) -> mlua::Result<()> {
    type One = UserDataRef<Task>;
    native.set(
        "task_state",
        lua.create_function(|_, task: One| {
            let ended = task.program.borrow().as_ref().map(|program| program.ended());
            task.known.set(ended == Some(true));
            Ok(ended.map(|ended| if ended { "zombie" } else { "running" }))
        })?,
    )?;
    native.set(
        "task_exit_code",
        lua.create_function(|_, task: One| Ok(task.program.borrow().as_deref().and_then(status)))?,
    )?;
    native.set(
        "task_pid",
        lua.create_function(|_, task: One| Ok(task.program.borrow().as_ref().map(|program| program.pid())))?,
    )?;
    let handlers = Rc::clone(loader);
    native.set(
        "task_wait",
        lua.create_function(move |_, task: One| {
            let program = task.program.borrow_mut().take();
            drop(task);
            let Some(program) = program else { return Ok(None) };
            let exit = program.wait(None);
            program.collect();
            handlers.tell(&program, exit.map(nvme_linux::spawn::Exit::status));
            Ok(status(&program))
        })?,
    )?;
    let handlers = Rc::clone(loader);
    native.set(
        "task_kill",
        lua.create_function(move |lua, task: One| {
            let program = task.program.borrow_mut().take();
            drop(task);
            let Some(program) = program else { return Ok(Value::Nil) };
            program.collect();
            if let Some(status) = status(&program) {
                handlers.tell(&program, Some(status));
                return Ok(Value::Integer(status.into()));
            }
            program.kill();
            handlers.tell(&program, None);
            Ok(Value::String(lua.create_string("killed")?))
        })?,
    )?;
    let handlers = Rc::clone(loader);
    native.set(
        "task_exit_handler",
        lua.create_function(move |_, (task, handler): (One, Function)| {
            let (program, known) = (task.program.borrow().clone(), task.known.get());
            drop(task);
            let Some(program) = program else {
                handler.call::<()>(Value::Nil)?;
                return Ok(false);
            };
            if handlers.has_handler(&program) {
                return Err(mlua::Error::runtime("exit_handler callback already registered"));
            }
            // What the script does not know yet it hears later, as from ned, which looks when the scripts are over.
            if let Some(status) = status(&program).filter(|_| known) {
                program.collect();
                handler.call::<()>(status)?;
                return Ok(false);
            }
            handlers.handlers.borrow_mut().push((program, handler));
            Ok(true)
        })?,
    )
}

/// Makes the Lua state; `inherited` becomes part of `L4.Env`.
pub(crate) fn new(
    loader: Rc<Loader>,
    inherited: Vec<(String, OwnedFd)>,
    portable: bool,
) -> mlua::Result<Lua> {
    let lua = Lua::new();
    let methods = lua.create_table()?;
    lua.set_named_registry_value(METHODS, &methods)?;
    let native = natives(&lua, &loader)?;
    native.set("methods", methods)?;
    let methods = lua.create_table()?;
    lua.set_named_registry_value(TASK_METHODS, &methods)?;
    native.set("task_methods", methods)?;
    native.set("env", environment(&lua, inherited)?)?;
    let module: Table = lua.load(include_str!("prelude.lua")).set_name("=L4").call(native)?;
    lua.register_module("L4", &module)?;
    // The manual's examples use it without a `require`.
    lua.globals().set("L4", module)?;
    // Of this library ned has more, which could break the state here.
    let debug = lua.create_table()?;
    let traceback = |lua: &Lua, text: Option<String>| lua.traceback(text.as_deref(), 1);
    debug.set("traceback", lua.create_function(traceback)?)?;
    lua.globals().set("debug", debug)?;
    if portable {
        for library in NOT_IN_NED {
            lua.globals().set(library, Value::Nil)?;
        }
    }
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
    task_natives(lua, &native, loader)?;
    native.set("error_text", lua.create_function(|_, code: i64| Ok(failure::l4_text(code)))?)?;
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
            Ok(Outcome(
                request
                    .start(&loader)
                    .map(|program| Task { program: RefCell::new(Some(program)), known: Cell::new(false) }),
            ))
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

/// Where `require` looks: beside the script, and among the installed programs.
pub(crate) fn set_search_path(lua: &Lua, script: Option<&Path>, rom: &Rom) -> mlua::Result<()> {
    let beside = script
        .and_then(Path::parent)
        .map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    let folders = beside.into_iter().chain(rom.folders.iter().map(std::path::PathBuf::as_path));
    let path: Vec<String> = folders.map(|folder| format!("{}/?.lua", folder.display())).collect();
    lua.globals().get::<Table>("package")?.set("path", path.join(";"))
}
