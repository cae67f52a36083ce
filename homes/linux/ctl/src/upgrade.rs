//! `nvme-ctl upgrade`: starts the next server, and waits until it has taken over.
//!
//! The next server takes over by itself (`--cap upgrade=…`); what is done here is what a service manager wants of a reload: an end that
//! says whether it went well. The program goes on when this one has ended.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::failure::Failure;

/// How long the next server may take. (Each step of it has a deadline of its own.)
const PATIENCE: Duration = Duration::from_secs(80);

/// Starts the command; well once that of `pid` has ended and it has not.
pub(crate) fn upgrade(pid: Option<i32>, command: &[String]) -> Result<(), Failure> {
    let told = || std::env::var("MAINPID").ok()?.parse().ok();
    let pid = pid
        .or_else(told)
        .ok_or_else(|| Failure::wrong("which process runs is not said: --pid PID".into()))?;
    let (program, arguments) = command.split_first().ok_or_else(|| "there is no command".to_owned())?;
    let old =
        Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(|| Failure::wrong(format!("{pid}: no process")))?;
    let old = pidfd_open(old, PidfdFlags::empty())
        .map_err(|why| Failure::no_server(format!("pid {pid}: {why}")))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|why| Failure::wrong(format!("{program}: {why}")))?;
    let taken = wait(&old, &mut child);
    if taken.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    taken
}

fn wait(old: &std::os::fd::OwnedFd, child: &mut Child) -> Result<(), Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure::from(why.to_string());
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| failed(&"no process"))?;
    let new = pidfd_open(id, PidfdFlags::empty()).map_err(|why| failed(&why))?;
    let patience = Timespec::try_from(PATIENCE).unwrap_or_default();
    let mut fds = [PollFd::new(old, PollFlags::IN), PollFd::new(&new, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&patience)) {
            Err(Errno::INTR) => continue,
            Err(why) => return Err(failed(&why)),
            Ok(0) => return Err(failed(&format!("it has not taken over in {} s", PATIENCE.as_secs()))),
            Ok(_) => {}
        }
        return match child.try_wait().map_err(|why| failed(&why))? {
            None => Ok(()),
            Some(status) => {
                let gone = fds.first().is_some_and(|old| !old.revents().is_empty());
                let other = if gone { "and so has the one before" } else { "the one before goes on" };
                Err(Failure::denied(format!("the next server has ended ({status}); {other}")))
            }
        };
    }
}
