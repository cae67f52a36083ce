//! What `--help` prints: 80 columns, explanations beside their words where these are short.

use super::{ABOUT, Part, SECTIONS, USAGE, options, written};

const WIDTH: usize = 80;
/// Where a section's text begins.
const INDENT: usize = 4;
/// Where explanations begin.
const COLUMN: usize = 24;

pub(crate) fn help() -> String {
    let mut out = format!("nvme-drv - {ABOUT}\n\nUSAGE\n");
    for line in USAGE {
        wrapped(&mut out, line, INDENT, INDENT + 4);
    }
    for section in SECTIONS {
        out += &format!("\n{}\n", section.title);
        for (index, part) in section.parts.iter().enumerate() {
            // A paragraph stands for itself.
            let text = matches!(part, Part::Text(_));
            if index > 0 && (text || matches!(section.parts.get(index - 1), Some(Part::Text(_)))) {
                out.push('\n');
            }
            print(&mut out, part);
        }
    }
    out
}

fn print(out: &mut String, part: &Part) {
    match part {
        Part::Text(text) => wrapped(out, text, INDENT, INDENT),
        Part::Options(topic) => {
            let further = if topic.is_scoped() { 2 } else { 0 };
            for option in options().filter(|option| option.topic == *topic) {
                item(out, &written(option), further, option.about);
            }
        }
        Part::Items(items) => {
            items.iter().for_each(|(word, further, about)| item(out, word, *further, about))
        }
        Part::Lines(lines) => lines.iter().for_each(|line| *out += &format!("{:INDENT$}{line}\n", "")),
    }
}

/// A word and what it is, beside it or below.
fn item(out: &mut String, word: &str, further: usize, about: &str) {
    let indent = INDENT + further;
    if indent + word.len() + 1 < COLUMN {
        let mut text = String::new();
        wrapped(&mut text, about, COLUMN, COLUMN);
        *out += &format!("{:indent$}{word:width$}{}", "", text.trim_start(), width = COLUMN - indent);
    } else {
        wrapped(out, word, indent, indent + 4);
        wrapped(out, about, COLUMN, COLUMN);
    }
}

/// Words in lines: the first begins at `first`, the others at `then`. What is longer than a line is cut before a `[`.
fn wrapped(out: &mut String, text: &str, first: usize, then: usize) {
    let mut line = " ".repeat(first);
    let mut empty = true;
    for word in text.split(' ') {
        let pieces = if word.len() > WIDTH - then { split_at_brackets(word) } else { vec![word] };
        for (index, piece) in pieces.into_iter().enumerate() {
            let glue = usize::from(!empty && index == 0);
            if !empty && line.len() + glue + piece.len() > WIDTH {
                *out += &format!("{line}\n");
                line = " ".repeat(then);
            } else if glue > 0 {
                line.push(' ');
            }
            line += piece;
            empty = false;
        }
    }
    *out += &format!("{line}\n");
}

fn split_at_brackets(word: &str) -> Vec<&str> {
    let mut cuts: Vec<usize> = word.match_indices('[').map(|(at, _)| at).filter(|at| *at > 0).collect();
    cuts.push(word.len());
    let mut from = 0;
    cuts.into_iter().map(|to| word.get(core::mem::replace(&mut from, to)..to).unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_the_help_is_longer_than_a_terminal_is_wide() {
        let help = help();
        for line in help.lines() {
            assert!(line.len() <= WIDTH, "{line}");
            assert_eq!(line.trim_end(), line);
        }
        assert!(
            help.contains("    -d NAME, --register-ds NAME\n                        a trusted dataspace")
        );
        assert!(help.contains("\n      --device DEV      what it gets"), "{help}");
        assert!(help.contains("\n    0                   told to stop"), "{help}");
    }

    #[test]
    fn every_option_is_in_the_help_once() {
        let help = help();
        for option in options() {
            let lines = help.lines().filter(|line| {
                let line = line.trim_start();
                line == written(option) || line.starts_with(&format!("{} ", written(option)))
            });
            assert_eq!(lines.count(), 1, "{}", option.long);
        }
    }
}
