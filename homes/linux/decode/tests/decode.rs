//! A program that speaks through the core's macros, read by the decoder.

use std::process::Command;

const SAMPLE: &str = env!("CARGO_BIN_EXE_nvme-decode-sample");

/// Runs the sample. The frames it wrote, and how many it says it dropped.
fn sample() -> (Vec<u8>, usize) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let run = Command::new(SAMPLE).arg(file.path()).output().unwrap();
    assert!(run.status.success(), "{run:?}");
    let dropped = String::from_utf8(run.stdout).unwrap().trim().parse().unwrap();
    (std::fs::read(file.path()).unwrap(), dropped)
}

fn decode(frames: &[u8]) -> (String, u64) {
    let mut text = Vec::new();
    let program = std::fs::read(SAMPLE).unwrap();
    let malformed = nvme_decode::decode(&program, frames, &mut text).unwrap();
    (String::from_utf8(text).unwrap(), malformed)
}

#[test]
fn every_frame_is_decoded_or_counted_as_dropped() {
    let (frames, dropped) = sample();
    let (text, malformed) = decode(&frames);
    assert_eq!(malformed, 0);
    assert!(text.starts_with("[0] info  control 1 of three\n[1] "), "{}", &text[..200]);
    assert!(text.contains("[1] trace read 999 blocks at 1098412116148224\n[1] warn  flag true\n"));
    assert!(!text.contains("before"));
    let floods: Vec<_> = text.lines().filter(|line| line.contains("flood")).collect();
    assert_eq!(floods.len() + dropped, 100_000);
    assert_eq!(floods.last(), Some(&format!("[0] error flood {}", floods.len() - 1).as_str()));
}

#[test]
fn a_damaged_stream_loses_frames_and_not_the_decoder() {
    let (mut frames, _) = sample();
    let at = frames.len() / 2;
    frames[at] ^= 0x55;
    frames[at + 1] ^= 0x2a;
    let (text, _) = decode(&frames);
    assert!(text.lines().count() > 1000);
    let cut = nvme_decode::decode(&std::fs::read(SAMPLE).unwrap(), &frames[..at], std::io::sink());
    assert!(cut.is_err() || cut.is_ok_and(|malformed| malformed <= 1));
}

#[test]
fn a_program_without_trace_points_is_refused() {
    // Not this one: it is linked with what a server with trace points is made of.
    let error = nvme_decode::decode(&std::fs::read("/bin/sh").unwrap(), &[][..], std::io::sink());
    assert!(error.is_err());
    assert!(nvme_decode::decode(b"no program", &[][..], std::io::sink()).is_err());
}
