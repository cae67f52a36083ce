//! How `top` looks.

use nvme_linux::inventory::{Controller, Latency, State};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

use super::state::{Entry, Top};
use crate::stat;
use crate::tree::clean;

/// Most controllers that are shown, so that sessions have room.
const CONTROLLERS: usize = 8;
/// The first bar: what took less than 2 µs.
const FIRST: u8 = 10;
/// How many bars there are, for 23 powers of two; the last one is also of all that took longer.
const BARS: usize = 15;
/// Over the bars, each word where the bar of its time is.
const TIMES: &str = "1µs   1ms    1s";

/// The whole picture.
pub(super) fn draw(top: &Top, frame: &mut Frame<'_>) {
    let controllers = top.controllers();
    let shown = u16::try_from(controllers.len().min(CONTROLLERS)).unwrap_or(0);
    let parts = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(shown + 2),
        Constraint::Min(2),
        Constraint::Length(1),
    ]);
    let [head, health, sessions, foot] = parts.areas(frame.area());
    frame.render_widget(Paragraph::new(head_line(top)), head);
    frame.render_widget(controllers_table(&controllers), health);
    let mut state = TableState::default().with_selected(top.row());
    frame.render_stateful_widget(sessions_table(top), sessions, &mut state);
    frame.render_widget(Paragraph::new(foot_line(top)), foot);
}

fn head_line(top: &Top) -> Line<'static> {
    let inventory = &top.inventory;
    let mut spans = vec![
        Span::from(clean(&inventory.server)).bold(),
        Span::from(format!(" (process {})  sessions: {}  ", inventory.pid, inventory.sessions.len())),
    ];
    let workers = top.report.iter().flat_map(|report| &report.workers).take(4);
    for worker in workers {
        let busy = worker.busy_seconds.clamp(0.0, 1.0);
        spans.push(Span::from(format!("worker {} ", worker.worker)));
        let filled = (busy * 10.0).round() as usize;
        spans.push(Span::from("█".repeat(filled)).fg(Color::Green));
        spans.push(Span::from("░".repeat(10 - filled.min(10))).fg(Color::DarkGray));
        spans.push(Span::from(format!(" {:.0}%  ", busy * 100.0)));
    }
    if inventory.workers.len() > 4 {
        spans.push(Span::from(format!("busiest {:.0}%", top.busiest() * 100.0)));
    }
    Line::from(spans)
}

fn header(words: &[&'static str]) -> Row<'static> {
    Row::new(words.iter().map(|word| Cell::from(*word)))
        .style(Style::new().bold().fg(Color::Black).bg(Color::Gray))
}

fn controllers_table(controllers: &[&Controller]) -> Table<'static> {
    let row = |controller: &&Controller| {
        let colour = match controller.state {
            State::Ready => Color::Green,
            State::Failed => Color::Red,
            _ => Color::Yellow,
        };
        let counters = &controller.counters;
        let percent =
            |part: Option<f64>| part.map_or_else(|| "-".to_owned(), |part| format!("{:.0}%", part * 100.0));
        let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let temperature = counters.temperature_celsius.map_or_else(|| "-".to_owned(), |t| format!("{t}°C"));
        let critical = counters.critical_warning.is_some_and(|bits| bits != 0);
        let health = if critical { Style::new().fg(Color::Red) } else { Style::new() };
        Row::new([
            Cell::from(clean(&controller.serial)),
            Cell::from(controller.state.word()).fg(colour),
            Cell::from(temperature).style(health),
            Cell::from(percent(counters.spare_ratio)).style(health),
            Cell::from(percent(counters.used_ratio)).style(health),
            Cell::from(number(counters.media_errors)),
            Cell::from(counters.failed.to_string()),
            Cell::from(counters.late.to_string()),
            Cell::from(counters.resets.to_string()),
            Cell::from(clean(&controller.model)),
        ])
    };
    let widths = [22, 9, 6, 5, 5, 6, 6, 5, 6].map(Constraint::Length);
    let widths = widths.into_iter().chain([Constraint::Fill(1)]);
    let rows = controllers.iter().take(CONTROLLERS).map(row);
    let heads =
        ["controller", "state", "temp", "spare", "used", "media", "failed", "late", "resets", "model"];
    Table::new(rows, widths).header(header(&heads))
}

fn sessions_table(top: &Top) -> Table<'static> {
    let nothing = Vec::new();
    let rows = top.report.as_ref().map_or(&nothing, |report| &report.sessions);
    let rows = rows.iter().map(|row| session_row(top, row));
    let widths = [
        Constraint::Length(4),
        Constraint::Fill(1),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(BARS as u16),
        Constraint::Length(5),
        Constraint::Length(5),
    ];
    let heads = ["id", "device", "r/s", "w/s", "rMB/s", "wMB/s", "mean", "99%", TIMES, "depth", "held"];
    Table::new(rows, widths).header(header(&heads)).row_highlight_style(Style::new().reversed())
}

