//! `nvme-ctl top`: what sessions do, in a terminal, and keys for the operator.
//!
//! `state`: what is shown, and what a key does to it; `view`: how that looks. Here: the terminal, the clock, and who is asked.

mod state;
mod view;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::{DefaultTerminal, restore, try_init};

use self::state::{Order, Top};
use crate::failure::Failure;
use crate::server::Place;
use crate::{admin, list};

/// Shows what sessions do, until `q`. `admin` is asked only when a key wants something of it.
pub(crate) fn top(ctl: &Place, admin: &Place, seconds: Option<u32>) -> Result<(), Failure> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::wrong("top needs a terminal; `nvme-ctl stat` prints".to_owned()));
    }
    // Said in the terminal as it was, if nobody is there.
    let first = list::fetch(ctl)?;
    let mut top = Top::default();
    top.take(Ok(first));
    let interval = Duration::from_secs(seconds.unwrap_or(1).into());
    let mut terminal = try_init().map_err(|error| format!("the terminal: {error}"))?;
    let done = run(&mut terminal, &mut top, ctl, admin, interval);
    restore();
    done
}

fn run(
    terminal: &mut DefaultTerminal,
    top: &mut Top,
    ctl: &Place,
    admin: &Place,
    interval: Duration,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::from(format!("the terminal: {error}"));
    // The second reading comes soon: before it there are no rates.
    let mut next = Instant::now() + interval.min(Duration::from_millis(500));
    loop {
        terminal.draw(|frame| view::draw(top, frame)).map_err(failed)?;
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            top.take(list::fetch(ctl));
            next = Instant::now() + interval;
            continue;
        }
        if !event::poll(left).map_err(failed)? {
            continue;
        }
        let Event::Key(key) = event::read().map_err(failed)? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        match top.key(key) {
            Order::Nothing => {}
            Order::Quit => return Ok(()),
            Order::Ask(words) => {
                let mut words = words.iter().map(String::as_str);
                let what = words.next().unwrap_or_default();
                top.answered(admin::request(admin, what, words));
                // What it changed shows at once.
                next = Instant::now() + Duration::from_millis(50);
            }
        }
    }
}
