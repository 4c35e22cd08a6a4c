//! A daemon that is dead, stopped, restarted or replaced, under load on both paths.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mizzen_tests::checks;
use mizzen_tests::fixture::{ECHO, Fixture, GET, Held, LIMITED, Split, WEB};
use mizzen_tests::harness::{Needs, main as run_checks};
use mizzen_tests::lab::{DaemonOptions, Driver, Pod, PodSpec, Process, wait_until};
use mizzen_tests::workload::outcome::{Outcome, Summary, now_ns};
use mizzen_tests::workload::tcp_client::Seen;

/// How often each of the two accidents happens in a row.
const TIMES: usize = 10;

fn set_up() -> anyhow::Result<Fixture> {
    let fixture = Fixture::start(Driver::Cgroupfs, &DaemonOptions::default())?;
    for choice in ["pass", "deny"] {
        let spec = PodSpec::new("default", choice).annotation("mizzen.io/on-proxy-down", choice);
        let pod = fixture.lab.add_pod(spec)?;
        fixture.wait_captured(&pod, Duration::from_secs(10))?;
    }
    Ok(fixture)
}

/// Requests and connections on both paths, each on a connection of its own.
struct Load {
    http: Process,
    relay: Process,
    kernel: Process,
}

impl Load {
    fn start(it: &Fixture) -> anyhow::Result<Self> {
        let url = format!("http://{}/", it.vip4("web", WEB)?);
        let http = [
            "load",
            "--url",
            &url,
            "--rate",
            "150",
            "-c",
            "3",
            "--no-keepalive",
            "--each",
            "--timeout",
            "20",
        ];
        let relay = it.vip4("limited", LIMITED)?;
        let kernel = it.vip4("echo", ECHO)?;
        let dial = |to: &str, name: &str| {
            it.client
                .spawn_workload(name, &["tcp-client", "--to", to, "--every-ms", "10"])
        };
        Ok(Self {
            http: it.client.spawn_workload("http-load", &http)?,
            relay: dial(&relay, "relay-load")?,
            kernel: dial(&kernel, "kernel-load")?,
        })
    }

    fn stop(self) -> anyhow::Result<(Vec<Outcome>, Vec<Seen>, Vec<Seen>)> {
        let http: Summary = self.http.stop_json()?;
        Ok((
            http.outcomes,
            self.relay.stop_json()?,
            self.kernel.stop_json()?,
        ))
    }
}

fn is_failed(outcome: &Outcome) -> bool {
    outcome.status != 200
}

/// Answered by v1, as the rules and their degraded form say.
fn follow_the_rules(http: &[Outcome], kernel: &[Seen]) {
    let strays: Vec<&Outcome> = http
        .iter()
        .filter(|it| it.status == 200 && it.answered_by != "web v1")
        .collect();
    assert!(strays.is_empty(), "misrouted: {strays:?}");
    assert_eq!(Split::of(kernel).two, 0, "misrouted on the kernel path");
}

fn ten_kills_fail_no_connection_that_starts_once_the_listener_is_gone(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let load = Load::start(it)?;
    let mut kills = Vec::new();
    for _ in 0..TIMES {
        let before = now_ns();
        it.daemon.kill9()?;
        kills.push((before, now_ns()));
        let url = format!("http://{}/", it.vip4("web", WEB)?);
        let seen = it
            .client_v4
            .ask(&["--url", &url, "-n", "30", "--no-keepalive"])?;
        assert_eq!(seen.from("web v1"), 30, "{seen:?}");
        let split = it.split(&it.client_v4, &it.vip4("limited", LIMITED)?, 30)?;
        assert_eq!(split.failed, 0, "{split:?}");
        assert!(
            it.split(&it.client_v4, &it.vip4("echo", ECHO)?, 30)?
                .is_all_v1()
        );
        it.daemon.start_again()?;
        it.wait_captured(&it.client, Duration::from_secs(10))?;
        it.wait_captured(&it.client_v4, Duration::from_secs(10))?;
    }
    let (http, relay, kernel) = load.stop()?;
    assert!(
        http.len() > 100 && relay.len() > 100 && kernel.len() > 100,
        "hardly any load"
    );
    follow_the_rules(&http, &kernel);
    assert_eq!(Split::of(&kernel).failed, 0, "on the kernel path");
    // What may break is what was on its way as the daemon died.
    let excused = |started: u64, ended: u64| {
        kills
            .iter()
            .any(|&(before, after)| started <= after && ended >= before)
    };
    let bad: Vec<&Outcome> = http
        .iter()
        .filter(|it| is_failed(it) && !excused(it.started_ns, it.ended_ns))
        .collect();
    assert!(
        bad.is_empty(),
        "{} requests failed without excuse: {bad:?}",
        bad.len()
    );
    let bad: Vec<&Seen> = relay
        .iter()
        .filter(|it| !it.error.is_empty() && !excused(it.started_ns, it.ended_ns))
        .collect();
    assert!(
        bad.is_empty(),
        "{} connections failed without excuse: {bad:?}",
        bad.len()
    );
    Ok(())
}

