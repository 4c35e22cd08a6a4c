//! TCP traffic shifting: decided in `connect()`, with no proxy in between.

use super::{Report, Stage, wait_in_force};
use crate::statistics::agrees;
use crate::workload::tcp_client::Seen;

/// How many connections v1, v2 and nobody answered.
fn count(seen: &[Seen]) -> (u64, u64, u64) {
    let mut counts = (0, 0, 0);
    for connection in seen {
        match connection.reply.split(' ').next() {
            Some("one") => counts.0 += 1,
            Some("two") => counts.1 += 1,
            _ => counts.2 += 1,
        }
    }
    counts
}

/// Step 4.
pub(super) fn shifting(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    let dial = |number: &str| stage.client.dial(&["--to", "tcp-echo:9000", "-n", number]);
    for (document, share_of_v2, is_in_force) in [
        ("4-tcp-100-0.yaml", 0.0, (|v2| v2 == 0) as fn(u64) -> bool),
        ("4-tcp-80-20.yaml", 0.2, |v2| v2 > 0),
        ("4-tcp-0-100.yaml", 1.0, |v2| v2 == 100),
    ] {
        stage.apply("tcp-echo", document)?;
        wait_in_force(document, || {
            let (v1, v2, failed) = count(&dial("100")?);
            Ok(v1 + v2 == 100 && failed == 0 && is_in_force(v2))
        })?;
        let (v1, v2, failed) = count(&dial("1000")?);
        report.observe(
            &format!("{document}: {v1} x v1, {v2} x v2, {failed} failed"),
            v1 + v2 == 1000 && agrees(v2, 1000, share_of_v2),
        );
    }
    observe_path(stage, report)
}

/// Looks at the client's sockets as the kernel has them: they go to the pod itself.
fn observe_path(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let dialled = stage.lab.service_address("default", "tcp-echo")?;
    let endpoint = stage.lab.pod("default", "tcp-echo-v2")?.address();
    let args = ["tcp-client", "--to", "tcp-echo:9000", "--hold"];
    let holder = stage.client.spawn_workload("holder", &args)?;
    let seen: Vec<Seen> = holder.wait_json()?;
    let shown = seen.first().map(|it| it.peer.clone()).unwrap_or_default();
    let sockets = stage.client.tcp_sockets()?;
    let is_direct = sockets
        .iter()
        .any(|it| it.remote.ip() == endpoint && it.remote.port() == 9000);
    let is_proxied = sockets.iter().any(|it| {
        it.is_to_loopback()
            && seen
                .iter()
                .any(|seen| seen.local.ends_with(&format!(":{}", it.local.port())))
    });
    report.observe(
        &format!(
            "a held connection: the application sees {shown}, its socket goes {}",
            if is_direct {
                format!("straight to {endpoint}:9000")
            } else {
                "elsewhere".to_owned()
            }
        ),
        is_direct && !is_proxied && shown == format!("{dialled}:9000"),
    );
    Ok(())
}
