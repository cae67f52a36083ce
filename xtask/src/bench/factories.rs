//! Capabilities a second: sessions that are created and closed at `svr`, and through a factory eight deep, in turns, in one run.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nvme_client::Factory;

use super::{Plan, Result, target_row};

/// Creates and closes a second.
const RATE: f64 = 10_000.0;
/// Of what a create at `svr` costs.
const DEEP: f64 = 1.2;
const DEPTH: usize = 8;
const WAIT: Duration = Duration::from_secs(30);
const WORDS: [&str; 2] = ["device=soft0:n1", "read-only"];

/// Ends with this value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Creates and closes for so long; how many a second.
fn rate(factory: &Factory, time: Duration) -> Result<f64> {
    let (begun, mut many) = (Instant::now(), 0_u32);
    while begun.elapsed() < time {
        drop(factory.create(&WORDS, None)?);
        many += 1;
    }
    Ok(f64::from(many) / begun.elapsed().as_secs_f64())
}

/// Measures, and prints a row for each target.
pub(super) fn rows(plan: &Plan) -> Result<()> {
    let socket = plan.dir.join("factories");
    let mut command = Command::new(&plan.server);
    command.arg("--quiet").args(["--cap", "vbus=soft:mem:16M"]);
    command.args(["--cap", &format!("svr=unix:{}", socket.display())]);
    let _server = Server(command.stdin(Stdio::null()).spawn()?);
    let own = Factory::connect_retry(&socket, WAIT)?;
    let mut chain: Vec<(Factory, OwnedFd)> = Vec::new();
    for depth in 1..=DEPTH {
        let words = [WORDS[0], WORDS[1], &format!("factories={}", DEPTH - depth)];
        let maker = chain.last().map_or(&own, |(factory, _)| factory);
        let reply = maker.request("factory", &words, None)?;
        let [factory, lifetime] = <[OwnedFd; 2]>::try_from(reply.fds).map_err(|_| reply.message)?;
        chain.push((Factory::from_fd(factory, WAIT), lifetime));
    }
    let Some((deep, _)) = chain.last() else { return Ok(()) };
    // Short turns: what else the machine does falls on both.
    let turn = Duration::from_secs_f64(plan.seconds / 10.0);
    let (mut at_svr, mut through) = (0.0_f64, 0.0_f64);
    for _ in 0..10 * plan.rounds.max(1) {
        at_svr = at_svr.max(rate(&own, turn)?);
        through = through.max(rate(deep, turn)?);
    }
    target_row("sessions created and closed at svr, one caller", at_svr, RATE, true, "a second");
    target_row("the same through a factory eight deep", through, RATE, true, "a second");
    target_row("a create and close eight deep, of one at svr", at_svr / through, DEEP, false, "×");
    Ok(())
}