fn session_row(top: &Top, row: &stat::Row) -> Row<'static> {
    let rates = &row.rates;
    let seconds = top.report.as_ref().map_or(1.0, |report| report.seconds);
    let latency = rates.latency();
    let session = top.session(row.session);
    let name = session.and_then(|session| session.name.as_ref());
    let device = match name {
        Some(name) => format!("{} {}", clean(name), clean(&row.device)),
        None => clean(&row.device),
    };
    let held = rates.held_seconds;
    let held_cell = Cell::from(format!("{:.0}%", held * 100.0));
    let limited = session.is_some_and(|session| session.iops.is_some() || session.bytes.is_some());
    let held_cell = match (held > 0.0, limited, session.is_some_and(|session| session.held)) {
        (.., true) => Cell::from("drain").fg(Color::Yellow),
        (true, ..) => held_cell.fg(Color::Yellow),
        (false, true, _) => held_cell,
        (false, false, _) => Cell::from("-"),
    };
    Row::new([
        Cell::from(row.session.to_string()),
        Cell::from(device),
        Cell::from(short(rates.requests.read)),
        Cell::from(short(rates.requests.write)),
        Cell::from(format!("{:.1}", rates.read_bytes / 1e6)),
        Cell::from(format!("{:.1}", rates.written_bytes / 1e6)),
        Cell::from(time(latency.mean())),
        Cell::from(time(latency.quantile(0.99))),
        Cell::from(bars(&latency)).fg(Color::Cyan),
        Cell::from(format!("{:.1}", rates.depth(seconds))),
        held_cell,
    ])
}

fn foot_line(top: &Top) -> Line<'static> {
    match (&top.entry, &top.said, &top.lost) {
        (Entry::End(id), ..) => {
            Line::from(format!("end session {id}? y ends it, any other key does not")).yellow()
        }
        (Entry::Limit(id, text), ..) => Line::from(vec![
            Span::from(format!("limit of session {id} (iops=N bytes=SIZE, or none): ")).yellow(),
            Span::from(clean(text)),
            Span::from("█"),
        ]),
        // Numbers that are old are worse than an answer that is.
        (.., Some(lost)) => Line::from(clean(lost)).red(),
        (_, Some((said, bad)), _) => {
            let line = Line::from(clean(said));
            if *bad { line.red() } else { line.green() }
        }
        _ => Line::from(format!("q quit  ↑↓ select  s sort (by {})  e end  l limit", top.sort.word())).dim(),
    }
}

/// A rate, in at most six characters.
fn short(rate: f64) -> String {
    match rate {
        0.0..100_000.0 => format!("{rate:.0}"),
        100_000.0..10_000_000.0 => format!("{:.0}k", rate / 1e3),
        _ => format!("{:.0}M", rate / 1e6),
    }
}

/// A time, in at most six characters.
fn time(seconds: f64) -> String {
    match seconds {
        0.0 => "-".to_owned(),
        0.0..0.001 => format!("{:.0}µs", seconds * 1e6),
        0.001..1.0 => format!("{:.1}ms", seconds * 1e3),
        _ => format!("{seconds:.1}s"),
    }
}

