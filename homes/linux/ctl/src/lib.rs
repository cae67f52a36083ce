//! `nvme-ctl`: asks a running `nvme-drv` for its inventory and for sessions.
//!
//! `options` is the command line, `server` finds the server's sockets, and there is a file for each command: `list`
//! (with `tree`, which prints), `create`, `delegate`, `run`, and `admin` for the operator's. `audit` reads a file; `bind` and `unbind` need no server: they are `nvme_linux::vfio`'s.

#![forbid(unsafe_code)]

mod admin;
mod audit;
mod create;
mod delegate;
mod failure;
mod list;
mod options;
mod run;
mod server;
mod spelling;
mod tree;

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
        Command::Rescan { serial } => admin::ask(&options.admin(), "rescan", serial.as_deref()),
        Command::Resume { device } => admin::ask(&options.admin(), "resume", device.as_deref()),
        Command::Audit { file, verify, head } => audit::audit(file, *verify, *head),
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
