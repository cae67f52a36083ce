//! The inventory, for people: a tree whose `device=` words can be given to `create` as they stand.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use nvme_linux::factory::{ListedDevice, ListedFactory, ListedSession, Listing};
use nvme_linux::inventory::{Access, Client, Controller, Inventory, Namespace, Session};

/// Columns of a terminal that lines are made for.
const WIDTH: usize = 100;

/// The whole text, at this time.
pub(crate) fn text(inventory: &Inventory, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(inventory, now, &mut out);
    out
}

fn write(inventory: &Inventory, now: u64, out: &mut String) -> std::fmt::Result {
    let scanning = if inventory.scanning { ", scanning" } else { "" };
    writeln!(out, "{} (process {}){scanning}", clean(&inventory.server), inventory.pid)?;
    let mut rows = Vec::new();
    for controller in &inventory.controllers {
        controller_rows(controller, &mut rows);
    }
    table(&rows, out)?;
    let limits = &inventory.limits;
    if !inventory.clients.is_empty() {
        writeln!(out, "\nstatic clients")?;
        table(&inventory.clients.iter().map(client_row).collect::<Vec<_>>(), out)?;
    }
    writeln!(out, "\nsessions: {} of {}", inventory.sessions.len(), limits.sessions)?;
    sessions(inventory, now, out)?;
    if !inventory.trusted.is_empty() {
        let names: Vec<String> = inventory.trusted.iter().map(|name| clean(name)).collect();
        writeln!(out, "\ntrusted dataspaces, and no other memory: {}", names.join(", "))?;
    }
    if inventory.anomalies > 0 {
        writeln!(
            out,
            "\nhappened though it cannot: {} times; please report what the log says",
            inventory.anomalies
        )?;
    }
    Ok(())
}

/// What a factory holds, and what was minted through it.
pub(crate) fn held(listing: &Listing) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_held(listing, &mut out);
    out
}

fn write_held(listing: &Listing, out: &mut String) -> std::fmt::Result {
    let factory = |factory: &ListedFactory, out: &mut String| {
        let name = factory.name.as_ref().map_or_else(String::new, |name| format!(" \"{}\"", clean(name)));
        let ended = if factory.ended { ", taken back" } else { "" };
        writeln!(out, "factory {}{name}: {}{ended}", factory.factory, bounds(factory))?;
        let device = |d: &ListedDevice| {
            let there = d.size.map_or_else(|| "not there".to_owned(), size);
            let read_only = if d.read_only { "read-only" } else { "read-write" };
            vec![format!("  {}", word(&d.device)), there, read_only.to_owned()]
        };
        table(&factory.devices.iter().map(device).collect::<Vec<_>>(), out)
    };
    factory(&listing.factory, out)?;
    for below in &listing.factories {
        factory(below, out)?;
    }
    writeln!(out, "sessions: {}", listing.sessions.len())?;
    let session = |s: &ListedSession| {
        let name = s.name.as_ref().map_or_else(String::new, |name| format!("\"{}\"", clean(name)));
        let access = if s.read_only { "read-only" } else { "read-write" };
        vec![
            format!("  {}", s.session),
            word(&s.device),
            format!("{access}, ds-max {}", s.ds_max),
            format!("of factory {}", s.factory),
            name,
        ]
    };
    table(&listing.sessions.iter().map(session).collect::<Vec<_>>(), out)
}

/// What a factory may give at most.
fn bounds(factory: &ListedFactory) -> String {
    let mut words = vec![format!(
        "{}, ds-max {}",
        if factory.read_only { "read-only" } else { "read-write" },
        factory.ds_max
    )];
    for (name, bound) in [
        ("sessions", factory.sessions_max),
        ("factories", factory.factories_max),
        ("iops", factory.iops),
        ("iops-all", factory.iops_all),
    ] {
        words.extend(bound.map(|bound| format!("{name} {bound}")));
    }
    for (name, bound) in
        [("mem-max", factory.mem_max), ("bytes", factory.bytes), ("bytes-all", factory.bytes_all)]
    {
        words.extend(bound.map(|bound| format!("{name} {}", size(bound))));
    }
    if let Some(dataspaces) = &factory.dataspaces {
        let names: Vec<String> = dataspaces.iter().map(|name| clean(name)).collect();
        words.push(format!("dataspaces {}", names.join(" ")));
    }
    words.join(", ")
}

fn controller_rows(controller: &Controller, rows: &mut Vec<Vec<String>>) {
    let model = format!("{} {}", clean(&controller.model), clean(&controller.firmware));
    rows.push(vec![clean(&controller.name), controller.state.word().to_owned(), model.trim().to_owned()]);
    let last = controller.namespaces.len();
    for (index, namespace) in (1..).zip(&controller.namespaces) {
        let (branch, below) = if index == last { ("└─", "  ") } else { ("├─", "│ ") };
        namespace_rows(&controller.serial, namespace, branch, below, rows);
    }
}

