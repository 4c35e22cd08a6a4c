//! Who is calling: nested namespaces, host network, bound sources, equal ports.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use mizzen_tests::checks;
use mizzen_tests::fixture::{ECHO, Fixture, GET, Held, LIMITED, OTHER, Split, WEB};
use mizzen_tests::harness::{Needs, main as run_checks};
use mizzen_tests::lab::{DaemonOptions, Driver, NetNs, PodSpec, Qos, TcpState};

fn set_up() -> anyhow::Result<Fixture> {
    Fixture::start(Driver::Cgroupfs, &DaemonOptions::default())
}

fn a_namespace_nested_in_a_pod_is_not_taken_for_the_pods(it: &mut Fixture) -> anyhow::Result<()> {
    // Unannounced, so that the nested namespace is there before the pod is looked for.
    let pod = it
        .lab
        .add_pod_unannounced(PodSpec::new("default", "nesting"))?;
    let cgroup = pod.place().cgroup.display().to_string();
    let workload = std::env::current_exe()?
        .ancestors()
        .skip(1)
        .map(|dir| dir.join("mizzen-workload"))
        .find(|path| path.is_file())
        .context("no mizzen-workload")?;
    let workload = workload.display().to_string();
    let enter = [
        "enter",
        "--cgroup",
        &cgroup,
        "--new-net",
        "--",
        &workload,
        "pause",
    ];
    let nested = pod.spawn_workload("nested", &enter)?;
    mizzen_tests::lab::wait_until("the nested namespace", Duration::from_secs(10), || {
        Ok(nested.output().contains("ready").then_some(()))
    })?;
    it.lab.announce_pod(&pod)?;
    it.wait_captured(&pod, Duration::from_secs(10))?;
    let listeners = |path: &str| -> anyhow::Result<usize> {
        let net = NetNs::open(std::path::Path::new(path))?;
        let sockets = net.within(mizzen_tests::lab::tcp_table)??;
        Ok(sockets
            .iter()
            .filter(|entry| entry.state == TcpState::Listen)
            .count())
    };
    assert_eq!(listeners(&format!("/proc/{}/ns/net", nested.pid()))?, 0);
    drop(nested);
    it.lab.remove_pod(&pod)
}

fn pods_of_every_class_are_found(it: &mut Fixture) -> anyhow::Result<()> {
    for (name, qos) in [
        ("guaranteed", Qos::Guaranteed),
        ("burstable", Qos::Burstable),
        ("besteffort", Qos::BestEffort),
    ] {
        let pod = it.lab.add_pod(PodSpec::new("default", name).qos(qos))?;
        it.wait_captured(&pod, Duration::from_secs(10))
            .context(name)?;
        it.lab.remove_pod(&pod)?;
    }
    Ok(())
}

fn a_host_network_pod_is_not_captured_unless_asked_for(it: &mut Fixture) -> anyhow::Result<()> {
    let pod = it
        .lab
        .add_pod(PodSpec::new("default", "on-host").host_network())?;
    let marker = it.lab.add_pod(PodSpec::new("default", "after-on-host"))?;
    it.wait_captured(&marker, Duration::from_secs(10))?;
    let to = it.vip4("web", WEB)?;
    let held = Held::dial(&pod, &["--to", &to, "--send", GET])?;
    assert_eq!(held.seen.error, "", "{held:?}");
    assert!(held.goes_to(&to), "{held:?}");
    assert!(it.split(&pod, &it.vip4("echo", ECHO)?, 40)?.is_mixed());
    it.lab.remove_pod(&marker)?;
    it.lab.remove_pod(&pod)
}

fn a_source_address_that_the_application_bound_is_kept(it: &mut Fixture) -> anyhow::Result<()> {
    let second = "10.244.200.7";
    it.client_v4
        .run(&["ip", "addr", "add", &format!("{second}/16"), "dev", "eth0"])?
        .ok()?;
    let bind = format!("{second}:0");
    for (service, port, is_proxied) in [("limited", LIMITED, true), ("echo", ECHO, false)] {
        let to = it.vip4(service, port)?;
        let args = ["--to", to.as_str(), "--bind", &bind, "--send", "?peer"];
        let held = Held::dial(&it.client_v4, &args)?;
        assert_eq!(held.seen.error, "", "{held:?}");
        assert_eq!(held.is_proxied(), is_proxied, "{held:?}");
        assert!(held.seen.reply.contains(second), "{service}: {held:?}");
        assert_eq!(held.local_ip()?.to_string(), second, "{held:?}");
    }
    Ok(())
}

fn a_v4_and_a_v6_connection_with_one_port_do_not_mix(it: &mut Fixture) -> anyhow::Result<()> {
    let v4 = it.vip("limited", LIMITED, false)?.to_string();
    let v6 = it.vip("other", OTHER, true)?.to_string();
    for port in 44000..44010 {
        let bind_v4 = format!("{}:{port}", it.client.address());
        let bind_v6 = format!("[{}]:{port}", it.client.address_v6().context("no IPv6")?);
        let first = Held::dial(&it.client, &["--to", &v4, "--bind", &bind_v4])?;
        let second = Held::dial(&it.client, &["--to", &v6, "--bind", &bind_v6])?;
        for (held, is_other) in [(&first, false), (&second, true)] {
            assert_eq!(held.seen.error, "", "{held:?}");
            assert!(held.is_proxied(), "{held:?}");
            assert_eq!(held.seen.reply.starts_with("other-"), is_other, "{held:?}");
        }
    }
    Ok(())
}

fn every_kind_of_client_is_routed_on_both_paths(it: &mut Fixture) -> anyhow::Result<()> {
    for (service, port) in [("limited", LIMITED), ("echo", ECHO)] {
        let to = it.vip4(service, port)?;
        for extra in [
            vec!["--mode", "blocking"],
            vec!["--mode", "nonblocking"],
            vec!["--mode", "fastopen"],
            vec!["--v4-mapped"],
            vec!["--v4-mapped", "--mode", "nonblocking"],
        ] {
            let mut args = vec!["--to", to.as_str(), "-n", "20"];
            args.extend(&extra);
            let split = Split::of(&it.client.dial(&args)?);
            assert_eq!(split.failed, 0, "{service} {extra:?}: {split:?}");
            // The rules send all of "echo" to v1, whoever asks and however.
            assert!(
                service != "echo" || split.is_all_v1(),
                "{extra:?}: {split:?}"
            );
        }
    }
    Ok(())
}

fn two_pods_with_one_source_port_keep_their_own_destinations(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let pods = [&it.client, &it.client_v4];
    let targets = [("limited", LIMITED, false), ("other", OTHER, true)];
    let mut held = Vec::new();
    for (pod, (service, port, is_other)) in pods.into_iter().zip(targets) {
        let bind = format!("{}:45678", pod.address());
        let to = it.vip4(service, port)?;
        held.push((Held::dial(pod, &["--to", &to, "--bind", &bind])?, is_other));
    }
    for (held, is_other) in &held {
        assert_eq!(held.seen.reply.starts_with("other-"), *is_other, "{held:?}");
    }
    Ok(())
}

fn main() -> ExitCode {
    run_checks(
        Needs::Daemon,
        set_up,
        checks![
            pods_of_every_class_are_found,
            a_namespace_nested_in_a_pod_is_not_taken_for_the_pods,
            a_host_network_pod_is_not_captured_unless_asked_for,
            a_source_address_that_the_application_bound_is_kept,
            a_v4_and_a_v6_connection_with_one_port_do_not_mix,
            two_pods_with_one_source_port_keep_their_own_destinations,
            every_kind_of_client_is_routed_on_both_paths,
        ],
    )
}
