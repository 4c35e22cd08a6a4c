//! The lab itself, without a daemon: pods reach services as on a plain node.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use mizzen_tests::checks;
use mizzen_tests::harness::{Needs, main as run_checks};
use mizzen_tests::lab::{Driver, Families, Lab, PodSpec, ServiceSpec, wait_until};
use mizzen_tests::workload::outcome::Summary;

struct Fixture {
    lab: Lab,
}

fn set_up() -> anyhow::Result<Fixture> {
    let lab = Lab::builder().driver(Driver::Systemd).build()?;
    lab.add_service(ServiceSpec::new("default", "web").port("http", 8000))?;
    lab.add_service(
        ServiceSpec::new("default", "echo")
            .port("tcp", 9000)
            .udp_port("udp", 9000)
            .families(Families::Dual),
    )?;
    for (version, prefix) in [("v1", "one"), ("v2", "two")] {
        let web = PodSpec::new("default", &format!("web-{version}"))
            .label("app", "web")
            .label("version", version)
            .families(Families::Dual)
            .workload(&[
                "http",
                "--name",
                "web",
                "--version",
                version,
                "--port",
                "8000",
            ]);
        lab.add_pod(web)?.wait_listening(8000)?;
        let echo = PodSpec::new("default", &format!("echo-{version}"))
            .label("app", "echo")
            .families(Families::Dual)
            .workload(&["tcp-echo", "--prefix", prefix]);
        lab.add_pod(echo)?.wait_listening(9000)?;
    }
    lab.add_pod(PodSpec::new("default", "client").families(Families::Dual))?;
    lab.add_pod(PodSpec::new("other", "client"))?;
    Ok(Fixture { lab })
}

fn names_and_virtual_addresses_lead_to_every_ready_endpoint(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let client = it.lab.pod("default", "client")?;
    for url in [
        "http://web:8000/",
        "http://web.default.svc.cluster.local:8000/",
    ] {
        let args = [
            "http-client",
            "--url",
            url,
            "-n",
            "60",
            "--no-keepalive",
            "-c",
            "2",
        ];
        let summary: Summary = serde_json::from_value(client.workload(&args)?)?;
        assert_eq!(summary.status(200), 60, "{summary:?}");
        assert!(
            summary.from("web v1") > 5 && summary.from("web v2") > 5,
            "{summary:?}"
        );
    }
    let foreign = it.lab.pod("other", "client")?;
    let args = ["http-client", "--url", "http://web.default:8000/"];
    let summary: Summary = serde_json::from_value(foreign.workload(&args)?)?;
    assert_eq!(summary.status(200), 1, "{summary:?}");
    Ok(())
}

fn every_kind_of_client_reaches_a_service_in_both_families(it: &mut Fixture) -> anyhow::Result<()> {
    let client = it.lab.pod("default", "client")?;
    let address = it.lab.service_address("default", "echo")?;
    let own = client.address();
    let v4 = format!("{address}:9000");
    let own_v6 = client.address_v6().context("no IPv6 address")?;
    for (args, from) in [
        (vec!["--mode", "blocking"], own),
        (vec!["--mode", "nonblocking"], own),
        (vec!["--mode", "fastopen"], own),
        (vec!["--mode", "mptcp"], own),
        (vec!["--v4-mapped"], own),
        (vec!["--to", "[fd00:96::2]:9000"], own_v6),
    ] {
        let mut all = vec!["tcp-client", "--send", "?peer"];
        if !args.contains(&"--to") {
            all.extend(["--to", &v4]);
        }
        all.extend(args);
        let seen = client.workload(&all)?;
        assert_eq!(seen[0]["error"], "", "{all:?}: {seen}");
        let reply = seen[0]["reply"].as_str().unwrap_or_default();
        assert!(reply.contains(&from.to_string()), "{all:?}: {reply}");
    }
    assert_eq!(client.workload(&["udp", "--to", &v4])?["peer"], v4.as_str());
    let echo = it.lab.pod("default", "echo-v1")?.address().to_string();
    assert_eq!(client.workload(&["ping", "--to", &echo])?["type"], 0);
    Ok(())
}

