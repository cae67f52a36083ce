//! Nothing is minted above what it is minted from.

extern crate std;
use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, vec};

use proptest::prelude::*;

use super::*;
use crate::errno::Errno;
use crate::words::Trusted;

const NAMES: [&str; 4] = ["ram", "ram-b", "gpu", "Ram"];

fn trusted(held: Dataspaces) -> Trusted<'static, &'static str> {
    Trusted { names: &NAMES, held }
}

fn mint(ceiling: &Ceiling, words: &[&str]) -> Result<Policy, Refusal> {
    ceiling.admit(&SessionRequest::from_words(words.iter().copied(), &trusted(ceiling.dataspaces()))?)
}

fn delegate(ceiling: &Ceiling, words: &[&str]) -> Result<Ceiling, Refusal> {
    ceiling.below(&FactoryRequest::from_words(words.iter().copied(), &trusted(ceiling.dataspaces()))?)
}

fn factory(words: &str) -> Ceiling {
    let words: Vec<&str> = ["device=a:n1"].into_iter().chain(words.split_ascii_whitespace()).collect();
    delegate(&Ceiling::SERVER, &words).unwrap()
}

#[test]
fn what_is_not_said_is_the_smaller_of_the_default_and_the_factory_s() {
    let below = factory("read-only ds-max=1 ds=ram iops=100 bytes=1M");
    let policy = mint(&below, &["device=a:n1", "read-only"]).unwrap();
    assert_eq!((policy.ds_max().get(), policy.access()), (1, Access::ReadOnly));
    assert_eq!(policy.rate().iops.unwrap().get(), 100);
    assert_eq!(policy.rate().bytes.unwrap().get(), 1 << 20);
    assert!(policy.dataspaces().admits(Some(0)) && !policy.dataspaces().admits(Some(1)));
    assert_eq!(mint(&factory("ds-max=7"), &["device=a:n1"]).unwrap().ds_max().get(), 2);
    assert_eq!(factory("").factories(), 0);
}

/// Whoever asks for more is refused, the word named; never given less in silence.
#[test]
fn every_word_that_asks_for_more_than_the_factory_holds_is_refused_by_name() {
    let below = factory(
        "read-only ds-max=3 ds=ram ds=gpu sessions=8 factories=2 mem-max=1G iops=100 bytes=1M iops-all=400 bytes-all=4M",
    );
    for (words, named) in [
        (vec!["device=a:n1"], "add read-only"),
        (vec!["device=a:n1", "read-only", "ds-max=4"], "ds-max=4"),
        (vec!["device=a:n1", "read-only", "ds-max=256"], "ds-max=256"),
        (vec!["device=a:n1", "read-only", "ds=ram-b"], "ram-b"),
        (vec!["device=a:n1", "read-only", "ds=ram", "ds=ram-b"], "ram-b"),
        (vec!["device=a:n1", "read-only", "ds=Ram"], "Ram"),
        (vec!["device=a:n1", "read-only", "ds=nothing"], "nothing"),
        (vec!["device=a:n1", "read-only", "iops=101"], "iops=101"),
        (vec!["device=a:n1", "read-only", "bytes=1048577"], "bytes=1048577"),
        (vec!["device=a:n1", "read-only", "bytes=2M"], "bytes=2097152"),
    ] {
        let refused = mint(&below, &words).unwrap_err();
        assert_eq!(refused.errno(), Errno::Access, "{words:?}: {refused}");
        assert!(refused.to_string().contains(named), "{words:?}: {refused}");
        let refused = delegate(&below, &words).unwrap_err();
        assert_eq!(refused.errno(), Errno::Access, "{words:?}: {refused}");
    }
    for word in
        ["sessions=9", "factories=3", "mem-max=1073741825", "mem-max=2G", "iops-all=401", "bytes-all=5M"]
    {
        let refused = delegate(&below, &["device=a:n1", "read-only", word]).unwrap_err();
        assert_eq!(refused.errno(), Errno::Access, "{word}: {refused}");
        let name = word.split('=').next().unwrap();
        assert!(refused.to_string().contains(name), "{word}: {refused}");
    }
}

/// What is not held is answered in one way, whether it exists or not.
#[test]
fn a_factory_does_not_tell_which_dataspaces_there_are() {
    let below = factory("ds=ram");
    let answer = |name: &str| {
        let refused = mint(&below, &["device=a:n1", &format!("ds={name}")]).unwrap_err();
        (refused.errno(), refused.to_string().replace(name, ""))
    };
    assert_eq!(answer("gpu"), answer("xyz"));
    let refused = mint(&Ceiling::SERVER, &["device=a:n1", "ds=xyz"]).unwrap_err();
    assert_eq!((refused.errno(), refused.why), (Errno::Invalid, Why::NoDataspace));
}