fn ten_stops_degrade_new_connections_and_earlier_ones_finish(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let web = it.vip4("web", WEB)?;
    let limited = it.vip4("limited", LIMITED)?;
    let url = format!("http://{web}/");
    for round in 0..TIMES {
        it.daemon.freeze()?;
        let early = [
            "http-client",
            "--url",
            &url,
            "-n",
            "3",
            "-c",
            "3",
            "--no-keepalive",
        ];
        let early = it.client.spawn_workload("early", &early)?;
        // Four seconds are the promise itself, not a guess: a heartbeat is stale after three.
        std::thread::sleep(Duration::from_secs(4));
        let late = it.client.ask(&[
            "--url",
            &url,
            "-n",
            "10",
            "--no-keepalive",
            "--timeout",
            "8",
        ]);
        let held = Held::dial(&it.client, &["--to", &web, "--send", GET]);
        let relayed = Held::dial(&it.client, &["--to", &limited]);
        it.daemon.thaw()?;
        let late = late?;
        assert_eq!(late.from("web v1"), 10, "round {round}: {late:?}");
        let (held, relayed) = (held?, relayed?);
        for held in [&held, &relayed] {
            assert_eq!(held.seen.error, "", "round {round}: {held:?}");
            assert!(!held.is_proxied(), "round {round}: {held:?}");
        }
        let early: Summary = serde_json::from_str(&early.finish(Duration::from_secs(20))?)?;
        assert_eq!(early.from("web v1"), 3, "round {round}: {early:?}");
        it.wait_captured(&it.client, Duration::from_secs(10))?;
    }
    Ok(())
}

/// One thread of the daemon, stopped by the freezer of a threaded cgroup (cgroup v2, "Threads").
struct HungThread {
    cgroup: PathBuf,
    thread: String,
}

impl HungThread {
    fn stop(daemon: u32, name: &str) -> anyhow::Result<Self> {
        let tasks = format!("/proc/{daemon}/task");
        let thread = std::fs::read_dir(&tasks)?
            .filter_map(|task| task.ok()?.file_name().into_string().ok())
            .find(|task| {
                std::fs::read_to_string(format!("{tasks}/{task}/comm"))
                    .is_ok_and(|comm| comm.trim() == name)
            })
            .with_context(|| format!("the daemon has no thread {name}"))?;
        let path = std::fs::read_to_string(format!("/proc/{daemon}/cgroup"))?;
        let path = path
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .context("no cgroup v2")?;
        let cgroup = mizzen_tests::lab::cgroup2_root()?.join(path).join("hung");
        std::fs::create_dir(&cgroup)?;
        let hung = Self { cgroup, thread };
        hung.write("cgroup.type", "threaded")?;
        hung.write("cgroup.threads", &hung.thread)?;
        hung.write("cgroup.freeze", "1")?;
        Ok(hung)
    }

    fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        std::fs::write(self.cgroup.join(file), text).with_context(|| format!("cannot write {file}"))
    }
}

impl Drop for HungThread {
    fn drop(&mut self) {
        // What fails here fails the next check loudly: the daemon stays half stopped.
        let _ = self.write("cgroup.freeze", "0");
        if let Some(parent) = self.cgroup.parent() {
            let _ = std::fs::write(parent.join("cgroup.threads"), &self.thread);
        }
        let _ = std::fs::remove_dir(&self.cgroup);
    }
}