fn a_pod_reaches_itself_through_its_service(it: &mut Fixture) -> anyhow::Result<()> {
    let web = it.lab.pod("default", "web-v1")?;
    let args = [
        "http-client",
        "--url",
        "http://web:8000/",
        "-n",
        "20",
        "--no-keepalive",
    ];
    let summary: Summary = serde_json::from_value(web.workload(&args)?)?;
    assert_eq!(summary.status(200), 20, "{summary:?}");
    Ok(())
}

fn a_service_without_endpoints_refuses(it: &mut Fixture) -> anyhow::Result<()> {
    let address = it
        .lab
        .add_service(ServiceSpec::new("default", "empty").port("tcp", 7000))?[0];
    let client = it.lab.pod("default", "client")?;
    let seen = client.workload(&["tcp-client", "--to", &format!("{address}:7000")])?;
    assert!(
        seen[0]["error"]
            .as_str()
            .unwrap_or_default()
            .contains("refused"),
        "{seen}"
    );
    Ok(())
}

fn a_half_close_and_held_connections_work(it: &mut Fixture) -> anyhow::Result<()> {
    let client = it.lab.pod("default", "client")?;
    let seen = client.workload(&["tcp-client", "--to", "echo:9000", "--half-close"])?;
    let reply = seen[0]["reply"].as_str().unwrap_or_default();
    assert!(
        reply.contains("hello") && reply.contains("got 6 bytes"),
        "{seen}"
    );
    let args = [
        "tcp-client",
        "--to",
        "echo:9000",
        "-n",
        "3",
        "--hold",
        "--again-every-ms",
        "20",
    ];
    let held = client.spawn_workload("held", &args)?;
    wait_until("three connections", Duration::from_secs(5), || {
        let sockets = client.tcp_sockets()?;
        let count = sockets
            .iter()
            .filter(|entry| entry.remote.port() == 9000)
            .count();
        Ok((count >= 3).then_some(()))
    })?;
    std::thread::sleep(Duration::from_millis(100));
    let text = held.stop()?;
    assert!(text.contains("held through"), "{text}");
    Ok(())
}

fn host_network_and_outside_pods_are_reached(it: &mut Fixture) -> anyhow::Result<()> {
    let serve = |name: &str| -> Vec<String> {
        ["http", "--name", name, "--port", "8100"]
            .map(str::to_owned)
            .to_vec()
    };
    let mut host = PodSpec::new("default", "host").host_network();
    host.workload = Some(serve("host"));
    let mut outside = PodSpec::new("default", "outside").external();
    outside.workload = Some(serve("outside"));
    let client = it.lab.pod("default", "client")?;
    for spec in [host, outside] {
        let name = spec.name.clone();
        let pod = it.lab.add_pod(spec)?;
        pod.wait_listening(8100)?;
        let url = format!("http://{}:8100/", pod.address());
        let summary: Summary =
            serde_json::from_value(client.workload(&["http-client", "--url", &url])?)?;
        assert_eq!(summary.from(&format!("{name} v1")), 1, "{summary:?}");
        it.lab.remove_pod(&pod)?;
    }
    Ok(())
}

fn pods_that_go_leave_nothing(it: &mut Fixture) -> anyhow::Result<()> {
    let count = || -> anyhow::Result<usize> {
        let sockets = it.lab.run_on_node(&["ip", "-o", "link"])?.ok()?;
        Ok(sockets.lines().count())
    };
    let before = count()?;
    for index in 0..10 {
        let pod = it
            .lab
            .add_pod(PodSpec::new("default", &format!("short-{index}")))?;
        let cgroup = pod.cgroup().to_owned();
        it.lab.remove_pod(&pod)?;
        assert!(!cgroup.exists());
    }
    wait_until("the devices to go", Duration::from_secs(10), || {
        Ok((count()? <= before).then_some(()))
    })
}

