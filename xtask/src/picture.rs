//! `cargo xtask picture`: what `nvme-ctl top` shows of a server at work, as doc/top.svg.
//!
//! The server, its clients and the terminal (tmux) are the real ones; what the terminal shows is drawn as it is, cell by cell.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const COLUMNS: usize = 100;
const LINES: usize = 14;
/// Of a cell, in the picture.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;

/// Ends what it holds.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes the picture.
pub(crate) fn picture(_: &[String]) -> Result<()> {
    let programs = crate::vm::machine::build(&["nvme-drv", "nvme-client"], false)?;
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let unix = |name: &str| format!("--cap={name}=unix:{}", at(name).display());
    let mut server = Command::new(programs.join("nvme-drv"));
    server.args(["-q", "--cap=vbus=soft:mem:64M,serial=db", "--cap=vbus=soft:mem:64M,serial=web"]);
    server.args(["svr", "ctl", "admin"].map(unix));
    let _server = Ends(server.spawn()?);
    let ctl = |words: &[&str]| {
        let mut command = Command::new(programs.join("nvme-ctl"));
        for name in ["svr", "ctl", "admin"] {
            command.env(format!("NVME_DRV_{}", name.to_uppercase()), at(name));
        }
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    if !ctl(&["ls", "--wait"]).status()?.success() {
        return Err("the server does not serve".into());
    }
    // Sessions that do something, each in its way: how deep, and what bounds it.
    let mut load = Vec::new();
    for (word, depth) in [
        (vec!["device=db:n1", "name=postgres"], "8"),
        (vec!["device=web:n1", "name=static", "read-only"], "1"),
        (vec!["device=web:n1", "name=batch", "read-only", "iops=2000"], "32"),
    ] {
        let mut command = Command::new(programs.join("blkbench"));
        command.args(["--plain", "--depth", depth, "--time", "30"]);
        word.iter().for_each(|word| {
            command.args(["--create", word]);
        });
        command.arg(at("svr")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        load.push(Ends(command.spawn()?));
    }
    let tmux = |words: &[&str]| {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(at("tmux")).args(words).env("LC_ALL", "C.UTF-8").env_remove("TMUX");
        command
    };
    let (columns, lines) = (COLUMNS.to_string(), LINES.to_string());
    let mut start = tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &lines]);
    for name in ["ctl", "admin"] {
        start.arg("-e").arg(format!("NVME_DRV_{}={}", name.to_uppercase(), at(name).display()));
    }
    let started = start.arg(programs.join("nvme-ctl")).arg("top").status();
    if !started.map_err(|e| format!("tmux: {e} (apt-get install tmux)"))?.success() {
        return Err("tmux does not start".into());
    }
    std::thread::sleep(Duration::from_secs(5));
    let shown = tmux(&["capture-pane", "-e", "-p"]).output()?;
    let _ = tmux(&["kill-server"]).status();
    let to = crate::root().join("doc/top.svg");
    draw(&String::from_utf8(shown.stdout)?, &to)
}

/// How characters look.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Look {
    front: Option<u8>,
    back: Option<u8>,
    bold: bool,
    dim: bool,
    reversed: bool,
}

impl Look {
    /// What a sequence of the terminal's changes.
    fn change(&mut self, numbers: &str) {
        let mut numbers = numbers.split(';').map(|number| number.parse().unwrap_or(0));
        while let Some(number) = numbers.next() {
            match number {
                // The next two: 5, and which of the palette.
                38 => self.front = numbers.nth(1),
                48 => self.back = numbers.nth(1),
                0 => *self = Self::default(),
                1 => self.bold = true,
                2 => self.dim = true,
                7 => self.reversed = true,
                22 => (self.bold, self.dim) = (false, false),
                27 => self.reversed = false,
                30..=37 => self.front = Some(number - 30),
                90..=97 => self.front = Some(number - 82),
                39 => self.front = None,
                40..=47 => self.back = Some(number - 40),
                100..=107 => self.back = Some(number - 92),
                49 => self.back = None,
                _ => {}
            }
        }
    }

    fn colours(self) -> (&'static str, &'static str) {
        const PALETTE: [&str; 16] = [
            "#1d1f21", "#cc6666", "#8fbf6a", "#e0c060", "#81a2be", "#b294bb", "#6ac2c2", "#c5c8c6",
            "#707880", "#e08080", "#b5d68f", "#f0d080", "#a0c0e0", "#d0b0d8", "#90e0e0", "#ffffff",
        ];
        let of = |n: Option<u8>, none| n.and_then(|n| PALETTE.get(usize::from(n)).copied()).unwrap_or(none);
        let (front, back) = (of(self.front, "#d8d8d8"), of(self.back, "#1d1f21"));
        if self.reversed { (back, front) } else { (front, back) }
    }
}

/// Runs of characters that look the same, line by line.
fn runs(text: &str) -> Vec<Vec<(Look, String)>> {
    text.lines()
        .map(|line| {
            let (mut look, mut runs) = (Look::default(), Vec::new());
            for (at, part) in line.split('\u{1b}').enumerate() {
                let mut part = part;
                if at > 0
                    && let Some((numbers, rest)) = part.strip_prefix('[').and_then(|p| p.split_once('m'))
                {
                    look.change(numbers);
                    part = rest;
                }
                if !part.is_empty() {
                    runs.push((look, part.to_owned()));
                }
            }
            runs
        })
        .collect()
}

fn draw(text: &str, to: &Path) -> Result<()> {
    let (width, height) = (COLUMNS as f64 * WIDTH + 20.0, LINES as f64 * HEIGHT + 20.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\">\n<title>nvme-ctl top</title>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#1d1f21\"/>\n\
         <g font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"14\" xml:space=\"preserve\">\n"
    );
    for (line, runs) in runs(text).iter().enumerate() {
        let mut column = 0;
        for (look, text) in runs {
            let (x, y) = (10.0 + column as f64 * WIDTH, 10.0 + line as f64 * HEIGHT);
            let length = text.chars().count();
            let wide = length as f64 * WIDTH;
            let (front, back) = look.colours();
            if back != "#1d1f21" {
                writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"{HEIGHT}\" fill=\"{back}\"/>"
                )?;
            }
            if !text.trim().is_empty() {
                let weight = if look.bold { " font-weight=\"bold\"" } else { "" };
                let opacity = if look.dim { " opacity=\"0.6\"" } else { "" };
                let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
                writeln!(
                    svg,
                    "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{wide:.1}\" fill=\"{front}\"{weight}{opacity}>{escaped}</text>",
                    y + 13.5
                )?;
            }
            column += length;
        }
    }
    svg += "</g>\n</svg>\n";
    std::fs::write(to, svg)?;
    println!("{}", to.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_shows_is_runs_of_one_look() {
        let found = runs("a\u{1b}[1;32mb c\u{1b}[0m\u{1b}[7md\n\n");
        let green = Look { front: Some(2), bold: true, ..Look::default() };
        let reversed = Look { reversed: true, ..Look::default() };
        let line =
            vec![(Look::default(), "a".to_owned()), (green, "b c".to_owned()), (reversed, "d".to_owned())];
        assert_eq!(found, [line, Vec::new()]);
        assert_eq!(reversed.colours(), ("#1d1f21", "#d8d8d8"));
        let of_palette = Look { front: Some(2), back: Some(7), ..Look::default() };
        assert_eq!(runs("\u{1b}[38;5;2;48;5;7mx"), [[(of_palette, "x".to_owned())]]);
    }
}