fn a_hung_worker_degrades_its_own_pods_and_holds_up_nothing_else(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    restart_with(it, "workers: 2\nkernelPathStaleAfter: 3s\n")?;
    let pods = it.daemon.cli_json(&["get", "pods"])?;
    let worker_of = |name: &str| {
        let list = pods.as_array().into_iter().flatten();
        list.filter(|pod| pod["name"] == name)
            .find_map(|pod| pod["worker"].as_u64())
            .with_context(|| format!("no worker serves {name}: {pods}"))
    };
    let (web, echo) = (it.vip4("web", WEB)?, it.vip4("echo", ECHO)?);
    let hung_worker = worker_of("client")?;
    let other = ["client-v4", "pass", "deny", "web-v1", "web-v2", "echo-v1"]
        .into_iter()
        .find(|name| worker_of(name).is_ok_and(|worker| worker != hung_worker))
        .context("one worker serves all pods")?;
    let other = it.lab.pod("default", other)?;
    let kernel = it.client.spawn_workload(
        "kernel-load",
        &["tcp-client", "--to", &echo, "--every-ms", "10"],
    )?;
    let hung = HungThread::stop(it.daemon.pid(), &format!("mizzen-worker-{hung_worker}"))?;
    // As long as after a SIGSTOP: a heartbeat is stale after three seconds.
    std::thread::sleep(Duration::from_secs(4));
    for _ in 0..10 {
        let degraded = Held::dial(&it.client, &["--to", &web, "--send", GET])?;
        assert_eq!(degraded.seen.error, "", "{degraded:?}");
        assert!(!degraded.is_proxied(), "{degraded:?}");
        let served = Held::dial(&other, &["--to", &web, "--send", GET])?;
        assert!(
            served.seen.error.is_empty() && served.is_proxied(),
            "{served:?}"
        );
        std::thread::sleep(Duration::from_millis(300));
    }
    drop(hung);
    it.wait_captured(&it.client, Duration::from_secs(10))?;
    let connections: Vec<Seen> = kernel.stop_json()?;
    let split = Split::of(&connections);
    assert!(
        split.is_all_v1(),
        "the kernel path, all the time: {split:?}"
    );
    restart_with(it, "")
}

fn each_pod_chooses_what_a_dead_proxy_means(it: &mut Fixture) -> anyhow::Result<()> {
    let web = it.vip4("web", WEB)?;
    it.daemon.kill9()?;
    let dial = |pod: &Arc<Pod>| Held::dial(pod, &["--to", &web, "--send", GET]);
    let degraded = dial(&it.client)?;
    let passed = dial(&it.lab.pod("default", "pass")?)?;
    let denied = dial(&it.lab.pod("default", "deny")?)?;
    it.daemon.start_again()?;
    let endpoint = it.lab.pod("default", "web-v1")?.address();
    assert!(
        degraded.goes_to(&format!("{endpoint}:{WEB}")),
        "the catch-all route: {degraded:?}"
    );
    assert!(passed.goes_to(&web), "{passed:?}");
    assert!(denied.seen.error.contains("refused"), "{denied:?}");
    it.wait_captured(&it.client, Duration::from_secs(10))
}

fn a_port_wide_hit_passes_while_the_proxy_is_dead(it: &mut Fixture) -> anyhow::Result<()> {
    let port = WEB.to_string();
    let args = ["http", "--name", "outside", "--port", &port];
    let outside = it.lab.add_pod(
        PodSpec::new("default", "outside")
            .external()
            .workload(&args),
    )?;
    outside.wait_listening(WEB)?;
    let to = format!("{}:{WEB}", outside.address());
    let dial = || Held::dial(&it.client, &["--to", &to, "--send", GET]);
    let alive = dial()?;
    it.daemon.kill9()?;
    let dead = dial()?;
    it.daemon.start_again()?;
    it.wait_captured(&it.client, Duration::from_secs(10))?;
    it.lab.remove_pod(&outside)?;
    assert!(alive.is_proxied(), "the control: {alive:?}");
    assert!(dead.goes_to(&to) && dead.seen.error.is_empty(), "{dead:?}");
    Ok(())
}

/// The pinned maps' directories: one for each layout.
fn layouts(it: &Fixture) -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(it.lab.pins())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let number = name
            .strip_prefix('v')
            .and_then(|number| number.parse::<u32>().ok());
        names.extend(number.map(|_| name));
    }
    Ok(names)
}

