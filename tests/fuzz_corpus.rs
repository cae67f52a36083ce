//! Everything that the fuzz targets were ever fed on purpose, once, with the stable compiler.

#![expect(clippy::disallowed_methods, reason = "fuzz targets make for themselves what they begin with")]

use std::path::Path;

#[expect(unreachable_pub, reason = "public in the library of the fuzz targets")]
#[path = "../fuzz/src/disk.rs"]
mod disk;
#[expect(unreachable_pub, reason = "public in the library of the fuzz targets")]
#[path = "../fuzz/src/l4re.rs"]
mod l4re;
#[expect(unreachable_pub, reason = "public in the library of the fuzz targets")]
#[path = "../fuzz/src/linux.rs"]
mod linux;
#[expect(unreachable_pub, reason = "public in the library of the fuzz targets")]
#[path = "../fuzz/src/policy.rs"]
mod policy;
#[expect(unreachable_pub, reason = "public in the library of the fuzz targets")]
#[path = "../fuzz/src/vhost.rs"]
mod vhost;
#[expect(unreachable_pub, reason = "public in the library of the fuzz targets")]
#[path = "../fuzz/src/virtqueue.rs"]
mod virtqueue;

/// Runs a target over its corpus, and over all that is one bit away from a file of it, as far as that is quick.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        let mut data = std::fs::read(file.unwrap().path()).unwrap();
        target(&data);
        for bit in 0..(data.len() * 8).min(2000) {
            data[bit / 8] ^= 1 << (bit % 8);
            target(&data);
            data[bit / 8] ^= 1 << (bit % 8);
        }
        files += 1;
    }
    assert!(files >= 3, "no corpus in {}", folder.display());
}

#[test]
fn words_are_refused_or_become_a_policy() {
    replay("policy_words", policy::policy_words);
}

#[test]
fn what_is_asked_for_below_a_factory_is_within_it() {
    replay("factory_words", policy::factory_words);
}

#[test]
fn arguments_are_refused_or_become_a_command_line() {
    replay("command_line", policy::command_line);
}

#[test]
fn a_word_has_one_meaning() {
    replay("device_name", policy::device_name);
}

#[test]
fn requests_stay_inside_their_extent() {
    replay("extent", policy::extent);
}

#[test]
fn partitions_stay_inside_their_disk() {
    replay("gpt", disk::gpt);
}

#[test]
fn a_vhost_user_machine_keeps_its_promises() {
    replay("vhost", vhost::vhost);
}

#[test]
fn datagrams_are_refused_or_become_a_request() {
    replay("factory", linux::factory);
}

#[test]
fn capability_words_are_refused_or_are_what_they_can_be() {
    replay("cap_word", linux::cap_word);
}

#[test]
fn what_a_driver_writes_stays_inside_its_memory_and_its_extent() {
    replay("virtqueue", virtqueue::virtqueue);
}

#[test]
fn messages_to_the_l4re_home_are_refused_or_are_the_call_that_they_say() {
    replay("l4re", l4re::l4re);
}

#[test]
fn what_is_handed_over_is_refused_or_written_as_it_was_read() {
    replay("handover", linux::handover);
}
