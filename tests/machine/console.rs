//! One virtual machine. Its shell reads commands from the serial console and answers with their exit status.

use std::any::Any;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a machine may take to boot: emulated, on a box with other work.
const BOOT: Duration = Duration::from_secs(120);

/// What each machine is: emulated, since nested virtualisation cannot be counted on.
const BASE: [&str; 7] = ["-accel", "tcg,thread=multi", "-cpu", "max", "-nodefaults", "-display", "none"];

/// What each kernel is told.
const WORDS: &str = "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check mitigations=off";

/// A running machine; dropped, it is killed.
pub(crate) struct Machine {
    pub(crate) child: Child,
    console: UnixStream,
    lines: Receiver<String>,
    dir: tempfile::TempDir,
    name: &'static str,
    _held: Option<Box<dyn Any>>,
}

fn connect(path: &Path, child: &mut Child) -> UnixStream {
    let deadline = Instant::now() + BOOT;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => {
                let ended = child.try_wait().unwrap();
                assert!(
                    ended.is_none() && Instant::now() < deadline,
                    "QEMU: {ended:?}, {}: {error}",
                    path.display()
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Machine {
    /// Starts QEMU with what `command` has and what every machine is, and waits for the guest's shell. `words` are more words for
    /// its kernel; `held` lives as long as the machine.
    pub(crate) fn launch(
        name: &'static str,
        command: Command,
        kernel: (&Path, &Path),
        words: &str,
        input: Stdio,
        held: Option<Box<dyn Any>>,
    ) -> Machine {
        let mut machine = Self::spawn(name, command, kernel, words, input, held);
        machine.wait_ready();
        machine
    }

    /// The same without waiting: its guest may never come as far as a shell.
    pub(crate) fn spawn(
        name: &'static str,
        mut command: Command,
        kernel: (&Path, &Path),
        words: &str,
        input: Stdio,
        held: Option<Box<dyn Any>>,
    ) -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let (console, qmp) = (dir.path().join("console"), dir.path().join("qmp"));
        command.args(BASE).arg("-kernel").arg(kernel.0).arg("-initrd").arg(kernel.1);
        command.arg("-append").arg(format!("{WORDS} {words}"));
        command.arg("-chardev").arg(format!("socket,id=con,server=on,wait=on,path={}", console.display()));
        command.args(["-serial", "chardev:con"]);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", qmp.display()));
        let mut child = command.stdin(input).stdout(Stdio::null()).spawn().unwrap();
        // Closes our copies of what QEMU inherits.
        drop(command);
        let console = connect(&console, &mut child);
        let (send, lines) = channel();
        let reader = console.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_string();
                eprintln!("{name}: {text}");
                if send.send(text).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Machine { child, console, lines, dir, name, _held: held }
    }

    fn line(&mut self, deadline: Instant, what: &str) -> String {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("{}: no end of {what} in time", self.name),
            Err(RecvTimeoutError::Disconnected) => {
                panic!("{}: QEMU ended in {what}: {:?}", self.name, self.child.wait())
            }
        }
    }

    /// Waits for the shell.
    pub(crate) fn wait_ready(&mut self) {
        let deadline = Instant::now() + BOOT;
        while !self.line(deadline, "boot").contains("@@READY") {}
    }

    /// Sends a command and does not wait for it.
    pub(crate) fn start(&mut self, command: &str) {
        eprintln!("{}> {command}", self.name);
        self.console.write_all(command.as_bytes()).unwrap();
        self.console.write_all(b"\n").unwrap();
    }

    /// Runs a command; says its exit status and what it printed.
    pub(crate) fn attempt(&mut self, command: &str, wait: Duration) -> (i32, String) {
        self.start(command);
        let deadline = Instant::now() + wait;
        let mut output = String::new();
        loop {
            let line = self.line(deadline, command);
            if let Some((before, status)) = line.split_once("@@RC ") {
                output += before;
                return (status.trim().parse().unwrap(), output);
            }
            output += &line;
            output.push('\n');
        }
    }

    /// Runs a command that must succeed; says what it printed.
    pub(crate) fn run(&mut self, command: &str) -> String {
        let (status, output) = self.attempt(command, Duration::from_secs(120));
        assert_eq!(status, 0, "{}: {command}: {output}", self.name);
        output.trim().to_string()
    }

    /// Shuts the guest down and waits for QEMU's end.
    pub(crate) fn power_off(mut self) {
        self.start("sync; poweroff -f");
        let deadline = Instant::now() + BOOT;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "{}: QEMU did not end", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Says commands to QEMU's monitor (QMP), each of which must succeed.
    pub(crate) fn monitor(&mut self, commands: &[&str]) {
        self.try_monitor(commands).unwrap();
    }

    /// Says commands to QEMU's monitor (QMP), up to the first that fails; what it says to that.
    pub(crate) fn try_monitor(&mut self, commands: &[&str]) -> Result<(), String> {
        let mut stream = connect(&self.dir.path().join("qmp"), &mut self.child);
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        for command in [r#"{"execute":"qmp_capabilities"}"#].iter().chain(commands) {
            stream.write_all(command.as_bytes()).unwrap();
            stream.write_all(b"\n").unwrap();
            loop {
                line.clear();
                assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the monitor is gone");
                if line.contains("\"error\"") {
                    return Err(format!("{command}: {line}"));
                }
                // Events come in between.
                if line.contains("\"return\"") {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
