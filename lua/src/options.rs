//! The command line.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Parser;

/// Starts nvme-drv and its clients from Lua scripts.
///
/// The scripts run one after the other in one Lua state, with the module "L4" that L4Re's ned has. The loader then stays
/// until the programs that they started have ended, hands SIGTERM, SIGINT and SIGHUP on to them, and takes them with it
/// when it dies. Its status is 0 when all ended well, 1 when a script failed, and else that of the first program that
/// failed and whose status no script asked for.
#[derive(Debug, Parser)]
#[command(name = "nvme-ned", version, max_term_width = 100)]
#[command(after_help = "Example:\n  nvme-ned -e 'vbus_nvme = \"soft:disk.img\"' quickstart.lua\n")]
pub(crate) struct Options {
    /// Run a Lua statement before the scripts; repeatable
    #[arg(short, long, value_name = "STATEMENT")]
    pub(crate) execute: Vec<String>,

    /// Only Lua's libraries that L4Re's ned has: no math, os, utf8, coroutine
    #[arg(long)]
    pub(crate) portable: bool,

    /// Where rom/ is [default: NVME_ROM, else the folder of nvme-ned itself; then PATH]
    #[arg(long, value_name = "FOLDER", env = "NVME_ROM")]
    rom: Option<PathBuf>,

    /// The scripts, in this order; `-` is the standard input
    #[arg(value_name = "SCRIPT", required_unless_present = "execute")]
    pub(crate) scripts: Vec<PathBuf>,

    /// Words for the scripts' table `arg`
    #[arg(last = true, value_name = "WORD")]
    words: Vec<String>,
}

impl Options {
    /// The folders that `rom/` stands for.
    pub(crate) fn rom_folders(&self) -> Vec<PathBuf> {
        let beside = || std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        self.rom.clone().or_else(beside).into_iter().collect()
    }

    /// The table `arg`: the first script at 0, then the words.
    pub(crate) fn arguments(&self, lua: &mlua::Lua) -> mlua::Result<mlua::Table> {
        let table = lua.create_sequence_from(self.words.iter().map(String::as_str))?;
        if let Some(script) = self.scripts.first() {
            table.raw_set(0, script.to_string_lossy().as_ref())?;
        }
        Ok(table)
    }
}

/// The folders of PATH.
pub(crate) fn path_folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect()
}

/// A script's text, and its name for messages. A first line that starts with `#` is a comment.
pub(crate) fn read(script: &Path) -> Result<(Vec<u8>, String), String> {
    let failed = |error: std::io::Error| format!("the script `{}`: {error}", script.display());
    let (mut source, name) = if script.as_os_str() == "-" {
        let mut source = Vec::new();
        std::io::stdin().lock().read_to_end(&mut source).map_err(failed)?;
        (source, "=stdin".to_owned())
    } else {
        (std::fs::read(script).map_err(failed)?, format!("@{}", script.display()))
    };
    if let Some(first) = source.first_mut().filter(|first| **first == b'#') {
        *first = b'-';
        source.insert(0, b'-');
    }
    Ok((source, name))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Options::command().debug_assert();
    }

    #[test]
    fn scripts_come_before_and_their_words_after_two_dashes() {
        let options = Options::parse_from(["nvme-ned", "-e", "x=1", "a.lua", "b.lua", "--", "c", "-d"]);
        assert_eq!(options.scripts, [Path::new("a.lua"), Path::new("b.lua")]);
        assert_eq!(options.words, ["c", "-d"]);
        assert!(Options::try_parse_from(["nvme-ned"]).is_err(), "there must be something to run");
    }
}
