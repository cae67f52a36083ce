//! What `top` shows, and what keys do to it.

use std::cmp::Reverse;

use nvme_linux::inventory::{Inventory, Session};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::failure::Failure;
use crate::stat::{Report, Row};

/// What sessions are in the order of.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    /// Requests a second.
    #[default]
    Requests,
    /// Bytes a second.
    Bytes,
    /// How long 99 of 100 take.
    Latency,
    /// How much of the time a limit holds them back.
    Held,
    /// Their numbers.
    Number,
}

impl Sort {
    pub(super) const ALL: [Self; 5] = [Self::Requests, Self::Bytes, Self::Latency, Self::Held, Self::Number];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::Latency => "latency",
            Self::Held => "held",
            Self::Number => "number",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL.into_iter().cycle().nth(at + 1).unwrap_or_default()
    }

    /// Greatest first.
    fn weight(self, row: &Row) -> f64 {
        match self {
            Self::Requests => row.rates.requests.iter().map(|(_, rate)| rate).sum(),
            Self::Bytes => row.rates.read_bytes + row.rates.written_bytes,
            Self::Latency => row.rates.latency().quantile(0.99),
            Self::Held => row.rates.held_seconds,
            Self::Number => -(row.session as f64),
        }
    }
}

/// What is being typed.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// Nothing: keys are orders.
    #[default]
    None,
    /// Whether that session is to end.
    End(u64),
    /// What is to bound that session.
    Limit(u64, String),
}

/// What a key asks for.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Order {
    Nothing,
    Quit,
    /// These words, of the operator's socket.
    Ask(Vec<String>),
}

/// All of it.
#[derive(Default)]
pub(super) struct Top {
    pub(super) inventory: Inventory,
    pub(super) report: Option<Report>,
    pub(super) sort: Sort,
    /// The session that keys are about.
    pub(super) selected: Option<u64>,
    pub(super) entry: Entry,
    /// What came of the last order, and whether it is bad news.
    pub(super) said: Option<(String, bool)>,
    /// Why there is nothing new.
    pub(super) lost: Option<String>,
}

impl Top {
    /// The next reading.
    pub(super) fn take(&mut self, inventory: Result<Inventory, Failure>) {
        match inventory {
            Err(failure) => self.lost = Some(failure.text),
            Ok(inventory) => {
                // Another server's numbers have nothing to do with those.
                let same = inventory.pid == self.inventory.pid;
                self.report = same.then(|| Report::between(&self.inventory, &inventory));
                self.inventory = inventory;
                self.lost = None;
                self.order();
            }
        }
    }

    /// Sessions in their order, and one of them selected.
    fn order(&mut self) {
        let sort = self.sort;
        if let Some(report) = &mut self.report {
            // The number decides between those that do nothing.
            report
                .sessions
                .sort_by(|a, b| sort.weight(b).total_cmp(&sort.weight(a)).then(a.session.cmp(&b.session)));
        }
        let there = self.sessions();
        if self.selected.is_none_or(|selected| !there.contains(&selected)) {
            self.selected = there.first().copied();
        }
    }

    /// The numbers of all sessions, as they are shown.
    pub(super) fn sessions(&self) -> Vec<u64> {
        match &self.report {
            Some(report) => report.sessions.iter().map(|row| row.session).collect(),
            None => self.inventory.sessions.iter().map(|session| session.id).collect(),
        }
    }

    pub(super) fn session(&self, id: u64) -> Option<&Session> {
        self.inventory.sessions.iter().find(|session| session.id == id)
    }

