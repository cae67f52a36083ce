use std::io::Cursor;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::{Chain, Peer, Policy, Record};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(seconds * 1_000_000 + 7)
}

/// So many records, and the head after each.
fn trail(records: u64) -> (String, Vec<Head>) {
    let mut chain = Chain::behind(Head::NONE);
    let mut heads = vec![chain.head()];
    let mut text = String::new();
    for n in 0..records {
        let policy = Policy { devices: vec!["soft0:n1".into()], ds_max: 2, ..Policy::default() };
        let peer = Peer { pid: 7, uid: 0, gid: 0 };
        let record =
            Record { session: Some(n), policy: Some(policy), peer: Some(peer), ..Record::of(Event::Grant) };
        text += &chain.line(record, at(n));
        heads.push(chain.head());
    }
    (text, heads)
}

fn check(text: &str, head: Option<Head>) -> Result<Verified, Broken> {
    verify(Cursor::new(text), head, |_| {})
}

/// Without the line of that number.
fn without(text: &str, gone: usize) -> String {
    text.split_inclusive('\n').enumerate().filter(|(n, _)| *n != gone).map(|(_, line)| line).collect()
}

#[test]
fn a_line_says_when_what_and_who() {
    let (text, heads) = trail(1);
    let zeroes = "0".repeat(64);
    assert_eq!(
        text,
        format!(
            "{{\"v\":1,\"seq\":1,\"time\":\"1970-01-01T00:00:00.000007Z\",\"prev\":\"{zeroes}\",\"event\":\"grant\",\
             \"session\":0,\"peer\":{{\"pid\":7,\"uid\":0,\"gid\":0}},\"policy\":{{\"devices\":[\"soft0:n1\"],\
             \"read_only\":false,\"ds_max\":2}}}}\n"
        )
    );
    assert_eq!(heads[1].hash, Hash::of(text.trim_end().as_bytes()));
    assert_eq!(heads[1].to_string().parse::<Head>(), Ok(heads[1]));
}

#[test]
fn a_sound_trail_is_verified_and_what_follows_the_head_is_said_to_be_unproven() {
    let (text, heads) = trail(5);
    let sound = check(&text, Some(heads[5])).unwrap();
    assert_eq!((sound.records, sound.head, sound.unproven), (5, heads[5], 0));
    assert_eq!(check(&text, Some(heads[3])).unwrap().unproven, 2);
    assert_eq!(check(&text, None).unwrap().unproven, 5);
    assert_eq!(check("", None).unwrap().head, Head::NONE);
    assert_eq!(check("", Some(Head::NONE)).unwrap().records, 0);
}

#[test]
fn a_line_that_was_changed_or_cut_out_is_found() {
    let (text, heads) = trail(5);
    for line in 1..5 {
        let changed = text.replacen(&format!("\"session\":{}", line - 1), "\"session\":9", 1);
        assert!(matches!(check(&changed, None), Err(Broken::NotNext(at)) if at == line + 1), "{line}");
    }
    for gone in 1..4 {
        assert!(
            matches!(check(&without(&text, gone), None), Err(Broken::NotNext(at)) if at == gone as u64 + 1)
        );
    }
    // The last one is proven by a head alone.
    let changed = text.replacen("\"session\":4", "\"session\":9", 1);
    assert_eq!(check(&changed, None).unwrap().unproven, 5);
    assert!(matches!(check(&changed, Some(heads[5])), Err(Broken::Another(_))));
    // So is the first one's absence.
    assert!(check(&without(&text, 0), None).is_ok(), "it may follow a file before it");
    assert!(check(&without(&text, 0), Some(heads[1])).is_ok());
    assert!(matches!(
        check(&without(&text, 0), Some(Head { hash: heads[2].hash, ..heads[1] })),
        Err(Broken::Another(_))
    ));
}

#[test]
fn an_end_that_was_cut_off_is_found_by_a_head() {
    let (text, heads) = trail(5);
    let cut = without(&text, 4);
    assert_eq!(check(&cut, None).unwrap().records, 4);
    assert!(matches!(check(&cut, Some(heads[5])), Err(Broken::CutOff(_))));
    assert!(matches!(check("", Some(heads[1])), Err(Broken::CutOff(_))));
    let (long, _) = trail(9);
    let tail: String = long.split_inclusive('\n').skip(6).collect();
    assert!(matches!(check(&tail, Some(heads[3])), Err(Broken::Before(_))));
}

#[test]
fn a_torn_line_is_closed_before_the_next_and_said() {
    let (text, _) = trail(3);
    let torn = format!("{text}{{\"v\":1,\"seq\":4,\"ti");
    let (head, was_torn) = resume(Cursor::new(&torn)).unwrap().unwrap();
    assert!(was_torn && head.seq == 3);
    let mut chain = Chain::behind(head);
    let closed = format!("{torn}\n{}", chain.line(Record::of(Event::Torn), at(9)));
    let sound = check(&closed, Some(chain.head())).unwrap();
    assert_eq!((sound.records, sound.torn), (4, 1));
    // Nobody said so: it was made by somebody else.
    let unsaid = format!("{torn}\n{}", Chain::behind(head).line(Record::of(Event::Start), at(9)));
    assert!(matches!(check(&unsaid, None), Err(Broken::NoRecord(4))));
    // It is the last one, and nobody has come yet.
    assert_eq!(check(&torn, None).unwrap().records, 3);
}

#[test]
fn a_trail_goes_on_where_it_was() {
    let (text, heads) = trail(4);
    assert_eq!(resume(Cursor::new(&text)).unwrap(), Some((heads[4], false)));
    assert_eq!(resume(Cursor::new("")).unwrap(), Some((Head::NONE, false)));
    assert_eq!(resume(Cursor::new("{\"v\":1")).unwrap(), Some((Head::NONE, true)));
    assert_eq!(resume(Cursor::new("hello\n")).unwrap(), None);
    let other = text.replace("{\"v\":1", "{\"v\":2");
    assert_eq!(resume(Cursor::new(&other)).unwrap(), None);
    assert!(matches!(check(&other, None), Err(Broken::Schema(1, 2))));
}

proptest! {
    /// Whatever is done to a file, a head finds it, unless the lines up to there are what they were.
    #[test]
    fn no_edit_up_to_a_head_goes_unseen(edit in 0..2000_usize, with in any::<u8>(), cut in any::<bool>()) {
        let (text, heads) = trail(6);
        let mut bytes = text.clone().into_bytes();
        let edit = edit % bytes.len();
        if cut { bytes.truncate(edit) } else { bytes[edit] = with }
        let head = heads[6];
        if bytes != text.as_bytes() {
            let found = verify(Cursor::new(&bytes), Some(head), |_| {});
            prop_assert!(found.is_err());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = verify(Cursor::new(&bytes), None, |_| {});
        let _ = resume(Cursor::new(&bytes));
    }
}
