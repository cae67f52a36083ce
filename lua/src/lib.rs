//! `nvme-ned`: starts `nvme-drv` and its clients from Lua scripts, as L4Re's ned does.
//!
//! `options` is the command line, `state` the Lua state with the module "L4" (`prelude.lua`). A capability (`cap`) is a
//! channel (`channel`), a dataspace (`memory`) or another descriptor; `exec` hands those that a script names to a
//! program, whose life is looked after in `supervise` and whose output in `output`. What a server has kept, and that it is started again, is
//! in `keep`.

// Nothing that comes from outside ends a server: what may not be there is looked for, and not counted on.
#![cfg_attr(
    not(test),
    warn(
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable
    )
)]
#![forbid(unsafe_code)]

mod cap;
mod channel;
mod exec;
mod failure;
mod inherit;
mod keep;
mod memory;
mod options;
mod output;
mod rights;
mod state;
mod supervise;
mod words;

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches};
use nvme_linux::standard::{answer, complain};

use crate::exec::Loader;
use crate::options::Options;
use crate::supervise::Supervisor;
use crate::words::Rom;

/// The command line.
pub fn command() -> clap::Command {
    Options::command()
}

/// The program: its arguments are the process's. `version` is what `--version` says after the name.
pub fn main(version: &'static str) -> ExitCode {
    let parsed = command().version(version).try_get_matches();
    let options = match parsed.and_then(|matches| Options::from_arg_matches(&matches)) {
        Ok(options) => options,
        Err(said) => {
            return ExitCode::from(answer("nvme-ned", &said.render().to_string(), said.use_stderr()));
        }
    };
    match run(&options) {
        Ok(code) => code,
        Err(error) => {
            complain(format_args!("nvme-ned: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode, String> {
    let inherited = inherit::descriptors()?;
    let supervisor = Arc::new(Supervisor::default());
    supervisor.forward_signals().map_err(|error| format!("signals: {error}"))?;
    let loader = Rc::new(Loader {
        supervisor: Arc::clone(&supervisor),
        rom: Rom { folders: options.rom_folders(), path: options::path_folders() },
        copies: Vec::new().into(),
        handlers: Vec::new().into(),
    });
    let lua =
        state::new(Rc::clone(&loader), inherited, options.portable).map_err(|error| error.to_string())?;
    let ran = run_scripts(options, &lua, &loader);
    if ran.is_ok() {
        // What no variable refers to is given back now, and not at some time: a session ends with its last reference.
        lua.gc_collect().map_err(|error| error.to_string())?;
        lua.gc_collect().map_err(|error| error.to_string())?;
        // Nobody waits for it when there is no socket.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    } else {
        supervisor.end();
    }
    let ended = supervisor.wait_for_all(&mut || {
        let told = loader.tell_all();
        if told {
            // What a handler has left behind is given back as well.
            let _ = lua.gc_collect();
        }
        told
    });
    output::finish(loader.copies.take());
    ran?;
    match ended {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err((what, exit)) => {
            complain(format_args!("nvme-ned: {what}"));
            Ok(ExitCode::from(u8::try_from(exit.status()).unwrap_or(1)))
        }
    }
}

fn run_scripts(options: &Options, lua: &mlua::Lua, loader: &Loader) -> Result<(), String> {
    let failed = |error: mlua::Error| error.to_string();
    lua.globals().set("arg", options.arguments(lua).map_err(failed)?).map_err(failed)?;
    for statement in &options.execute {
        state::set_search_path(lua, None, &loader.rom).map_err(failed)?;
        state::run(lua, statement.as_bytes(), "=(command line)").map_err(|why| format!("-e: {why}"))?;
    }
    for script in &options.scripts {
        state::set_search_path(lua, Some(script), &loader.rom).map_err(failed)?;
        let (source, name) = options::read(script)?;
        state::run(lua, &source, &name)?;
    }
    Ok(())
}
