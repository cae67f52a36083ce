//! `nvme-pages FOLDER`: writes the manual pages and the shells' completions of all four programs below a folder, at the places where
//! Debian has them. What they say is what the programs' parsers and `--help` are made from, so there is nothing to keep in step.
//!
//! * `drv`: `nvme-drv`, whose options are a table of its own. The others are clap's.
#![forbid(clippy::disallowed_methods)]
#![forbid(unsafe_code)]

mod drv;

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Where completions are looked for, and how their files are called there.
const SHELLS: [(Shell, &str, &str, &str); 3] = [
    (Shell::Bash, "usr/share/bash-completion/completions", "", ""),
    (Shell::Zsh, "usr/share/zsh/vendor-completions", "_", ""),
    (Shell::Fish, "usr/share/fish/vendor_completions.d", "", ".fish"),
];

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let [folder] = words.as_slice() else {
        eprintln!("usage: nvme-pages FOLDER");
        return ExitCode::from(2);
    };
    match write_all(Path::new(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("nvme-pages: {why}");
            ExitCode::FAILURE
        }
    }
}

fn write_all(folder: &Path) -> io::Result<()> {
    write(folder, "usr/share/man/man8/nvme-drv.8", drv::page().as_bytes())?;
    let pages = folder.join("usr/share/man/man1");
    fs::create_dir_all(&pages)?;
    let others = [nvme_ctl::command(), nvme_ned::command(), nvme_decode::command()];
    for command in others.clone() {
        page(command, &pages)?;
    }
    for mut command in others.into_iter().chain([drv::command()]) {
        let name = command.get_name().to_owned();
        for (shell, place, before, after) in SHELLS {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, &name, &mut script);
            write(folder, &format!("{place}/{before}{name}{after}"), &script)?;
        }
    }
    Ok(())
}

/// The page of a program, and one of each of its commands.
fn page(mut command: Command, folder: &Path) -> io::Result<()> {
    command.build();
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    fs::write(folder.join(format!("{name}.1")), page)?;
    let shown = |below: &&Command| !below.is_hide_set() && below.get_name() != "help";
    let below: Vec<Command> = command.get_subcommands().filter(shown).cloned().collect();
    below.into_iter().try_for_each(|below| self::page(below, folder))
}

fn write(folder: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let path = folder.join(name);
    if let Some(place) = path.parent() {
        fs::create_dir_all(place)?;
    }
    fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_has_a_page_and_completions_that_name_its_options() {
        let folder = tempfile::tempdir().unwrap();
        write_all(folder.path()).unwrap();
        let read = |name: &str| {
            fs::read_to_string(folder.path().join(name)).unwrap_or_else(|why| panic!("{name}: {why}"))
        };
        let options = [
            ("nvme-drv", "man8/nvme-drv.8", "socket-path"),
            ("nvme-ctl", "man1/nvme-ctl.1", "svr"),
            ("nvme-ned", "man1/nvme-ned.1", "rom"),
            ("nvme-decode", "man1/nvme-decode.1", "log"),
        ];
        for (program, page, option) in options {
            let text = read(&format!("usr/share/man/{page}"));
            assert!(
                text.contains(".TH") && text.replace("\\-", "-").contains(&format!("--{option}")),
                "{page}"
            );
            for (_, place, before, after) in SHELLS {
                let script = read(&format!("{place}/{before}{program}{after}"));
                assert!(script.contains(option), "{place}: {program}");
            }
        }
        assert!(read("usr/share/man/man1/nvme-ctl-create.1").replace("\\-", "-").contains("--listen"));
    }

    #[test]
    fn the_same_is_written_each_time() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_all(first.path()).unwrap();
        write_all(second.path()).unwrap();
        for name in ["usr/share/man/man8/nvme-drv.8", "usr/share/man/man1/nvme-ned.1"] {
            assert_eq!(
                fs::read(first.path().join(name)).unwrap(),
                fs::read(second.path().join(name)).unwrap()
            );
        }
    }
}
