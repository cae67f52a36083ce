//! The words of a program's command line: where the program is, and what `{name}` stands for.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::failure::Failure;

/// The descriptors that a program will have, by name.
pub(crate) type Numbers = [(String, RawFd)];

/// Replaces each `{name}` by the number of the descriptor of that name, and `{name.2}` by that of the second one. `${name}`
/// belongs to a shell, and everything else in braces that is no name (JSON, say) is left as it is.
pub(crate) fn substitute(word: &str, numbers: &Numbers, program: &str) -> Result<String, Failure> {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(open) = rest.find('{') {
        let (before, from) = rest.split_at(open);
        out.push_str(before);
        let inside = from.get(1..).unwrap_or("");
        let end = inside.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')));
        let name = end.and_then(|end| inside.split_at_checked(end));
        match name {
            Some((name, after)) if is_name(name) && after.starts_with('}') && !before.ends_with('$') => {
                out.push_str(&number(name, numbers, word, program)?.to_string());
                rest = after.get(1..).unwrap_or("");
            }
            _ => {
                out.push('{');
                rest = inside;
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

fn number(name: &str, numbers: &Numbers, word: &str, program: &str) -> Result<RawFd, Failure> {
    let nth = |name: &str, nth: usize| {
        numbers.iter().filter(|(other, _)| other == name).nth(nth).map(|(_, number)| *number)
    };
    let exact = nth(name, 0);
    let counted = || {
        let (name, count) = name.rsplit_once('.')?;
        nth(name, count.parse::<usize>().ok()?.checked_sub(1)?)
    };
    exact.or_else(counted).ok_or_else(|| {
        let mut names: Vec<&str> = numbers.iter().map(|(name, _)| name.as_str()).collect();
        names.dedup();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let text = format!(
            "`{{{name}}}` in `{word}`: {program} is given no descriptor of that name (it has: {there})"
        );
        Failure::new(Errno::INVAL, text)
    })
}

/// Whether the program is the NVMe server, which understands `--cap`.
pub(crate) fn is_server(program: &str) -> bool {
    base(program) == "nvme-drv"
}

/// The last part of a path.
pub(crate) fn base(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// The names that options of that kind (`--client`, `--factory`) of a command line give.
pub(crate) fn named_by<'a>(option: &str, line: &'a [String]) -> Vec<&'a str> {
    let mut names = Vec::new();
    let mut words = line.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if word == option {
            names.extend(words.next());
        } else if let Some(name) = word.strip_prefix(option).and_then(|rest| rest.strip_prefix('=')) {
            names.push(name);
        }
    }
    names
}

/// Where programs are looked for.
pub(crate) struct Rom {
    /// What stands for `rom/`: each in turn.
    pub(crate) folders: Vec<PathBuf>,
    /// The folders of PATH.
    pub(crate) path: Vec<PathBuf>,
}

impl Rom {
    /// The file of a program: `rom/NAME` in the folders of the installed programs and then in PATH, a word with another
    /// slash as it is, anything else in PATH.
    pub(crate) fn resolve(&self, program: &str) -> Result<PathBuf, Failure> {
        let is_program =
            |path: &PathBuf| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file();
        let (name, folders): (&str, Vec<&PathBuf>) = match program.strip_prefix("rom/") {
            Some(name) => (name, self.folders.iter().chain(&self.path).collect()),
            None if program.contains('/') => return Ok(PathBuf::from(program)),
            None => (program, self.path.iter().collect()),
        };
        let found = folders.iter().map(|folder| folder.join(name)).find(is_program);
        found.filter(|_| !name.is_empty()).ok_or_else(|| {
            let hint = if program.starts_with("rom/") {
                format!(
                    " in {}, nor in PATH; set NVME_ROM to the folder of the programs",
                    shown(&self.folders)
                )
            } else {
                " in PATH".to_owned()
            };
            Failure::new(Errno::NOENT, format!("there is no program `{name}`{hint}"))
        })
    }
}

fn shown(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| Path::display(folder).to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers() -> Vec<(String, RawFd)> {
        [("ram", 3), ("vda", 4), ("vda", 5)].map(|(name, number)| (name.to_owned(), number)).into()
    }

    fn with(word: &str) -> Result<String, Failure> {
        substitute(word, &numbers(), "qemu")
    }

    #[test]
    fn names_in_braces_become_numbers() {
        assert_eq!(with("socket,id=c,fd={vda}").unwrap(), "socket,id=c,fd=4");
        assert_eq!(with("{ram}{vda.1}{vda.2}").unwrap(), "345");
        assert_eq!(with("{{ram}}").unwrap(), "{3}");
        assert_eq!(with("nothing").unwrap(), "nothing");
    }

    #[test]
    fn braces_that_are_no_names_are_left_alone() {
        for word in [
            r#"{"driver":"file","a":{"b":[1]}}"#,
            "{}",
            "{ ram }",
            "${ram}",
            "${HOME}",
            "{",
            "{ram",
            "x{1}",
            "}{",
        ] {
            assert_eq!(with(word).unwrap(), word);
        }
    }

    #[test]
    fn a_name_that_is_not_there_is_an_error_with_those_that_are() {
        let failure = with("fd={vdb}").unwrap_err();
        assert_eq!(failure.code, -22);
        assert!(failure.text.contains("`{vdb}`") && failure.text.contains("ram, vda"), "{}", failure.text);
        assert!(with("{vda.3}").is_err());
        assert!(with("{vda.0}").is_err());
        assert!(with("{vda.99999999999999999999}").is_err());
    }

    #[test]
    fn the_clients_are_found_in_both_forms() {
        let line =
            ["nvme-drv", "--client", "cl1", "--device", "x", "--client=cl2", "--client"].map(str::to_owned);
        assert_eq!(named_by("--client", &line), ["cl1", "cl2"]);
    }

    #[test]
    fn programs_are_found_where_the_manual_says() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("tool");
        std::fs::write(&program, "").unwrap();
        let rom = Rom { folders: vec![folder.path().into()], path: vec!["/bin".into()] };
        assert_eq!(rom.resolve("rom/tool").unwrap_err().code, -2, "not executable");
        rustix::fs::chmod(&program, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        assert_eq!(rom.resolve("rom/tool").unwrap(), program);
        assert_eq!(rom.resolve("rom/sh").unwrap(), Path::new("/bin/sh"));
        assert_eq!(rom.resolve("sh").unwrap(), Path::new("/bin/sh"));
        assert_eq!(rom.resolve("./x/y").unwrap(), Path::new("./x/y"));
        assert!(rom.resolve("tool").is_err(), "only rom/ looks among the installed programs");
        assert!(rom.resolve("rom/").is_err());
        assert!(is_server("rom/nvme-drv") && is_server("nvme-drv") && !is_server("rom/nvme-drv2"));
    }
}