fn namespace_rows(
    serial: &str,
    namespace: &Namespace,
    branch: &str,
    below: &str,
    rows: &mut Vec<Vec<String>>,
) {
    let block = u64::from(namespace.block_size);
    let device = format!("{serial}:n{}", namespace.nsid);
    let mut notes = format!("{} blocks of {block}", namespace.blocks);
    if let Some(table) = &namespace.table {
        notes += &format!(", {}", clean(table));
    }
    if namespace.read_only {
        notes += ", cannot be written";
    }
    rows.push(vec![
        format!("{branch} {}", word(&device)),
        size(namespace.blocks.saturating_mul(block)),
        notes,
    ]);
    let last = namespace.partitions.len();
    for (index, partition) in (1..).zip(&namespace.partitions) {
        let branch = if index == last { "└─" } else { "├─" };
        let label = if partition.label.is_empty() {
            String::new()
        } else {
            format!("  \"{}\"", clean(&partition.label))
        };
        let read_only = if partition.read_only { "  read-only" } else { "" };
        rows.push(vec![
            format!("{below} {branch} {}", word(&format!("{device}:{}", partition.number))),
            size(partition.blocks.saturating_mul(block)),
            format!("{}{label}{read_only}", word(&partition.uuid)),
        ]);
    }
}

fn client_row(client: &Client) -> Vec<String> {
    let state = match (client.present, client.connected) {
        (false, _) => "absent",
        (true, false) => "waiting",
        (true, true) => "connected",
    };
    vec![
        format!("  {}", clean(&client.name)),
        word(&client.device),
        client.access.word().to_owned(),
        state.to_owned(),
    ]
}

/// Whose it is: the static client's, or who asked for it, or connected.
fn peer(session: &Session) -> Option<String> {
    let peer = session.peer.map(|peer| {
        // The server cannot see what it runs: that is a guess, by what has that number now.
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", peer.pid)).ok();
        let guess = comm.map_or_else(String::new, |comm| format!(" ({}?)", clean(comm.trim())));
        format!("process {} of user {}{guess}", peer.pid, peer.uid)
    });
    match (&session.client, peer) {
        (Some(client), Some(peer)) => Some(format!("client {}, {peer}", clean(client))),
        (Some(client), None) => Some(format!("client {}", clean(client))),
        (None, peer) => peer,
    }
}

/// What else there is to say of a session, within 100 columns as far as its words allow.
fn session_more(session: &Session, out: &mut String) -> std::fmt::Result {
    let mut words: Vec<String> = peer(session).into_iter().collect();
    words.extend(session.name.as_ref().map(|name| format!("\"{}\"", clean(name))));
    words.extend((session.factory != 0).then(|| format!("of factory {}", session.factory)));
    words.extend(session.held.then(|| "held: its device is drained".to_owned()));
    words.extend(session.path.as_ref().map(|path| format!("at {}", clean(path))));
    let mut line = String::new();
    for word in words {
        // One that is too long for a line has one of its own. Behind it, a comma may follow.
        if !line.is_empty() && line.chars().count() + 2 + word.chars().count() >= WIDTH {
            writeln!(out, "{line},")?;
            line.clear();
        }
        let before = match line.is_empty() {
            true if out.ends_with(",\n") => "     ".to_owned(),
            true => format!("  {}: ", session.id),
            false => ", ".to_owned(),
        };
        line += &before;
        line += &word;
    }
    if line.is_empty() { Ok(()) } else { writeln!(out, "{line}") }
}

