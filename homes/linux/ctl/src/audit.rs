//! `nvme-ctl audit`: an audit trail, for people, and whether it is what was written. It needs no server.

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use nvme_audit::{Head, Line, verify};
use nvme_linux::standard::print;

use crate::failure::Failure;

/// Prints a trail; or, with `only`, whether it is one unbroken chain up to `head`.
pub(crate) fn audit(path: &Path, only: bool, head: Option<Head>) -> Result<(), Failure> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
    let mut text = String::new();
    let each = |line: &Line| {
        if !only {
            let _ = writeln!(text, "{}", show(line));
        }
    };
    let verified = verify(BufReader::new(file), head, each);
    print(text.as_bytes()).map_err(|error| error.to_string())?;
    let verified = verified.map_err(|broken| format!("{shown}: {broken}"))?;
    let mut said = format!("{shown}: {} records, head {}", verified.records, verified.head);
    for (count, what) in [(verified.gaps, "gaps, where records were lost"), (verified.torn, "torn lines")] {
        if count > 0 {
            let _ = write!(said, "; {count} {what}");
        }
    }
    let _ = match (head, verified.unproven) {
        (None, _) => write!(said, "; one chain, whose end nothing proves: give --head SEQ:HASH"),
        (Some(head), 0) => write!(said, "; proven up to {}", head.seq),
        (Some(head), more) => write!(said, "; proven up to {}, {more} records after it are not", head.seq),
    };
    print(format!("{said}\n").as_bytes()).map_err(|error| error.to_string().into())
}

/// One record in a line.
fn show(line: &Line) -> String {
    let record = &line.record;
    let mut out = format!("{:>6} {} {:?}", line.seq, line.time, record.event);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = write!(out, "  {name} {value}");
        }
    };
    let quoted = |text: &String| format!("\"{}\"", text.escape_debug());
    add("session", record.session.map(|n| n.to_string()));
    add("factory", record.factory.map(|n| n.to_string()));
    add("of factory", record.parent.map(|n| n.to_string()));
    add("name", record.name.as_ref().map(quoted));
    add("device", record.device.as_ref().map(|d| d.escape_debug().to_string()));
    add(
        "policy",
        record.policy.as_ref().map(|policy| {
            let devices = policy.devices.join(" ").escape_debug().to_string();
            let access = if policy.read_only { "read-only" } else { "read-write" };
            format!("{devices} {access} ds-max {}", policy.ds_max)
        }),
    );
    add("dataspace", record.dataspace.as_ref().map(quoted));
    add("bytes", record.size.map(|n| n.to_string()));
    add("errno", record.errno.map(|n| n.to_string()));
    add("why", record.why.as_ref().map(quoted));
    add("count", record.count.map(|n| n.to_string()));
    add("for", record.peer.map(|p| format!("pid {} uid {} gid {}", p.pid, p.uid, p.gid)));
    out
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use nvme_audit::{Chain, Event, Peer, Record};

    use super::*;

    #[test]
    fn a_record_is_a_line_without_anything_that_moves_a_cursor() {
        let record = Record {
            session: Some(3),
            name: Some("\x1b[2Jweb".into()),
            why: Some("it ended\n".into()),
            peer: Some(Peer { pid: 7, uid: 1, gid: 2 }),
            ..Record::of(Event::End)
        };
        let mut lines = Vec::new();
        let text = Chain::behind(Head::NONE).line(record, SystemTime::UNIX_EPOCH);
        verify(text.as_bytes(), None, |line| lines.push(show(line))).unwrap();
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.ends_with("for pid 7 uid 1 gid 2") && line.contains("session 3"), "{line}");
    }

    #[test]
    fn a_trail_that_was_changed_is_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let mut chain = Chain::behind(Head::NONE);
        let text: String =
            (0..3).map(|_| chain.line(Record::of(Event::Grant), SystemTime::UNIX_EPOCH)).collect();
        std::fs::write(&path, &text).unwrap();
        audit(&path, true, Some(chain.head())).unwrap();
        audit(&path, false, None).unwrap();
        std::fs::write(&path, text.replacen("grant", "end", 1)).unwrap();
        let failure = audit(&path, true, None).unwrap_err();
        assert!(failure.status == 1 && failure.text.contains("line 2 does not follow"), "{failure:?}");
    }
}
