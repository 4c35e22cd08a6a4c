//! `mizzen status`: health of the node.

use std::fmt::Write;

use super::client::Client;
use super::output::{self, OutputArg};
use super::{AdminArg, Outcome};
use crate::admin::view::{CountView, StatusView};

/// Flags of `mizzen status`.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    output: OutputArg,
    #[command(flatten)]
    admin: AdminArg,
}

/// Asks and prints.
pub(super) fn run(args: &StatusArgs) -> anyhow::Result<Outcome> {
    let status: StatusView = Client::new(&args.admin.admin).get("/status")?;
    output::value(args.output.output, &status, || text(&status))?;
    Ok(if status.is_ready {
        Outcome::Good
    } else {
        Outcome::Bad
    })
}

/// The form for people.
pub(super) fn text(status: &StatusView) -> String {
    let node = &status.node;
    let ready = match &status.not_ready_reason {
        None => "ready".to_owned(),
        Some(reason) => format!("not ready: {reason}"),
    };
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<11}{value}");
    };
    line("node", format!("{} ({ready})", node.node));
    line(
        "daemon",
        format!(
            "version {}, pid {}, up {}",
            status.version,
            node.pid,
            uptime(node.uptime_secs)
        ),
    );
    line(
        "source",
        format!(
            "{} ({}), {} objects, {} skipped",
            node.source.place, node.source.state, node.source.objects, node.source.skipped
        ),
    );
    line("snapshot", format!("version {}", status.snapshot_version));
    line("pods", pods(&status.pods));
    for worker in &node.workers {
        line(
            "worker",
            format!(
                "{} {}, heartbeat {} ms ago, {} pods, {} connections",
                worker.id,
                if worker.is_alive {
                    "alive"
                } else {
                    "NOT ALIVE"
                },
                worker.heartbeat_age_ms,
                worker.pods,
                worker.connections
            ),
        );
    }
    line(
        "kernel",
        format!(
            "{} at {}, pins in {}, {} flow events lost",
            node.kernel.state,
            node.kernel.cgroup,
            node.kernel.pins,
            node.kernel.flow_events_dropped
        ),
    );
    line("decisions", counts(&node.kernel.decisions));
    line("findings", counts(&status.findings));
    for finding in &status.finding_texts {
        let _ = writeln!(out, "  {finding}");
    }
    let all: u64 = status.findings.iter().map(|count| count.count).sum();
    let shown = status.finding_texts.len() as u64;
    if all > shown {
        let _ = writeln!(out, "  and {} more: mizzen get findings", all - shown);
    }
    out
}

/// Pods by state; the reason why some are left alone reads as one.
fn pods(states: &[CountView]) -> String {
    let is_state = |name: &str| name == "captured" || name.starts_with("waiting");
    let states: Vec<CountView> = states
        .iter()
        .map(|count| match count.name.as_str() {
            name if is_state(name) => count.clone(),
            reason => CountView {
                name: format!("left alone ({reason})"),
                ..count.clone()
            },
        })
        .collect();
    counts(&states)
}

fn counts(counts: &[CountView]) -> String {
    let texts: Vec<String> = counts
        .iter()
        .filter(|count| count.count > 0)
        .map(|count| format!("{} {}", count.count, count.name))
        .collect();
    if texts.is_empty() {
        return "none".to_owned();
    }
    texts.join(", ")
}

fn uptime(secs: u64) -> String {
    let (days, hours, minutes) = (secs / 86_400, secs / 3_600 % 24, secs / 60 % 60);
    if days > 0 {
        format!("{days}d{hours}h")
    } else if hours > 0 {
        format!("{hours}h{minutes}m")
    } else {
        format!("{minutes}m{}s", secs % 60)
    }
}