fn pins_of_another_layout_give_way_to_new_ones_and_nothing_fails(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let ours = layouts(it)?;
    let name = ours.first().context("no layout is pinned")?.clone();
    let before = pinned_maps(it)?;
    let kernel = it.vip4("echo", ECHO)?;
    let kernel = it.client.spawn_workload(
        "kernel-load",
        &["tcp-client", "--to", &kernel, "--every-ms", "5"],
    )?;
    it.daemon.kill9()?;
    // As if the dead daemon had been of another version: its maps are not to be read.
    std::fs::rename(it.lab.pins().join(&name), it.lab.pins().join("v4000000"))?;
    it.daemon.start_again()?;
    it.wait_captured(&it.client, Duration::from_secs(10))?;
    wait_until("the old layout to go", Duration::from_secs(10), || {
        Ok((layouts(it)? == ours).then_some(()))
    })?;
    assert!(
        pinned_maps(it)?.is_disjoint(&before),
        "maps of another layout were adopted"
    );
    let url = format!("http://{}/", it.vip4("web", WEB)?);
    assert_eq!(
        it.client.ask(&["--url", &url, "-n", "20"])?.from("web v1"),
        20
    );
    let connections: Vec<Seen> = kernel.stop_json()?;
    let split = Split::of(&connections);
    assert!(
        split.is_all_v1(),
        "on the kernel path, all the time: {split:?}"
    );
    Ok(())
}

/// The ids of all maps that are pinned below the daemon's directory.
fn pinned_maps(it: &Fixture) -> anyhow::Result<BTreeSet<u64>> {
    let mut ids = BTreeSet::new();
    let mut directories = vec![it.lab.pins().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
                continue;
            }
            let path = entry.path().display().to_string();
            let shown = it
                .lab
                .run_on_node(&["bpftool", "-j", "map", "show", "pinned", &path])?;
            let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap_or_default();
            ids.extend(shown["id"].as_u64());
        }
    }
    anyhow::ensure!(
        !ids.is_empty(),
        "no pinned map below {}",
        it.lab.pins().display()
    );
    Ok(ids)
}

fn a_restart_adopts_the_pins_and_neither_drops_nor_misroutes(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let before = pinned_maps(it)?;
    let echo = it.vip4("echo", ECHO)?;
    let stay = [
        "tcp-client",
        "--to",
        &echo,
        "-n",
        "3",
        "--hold",
        "--again-every-ms",
        "20",
    ];
    let stay = it.client.spawn_workload("stay", &stay)?;
    let load = Load::start(it)?;
    for _ in 0..3 {
        it.daemon.terminate()?;
        let split = it.split(&it.client, &echo, 30)?;
        assert!(split.is_all_v1(), "without a daemon: {split:?}");
        it.daemon.start_again()?;
        it.wait_captured(&it.client, Duration::from_secs(10))?;
    }
    let (http, relay, kernel) = load.stop()?;
    follow_the_rules(&http, &kernel);
    let bad: Vec<&Outcome> = http.iter().filter(|it| is_failed(it)).collect();
    assert!(
        bad.is_empty(),
        "{} of {} requests: {bad:?}",
        bad.len(),
        http.len()
    );
    let bad: Vec<&Seen> = relay
        .iter()
        .chain(&kernel)
        .filter(|it| !it.error.is_empty())
        .collect();
    assert!(bad.is_empty(), "{} connections: {bad:?}", bad.len());
    assert_eq!(pinned_maps(it)?, before, "other maps than before");
    let text = stay.stop()?;
    assert!(
        text.contains("held through"),
        "a kernel-path connection broke: {text}"
    );
    Ok(())
}

