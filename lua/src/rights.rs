//! Rights of a capability, with L4's values.

/// May be written through.
pub(crate) const W: u32 = 1;
/// Special: its meaning is the object's.
pub(crate) const S: u32 = 2;
/// May be read; every capability has it.
pub(crate) const R: u32 = 4;
/// May be deleted through.
pub(crate) const D: u32 = 8;
/// Not counted.
const N: u32 = 0x10;
/// The object's own right.
const C: u32 = 0x20;
/// What `svr()` gives.
pub(crate) const FULL: u32 = 0xef;

/// The rights that a word such as `rw` stands for. Letters in any case; others mean nothing, as in ned.
pub(crate) fn of_word(word: &str) -> u32 {
    word.chars().fold(R, |rights, letter| {
        rights
            | match letter.to_ascii_lowercase() {
                'r' => R,
                'w' => W,
                's' => S,
                'd' => D,
                'n' => N,
                'c' => C,
                _ => 0,
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_for_rights_in_any_order_and_case_and_always_include_reading() {
        assert_eq!(of_word("rw"), R | W);
        assert_eq!(of_word("SWr"), R | W | S);
        assert_eq!(of_word(""), R);
        assert_eq!(of_word("w?"), R | W);
        assert_eq!(of_word("rwsd"), 15);
    }
}
