//! `mizzen cleanup` leaves nothing of ours in the kernel or on the node.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use mizzen_tests::checks;
use mizzen_tests::fixture::{ECHO, Fixture, WEB};
use mizzen_tests::harness::{Needs, main as run_checks};
use mizzen_tests::lab::{DaemonOptions, Driver, TcpState, wait_until};

fn set_up() -> anyhow::Result<Fixture> {
    Fixture::start(Driver::Cgroupfs, &DaemonOptions::default())
}

/// Ids of the programs, maps and links that a process holds, as (kind, id).
///
/// Source: Linux, `kernel/bpf/syscall.c`, what fdinfo shows.
fn objects_held_by(pid: u32) -> anyhow::Result<BTreeSet<(&'static str, u64)>> {
    let mut ids = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
        for line in text.lines() {
            for (field, kind) in [
                ("prog_id:", "prog"),
                ("map_id:", "map"),
                ("link_id:", "link"),
            ] {
                if let Some(id) = line.strip_prefix(field) {
                    ids.extend(id.trim().parse().map(|id| (kind, id)));
                }
            }
        }
    }
    Ok(ids)
}

/// Ids of all programs, maps and links on this machine, by bpftool.
fn objects_in_the_kernel(it: &Fixture) -> anyhow::Result<BTreeSet<(&'static str, u64)>> {
    let mut ids = BTreeSet::new();
    for kind in ["prog", "map", "link"] {
        let text = it.lab.run_on_node(&["bpftool", "-j", kind, "show"])?.ok()?;
        let list: Vec<serde_json::Value> = serde_json::from_str(&text)?;
        ids.extend(
            list.iter()
                .filter_map(|object| Some((kind, object["id"].as_u64()?))),
        );
    }
    Ok(ids)
}

/// What is attached below the pods' cgroup.
fn attached(it: &Fixture) -> anyhow::Result<usize> {
    let root = it.lab.pods_cgroup().display().to_string();
    let text = it
        .lab
        .run_on_node(&["bpftool", "-j", "cgroup", "tree", &root])?
        .ok()?;
    let tree: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let count = |cgroup: &serde_json::Value| cgroup["programs"].as_array().map_or(0, Vec::len);
    Ok(tree
        .as_array()
        .map_or(0, |list| list.iter().map(count).sum()))
}

fn routes_and_namespaces(it: &Fixture) -> anyhow::Result<String> {
    let mut text = String::new();
    for pod in [&it.client, &it.client_v4] {
        for family in ["-4", "-6"] {
            text.push_str(
                &pod.run(&["ip", family, "route", "show", "table", "all"])?
                    .ok()?,
            );
            text.push_str(&pod.run(&["ip", family, "rule"])?.ok()?);
        }
    }
    Ok(text)
}

fn cleanup_leaves_no_program_map_link_pin_or_listener(it: &mut Fixture) -> anyhow::Result<()> {
    let routes = routes_and_namespaces(it)?;
    let ours = objects_held_by(it.daemon.pid())?;
    let kinds: BTreeSet<&str> = ours.iter().map(|object| object.0).collect();
    assert!(kinds.contains("map"), "the daemon holds no maps: {ours:?}");
    assert!(attached(it)? > 0, "nothing was attached");
    it.daemon.kill9()?;
    assert!(attached(it)? > 0, "a crash detached the programs");
    let pins = it.lab.pins().display().to_string();
    it.daemon.cli(&["cleanup", "--pins", &pins])?.ok()?;
    assert!(!it.lab.pins().exists(), "pins are left");
    wait_until("the kernel to free them", Duration::from_secs(10), || {
        let left: Vec<_> = objects_in_the_kernel(it)?
            .intersection(&ours)
            .copied()
            .collect();
        anyhow::ensure!(left.is_empty(), "left: {left:?}");
        Ok(Some(()))
    })?;
    assert_eq!(attached(it)?, 0);
    assert_eq!(routes_and_namespaces(it)?, routes);
    for pod in [&it.client, &it.client_v4] {
        let listening = pod
            .tcp_sockets()?
            .iter()
            .filter(|entry| entry.state == TcpState::Listen)
            .count();
        assert_eq!(listening, 0);
    }
    // The node is a plain one again.
    assert!(
        it.split(&it.client, &it.vip4("echo", ECHO)?, 40)?
            .is_mixed()
    );
    Ok(())
}

fn cleanup_refuses_while_a_daemon_runs_wherever_it_answers(it: &mut Fixture) -> anyhow::Result<()> {
    let pins = it.lab.pins().display().to_string();
    let before = attached(it)?;
    for admin in [it.daemon.admin(), "unix:/nowhere/admin.sock"] {
        let args = ["cleanup", "--pins", &pins, "--admin", admin];
        let finished = it.daemon.cli(&args)?;
        assert!(!finished.status.success(), "{admin}: {}", finished.stdout);
        assert!(
            finished.stderr.contains("stop it first"),
            "{}",
            finished.stderr
        );
    }
    // A stopped daemon answers nowhere, and still has everything.
    it.daemon.freeze()?;
    let finished = it.daemon.cli(&["cleanup", "--pins", &pins]);
    it.daemon.thaw()?;
    let finished = finished?;
    assert!(!finished.status.success(), "{}", finished.stdout);
    assert!(
        finished.stderr.contains("stop it first"),
        "{}",
        finished.stderr
    );
    assert_eq!(attached(it)?, before);
    it.wait_captured(&it.client, Duration::from_secs(10))
}

fn a_second_cleanup_finds_nothing_and_a_new_daemon_starts_afresh(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let pins = it.lab.pins().display().to_string();
    it.daemon.cli(&["cleanup", "--pins", &pins])?.ok()?;
    it.daemon.start_again()?;
    it.wait_captured(&it.client, Duration::from_secs(10))?;
    let url = format!("http://{}/", it.vip4("web", WEB)?);
    assert_eq!(
        it.client.ask(&["--url", &url, "-n", "10"])?.from("web v1"),
        10
    );
    Ok(())
}

fn main() -> ExitCode {
    run_checks(
        Needs::Daemon,
        set_up,
        checks![
            cleanup_refuses_while_a_daemon_runs_wherever_it_answers,
            cleanup_leaves_no_program_map_link_pin_or_listener,
            a_second_cleanup_finds_nothing_and_a_new_daemon_starts_afresh,
        ],
    )
}
