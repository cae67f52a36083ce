//! `nvme-drv`: its page, and its options as clap knows them, for completions.

use clap::{Arg, ArgAction, Command, ValueHint};
use nvme_linux_server::manual::{ABOUT, Part, SECTIONS, USAGE, options, written};

/// Its options, as far as completions need them.
pub(crate) fn command() -> Command {
    let args = options().map(|option| {
        let arg = Arg::new(option.long).long(option.long).help(option.about);
        let letter = option.short.and_then(|short| short.chars().nth(1));
        let arg = letter.map_or(arg.clone(), |letter| arg.short(letter));
        match option.value {
            Some("PATH") => arg.value_name("PATH").value_hint(ValueHint::FilePath),
            Some(value) => arg.value_name(value).value_hint(ValueHint::Other),
            None => arg.action(ArgAction::SetTrue),
        }
    });
    Command::new("nvme-drv").about(ABOUT).disable_help_flag(true).disable_version_flag(true).args(args)
}

/// Its manual page.
pub(crate) fn page() -> String {
    let mut out = format!(
        ".TH NVME\\-DRV 8 \"\" \"nvme\\-drv {}\" \"\"\n.SH NAME\nnvme\\-drv \\- {}\n.SH SYNOPSIS\n",
        escaped(env!("CARGO_PKG_VERSION")),
        escaped(ABOUT)
    );
    for line in USAGE {
        out += &format!(".br\n{}\n", escaped(line));
    }
    for section in SECTIONS {
        out += &format!(".SH \"{}\"\n", escaped(section.title));
        section.parts.iter().for_each(|part| render(&mut out, part));
    }
    out += ".SH \"SEE ALSO\"\n.BR nvme\\-ctl (1),\n.BR nvme\\-ned (1),\n.BR nvme\\-decode (1)\n";
    out
}

fn render(out: &mut String, part: &Part) {
    match part {
        Part::Text(text) => *out += &format!(".PP\n{}\n", escaped(text)),
        Part::Options(topic) => {
            let further = topic.is_scoped();
            if further {
                *out += ".RS\n";
            }
            for option in options().filter(|option| option.topic == *topic) {
                *out += &format!(".TP\n.B {}\n{}\n", escaped(&written(option)), escaped(option.about));
            }
            if further {
                *out += ".RE\n";
            }
        }
        Part::Items(items) => {
            let mut depth = 0;
            for (word, indent, about) in *items {
                while depth < indent / 2 {
                    *out += ".RS\n";
                    depth += 1;
                }
                while depth > indent / 2 {
                    *out += ".RE\n";
                    depth -= 1;
                }
                *out += &format!(".TP\n.B {}\n{}\n", escaped(word), escaped(about));
            }
            (0..depth).for_each(|_| *out += ".RE\n");
        }
        Part::Lines(lines) => {
            *out += ".PP\n.nf\n";
            lines.iter().for_each(|line| *out += &format!("{}\n", escaped(line)));
            *out += ".fi\n";
        }
    }
}

/// Text as roff reads it: hyphens that can be copied, nothing that is a command.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn every_option_is_on_the_page_once() {
        let page = page();
        for option in options() {
            let line = format!(".B {}", escaped(&written(option)));
            assert_eq!(page.lines().filter(|l| *l == line).count(), 1, "{}", option.long);
        }
        assert_eq!(page.matches(".RS\n").count(), page.matches(".RE\n").count());
    }

    #[test]
    fn nothing_in_the_text_is_a_command() {
        assert_eq!(escaped(".x a-b\\c"), "\\&.x a\\-b\\ec");
        assert!(page().lines().all(|line| !line.starts_with('\'')));
    }
}
