//! The program `nvme-decode`: prints the trace points that a defmt build of the server wrote.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};
use nvme_linux::standard::{answer, complain};

/// Prints the trace frames of an nvme-drv that was built for them (feature defmt).
///
/// The strings come from the very program that wrote the frames. Its status is 0 when all frames were understood.
#[derive(Debug, Parser)]
#[command(name = "nvme-decode", version, max_term_width = 100)]
struct Options {
    /// The server's ELF file, not stripped
    #[arg(value_name = "PROGRAM")]
    program: PathBuf,

    /// The frames are lines of a log of L4Re's
    #[arg(long)]
    log: bool,

    /// Where the frames are, in place of standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// The command line.
pub fn command() -> clap::Command {
    Options::command()
}

/// The program: its arguments are the process's. `version` is what `--version` says after the name.
pub fn main(version: &'static str) -> ExitCode {
    let parsed = command().version(version).try_get_matches();
    let options = match parsed.and_then(|matches| Options::from_arg_matches(&matches)) {
        Ok(options) => options,
        Err(said) => {
            return ExitCode::from(answer("nvme-decode", &said.render().to_string(), said.use_stderr()));
        }
    };
    match run(&options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(malformed) => {
            complain(format_args!(
                "nvme-decode: {malformed} frames could not be understood: is this the program that wrote them?"
            ));
            ExitCode::FAILURE
        }
        Err(error) => {
            complain(format_args!("nvme-decode: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<u64, crate::Error> {
    let program = fs::read(&options.program)?;
    let input: Box<dyn Read> = match &options.file {
        Some(file) => Box::new(BufReader::new(File::open(file)?)),
        None => Box::new(io::stdin().lock()),
    };
    let input = if options.log { Box::new(crate::from_log(input)?) } else { input };
    crate::decode(&program, input, BufWriter::new(io::stdout().lock()))
}
