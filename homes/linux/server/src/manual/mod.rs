//! The manual of `nvme-drv`: one text, which `--help` prints ([`help`]) and the manual page is made from. What the options do is
//! said in their own table (`nvme_policy::command_line`).

mod print;
mod text;

use nvme_policy::command_line::{Described, Topic};

pub(crate) use print::help;
pub use text::{ABOUT, SECTIONS, USAGE};

/// A section of the manual.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// What is in it, in order.
    pub parts: &'static [Part],
}

/// A part of a section.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// A paragraph.
    Text(&'static str),
    /// All options under a heading of their table.
    Options(Topic),
    /// What is explained one by one: a word, how far in it stands, and what it is.
    Items(&'static [(&'static str, usize, &'static str)]),
    /// Lines as they are.
    Lines(&'static [&'static str]),
}

/// The options of this program, in the order of their table.
pub fn options() -> impl Iterator<Item = &'static Described> {
    crate::DIALECT.described()
}

/// An option as it is written: with its letter and what its value is called.
pub fn written(option: &Described) -> String {
    let value = option.value.map_or_else(String::new, |value| format!(" {value}"));
    match option.short {
        Some(short) => format!("{short}{value}, --{}{value}", option.long),
        None => format!("--{}{value}", option.long),
    }
}