    /// The operator's socket answered.
    pub(super) fn answered(&mut self, answer: Result<String, Failure>) {
        self.said = Some(match answer {
            Ok(answer) => (answer, false),
            Err(failure) => (failure.text, true),
        });
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyEvent) -> Order {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if matches!(key.code, KeyCode::Char('c')) { Order::Quit } else { Order::Nothing };
        }
        match std::mem::take(&mut self.entry) {
            Entry::None => self.order_key(key.code),
            Entry::End(id) => match key.code {
                KeyCode::Char('y' | 'Y') => Order::Ask(vec!["end".to_owned(), id.to_string()]),
                _ => Order::Nothing,
            },
            Entry::Limit(id, mut text) => {
                match key.code {
                    KeyCode::Enter if text.split_whitespace().next().is_some() => {
                        let words = text.split_whitespace().map(str::to_owned);
                        return Order::Ask(
                            ["limit".to_owned(), id.to_string()].into_iter().chain(words).collect(),
                        );
                    }
                    KeyCode::Esc | KeyCode::Enter => return Order::Nothing,
                    KeyCode::Backspace => {
                        text.pop();
                    }
                    KeyCode::Char(c) if text.len() < 60 => text.push(c),
                    _ => {}
                }
                self.entry = Entry::Limit(id, text);
                Order::Nothing
            }
        }
    }

    fn order_key(&mut self, code: KeyCode) -> Order {
        self.said = None;
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Order::Quit,
            KeyCode::Char('s') => {
                self.sort = self.sort.next();
                self.order();
            }
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Char('e') => self.entry = self.selected.map_or(Entry::None, Entry::End),
            KeyCode::Char('l') => {
                let bounds = |session: &Session| {
                    let iops = session.iops.map(|iops| format!("iops={iops}"));
                    let bytes = session.bytes.map(|bytes| format!("bytes={bytes}"));
                    iops.into_iter().chain(bytes).collect::<Vec<_>>().join(" ")
                };
                self.entry = self.selected.map_or(Entry::None, |id| {
                    Entry::Limit(id, self.session(id).map(bounds).unwrap_or_default())
                });
            }
            _ => {}
        }
        Order::Nothing
    }

    /// Selects another session.
    fn go(&mut self, by: isize) {
        let there = self.sessions();
        let at = there.iter().position(|id| Some(*id) == self.selected).unwrap_or(0);
        let at = at.saturating_add_signed(by).min(there.len().saturating_sub(1));
        self.selected = there.get(at).copied();
    }

    /// The busiest worker's part of the time.
    pub(super) fn busiest(&self) -> f64 {
        let workers = self.report.iter().flat_map(|report| &report.workers);
        workers.map(|worker| worker.busy_seconds).max_by(f64::total_cmp).unwrap_or(0.0)
    }

    /// Which row is selected.
    pub(super) fn row(&self) -> Option<usize> {
        self.sessions().iter().position(|id| Some(*id) == self.selected)
    }

    /// Controllers, those in trouble first.
    pub(super) fn controllers(&self) -> Vec<&nvme_linux::inventory::Controller> {
        let mut all: Vec<_> = self.inventory.controllers.iter().collect();
        all.sort_by_key(|controller| Reverse(controller.state != nvme_linux::inventory::State::Ready));
        all
    }
}

#[cfg(test)]
pub(super) mod tests {
    use nvme_linux::inventory::{Controller, ControllerCounters, Counters, Latency, State, Worker};

    use super::*;

    pub(in crate::top) fn inventory(clock: u64, of: &[(u64, u64, u64)]) -> Inventory {
        let session = |(id, reads, bytes): &(u64, u64, u64)| {
            let mut counters = Counters { read_bytes: *bytes, ..Counters::default() };
            counters.requests.read = *reads;
            counters.latency_seconds.read = Latency {
                sum: *reads as f64 * 1e-4,
                buckets: vec![(12, reads / 4), (16, reads - reads / 4)],
            };
            let name = (*id == 1).then(|| "web".to_owned());
            Session {
                id: *id,
                device: format!("db:n{id}"),
                name,
                iops: Some(7),
                counters,
                ..Session::default()
            }
        };
        Inventory {
            clock,
            server: "nvme-drv 0.1.0".into(),
            pid: 7,
            sessions: of.iter().map(session).collect(),
            controllers: vec![Controller {
                name: "soft:disk.img".into(),
                serial: "db".into(),
                state: State::Ready,
                counters: ControllerCounters {
                    temperature_celsius: Some(41),
                    ..ControllerCounters::default()
                },
                ..Controller::default()
            }],
            workers: vec![Worker { worker: 0, busy_seconds: clock as f64 / 2e9, asleep_seconds: 0.0 }],
            ..Inventory::default()
        }
    }

