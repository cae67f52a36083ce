//! `blkverify`: sessions whose every block is written with a number that no write had before, and read back, until a file is there. What fails, is lost
//! or is done twice ends it with a word about it; otherwise it says how many requests there were, and how long the longest took.

#[path = "../../../program/checker.rs"]
#[expect(dead_code, reason = "the program's tests use more of it")]
mod checker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nvme_client::{Client, Factory, Options, Result};

use self::checker::{Checker, Seen};

/// Writes numbers and reads them back, with a session for each word.
#[derive(Parser)]
struct Arguments {
    /// The server's factory socket
    socket: PathBuf,
    /// A session's device, as `device=m0:n1`
    #[arg(required = true, value_name = "WORD")]
    words: Vec<String>,
    /// Requests in flight of each
    #[arg(long, default_value_t = 8)]
    depth: u64,
    /// The file that ends it
    #[arg(long)]
    until: PathBuf,
}

fn main() -> ExitCode {
    match verify(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("blkverify: {error}");
            ExitCode::FAILURE
        }
    }
}

fn verify(arguments: &Arguments) -> Result<()> {
    let session = |word: &String| {
        let session = Factory::connect_retry(&arguments.socket, Duration::from_secs(20))?;
        let client = Client::from_fd(session.create(&[word], None)?, &Options::default())?;
        Ok(Checker::start(client, arguments.depth))
    };
    let checkers = arguments.words.iter().map(session).collect::<Result<Vec<Checker>>>()?;
    while !arguments.until.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    // One that found something wrong has said so, and ends this.
    let seen: Vec<Seen> = checkers.into_iter().map(|checker| checker.stop().1).collect();
    let longest = seen.iter().map(|seen| seen.longest).max().unwrap_or_default();
    let requests: u64 = seen.iter().map(|seen| seen.requests).sum();
    println!(
        "{} sessions, {requests} requests verified, the longest took {} ms",
        seen.len(),
        longest.as_millis()
    );
    Ok(())
}
