//! `nvme-decode PROGRAM [--log] [FILE]`: prints the trace points that a defmt build of the server wrote.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read};
use std::process::ExitCode;

/// The program: its arguments are the process's.
pub fn main() -> ExitCode {
    let mut words: Vec<_> = std::env::args_os().skip(1).collect();
    let log = words.get(1).is_some_and(|word| word == "--log");
    if log {
        words.remove(1);
    }
    let mut words = words.into_iter();
    let (Some(program), file, None) = (words.next(), words.next(), words.next()) else {
        eprintln!(
            "usage: nvme-decode PROGRAM [--log] [FILE]: PROGRAM is the server's ELF file; frames come from FILE or standard input; \
             --log: that is a log of L4Re's"
        );
        return ExitCode::from(2);
    };
    let run = || -> Result<u64, crate::Error> {
        let program = fs::read(program)?;
        let input: Box<dyn Read> = match file {
            Some(file) => Box::new(BufReader::new(File::open(file)?)),
            None => Box::new(io::stdin().lock()),
        };
        let input = if log { Box::new(crate::from_log(input)?) } else { input };
        crate::decode(&program, input, BufWriter::new(io::stdout().lock()))
    };
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(malformed) => {
            eprintln!(
                "nvme-decode: {malformed} frames could not be understood: is this the program that wrote them?"
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("nvme-decode: {error}");
            ExitCode::FAILURE
        }
    }
}
