//! Edits while traffic flows: no request fails, and what is wrong stays by itself.

use std::process::ExitCode;
use std::time::Duration;

use mizzen_tests::checks;
use mizzen_tests::fixture::{ECHO, Fixture, RULES, WEB};
use mizzen_tests::harness::{Needs, main as run_checks};
use mizzen_tests::lab::{DaemonOptions, Driver, PodSpec, wait_until};
use mizzen_tests::workload::outcome::Summary;
use mizzen_tests::workload::tcp_client::Seen;

fn set_up() -> anyhow::Result<Fixture> {
    Fixture::start(Driver::Systemd, &DaemonOptions::default())
}

/// The rules with everybody sent to a version.
fn everybody_to(version: &str) -> String {
    RULES.replace(
        "destination: {host: web, subset: v1}",
        &format!("destination: {{host: web, subset: {version}}}"),
    )
}

fn wait_answer(it: &Fixture, expected: &str) -> anyhow::Result<()> {
    let url = format!("http://{}/", it.vip4("web", WEB)?);
    wait_until(
        &format!("{expected} to answer"),
        Duration::from_secs(10),
        || Ok((it.client.ask(&["--url", &url, "-n", "5"])?.from(expected) == 5).then_some(())),
    )
}

fn edits_under_200_requests_a_second_fail_none(it: &mut Fixture) -> anyhow::Result<()> {
    let url = format!("http://{}/", it.vip4("web", WEB)?);
    let load = |name: &str, extra: &[&str]| {
        let mut args = vec!["load", "--url", &url, "--rate", "100", "-c", "4", "--each"];
        args.extend(extra);
        it.client.spawn_workload(name, &args)
    };
    let loads = [load("kept", &[])?, load("fresh", &["--no-keepalive"])?];
    let echo = it.vip4("echo", ECHO)?;
    let kernel = it
        .client
        .spawn_workload("kernel", &["tcp-client", "--to", &echo, "--every-ms", "5"])?;
    for round in 0..20 {
        let version = if round % 2 == 0 { "v2" } else { "v1" };
        let text = everybody_to(version);
        if round % 4 < 2 {
            it.lab.write_config("rules.yaml", &text)?;
        } else {
            // In place, as editors without a temporary file do.
            std::fs::write(it.lab.config_dir().join("rules.yaml"), &text)?;
        }
        wait_answer(it, &format!("web {version}"))?;
    }
    // Endpoints come and go without a rule being touched.
    for index in 0..5 {
        let spec = PodSpec::new("default", &format!("extra-{index}")).label("app", "none");
        let pod = it.lab.add_pod(spec)?;
        it.lab.remove_pod(&pod)?;
    }
    let mut requests = 0;
    for load in loads {
        let seen: Summary = load.stop_json()?;
        let bad: Vec<_> = seen.outcomes.iter().filter(|it| it.status != 200).collect();
        assert!(
            bad.is_empty(),
            "{} of {} requests failed: {bad:?}",
            bad.len(),
            seen.total
        );
        requests += seen.total;
    }
    let connections: Vec<Seen> = kernel.stop_json()?;
    let bad: Vec<_> = connections
        .iter()
        .filter(|it| !it.error.is_empty())
        .collect();
    assert!(
        bad.is_empty(),
        "{} of {}: {bad:?}",
        bad.len(),
        connections.len()
    );
    assert!(requests > 200, "hardly any load: {requests}");
    it.lab.write_config("rules.yaml", RULES)?;
    wait_answer(it, "web v1")
}

/// Waits until a text shows up, or is gone, in each place where findings are shown.
fn wait_finding(it: &Fixture, text: &str, is_there: bool) -> anyhow::Result<()> {
    for view in [&["get", "findings"][..], &["status"][..]] {
        wait_until(
            &format!("{text:?} in {view:?} to be {is_there}"),
            Duration::from_secs(10),
            || {
                let shown = it.daemon.cli(view)?.ok()?;
                anyhow::ensure!(shown.contains(text) == is_there, "it shows:\n{shown}");
                Ok(Some(()))
            },
        )?;
    }
    if is_there {
        wait_until(
            &format!("{text:?} in the log"),
            Duration::from_secs(10),
            || Ok(it.daemon.log().contains(text).then_some(())),
        )?;
    }
    Ok(())
}

/// The line of the first occurrence of `text`, counted from 1.
fn line_of(yaml: &str, text: &str) -> usize {
    yaml.lines()
        .position(|line| line.contains(text))
        .map_or(0, |line| line + 1)
}

