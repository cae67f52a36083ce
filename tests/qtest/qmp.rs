//! The machine's monitor.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

pub(crate) struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// After the greeting, which comes when the machine is complete.
    pub(crate) fn new(stream: UnixStream) -> Result<Self, String> {
        let mut qmp = Self(BufReader::new(stream));
        qmp.line()?;
        qmp.run("qmp_capabilities", "{}")?;
        Ok(qmp)
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => Err("QEMU has ended".into()),
            Ok(_) => Ok(line),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Runs a command with its arguments, a JSON object: the answer's line, or the error's.
    pub(crate) fn run(&mut self, command: &str, arguments: &str) -> Result<String, String> {
        let line = format!("{{\"execute\":\"{command}\",\"arguments\":{arguments}}}\n");
        self.0.get_mut().write_all(line.as_bytes()).map_err(|error| error.to_string())?;
        loop {
            let line = self.line()?;
            if line.starts_with("{\"return\"") {
                return Ok(line);
            } else if line.starts_with("{\"error\"") {
                return Err(line);
            }
        }
    }

    /// Sets a property of an object; the value is JSON.
    pub(crate) fn set(&mut self, path: &str, property: &str, value: &str) -> Result<String, String> {
        let arguments = format!("{{\"path\":\"{path}\",\"property\":\"{property}\",\"value\":{value}}}");
        self.run("qom-set", &arguments)
    }
}
