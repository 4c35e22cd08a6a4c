//! One half of a pair: wrk from the client pod, and the proxy's CPU time meanwhile.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::peers::{Stage, Target};

/// What one half has measured.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Requests answered.
    pub(crate) requests: f64,
    /// Wall-clock seconds of the load.
    pub(crate) seconds: f64,
    /// 99th percentile of latency.
    pub(crate) p99_seconds: f64,
    /// CPU seconds of the proxy's processes; zero where there is none.
    pub(crate) cpu_seconds: f64,
}

/// Loads a target for `seconds`.
pub(crate) fn run(
    stage: &Stage,
    target: Target,
    is_connecting: bool,
    seconds: u32,
    connections: u32,
) -> anyhow::Result<Sample> {
    let url = stage.url(target)?;
    let duration = format!("{seconds}s");
    let connections = connections.to_string();
    let mut command = vec![
        "wrk",
        "-t",
        "1",
        "-c",
        &connections,
        "-d",
        &duration,
        "--latency",
    ];
    if is_connecting {
        command.extend(["-H", "Connection: close"]);
    }
    command.push(&url);
    let before = cpu_seconds(&stage.processes(target)?);
    let text = stage.run_load(target, &command)?;
    let after = cpu_seconds(&stage.processes(target)?);
    let mut sample = parse(&text).with_context(|| format!("wrk said:\n{text}"))?;
    sample.cpu_seconds = (after - before).max(0.0);
    Ok(sample)
}

/// CPU time of all threads of some processes, in seconds.
///
/// Source: Linux, `Documentation/scheduler/sched-stats.rst`: the first field of
/// schedstat is time on the CPU in nanoseconds.
fn cpu_seconds(pids: &[u32]) -> f64 {
    let mut total = 0.0;
    for pid in pids {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let nanos: f64 = text
                .split(' ')
                .next()
                .and_then(|field| field.parse().ok())
                .unwrap_or(0.0);
            total += nanos / 1e9;
        }
    }
    total
}

/// Reads wrk's report. Errors of any kind make the half worthless.
fn parse(text: &str) -> anyhow::Result<Sample> {
    let field = |prefix: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(prefix).map(str::trim))
    };
    let p99 = field("99%").context("no 99th percentile")?;
    let (requests, rest) = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))
        .context("no count of requests")?;
    let seconds = rest.split(',').next().context("no duration")?;
    if let Some(errors) = field("Socket errors:") {
        let is_harmless = errors == "connect 0, read 0, write 0, timeout 0";
        anyhow::ensure!(is_harmless, "socket errors: {errors}");
    }
    if let Some(errors) = field("Non-2xx or 3xx responses:") {
        anyhow::bail!("{errors} answers were no success");
    }
    Ok(Sample {
        requests: requests.parse()?,
        seconds: parse_duration(seconds)?,
        p99_seconds: parse_duration(p99)?,
        cpu_seconds: 0.0,
    })
}

/// Durations as wrk prints them: `750.00us`, `1.20ms`, `3.01s`, `1.00m`.
fn parse_duration(text: &str) -> anyhow::Result<f64> {
    for (unit, factor) in [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0)] {
        if let Some(number) = text.trim().strip_suffix(unit) {
            return Ok(number.trim().parse::<f64>()? * factor);
        }
    }
    anyhow::bail!("not a duration: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_wrk_is_read_and_one_with_errors_is_refused() {
        let good = "  Thread Stats   Avg\n  Latency Distribution\n     50%  1.20ms\n     99%  750.00us\n  \
                    60000 requests in 3.01s, 9.50MB read\nRequests/sec:  19933.55\n";
        let sample = parse(good).expect("the report is whole");
        assert!((sample.requests - 60000.0).abs() < 0.5);
        assert!(
            (sample.seconds - 3.01).abs() < 1e-9 && (sample.p99_seconds - 0.000_75).abs() < 1e-9
        );
        for bad in [
            "  Non-2xx or 3xx responses: 3\n",
            "  Socket errors: connect 0, read 5, write 0, timeout 0\n",
        ] {
            assert!(parse(&format!("{good}{bad}")).is_err(), "{bad}");
        }
    }
}