fn a_file_that_does_not_parse_changes_nothing_but_itself(it: &mut Fixture) -> anyhow::Result<()> {
    it.lab.write_config(
        "broken.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: [\n",
    )?;
    wait_finding(it, "broken.yaml:", true)?;
    // A good edit elsewhere still acts.
    it.lab.write_config("rules.yaml", &everybody_to("v2"))?;
    wait_answer(it, "web v2")?;
    // The rules' own file breaks: it keeps the objects it last held.
    it.lab.write_config("rules.yaml", "kind: {")?;
    wait_finding(it, "rules.yaml:1", true)?;
    wait_answer(it, "web v2")?;
    assert!(
        it.split(&it.client, &it.vip4("echo", ECHO)?, 20)?
            .is_all_v1()
    );
    it.lab.remove_config("broken.yaml")?;
    it.lab.write_config("rules.yaml", RULES)?;
    wait_answer(it, "web v1")?;
    wait_finding(it, "broken.yaml:", false)?;
    wait_finding(it, "rules.yaml:1", false)
}

fn an_invalid_version_of_an_object_leaves_its_last_good_one_and_its_neighbours(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    // One file: VirtualService web becomes invalid, echo moves to v2.
    let text = RULES
        .replace("x-version: {exact: v2}", "x-version: {exact: [v2]}")
        .replace(
            "destination: {host: echo, subset: v1}",
            "destination: {host: echo, subset: v2}",
        );
    it.lab.write_config("rules.yaml", &text)?;
    let echo = it.vip4("echo", ECHO)?;
    wait_until("echo to move to v2", Duration::from_secs(10), || {
        let split = it.split(&it.client, &echo, 20)?;
        Ok((split.one == 0 && split.failed == 0).then_some(()))
    })?;
    let place = format!(
        "rules.yaml:{}: VirtualService/default/web: error:",
        line_of(&text, "exact: [v2]")
    );
    wait_finding(it, &place, true)?;
    let url = format!("http://{}/", it.vip4("web", WEB)?);
    let seen = it
        .client
        .ask(&["--url", &url, "-n", "10", "-H", "x-version: v2"])?;
    assert_eq!(seen.from("web v2"), 10, "the last good version: {seen:?}");
    it.lab.write_config("rules.yaml", RULES)?;
    wait_finding(it, &place, false)?;
    wait_until("echo to move back", Duration::from_secs(10), || {
        Ok(it.split(&it.client, &echo, 20)?.is_all_v1().then_some(()))
    })
}

fn an_object_that_was_never_valid_is_left_out_and_named(it: &mut Fixture) -> anyhow::Result<()> {
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: never\n\
                spec:\n  hosts: [plain]\n  http:\n  - timeout: soon\n    route:\n    - destination: {host: plain}\n";
    it.lab.write_config("never.yaml", text)?;
    let place = format!(
        "never.yaml:{}: VirtualService/default/never: error:",
        line_of(text, "soon")
    );
    wait_finding(it, &place, true)?;
    wait_answer(it, "web v1")?;
    it.lab.remove_config("never.yaml")?;
    wait_finding(it, &place, false)
}

fn one_object_in_two_files_is_the_first_paths_and_the_other_is_named(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let copy = everybody_to("v2");
    it.lab.write_config("zz-copy.yaml", &copy)?;
    wait_finding(it, "zz-copy.yaml:", true)?;
    wait_answer(it, "web v1")?;
    // A path before it in byte order wins.
    it.lab.write_config("aa-copy.yaml", &copy)?;
    wait_answer(it, "web v2")?;
    it.lab.remove_config("aa-copy.yaml")?;
    it.lab.remove_config("zz-copy.yaml")?;
    wait_answer(it, "web v1")?;
    wait_finding(it, "copy.yaml:", false)
}

fn a_removed_file_takes_its_rules_along(it: &mut Fixture) -> anyhow::Result<()> {
    it.lab.remove_config("rules.yaml")?;
    let url = format!("http://{}/", it.vip4("web", WEB)?);
    wait_until("both versions to answer", Duration::from_secs(10), || {
        let seen = it.client.ask(&["--url", &url, "-n", "40"])?;
        assert_eq!(seen.status(200), 40, "{seen:?}");
        Ok((seen.from("web v1") > 0 && seen.from("web v2") > 0).then_some(()))
    })?;
    wait_until("echo to pass", Duration::from_secs(10), || {
        Ok(it
            .split(&it.client, &it.vip4("echo", ECHO)?, 40)?
            .is_mixed()
            .then_some(()))
    })?;
    it.lab.write_config("rules.yaml", RULES)?;
    wait_answer(it, "web v1")
}

fn main() -> ExitCode {
    run_checks(
        Needs::Daemon,
        set_up,
        checks![
            edits_under_200_requests_a_second_fail_none,
            a_file_that_does_not_parse_changes_nothing_but_itself,
            an_invalid_version_of_an_object_leaves_its_last_good_one_and_its_neighbours,
            an_object_that_was_never_valid_is_left_out_and_named,
            one_object_in_two_files_is_the_first_paths_and_the_other_is_named,
            a_removed_file_takes_its_rules_along,
        ],
    )
}