    pub(in crate::top) fn busy() -> Top {
        let mut top = Top::default();
        top.take(Ok(inventory(0, &[(1, 0, 0), (2, 0, 0), (3, 0, 0)])));
        top.take(Ok(inventory(1_000_000_000, &[(1, 100, 1 << 20), (2, 4000, 4096), (3, 0, 0)])));
        top
    }

    fn press(top: &mut Top, code: KeyCode) -> Order {
        top.key(KeyEvent::from(code))
    }

    #[test]
    fn sessions_are_sorted_by_load_and_the_selected_one_stays_so() {
        let mut top = busy();
        assert_eq!((top.sessions(), top.selected), (vec![2, 1, 3], Some(1)), "the first that was there");
        press(&mut top, KeyCode::Char('s'));
        assert_eq!((top.sort, top.sessions(), top.row()), (Sort::Bytes, vec![1, 2, 3], Some(0)));
        press(&mut top, KeyCode::Down);
        press(&mut top, KeyCode::Down);
        press(&mut top, KeyCode::Char('j'));
        assert_eq!(top.selected, Some(3), "there is none below");
        // It ends: another is selected.
        top.take(Ok(inventory(2_000_000_000, &[(1, 200, 2 << 20), (2, 8000, 8192)])));
        assert_eq!(top.selected, Some(1));
        for _ in 0..4 {
            press(&mut top, KeyCode::Char('s'));
        }
        assert_eq!(top.sort, Sort::Requests);
        assert!((top.busiest() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_session_is_ended_only_by_yes_and_limited_by_what_is_typed() {
        let mut top = busy();
        assert_eq!(press(&mut top, KeyCode::Char('e')), Order::Nothing);
        assert_eq!(press(&mut top, KeyCode::Char('n')), Order::Nothing);
        assert_eq!(top.entry, Entry::None);
        press(&mut top, KeyCode::Char('e'));
        assert_eq!(press(&mut top, KeyCode::Char('y')), Order::Ask(vec!["end".into(), "1".into()]));
        press(&mut top, KeyCode::Char('l'));
        assert_eq!(top.entry, Entry::Limit(1, "iops=7".into()));
        press(&mut top, KeyCode::Backspace);
        for c in "5 bytes=1M".chars() {
            press(&mut top, KeyCode::Char(c));
        }
        let words = ["limit", "1", "iops=5", "bytes=1M"].map(str::to_owned).to_vec();
        assert_eq!(press(&mut top, KeyCode::Enter), Order::Ask(words));
        top.answered(Err("refused".to_owned().into()));
        assert_eq!(top.said, Some(("refused".into(), true)));
        // What is typed is no order, but for the end of it.
        press(&mut top, KeyCode::Char('l'));
        assert_eq!(press(&mut top, KeyCode::Char('q')), Order::Nothing);
        assert_eq!(press(&mut top, KeyCode::Esc), Order::Nothing);
        assert_eq!(press(&mut top, KeyCode::Char('q')), Order::Quit);
        assert_eq!(top.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Order::Quit);
    }

    #[test]
    fn a_server_that_is_gone_is_said_and_the_next_one_begins_anew() {
        let mut top = busy();
        top.take(Err(Failure::no_server("nobody".into())));
        assert_eq!((top.lost.as_deref(), top.sessions().len()), (Some("nobody"), 3));
        top.take(Ok(Inventory { pid: 8, ..inventory(5, &[(1, 9, 9)]) }));
        assert!(top.lost.is_none() && top.report.is_none());
        assert_eq!(top.sessions(), [1]);
    }
}
