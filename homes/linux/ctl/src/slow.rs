//! `nvme-ctl slow`: the last requests that took long, and where their time went.

use nvme_linux::inventory::{Slow, SlowRequest};
use nvme_linux::standard::print;

use crate::admin;
use crate::failure::Failure;
use crate::server::Place;
use crate::tree::{clean, table};

/// Prints them: a table, or the server's document as it is.
pub(crate) fn slow(place: &Place, json: bool, ms: Option<u64>) -> Result<(), Failure> {
    let ms = ms.map(|ms| ms.to_string());
    let answer = admin::request(place, "slow", ms.as_deref())?;
    let text = if json {
        answer + "\n"
    } else {
        text(&Slow::from_json(&answer).map_err(|error| format!("the server's answer: {error}"))?)
    };
    print(text.as_bytes()).map_err(|error| error.to_string().into())
}

fn text(slow: &Slow) -> String {
    let Slow { clock, ms, requests } = slow;
    if requests.is_empty() {
        return format!("no request took {ms} ms or longer\n");
    }
    let heads = [
        "ago", "session", "device", "queue", "kind", "bytes", "of", "ms", "limit", "line", "drive", "told",
        "",
    ];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(requests.iter().map(|request| row(request, *clock)));
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = table(&rows, &mut out);
    out
}

fn row(request: &SlowRequest, clock: u64) -> Vec<String> {
    let ms = |seconds: f64| format!("{:.1}", seconds * 1e3);
    let stage = |from: u64, to: u64| ms(to.saturating_sub(from) as f64 / 1e9);
    let ago = clock.saturating_sub(request.used) as f64 / 1e9;
    vec![
        if ago < 100.0 { format!("{ago:.1} s") } else { format!("{:.0} min", ago / 60.0) },
        request.session.to_string(),
        request.device.as_deref().map_or_else(|| "ended".to_owned(), clean),
        request.queue.to_string(),
        clean(&request.kind),
        request.bytes.to_string(),
        request.together.to_string(),
        ms(request.seconds),
        ms(request.held_seconds),
        stage(request.taken, request.submitted),
        stage(request.submitted, request.completed),
        stage(request.completed, request.used),
        if request.status == "ok" { String::new() } else { clean(&request.status) },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_a_line_that_says_where_its_time_went() {
        let second = 1_000_000_000;
        let request = SlowRequest {
            session: 3,
            device: Some("a:n1".into()),
            queue: 1,
            kind: "write_zeroes".into(),
            bytes: 1 << 20,
            together: 8,
            status: "ioerr".into(),
            seconds: 0.135,
            held_seconds: 0.1,
            taken: 5 * second,
            submitted: 5 * second + 5_000_000,
            completed: 5 * second + 34_000_000,
            used: 5 * second + 35_000_000,
        };
        let gone = SlowRequest { device: None, status: "ok".into(), ..request.clone() };
        let slow = Slow { clock: 7 * second, ms: 10, requests: vec![request, gone] };
        let expected = "\
ago    session  device  queue  kind          bytes    of  ms     limit  line  drive  told
2.0 s  3        a:n1    1      write_zeroes  1048576  8   135.0  100.0  5.0   29.0   1.0   ioerr
2.0 s  3        ended   1      write_zeroes  1048576  8   135.0  100.0  5.0   29.0   1.0
";
        assert_eq!(text(&slow), expected);
        assert_eq!(text(&Slow { ms: 7, ..Slow::default() }), "no request took 7 ms or longer\n");
    }
}
