//! `blknbd`: a device of a vhost-user-blk server as a network block device on a Unix socket, for fio and the like.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nvme_client::{Client, Factory, Options, Result, nbd};

/// Serves a device to NBD clients, one after the other: fio --ioengine=nbd --uri='nbd+unix:///?socket=LISTEN'
#[derive(Parser)]
struct Arguments {
    /// Where to listen
    listen: PathBuf,
    /// The server's factory socket
    socket: PathBuf,
    /// Words for the factory, as `device=soft0:n1`
    #[arg(required = true, value_name = "WORD")]
    words: Vec<String>,
}

/// How long the server may take to answer: machines may be emulated.
const WAIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match serve(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("blknbd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> Result<()> {
    let words: Vec<_> = arguments.words.iter().map(String::as_str).collect();
    let session = Factory::connect_retry(&arguments.socket, WAIT)?.create(&words, None)?;
    let options = Options { wait: WAIT, regions: vec![(0x10_0000, 32 << 20)], ..Options::default() };
    let mut client = Client::from_fd(session, &options)?;
    let listener = UnixListener::bind(&arguments.listen)?;
    nbd::serve(&mut client, &listener)
}