fn a_second_run_takes_over_and_nothing_is_lost(it: &mut Fixture) -> anyhow::Result<()> {
    let load = Load::start(it)?;
    for _ in 0..3 {
        let next = it.lab.start_daemon(&DaemonOptions::default())?;
        let mut old = std::mem::replace(&mut it.daemon, next);
        old.wait_end()
            .context("the first daemon does not make room")?;
        it.daemon.wait_ready()?;
        it.wait_captured(&it.client, Duration::from_secs(10))?;
    }
    let (http, relay, kernel) = load.stop()?;
    follow_the_rules(&http, &kernel);
    let bad: Vec<&Outcome> = http.iter().filter(|it| is_failed(it)).collect();
    assert!(
        bad.is_empty(),
        "{} of {} requests: {bad:?}",
        bad.len(),
        http.len()
    );
    let bad: Vec<&Seen> = relay
        .iter()
        .chain(&kernel)
        .filter(|it| !it.error.is_empty())
        .collect();
    assert!(bad.is_empty(), "{} connections: {bad:?}", bad.len());
    Ok(())
}

fn stale_pins_pass_after_the_limit(it: &mut Fixture) -> anyhow::Result<()> {
    restart_with(it, "kernelPathStaleAfter: 2s\n")?;
    let echo = it.vip4("echo", ECHO)?;
    assert!(it.split(&it.client, &echo, 30)?.is_all_v1());
    it.daemon.kill9()?;
    wait_until(
        "the stale route to pass to the service proxy",
        Duration::from_secs(20),
        || {
            let split = it.split(&it.client, &echo, 30)?;
            assert_eq!(split.failed, 0, "{split:?}");
            Ok(split.is_mixed().then_some(()))
        },
    )?;
    // Deny stays deny.
    let denied = Held::dial(
        &it.lab.pod("default", "deny")?.clone(),
        &["--to", &it.vip4("web", WEB)?, "--send", GET],
    )?;
    assert!(denied.seen.error.contains("refused"), "{denied:?}");
    restart_with(it, "")?;
    assert!(it.split(&it.client, &echo, 30)?.is_all_v1());
    Ok(())
}

fn restart_with(it: &mut Fixture, settings: &str) -> anyhow::Result<()> {
    it.daemon.terminate()?;
    let settings = settings.to_owned();
    it.daemon = it.lab.start_daemon(&DaemonOptions {
        settings,
        ..DaemonOptions::default()
    })?;
    it.wait_captured(&it.client, Duration::from_secs(10))
}

fn under_registry_only_the_unknown_is_refused_with_and_without_the_daemon(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let outside = PodSpec::new("default", "unknown").external();
    let outside = it
        .lab
        .add_pod(outside.workload(&["tcp-echo", "--prefix", "out", "--ports", "7777"]))?;
    outside.wait_listening(7777)?;
    let to = format!("{}:7777", outside.address());
    let dial = |pod: &Arc<Pod>| -> anyhow::Result<Seen> { Ok(pod.dial(&["--to", &to])?.remove(0)) };
    assert_eq!(dial(&it.client)?.error, "", "the control: ALLOW_ANY");
    restart_with(
        it,
        "mesh:\n  outboundTrafficPolicy:\n    mode: REGISTRY_ONLY\n",
    )?;
    let alive = dial(&it.client)?;
    it.daemon.kill9()?;
    let dead = dial(&it.client)?;
    let known = it.split(&it.client, &it.vip4("echo", ECHO)?, 10)?;
    it.daemon.start_again()?;
    restart_with(it, "")?;
    assert!(alive.error.contains("refused"), "{alive:?}");
    assert!(dead.error.contains("refused"), "{dead:?}");
    assert!(known.is_all_v1(), "{known:?}");
    assert_eq!(
        dial(&it.stranger)?.error,
        "",
        "a pod outside the mesh is not bound"
    );
    it.lab.remove_pod(&outside)
}

fn main() -> ExitCode {
    run_checks(
        Needs::Daemon,
        set_up,
        checks![
            ten_kills_fail_no_connection_that_starts_once_the_listener_is_gone,
            ten_stops_degrade_new_connections_and_earlier_ones_finish,
            a_hung_worker_degrades_its_own_pods_and_holds_up_nothing_else,
            each_pod_chooses_what_a_dead_proxy_means,
            a_port_wide_hit_passes_while_the_proxy_is_dead,
            a_restart_adopts_the_pins_and_neither_drops_nor_misroutes,
            pins_of_another_layout_give_way_to_new_ones_and_nothing_fails,
            a_second_run_takes_over_and_nothing_is_lost,
            under_registry_only_the_unknown_is_refused_with_and_without_the_daemon,
            stale_pins_pass_after_the_limit,
        ],
    )
}
