//! SIGKILL of the daemon under load on both paths, and its return.

use super::{Report, Stage, wait_in_force};
use crate::lab::{patience, wait_until};
use crate::workload::outcome::{Summary, now_ns};
use crate::workload::tcp_client::Seen;

/// Step 8.
pub(super) fn kill_and_return(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    stage.apply("routes", "2-jason.yaml")?;
    stage.apply("tcp-echo", "4-tcp-80-20.yaml")?;
    let url = "http://reviews:9080/reviews/0";
    let jason = ["--url", url, "-n", "20", "-H", "end-user: jason"];
    let client = stage.client.clone();
    let is_routed = || {
        let all = client.ask(&["--url", url, "-n", "20"])?;
        Ok(client.ask(&jason)?.from("reviews v2") == 20 && all.from("reviews v3") == 20)
    };
    wait_in_force("2-jason.yaml", is_routed)?;
    let load = client.spawn_workload(
        "load",
        &[
            "load",
            "--url",
            url,
            "--rate",
            "200",
            "-c",
            "4",
            "--no-keepalive",
            "--each",
            "--timeout",
            "10",
        ],
    )?;
    let dials = ["tcp-client", "--to", "tcp-echo:9000", "--every-ms", "5"];
    let kernel_load = client.spawn_workload("kernel-load", &dials)?;
    // Load on both sides of each event: what is waited for is requests, not time.
    let echo = stage.lab.pod("default", "tcp-echo-v1")?.address();
    let wait_for_load = |connections: u64| {
        let count = || -> anyhow::Result<u64> {
            let seen = client.dial(&["--to", &format!("{echo}:9001"), "--send", "?count"])?;
            let reply = seen.first().map(|it| it.reply.clone()).unwrap_or_default();
            Ok(reply
                .rsplit(' ')
                .next()
                .and_then(|it| it.parse().ok())
                .unwrap_or(0))
        };
        let start = count()?;
        wait_until("load", patience(std::time::Duration::from_secs(20)), || {
            Ok((count()? >= start + connections).then_some(()))
        })
    };
    wait_for_load(100)?;
    stage.daemon.kill9()?;
    let killed_ns = now_ns();
    wait_for_load(200)?;
    let returning_ns = now_ns();
    stage.daemon.start_again()?;
    let back_ns = now_ns();
    wait_in_force("the rules after the return", is_routed)?;
    wait_for_load(100)?;
    let requests: Summary = load.stop_json()?;
    let connections: Vec<Seen> = kernel_load.stop_json()?;

    let count = |from: u64, to: u64, is_failure: bool| {
        requests
            .outcomes
            .iter()
            .filter(|it| (from..to).contains(&it.started_ns))
            .filter(|it| (it.status != 200) == is_failure)
            .count()
    };
    report.observe(
        &format!(
            "before the kill: {} requests answered, {} broke off as the daemon died",
            count(0, killed_ns, false),
            count(0, killed_ns, true)
        ),
        count(0, killed_ns, false) > 0,
    );
    let while_dead = count(killed_ns, returning_ns, false);
    let elsewhere = requests
        .outcomes
        .iter()
        .filter(|it| (killed_ns..returning_ns).contains(&it.started_ns))
        .filter(|it| it.status == 200 && it.answered_by != "reviews v3")
        .count();
    report.observe(
        &format!(
            "while it was dead: {while_dead} answered, {} failed, {elsewhere} elsewhere than v3 (the route for everybody)",
            count(killed_ns, returning_ns, true)
        ),
        while_dead > 0 && count(killed_ns, returning_ns, true) == 0 && elsewhere == 0,
    );
    report.observe(
        &format!(
            "as it came back and after ({} ms until ready): {} answered, {} failed; jason sees v2 again",
            (back_ns - returning_ns) / 1_000_000,
            count(returning_ns, u64::MAX, false),
            count(returning_ns, u64::MAX, true)
        ),
        count(returning_ns, u64::MAX, true) == 0,
    );
    let failed = connections.iter().filter(|it| !it.error.is_empty()).count();
    report.observe(
        &format!(
            "kernel path, all the time: {} connections, {failed} failed",
            connections.len()
        ),
        failed == 0 && !connections.is_empty(),
    );
    Ok(())
}