/// Sessions, a line each, under what the columns are.
fn sessions(inventory: &Inventory, now: u64, out: &mut String) -> std::fmt::Result {
    if inventory.sessions.is_empty() {
        return Ok(());
    }
    let heads = ["  id", "device", "", "memory", "queues", "since"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(inventory.sessions.iter().map(|session| session_row(session, now)));
    table(&rows, out)?;
    inventory.sessions.iter().try_for_each(|session| session_more(session, out))
}

fn session_row(session: &Session, now: u64) -> Vec<String> {
    let access = if session.access == Access::ReadOnly { "ro" } else { "rw" };
    vec![
        format!("  {}", session.id),
        word(&session.device),
        access.to_owned(),
        format!("{}, {}/{} ds", size(session.registered), session.dataspaces, session.ds_max),
        session.queues.to_string(),
        age(now.saturating_sub(session.since)),
    ]
}

/// How long ago, short.
fn age(seconds: u64) -> String {
    match seconds {
        0..100 => format!("{seconds} s"),
        100..6000 => format!("{} min", seconds / 60),
        6000..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Columns, each as wide as its widest cell; the last one is not padded.
pub(crate) fn table(rows: &[Vec<String>], out: &mut String) -> std::fmt::Result {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:<width$}  ")?;
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A word that a shell takes back as `device=…`.
fn word(device: &str) -> String {
    let device = clean(device);
    let device = device.strip_prefix("device=").unwrap_or(&device);
    let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.,/+@%".contains(c);
    if device.chars().all(plain) {
        format!("device={device}")
    } else {
        format!("'device={}'", device.replace('\'', r"'\''"))
    }
}

/// Without anything that a terminal would act on: serial numbers and labels come from devices and disks.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c == '\'' || c == '"' { vec![c] } else { c.escape_debug().collect() })
        .collect()
}

/// A number of bytes, short.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value.fract() == 0.0 || unit == "B" {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use nvme_linux::inventory::{Limits, Partition, Peer, State, VERSION};

    use super::*;

    fn example() -> Inventory {
        let partition = |number, uuid: &str, label: &str| Partition {
            number,
            uuid: uuid.into(),
            label: label.into(),
            first: 2048,
            blocks: 2048,
            read_only: number == 1,
        };
        Inventory {
            version: VERSION,
            server: "nvme-drv 0.1.0".into(),
            pid: 7,
            controllers: vec![Controller {
                name: "soft:disk.img".into(),
                serial: "my disk".into(),
                model: "soft".into(),
                state: State::Ready,
                namespaces: vec![Namespace {
                    nsid: 1,
                    blocks: 4096,
                    block_size: 512,
                    table: Some("gpt".into()),
                    partitions: vec![partition(1, "88E59675", "root"), partition(2, "0a-01", "\x1b[2Jboo")],
                    ..Namespace::default()
                }],
                ..Controller::default()
            }],
            sessions: vec![Session {
                id: 3,
                device: "my disk:n1".into(),
                access: Access::ReadWrite,
                ds_max: 2,
                dataspaces: 1,
                regions: 3,
                registered: 1 << 30,
                queues: 1,
                since: 1000,
                peer: Some(Peer { pid: -9, uid: 1000, gid: 1000 }),
                ..Session::default()
            }],
            limits: Limits { sessions: 64, ..Limits::default() },
            ..Inventory::default()
        }
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + std::time::Duration::from_secs(1310)
    }

    #[test]
    fn a_listing_fits_into_100_columns() {
        let busy = Session {
            id: 1234,
            device: "S4EWNX0R123456789012:n1:12".into(),
            name: Some("the-web-server-of-the-first-customer".into()),
            factory: 12,
            held: true,
            path: Some(format!("/run/{}/disk.sock", "p".repeat(60))),
            ds_max: 256,
            dataspaces: 256,
            queues: 16,
            registered: 1023 << 30,
            peer: Some(Peer { pid: i32::MAX, uid: 65_534, gid: 1 }),
            ..Session::default()
        };
        let inventory = Inventory { sessions: vec![busy], ..example() };
        let text = text(&inventory, now());
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        for word in ["the-web-server", "of factory 12", "drained", "disk.sock", "256/256 ds", "of user 65534"]
        {
            assert!(text.contains(word), "{word}: {text}");
        }
        // Wherever the line ends.
        for length in 1..=90 {
            let mut inventory = inventory.clone();
            inventory.sessions[0].name = Some("n".repeat(length));
            let text = super::text(&inventory, now());
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        }
        for (seconds, expected) in
            [(0, "0 s"), (99, "99 s"), (100, "1 min"), (7200, "2 h"), (1 << 20, "12 days")]
        {
            assert_eq!(age(seconds), expected);
        }
    }

    #[test]
    fn the_tree_is_aligned_and_its_words_can_be_pasted() {
        let expected = "\
nvme-drv 0.1.0 (process 7)
soft:disk.img                ready  soft
└─ 'device=my disk:n1'       2 MiB  4096 blocks of 512, gpt
   ├─ 'device=my disk:n1:1'  1 MiB  device=88E59675  \"root\"  read-only
   └─ 'device=my disk:n1:2'  1 MiB  device=0a-01  \"\\u{1b}[2Jboo\"

sessions: 1 of 64
  id  device                   memory         queues  since
  3   'device=my disk:n1'  rw  1 GiB, 1/2 ds  1       5 min
  3: process -9 of user 1000
";
        assert_eq!(text(&example(), now()), expected);
    }

    #[test]
    fn what_cannot_happen_is_shown_when_it_has() {
        assert!(!text(&example(), now()).contains("cannot"));
        let odd = Inventory { anomalies: 2, ..example() };
        assert!(
            text(&odd, now())
                .ends_with("\nhappened though it cannot: 2 times; please report what the log says\n")
        );
    }

    #[test]
    fn nothing_from_a_disk_reaches_the_terminal_as_it_is() {
        let shown = text(&example(), now());
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
        assert_eq!(word("it's"), r"'device=it'\''s'");
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (u64::MAX, "16 EiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
