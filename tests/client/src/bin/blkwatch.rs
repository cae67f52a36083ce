//! `blkwatch`: opens a session, gives the server a channel for news, and says what it hears there: the capacity, each time
//! that the configuration changed. It asks for nothing from the disk but one read after each change.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nvme_client::message::{back_end_request, protocol};
use nvme_client::{BlkConfig, Client, Error, Factory, Options, Result};

/// Says when the configuration of a device changes, and to what.
#[derive(Parser)]
struct Arguments {
    /// The server's factory socket
    socket: PathBuf,
    /// Words for the factory, as `device=soft0:n1`
    #[arg(required = true, value_name = "WORD")]
    words: Vec<String>,
    /// How many changes to wait for
    #[arg(long, default_value_t = 1)]
    changes: u32,
    /// How long to wait for each, in seconds
    #[arg(long, default_value_t = 60)]
    wait: u64,
}

fn main() -> ExitCode {
    match watch(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("blkwatch: {error}");
            ExitCode::FAILURE
        }
    }
}

fn watch(arguments: &Arguments) -> Result<()> {
    let wait = Duration::from_secs(arguments.wait);
    let words: Vec<_> = arguments.words.iter().map(String::as_str).collect();
    let session = Factory::connect_retry(&arguments.socket, wait)?.create(&words, None)?;
    let usual = Options::default();
    let options = Options { wait, protocol: usual.protocol | protocol::BACKEND_REQ, ..usual };
    let mut client = Client::from_fd(session, &options)?;
    let channel = client.front.backend_channel()?;
    say(&format!("{} sectors", client.config.capacity))?;
    for _ in 0..arguments.changes {
        let news = channel.receive(wait)?;
        if news.request != back_end_request::CONFIG_CHANGE_MSG || !news.payload.is_empty() {
            return Err(Error::Protocol(format!("the back-end's request {} is no news", news.request)));
        }
        let now = BlkConfig::from_bytes(&client.front.config(0, BlkConfig::LEN)?);
        let read = match client.read(0, &mut [0; 4096]) {
            Ok(()) => "read".to_owned(),
            Err(error) => error.to_string(),
        };
        say(&format!("{} sectors now, the first: {read}", now.capacity))?;
    }
    Ok(())
}

/// At once, also into a file.
fn say(line: &str) -> Result<()> {
    println!("{line}");
    Ok(std::io::stdout().flush()?)
}
