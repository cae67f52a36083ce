//! `cargo xtask bench --limits`: how near a session comes to what it may do a second, and what that costs the server.
//!
//! Each limit has two rounds, one right after the other: a session that is bounded, whose client asks for as much as it can; and one that is
//! not, whose client sends as many requests a second by itself. The second is what a limit would cost if somebody else kept to it.

use super::{Figures, Plan, Result, of, target_row, words};

/// How far from its limit a session may be.
const OFF: f64 = 0.02;
/// What a request may cost, of what it costs where the client keeps to the rate by itself.
const COST: f64 = 1.2;

/// A word of `create`, the bytes of each request, how many are in flight, and how many a second that is.
struct Case {
    word: &'static str,
    block: u32,
    depth: u16,
    rate: f64,
}

const fn iops(word: &'static str, rate: f64) -> Case {
    Case { word, block: 4096, depth: 64, rate }
}

const fn bytes(word: &'static str, block: u32, depth: u16, rate: f64) -> Case {
    Case { word, block, depth, rate: rate / block as f64 }
}

/// From the least to the most that a session is bounded to in practice.
const CASES: [Case; 8] = [
    iops("iops=100", 100.0),
    iops("iops=2000", 2e3),
    iops("iops=20000", 2e4),
    iops("iops=100000", 1e5),
    iops("iops=200000", 2e5),
    bytes("bytes=1000000", 4096, 64, 1e6),
    bytes("bytes=100000000", 64 << 10, 32, 1e8),
    bytes("bytes=2000000000", 128 << 10, 32, 2e9),
];

pub(super) fn table(plan: &Plan) -> Result<()> {
    nvme_client::bench::fill_pattern(&plan.dir.join("image"), super::DISK)?;
    println!(
        "Reads at random from an image in tmpfs by one queue, the client sleeps; {} s each, for both rounds.\n",
        plan.seconds
    );
    println!(
        "| limit | bytes | requests a second | off by | client's pace: requests a second | server CPU µs per request | paced: CPU | cost | |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let (mut off, mut cost) = (0.0_f64, 0.0_f64);
    for case in &CASES {
        let limited = round(plan, case, true)?;
        let paced = round(plan, case, false)?;
        let by = of(&limited, "iops") / case.rate - 1.0;
        let times = of(&limited, "cpu") / of(&paced, "cpu");
        let kept = (of(&paced, "iops") / case.rate - 1.0).abs() <= OFF;
        let verdict = match (by.abs() <= OFF, times <= COST) {
            _ if !kept => "its client did not keep to the pace",
            (true, true) => "reached",
            (false, true) => "**off**",
            (true, false) => "**costs more**",
            (false, false) => "**off, costs more**",
        };
        println!(
            "| `{}` | {} | {:.1} | {:+.2} % | {:.1} | {:.3} | {:.3} | {times:.2} × | {verdict} |",
            case.word,
            case.block,
            of(&limited, "iops"),
            by * 100.0,
            of(&paced, "iops"),
            of(&limited, "cpu") / 1e3,
            of(&paced, "cpu") / 1e3,
        );
        (off, cost) = (off.max(by.abs()), cost.max(times));
    }
    println!("{}", super::TARGETS);
    target_row("farthest from a limit", off * 100.0, OFF * 100.0, false, "%");
    target_row("CPU per request, of a client's that paces itself: the most", cost, COST, false, "×");
    Ok(())
}

/// A server of its own.
fn round(plan: &Plan, case: &Case, limited: bool) -> Result<Figures> {
    let socket = plan.dir.join("socket");
    let _ = std::fs::remove_file(&socket);
    let mut command = std::process::Command::new(&plan.blkbench);
    command.args(["--plain", "--spin", "0", "--create", "device=soft0:n1"]);
    command.args(["--time", &plan.seconds.to_string(), "--depth", &case.depth.to_string()]);
    command.args(["--block", &case.block.to_string()]);
    if limited {
        command.args(["--create", case.word]);
    } else {
        command.args(["--pace", &case.rate.to_string()]);
    }
    command.arg(&socket).arg("--").arg(&plan.server).arg("--quiet");
    command.args(["--cap", &format!("vbus=soft:{}", plan.dir.join("image").display())]);
    command.args(["--cap", &format!("svr=unix:{}", socket.display())]);
    let output =
        command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{}: measuring failed", case.word).into());
    }
    Ok(words(&String::from_utf8_lossy(&output.stdout)))
}
