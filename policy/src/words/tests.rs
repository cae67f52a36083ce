//! Which words are known, and what they come to.

extern crate std;
use std::string::{String, ToString};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::device::NoName;
use crate::grant::Access;

fn policy(words: &[&str]) -> Result<Policy, Refusal> {
    Policy::from_words(words.iter().copied())
}

fn why(words: &[&str]) -> Why {
    policy(words).unwrap_err().why
}

#[test]
fn the_manual_s_words_make_a_policy_in_any_order() {
    let p = policy(&["ds-max=5", "device=88E59675-4DC8-469A-98E4-B7B021DC7FBE"]).unwrap();
    assert_eq!((p.ds_max().get(), p.access()), (5, Access::ReadWrite));
    assert_eq!(p.device().to_string(), "88e59675-4dc8-469a-98e4-b7b021dc7fbe");
    let p = policy(&["read-only", "device=1234:n1"]).unwrap();
    assert_eq!((p.ds_max().get(), p.access()), (2, Access::ReadOnly));
}

#[test]
fn a_typo_never_means_read_write() {
    for word in
        ["readonly", "read_only", "READ-ONLY", "Read-Only", "ro", "read-only=1", "read-only=", "read only"]
    {
        let refusal = policy(&["device=1234:n1", word]).unwrap_err();
        assert_eq!(refusal.why, Why::Meant("read-only"), "{word:?}");
        assert!(refusal.to_string().contains(word), "{refusal}");
    }
    assert_eq!(why(&["dev=1234:n1"]), Why::Meant("device=DEV"));
    assert_eq!(why(&["device"]), Why::Meant("device=DEV"));
    assert_eq!(why(&["Device=x"]), Why::Meant("device=DEV"));
    assert_eq!(why(&["dsmax=3"]), Why::Meant("ds-max=N"));
    assert_eq!(why(&["ds-max"]), Why::Meant("ds-max=N"));
    assert_eq!(why(&["ds"]), Why::Meant("ds=CAP"));
}

#[test]
fn unknown_repeated_empty_and_missing_words_are_refused() {
    assert_eq!(why(&["device=1234:n1", "fast"]), Why::Unknown);
    assert_eq!(why(&["device=1234:n1", " read-only"]), Why::Meant("read-only"));
    assert_eq!(why(&["device=1234:n1", ""]), Why::Empty);
    assert_eq!(why(&["device="]), Why::Device(NoName::Empty));
    assert_eq!(why(&["device=a:n1", "device=a:n1"]), Why::Repeated);
    assert_eq!(why(&["ds-max=3", "device=a:n1", "ds-max=3"]), Why::Repeated);
    assert_eq!(why(&["read-only", "device=a:n1", "read-only"]), Why::Repeated);
    assert_eq!(why(&["read-only"]), Why::NoDevice);
    assert_eq!(why(&[]), Why::NoDevice);
}

#[test]
fn the_number_of_dataspaces_is_1_to_256() {
    for (text, count) in [("ds-max=1", 1), ("ds-max=256", 256)] {
        assert_eq!(policy(&["device=a:n1", text]).unwrap().ds_max().get(), count);
    }
    for text in ["0", "257", "-1", "+2", "2 ", "", "0x2", "02", "4294967298", "18446744073709551618", "two"] {
        let word = std::format!("ds-max={text}");
        assert_eq!(why(&["device=a:n1", &word]), Why::DsMax, "{word}");
    }
}

#[test]
fn a_hostile_word_is_named_but_not_echoed() {
    let words: [&[u8]; 2] = [b"device=a:n1", b"x\x1b[31m\n\xff"];
    let refusal = Policy::from_words(words).unwrap_err();
    assert_eq!(refusal.why, Why::NotText);
    assert_eq!(refusal.to_string(), "\"x\\u{1b}[31m\\n\\xff\": not UTF-8");
    let long = "z".repeat(100_000);
    assert!(policy(&[&long]).unwrap_err().to_string().len() < 200);
}

proptest! {
    /// What is granted is what was said, to the letter.
    #[test]
    fn words_are_known_or_refused(words in proptest::collection::vec(
        prop_oneof!["(device=|ds-max=|read-only|readonly|=)?[a-f0-9:n-]{0,6}", Just(String::from("read-only")),
            Just(String::from("device=a:n1")), "ds-max=[0-9]{1,3}"], 0..5)) {
        let said: Vec<&str> = words.iter().map(String::as_str).collect();
        if let Ok(policy) = policy(&said) {
            let count = |prefix| said.iter().filter(|w| w.starts_with(prefix)).count();
            prop_assert_eq!(count("device="), 1);
            prop_assert_eq!(count("device=") + count("ds-max=") + count("read-only"), said.len());
            prop_assert_eq!(policy.access() == Access::ReadOnly, said.contains(&"read-only"));
            let max = said.iter().find_map(|w| w.strip_prefix("ds-max=")).map_or(2, |n| n.parse().unwrap());
            prop_assert_eq!(policy.ds_max().get(), max);
        }
    }

    #[test]
    fn no_bytes_panic_or_reach_a_message_raw(words in proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 0..40), 0..5)) {
        if let Err(refusal) = Policy::from_words(words.iter()) {
            prop_assert!(!refusal.to_string().chars().any(char::is_control));
        }
    }
}
