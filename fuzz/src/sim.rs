//! The whole server.

/// A run of the simulator whose every choice is one of these bytes.
pub fn simulator(data: &[u8]) {
    let run = nvme_sim::run_bytes(data);
    if let Some(finding) = &run.finding {
        let steps: Vec<String> = run.steps.iter().map(|step| format!("    Step::{step:?},\n")).collect();
        panic!("{finding}\n{:?}\n{}", run.setup, steps.concat());
    }
}