#[test]
fn what_was_admitted_elsewhere_is_held_against_this_factory_too() {
    let asked = SessionRequest::from_words(["device=a:n1", "ds=gpu"], &trusted(Dataspaces::ALL)).unwrap();
    let refused = factory("ds=ram").admit(&asked).unwrap_err();
    assert_eq!((refused.errno(), refused.why), (Errno::Access, Why::NotHeld));
}

#[test]
fn words_of_a_factory_are_known_there_and_nowhere_else() {
    for word in ["sessions=1", "factories=1", "mem-max=1G", "iops-all=1", "bytes-all=1"] {
        assert_eq!(mint(&Ceiling::SERVER, &["device=a:n1", word]).unwrap_err().why, Why::OfFactory, "{word}");
        assert!(delegate(&Ceiling::SERVER, &["device=a:n1", word]).is_ok(), "{word}");
        assert_eq!(
            delegate(&Ceiling::SERVER, &["device=a:n1", word, word]).unwrap_err().why,
            Why::Repeated,
            "{word}"
        );
    }
    let many: Vec<String> = (1..=17).map(|n| format!("device=a:n{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(delegate(&Ceiling::SERVER, &many[..16]).is_ok());
    assert_eq!(delegate(&Ceiling::SERVER, &many).unwrap_err().why, Why::TooManyDevices(16));
    assert_eq!(delegate(&Ceiling::SERVER, &["read-only"]).unwrap_err().why, Why::NoDevice);
    assert_eq!(
        delegate(&Ceiling::SERVER, &["device=a:n1", "device=A:n1", "device=a:n1"]).unwrap_err().why,
        Why::Repeated
    );
    for word in ["sessions=0", "sessions=65536", "factories=65", "iops=0", "iops=-1", "iops=01"] {
        let why = delegate(&Ceiling::SERVER, &["device=a:n1", word]).unwrap_err().why;
        assert!(matches!(why, Why::Number { .. }), "{word}: {why}");
    }
    for word in ["mem-max=0", "bytes=0K", "bytes=1.5G", "bytes-all="] {
        assert_eq!(delegate(&Ceiling::SERVER, &["device=a:n1", word]).unwrap_err().why, Why::Size, "{word}");
    }
    assert_eq!(mint(&Ceiling::SERVER, &["device=a:n1", "name="]).unwrap_err().why, Why::Tag);
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("read-only".to_string()),
        (1..6_u16).prop_map(|n| format!("ds-max={n}")),
        proptest::sample::select(&NAMES[..]).prop_map(|name| format!("ds={name}")),
        (1..9_u8).prop_map(|n| format!("iops={n}")),
        (1..9_u8).prop_map(|n| format!("bytes={n}")),
    ]
}

fn factory_word() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => word(),
        1 => (1..9_u8).prop_map(|n| format!("sessions={n}")),
        1 => (1..9_u8).prop_map(|n| format!("factories={n}")),
        1 => (1..9_u8).prop_map(|n| format!("mem-max={n}")),
        1 => (1..9_u8).prop_map(|n| format!("iops-all={n}")),
        1 => (1..9_u8).prop_map(|n| format!("bytes-all={n}")),
    ]
}

fn said(words: &[String]) -> Vec<&str> {
    core::iter::once("device=a:n1").chain(words.iter().map(String::as_str)).collect()
}

proptest! {
    /// For every chain of factories and all words: what is minted is within each link, and the chain never widens.
    #[test]
    fn what_is_minted_is_within_every_factory_above_it(
        chain in proptest::collection::vec(proptest::collection::vec(factory_word(), 0..4), 0..9),
        words in proptest::collection::vec(word(), 0..4),
    ) {
        let mut above = vec![Ceiling::SERVER];
        for words in &chain {
            let last = above[above.len() - 1];
            if let Ok(next) = delegate(&last, &said(words)) {
                prop_assert_eq!(next.meet(&last), next, "{:?} under {:?}", next, last);
                above.push(next);
            }
        }
        if let Ok(policy) = mint(&above[above.len() - 1], &said(&words)) {
            for link in &above {
                prop_assert!(link.holds(&policy), "{:?} under {:?}", policy, link);
            }
        }
    }

    #[test]
    fn a_meet_holds_what_both_hold(
        a in proptest::collection::vec(factory_word(), 0..5),
        b in proptest::collection::vec(factory_word(), 0..5),
        words in proptest::collection::vec(word(), 0..5),
    ) {
        let made = |words: &[String]| delegate(&Ceiling::SERVER, &said(words));
        if let (Ok(a), Ok(b), Ok(policy)) = (made(&a), made(&b), mint(&Ceiling::SERVER, &said(&words))) {
            prop_assert_eq!(a.meet(&b).holds(&policy), a.holds(&policy) && b.holds(&policy));
        }
    }
}
