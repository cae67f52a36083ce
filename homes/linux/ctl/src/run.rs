//! `nvme-ctl run`.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::str::FromStr;

use rustix::io::FdFlags;

use crate::failure::Failure;
use crate::server::{self, Place};
use crate::spelling;

/// `NAME=DEV[,read-only][,ds-max=N]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    name: String,
    /// The words of `create`.
    words: Vec<String>,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(word: &str) -> Result<Device, String> {
        let (name, mut device) = word.split_once('=').ok_or("NAME= is missing in front of the device")?;
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || !name.chars().all(letters) {
            return Err(format!("`{name}` is not a name: letters, digits, `_` and `-`"));
        }
        // A serial number may hold commas, so the options are read from the end. What is none is part of the device,
        // which the server then does not find.
        let mut options = Vec::new();
        while let Some((before, option)) = device.rsplit_once(',') {
            if option != "read-only" && !option.starts_with("ds-max=") {
                if let Some(meant) = spelling::meant(option) {
                    return Err(format!("`{option}`: did you mean {meant}?"));
                }
                break;
            }
            options.push(option.to_owned());
            device = before;
        }
        if device.is_empty() {
            return Err("the device is missing: NAME=DEV".to_owned());
        }
        let words = std::iter::once(format!("device={device}")).chain(options.into_iter().rev()).collect();
        Ok(Device { name: name.to_owned(), words })
    }
}

/// Mints the sessions, and becomes the command.
pub(crate) fn run(place: &Place, devices: &[Device], command: &[String]) -> Result<(), Failure> {
    let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    if let Some(unknown) = command.iter().find_map(|word| unknown_name(word, &names)) {
        let known = names.join(", ");
        let text = format!(
            "{{{unknown}}} in the command names no session; there is {known}. What is meant for the command itself has a space \
             behind the brace, or a $ before it"
        );
        return Err(Failure::wrong(text));
    }
    for (index, device) in devices.iter().enumerate() {
        if devices.iter().skip(index + 1).any(|other| other.name == device.name) {
            return Err(Failure::wrong(format!("`{}` is named twice", device.name)));
        }
    }
    let mut factory = server::factory(place)?;
    let mut sessions: Vec<(&str, OwnedFd)> = Vec::new();
    for device in devices {
        let session = factory.create(&device.words, None);
        let session = session.map_err(|refusal| Failure::refused(&device.words.join(" "), &refusal))?;
        sessions.push((&device.name, session));
    }
    // The command has sessions, not the factory.
    drop(factory);
    let line: Vec<String> = command.iter().map(|word| substitute(word, &sessions)).collect();
    let (program, arguments) = line.split_first().ok_or_else(|| "there is no command".to_owned())?;
    for (name, session) in &sessions {
        rustix::io::fcntl_setfd(session, FdFlags::empty()).map_err(|errno| format!("{name}: {errno}"))?;
    }
    // It returns only when nothing was started. The status then is a shell's.
    let error = std::process::Command::new(program).args(arguments).exec();
    let status = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    Err(Failure { text: format!("{program}: {error}"), status })
}

/// A `{NAME}` of a word that is none of these names. `${NAME}` is a shell's.
fn unknown_name<'a>(word: &'a str, names: &[&str]) -> Option<&'a str> {
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    word.match_indices('{').find_map(|(at, _)| {
        let (name, _) = word.get(at + 1..)?.split_once('}')?;
        let is_name = !name.is_empty() && name.chars().all(letters);
        let shell = word.get(..at).is_some_and(|before| before.ends_with('$'));
        (is_name && !shell && !names.contains(&name)).then_some(name)
    })
}

/// Replaces each `{NAME}` by its descriptor's number, in one pass.
pub(crate) fn substitute(word: &str, sessions: &[(&str, impl AsRawFd)]) -> String {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some((before, from)) = rest.split_once('{') {
        out.push_str(before);
        let found = sessions.iter().find_map(|(name, session)| {
            let after = from.strip_prefix(name)?.strip_prefix('}')?;
            Some((session.as_raw_fd(), after))
        });
        match found {
            Some((number, after)) => {
                out.push_str(&number.to_string());
                rest = after;
            }
            None => {
                out.push('{');
                rest = from;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brace_that_names_no_session_is_found() {
        let unknown = |word| unknown_name(word, &["vda", "b-1"]);
        for good in ["fd={vda}", "{b-1}{vda}", "${vdb}", "{ vdb }", "{}", "{\"a\":1}", "{vdb", "a}b{"] {
            assert_eq!(unknown(good), None, "{good}");
        }
        assert_eq!(unknown("fd={vdb}"), Some("vdb"));
        assert_eq!(unknown("{vda}{VDA}"), Some("VDA"));
        assert_eq!(unknown("{{vdb}}"), Some("vdb"));
    }

    fn words(word: &str) -> Vec<String> {
        word.parse::<Device>().unwrap().words
    }

    #[test]
    fn options_are_read_from_the_end_of_a_device() {
        assert_eq!(words("a=1234:n1"), ["device=1234:n1"]);
        assert_eq!(words("a=1234:n1,read-only,ds-max=4"), ["device=1234:n1", "read-only", "ds-max=4"]);
        assert_eq!(words("a=S,N=1 2:n1,read-only"), ["device=S,N=1 2:n1", "read-only"]);
        for wrong in ["readonly", "ro", "READ-ONLY", "--readonly", "read_only"] {
            let error = format!("a=1234:n1,{wrong},ds-max=2").parse::<Device>().unwrap_err();
            assert_eq!(error, format!("`{wrong}`: did you mean read-only?"));
        }
        let error = "a=1234:n1,dsmax=2".parse::<Device>().unwrap_err();
        assert_eq!(error, "`dsmax=2`: did you mean ds-max=N?");
        assert_eq!(words("a=partlabel:x,ds-max="), ["device=partlabel:x", "ds-max="]);
    }

    #[test]
    fn a_name_and_a_device_are_needed() {
        for bad in ["", "a", "a=", "=1234:n1", "a b=x", "a=,read-only", "{a}=x"] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_in_braces_become_numbers_and_nothing_else_does() {
        let sessions = [("vda", 5), ("v", 7)];
        assert_eq!(substitute("fd={vda},{v},{vdb},{", &sessions), "fd=5,7,{vdb},{");
        assert_eq!(substitute(r#"{"fd":"{v}"}"#, &sessions), r#"{"fd":"7"}"#);
    }
}
