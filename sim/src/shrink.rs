//! A run that fails becomes a short one that fails in the same way.

use crate::judge::Finding;
use crate::search::{Run, run_steps};
use crate::setup::Setup;
use crate::step::Step;

/// Runs that a shrinking may take.
const RUNS_MAX: usize = 4000;

/// What tells one kind of finding from another: its judge, and what it says without its numbers.
fn kind(finding: &Finding) -> String {
    let said: String = finding.to_string().chars().filter(|c| !c.is_ascii_digit()).collect();
    said.split(['(', '[', '{']).next().unwrap_or_default().chars().take(60).collect()
}

/// Leaves out of a run what it fails without.
pub fn shrink(run: &Run) -> Run {
    let Some(finding) = &run.finding else { return run.clone() };
    let mut state = Shrinking { kind: kind(finding), best: run.clone(), runs: 0 };
    // Whole chunks first, then smaller ones.
    let mut size = state.best.steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let mut any = false;
        while at < state.best.steps.len() {
            let mut steps = state.best.steps.clone();
            steps.drain(at..(at + size).min(steps.len()));
            if state.fails(&state.best.setup.clone(), &steps) {
                any = true;
            } else {
                at += size;
            }
            if state.runs >= RUNS_MAX {
                return state.best;
            }
        }
        if !any || size > 1 {
            size /= 2;
        }
    }
    state.simplify();
    state.best
}

struct Shrinking {
    kind: String,
    best: Run,
    runs: usize,
}

impl Shrinking {
    fn fails(&mut self, setup: &Setup, steps: &[Step]) -> bool {
        self.runs += 1;
        let run = run_steps(setup, steps);
        let same = run.finding.as_ref().is_some_and(|f| kind(f) == self.kind);
        if same {
            self.best = run;
        }
        same
    }

    /// A simpler world, and requests that are laid out simply.
    fn simplify(&mut self) {
        let simpler: [fn(&mut Setup); 15] = [
            |s| s.workers = 1,
            |s| s.cache = false,
            |s| s.slow = false,
            |s| s.shared = false,
            |s| s.sgl = false,
            |s| s.faulty = false,
            |s| s.apart = [false, false],
            |s| s.mqes = 63,
            |s| s.mdts = 8,
            |s| s.pairs = 8,
            |s| s.besides.memory = 0,
            |s| s.besides.trusted = false,
            |s| s.besides.files = false,
            |s| s.besides.fixed = false,
            |s| s.besides.tables = [0; 4],
        ];
        for simpler in simpler {
            let mut setup = self.best.setup.clone();
            simpler(&mut setup);
            if setup != self.best.setup {
                self.fails(&setup, &self.best.steps.clone());
            }
        }
        while self.best.setup.seats.len() > 1 {
            let mut setup = self.best.setup.clone();
            setup.seats.pop();
            if !self.fails(&setup, &self.best.steps.clone()) {
                break;
            }
        }
        for at in 0..self.best.steps.len() {
            let mut steps = self.best.steps.clone();
            let Some(Step::Ask { layout, sectors, .. }) = steps.get_mut(at) else { continue };
            if *layout == 0 && *sectors == 0 {
                continue;
            }
            (*layout, *sectors) = (0, 0);
            self.fails(&self.best.setup.clone(), &steps);
        }
    }
}
