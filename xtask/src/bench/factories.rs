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
/// Of one turn.
const BATCH: u32 = 100;
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

/// Creates and closes a batch; how many a second that is.
fn batch(factory: &Factory) -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..BATCH {
        drop(factory.create(&WORDS, None)?);
    }
    Ok(f64::from(BATCH) / begun.elapsed().as_secs_f64())
}

/// The one in the middle.
fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
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
    // Short turns and their medians: what else the machine does falls on both, and one lucky turn is not the figure.
    let (mut at_svr, mut through) = (Vec::new(), Vec::new());
    let end = Instant::now() + Duration::from_secs_f64(2.0 * plan.seconds) * plan.rounds.max(1);
    while Instant::now() < end {
        at_svr.push(batch(&own)?);
        through.push(batch(deep)?);
    }
    let (at_svr, through) = (median(at_svr), median(through));
    target_row("sessions created and closed at svr, one caller", at_svr, RATE, true, "a second");
    target_row("the same through a factory eight deep", through, RATE, true, "a second");
    target_row("a create and close eight deep, of one at svr", at_svr / through, DEEP, false, "×");
    Ok(())
}