/// Else a pod that comes or goes would cut the older ones off from the node and the outside.
fn the_gateways_keep_their_hardware_addresses(it: &mut Fixture) -> anyhow::Result<()> {
    let addresses = || -> anyhow::Result<String> {
        let mut all = String::new();
        for device in ["br0", "ext0"] {
            let shown = it
                .lab
                .run_on_node(&["ip", "-o", "link", "show", "dev", device])?;
            let shown = shown.ok()?;
            let address = shown.split("link/ether ").nth(1).context("no address")?;
            all.push_str(address.split(' ').next().unwrap_or_default());
        }
        Ok(all)
    };
    let before = addresses()?;
    // Device addresses are random: one of the first ten or so is the lowest of all.
    for index in 0..10 {
        for name in ["in", "out"] {
            let mut pod = PodSpec::new("default", &format!("{name}-{index}"));
            if name == "out" {
                pod = pod.external();
            }
            it.lab.add_pod(pod)?;
            assert_eq!(addresses()?, before, "after {name}-{index}");
        }
    }
    for index in 0..10 {
        for name in ["in", "out"] {
            let pod = it.lab.pod("default", &format!("{name}-{index}"))?;
            it.lab.remove_pod(&pod)?;
        }
    }
    Ok(())
}

/// What the lab `name` would leave: its cgroup, its files, its record.
fn traces(name: &str) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let cgroup = mizzen_tests::lab::cgroup2_root()?.join(format!("mizzen-lab-{name}"));
    let dir = std::env::temp_dir().join(format!("mizzen-lab-{name}"));
    let record = std::path::PathBuf::from(format!("/run/mizzen-lab/{name}.json"));
    Ok(vec![cgroup, dir, record])
}

/// Starts a process that builds a lab with a pod and then only waits; returns the lab's name.
fn start_other_lab(it: &Fixture) -> anyhow::Result<(std::process::Child, String)> {
    let said = it.lab.dir().join(format!("other-{}", fastrand::u32(..)));
    let child = std::process::Command::new(std::env::current_exe()?)
        .env(OTHER_LAB, &said)
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let name = wait_until("the other lab", Duration::from_secs(20), || {
        Ok(std::fs::read_to_string(&said)
            .ok()
            .filter(|name| !name.is_empty()))
    })?;
    Ok((child, name))
}

fn a_killed_run_is_removed_by_the_next_and_an_interrupted_one_by_itself(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let (mut killed, name) = start_other_lab(it)?;
    killed.kill()?;
    killed.wait()?;
    assert!(
        traces(&name)?.iter().all(|path| path.exists()),
        "nothing was there to remove"
    );
    mizzen_tests::lab::sweep_leftovers(false)?;
    assert!(
        traces(&name)?.iter().all(|path| !path.exists()),
        "{:?}",
        traces(&name)?
    );

    let (mut interrupted, name) = start_other_lab(it)?;
    let pid = i32::try_from(interrupted.id())?;
    let pid = rustix::process::Pid::from_raw(pid).context("no process id")?;
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    wait_until(
        "the interrupted run to end",
        Duration::from_secs(20),
        || Ok(interrupted.try_wait()?),
    )?;
    assert!(
        traces(&name)?.iter().all(|path| !path.exists()),
        "{:?}",
        traces(&name)?
    );
    Ok(())
}

/// Set to a path: this process is the other lab, and writes its name there.
const OTHER_LAB: &str = "MIZZEN_TEST_OTHER_LAB";

fn be_the_other_lab(said: &std::ffi::OsStr) -> anyhow::Result<()> {
    let lab = Lab::builder().build()?;
    lab.add_pod(PodSpec::new("default", "web").workload(&["tcp-echo", "--prefix", "one"]))?;
    std::fs::write(said, lab.name())?;
    loop {
        std::thread::park();
    }
}

fn main() -> ExitCode {
    if let Some(said) = std::env::var_os(OTHER_LAB) {
        return match be_the_other_lab(&said) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    run_checks(
        Needs::Lab,
        set_up,
        checks![
            names_and_virtual_addresses_lead_to_every_ready_endpoint,
            every_kind_of_client_reaches_a_service_in_both_families,
            a_pod_reaches_itself_through_its_service,
            a_service_without_endpoints_refuses,
            a_half_close_and_held_connections_work,
            host_network_and_outside_pods_are_reached,
            pods_that_go_leave_nothing,
            the_gateways_keep_their_hardware_addresses,
            a_killed_run_is_removed_by_the_next_and_an_interrupted_one_by_itself,
        ],
    )
}
