//! `nvme-ctl`: asks a running `nvme-drv` for its inventory and for sessions.
//!
//! `options` is the command line, `server` finds the server's sockets, and there is a file for each command: `list`
//! (with `tree`, which prints), `stat`, `top` (a folder), `slow`, `create`, `delegate`, `run`, `upgrade`, and `admin` for the operator's. `audit` reads a file; `bind` and `unbind` need no server: they are `nvme_linux::vfio`'s.

#![forbid(unsafe_code)]

mod admin;
mod audit;
mod create;
mod delegate;
mod failure;
mod hold;
mod list;
mod manager;
mod options;
mod run;
mod server;
mod slow;
mod spelling;
mod stat;
mod top;
mod tree;
mod upgrade;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches};
use nvme_linux::standard::{answer, complain};
use nvme_linux::vfio;

use crate::options::{Command, Options};

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
            let status = answer("nvme-ctl", &said.render().to_string(), said.use_stderr());
            let wrong = match said.get(ContextKind::InvalidArg) {
                Some(ContextValue::String(wrong)) if said.kind() == ErrorKind::UnknownArgument => Some(wrong),
                _ => None,
            };
            if let Some(hint) = wrong.and_then(|wrong| spelling::option(wrong)) {
                complain(format_args!("nvme-ctl: {hint}"));
            }
            return ExitCode::from(status);
        }
    };
    let done = match &options.command {
        Command::Ls { json } => match options.factory() {
            Some(factory) => list::held(&factory, *json),
            None => list::list(&options.ctl(), *json),
        },
        Command::Create { words, listen } => create::create(&options.svr(), words, listen),
        Command::Delegate { words, listen: Some(listen), .. } => {
            delegate::listen(&options.svr(), words, listen)
        }
        Command::Delegate { words, command, .. } => delegate::run(&options.svr(), words, command),
        Command::Run { devices, command } => run::run(&options.svr(), devices, command),
        Command::Stat { json, seconds } => stat::stat(&options.ctl(), *json, *seconds),
        Command::Top { seconds } => top::top(&options.ctl(), &options.admin(), *seconds),
        Command::Slow { json, ms } => slow::slow(&options.admin(), *json, *ms),
        Command::Limit { id, words } => {
            let id = id.to_string();
            let words = words.iter().map(String::as_str);
            admin::ask(&options.admin(), "limit", std::iter::once(id.as_str()).chain(words))
        }
        Command::Rescan { serial } => admin::ask(&options.admin(), "rescan", serial.as_deref()),
        Command::Resume { device } => admin::ask(&options.admin(), "resume", device.as_deref()),
        Command::Drain { device } => admin::ask(&options.admin(), "drain", device.as_deref()),
        Command::End { id } => admin::ask(&options.admin(), "end", Some(id.to_string().as_str())),
        Command::Verbose { steps } => {
            admin::ask(&options.admin(), "verbose", Some(steps.to_string().as_str()))
        }
        Command::Audit { file, rotate: true, .. } => admin::rotate(&options.admin(), file),
        Command::Audit { file, verify, head, .. } => audit::audit(file, *verify, *head),
        Command::Upgrade { pid, command } => upgrade::upgrade(*pid, command),
        Command::Bind { address } => vfio::bind(address).map_err(|why| why.to_string().into()),
        Command::Unbind { address } => vfio::unbind(address).map_err(|why| why.to_string().into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(format_args!("nvme-ctl: {}", failure.text));
            ExitCode::from(failure.status)
        }
    }
}