/// How many took how long: bars from a microsecond to some seconds, each as high as its part of all.
fn bars(latency: &Latency) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut many = [0_u64; BARS];
    for (n, count) in &latency.buckets {
        // One or two powers of two a bar: a thousand times as long is six or seven bars further.
        let at = usize::from(n.saturating_sub(FIRST)) * BARS / 23;
        if let Some(sum) = many.get_mut(at.min(BARS - 1)) {
            *sum = sum.saturating_add(*count);
        }
    }
    let all = latency.count().max(1) as f64;
    many.iter()
        .map(|many| match many {
            0 => ' ',
            many => {
                let level = (*many as f64 / all * LEVELS.len() as f64).ceil() as usize;
                LEVELS.get(level.saturating_sub(1).min(LEVELS.len() - 1)).copied().unwrap_or('█')
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::state::tests::busy;
    use super::*;

    fn shown(top: &Top) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(100, 12)).unwrap();
        terminal.draw(|frame| draw(top, frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        (0..12)
            .map(|y| {
                (0..100).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>().trim_end().to_owned()
            })
            .collect()
    }

    #[test]
    fn each_session_is_a_line_with_rates_and_bars() {
        let mut top = busy();
        let lines = shown(&top);
        let text = lines.join("\n");
        assert!(
            lines[0].starts_with("nvme-drv 0.1.0 (process 7)  sessions: 3  worker 0 █████░░░░░ 50%"),
            "{text}"
        );
        let controller = &lines[2];
        assert!(
            controller.starts_with("db") && controller.contains("ready") && controller.contains("41°C"),
            "{text}"
        );
        let rows: Vec<&String> = lines.iter().filter(|line| line.contains("db:n")).collect();
        assert!(rows[0].contains("db:n2") && rows[0].contains("4000") && rows[0].contains("100µs"), "{text}");
        assert!(rows[1].contains("web db:n1") && rows[1].contains("1.0"), "{text}");
        assert!(rows[0].contains('▂') && rows[0].contains('▆'), "a quarter, and three: {text}");
        assert!(text.contains("sort (by requests)"), "{text}");
        top.entry = Entry::End(2);
        assert!(shown(&top).join("\n").contains("end session 2?"));
        top.answered(Ok("done".into()));
        top.entry = Entry::None;
        assert!(shown(&top).join("\n").contains("done"));
        top.lost = Some("gone\u{1b}".into());
        assert!(shown(&top).join("\n").contains("gone\\u{1b}"));
    }

    #[test]
    fn numbers_stay_short() {
        for rate in [0.0, 99_999.4, 123_456.0, 9_999_999.0, 5e8] {
            assert!(short(rate).chars().count() <= 6, "{}", short(rate));
        }
        for seconds in [0.0, 1e-6, 9.994e-4, 0.0123, 0.9994, 1.5, 4000.0] {
            assert!(time(seconds).chars().count() <= 7, "{}", time(seconds));
        }
        assert_eq!(
            (time(5e-5).as_str(), time(0.0123).as_str(), short(123_456.0).as_str()),
            ("50µs", "12.3ms", "123k")
        );
    }

    #[test]
    fn a_bar_is_where_its_time_is() {
        let bars = |buckets: &[(u8, u64)]| bars(&Latency { sum: 1.0, buckets: buckets.to_vec() });
        assert_eq!(bars(&[]), " ".repeat(BARS));
        assert_eq!(bars(&[(0, 5)]).trim_end(), "█");
        let last = bars(&[(63, 1)]);
        assert!(last.ends_with('█') && last.chars().count() == BARS);
        assert_eq!(TIMES.chars().count(), BARS);
        // Under its word in the header: a microsecond, a millisecond, a second.
        for (n, word) in [(10, "1µs"), (20, "1ms"), (30, "1s")] {
            let at = bars(&[(n, 1)]).chars().take_while(|c| *c == ' ').count();
            assert!(TIMES.chars().skip(at).collect::<String>().starts_with(word), "{n}: {at}");
        }
        assert_eq!(bars(&[(10, 1), (20, 1)]).chars().filter(|c| *c == '▄').count(), 2);
    }
}
