//! The machine's monitor.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

pub(crate) struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// After the greeting.
    pub(crate) fn new(stream: UnixStream) -> Self {
        let mut qmp = Self(BufReader::new(stream));
        qmp.line();
        qmp.run("qmp_capabilities", "{}").unwrap();
        qmp
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).is_ok_and(|n| n > 0), "QEMU has ended");
        line
    }

    /// Runs a command with its arguments, a JSON object: the answer's line, or the error's.
    pub(crate) fn run(&mut self, command: &str, arguments: &str) -> Result<String, String> {
        let line = format!("{{\"execute\":\"{command}\",\"arguments\":{arguments}}}\n");
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
        loop {
            let line = self.line();
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
