//! What the capture must leave alone, each beside a control that is captured.
//!
//! Port 8000 is an HTTP port of the mesh, so every address on it would go to the
//! proxy; that makes each line of the list visible in where the socket goes.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mizzen_tests::checks;
use mizzen_tests::fixture::{ECHO, Fixture, GET, Held, LIMITED, OTHER, WEB};
use mizzen_tests::harness::{Needs, main as run_checks};
use mizzen_tests::lab::{DaemonOptions, Driver, Families, Pod, PodSpec, wait_until};

fn set_up() -> anyhow::Result<Fixture> {
    let fixture = Fixture::start(Driver::Systemd, &DaemonOptions::default())?;
    let port = WEB.to_string();
    let args = ["http", "--name", "outside", "--port", &port];
    let outside = PodSpec::new("default", "outside")
        .external()
        .families(Families::Dual);
    fixture
        .lab
        .add_pod(outside.workload(&args))?
        .wait_listening(WEB)?;
    // A server of the client's own, for its loopback and its own addresses.
    let own = PodSpec::new("default", "self-server").families(Families::Dual);
    let own = own.workload(&["http", "--name", "self", "--port", &port]);
    let own = fixture.lab.add_pod(own)?;
    own.wait_listening(WEB)?;
    fixture.wait_captured(&own, Duration::from_secs(10))?;
    Ok(fixture)
}

/// A connection must go where it was dialled and be answered.
fn must_pass(pod: &Pod, args: &[&str], real: &str) -> anyhow::Result<()> {
    let held = Held::dial(pod, args)?;
    assert_eq!(held.seen.error, "", "{args:?}: {held:?}");
    assert!(held.goes_to(real), "{args:?} should go to {real}: {held:?}");
    Ok(())
}

/// The control: the same connection is captured without what the line is about.
fn must_be_proxied(pod: &Pod, args: &[&str]) -> anyhow::Result<()> {
    let held = Held::dial(pod, args)?;
    assert_eq!(held.seen.error, "", "{args:?}: {held:?}");
    assert!(held.is_proxied(), "{args:?}: {held:?}");
    Ok(())
}

fn an_address_that_no_service_owns_is_captured_on_an_http_port(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let outside = it.lab.pod("default", "outside")?;
    for address in outside.addresses() {
        let to = SocketAddr::new(*address, WEB).to_string();
        must_be_proxied(&it.client, &["--to", &to, "--send", GET])?;
    }
    Ok(())
}

fn udp_and_icmp_pass(it: &mut Fixture) -> anyhow::Result<()> {
    for is_v6 in [false, true] {
        let to = it.vip("echo", ECHO, is_v6)?.to_string();
        let mut answers = std::collections::BTreeSet::new();
        for _ in 0..30 {
            let seen = it.client.workload(&["udp", "--to", &to])?;
            assert_eq!(seen["peer"], to.as_str());
            answers.insert(seen["reply"].to_string());
        }
        assert_eq!(
            answers.len(),
            2,
            "the service proxy alone chooses: {answers:?}"
        );
    }
    let to = it.lab.pod("default", "web-v1")?.address().to_string();
    let seen = it.client.workload(&["ping", "--to", &to])?;
    assert_eq!(seen["type"], 0, "an echo reply: {seen}");
    assert_eq!(seen, it.stranger.workload(&["ping", "--to", &to])?);
    Ok(())
}

fn mptcp_passes_and_sees_its_true_peer(it: &mut Fixture) -> anyhow::Result<()> {
    let web = it.vip4("web", WEB)?;
    let held = Held::dial(
        &it.client,
        &["--to", &web, "--mode", "mptcp", "--send", GET],
    )?;
    assert_eq!(
        (held.seen.error.as_str(), held.seen.peer.as_str()),
        ("", web.as_str())
    );
    assert!(!held.is_proxied(), "{held:?}");
    let echo = it.vip4("echo", ECHO)?;
    let seen = it
        .client
        .dial(&["--to", &echo, "--mode", "mptcp", "-n", "40"])?;
    let split = mizzen_tests::fixture::Split::of(&seen);
    assert!(split.is_mixed(), "rules were applied to MPTCP: {split:?}");
    Ok(())
}

fn unspecified_and_loopback_and_own_addresses_pass(it: &mut Fixture) -> anyhow::Result<()> {
    let own = it.lab.pod("default", "self-server")?;
    for (to, real) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.9", "127.0.0.9"),
        ("[::1]", "[::1]"),
        // The kernel turns the unspecified address into loopback.
        ("0.0.0.0", "127.0.0.1"),
        ("[::]", "[::1]"),
    ] {
        let (to, real) = (format!("{to}:{WEB}"), format!("{real}:{WEB}"));
        must_pass(&own, &["--to", &to, "--send", GET], &real)?;
    }
    for address in own.addresses() {
        let to = SocketAddr::new(*address, WEB).to_string();
        must_pass(&own, &["--to", &to, "--send", GET], &to)?;
    }
    Ok(())
}

fn link_local_addresses_pass(it: &mut Fixture) -> anyhow::Result<()> {
    let port = WEB.to_string();
    let args = ["http", "--name", "node", "--port", &port];
    let _server = it.lab.spawn_on_node("web", &args)?;
    let show = it.lab.run_on_node(&[
        "ip", "-6", "-o", "addr", "show", "dev", "br0", "scope", "link",
    ])?;
    let show = show.ok()?;
    let address = show
        .split_whitespace()
        .find(|it| it.starts_with("fe80"))
        .context("no address")?;
    let address = address.split('/').next().unwrap_or_default();
    let index = it
        .client
        .run(&["ip", "-o", "link", "show", "dev", "eth0"])?
        .ok()?;
    let index = index.split(':').next().unwrap_or_default().to_owned();
    let to = format!("[{address}%{index}]:{WEB}");
    wait_until("the node's server", Duration::from_secs(10), || {
        Ok(it.stranger.dial(&["--to", &to, "--send", GET])?[0]
            .error
            .is_empty()
            .then_some(()))
    })?;
    // The table of sockets has no zones: the address alone is compared.
    must_pass(
        &it.client,
        &["--to", &to, "--send", GET],
        &format!("[{address}]:{WEB}"),
    )?;
    // IPv4 link-local, as cloud metadata services have it.
    it.lab
        .run_on_node(&["ip", "addr", "add", "169.254.169.254/32", "dev", "lo"])?
        .ok()?;
    let to = format!("169.254.169.254:{WEB}");
    must_pass(&it.client, &["--to", &to, "--send", GET], &to)
}

fn a_socket_bound_to_a_device_passes_and_does_not_hang(it: &mut Fixture) -> anyhow::Result<()> {
    for is_v6 in [false, true] {
        let to = it.vip("web", WEB, is_v6)?.to_string();
        must_pass(
            &it.client,
            &["--to", &to, "--device", "eth0", "--send", GET],
            &to,
        )?;
        must_be_proxied(&it.client, &["--to", &to, "--send", GET])?;
    }
    Ok(())
}

/// Each kind of pod that is not the mesh's, beside the fixture's captured one.
fn pods_with_another_mesh_or_none_pass(it: &mut Fixture) -> anyhow::Result<()> {
    let to = it.vip4("web", WEB)?;
    for (name, spec) in [
        (
            "sidecar",
            PodSpec::new("default", "with-sidecar").annotation("sidecar.istio.io/status", "{}"),
        ),
        (
            "ambient",
            PodSpec::new("default", "ambient-a").label("istio.io/dataplane-mode", "ambient"),
        ),
        (
            "redirected",
            PodSpec::new("default", "ambient-b")
                .annotation("ambient.istio.io/redirection", "enabled"),
        ),
        ("unlisted", PodSpec::new("default", "unlisted").unlisted()),
        (
            "opted out",
            PodSpec::new("default", "opted-out").label("mizzen.io/mesh", "disabled"),
        ),
    ] {
        let pod = it.lab.add_pod(spec)?;
        settle(it, &pod)?;
        for _ in 0..3 {
            must_pass(&pod, &["--to", &to, "--send", GET], &to).context(name)?;
        }
        it.lab.remove_pod(&pod)?;
    }
    Ok(())
}

/// A pod that came later is captured: whatever is known of `pod` is in force by now.
fn settle(it: &Fixture, pod: &Arc<Pod>) -> anyhow::Result<()> {
    let marker = it.lab.add_pod(PodSpec::new(
        "default",
        &format!("after-{}", pod.spec().name),
    ))?;
    it.wait_captured(&marker, Duration::from_secs(10))?;
    it.lab.remove_pod(&marker)
}

fn excluded_and_not_included_ports_and_ranges_pass(it: &mut Fixture) -> anyhow::Result<()> {
    let web = it.vip4("web", WEB)?;
    let limited = it.vip4("limited", LIMITED)?;
    let vip = it.vip("web", WEB, false)?.ip().to_string();
    let web_only = format!("{vip}/32");
    for (annotation, value, passes, captured) in [
        ("excludeOutboundPorts", "1,8000", &web, &limited),
        ("excludeOutboundIPRanges", web_only.as_str(), &web, &limited),
        ("includeOutboundIPRanges", web_only.as_str(), &limited, &web),
    ] {
        let key = format!("traffic.sidecar.istio.io/{annotation}");
        let spec = PodSpec::new("default", &annotation.to_lowercase()).annotation(&key, value);
        let pod = it.lab.add_pod(spec)?;
        let say = |to: &String| if *to == web { GET } else { "hello" };
        wait_until("the pod to be captured", Duration::from_secs(10), || {
            let held = Held::dial(&pod, &["--to", captured, "--send", say(captured)])?;
            Ok(held.is_proxied().then_some(()))
        })
        .context(annotation)?;
        must_pass(&pod, &["--to", passes, "--send", say(passes)], passes).context(annotation)?;
        it.lab.remove_pod(&pod)?;
    }
    Ok(())
}

fn a_client_without_a_way_out_in_ipv6_falls_back_to_ipv4(it: &mut Fixture) -> anyhow::Result<()> {
    // A name with an IPv6 address first: not of the mesh, on a port of the mesh.
    let outside = it.lab.pod("default", "outside")?;
    let v6 = outside.address_v6().context("no IPv6 address")?;
    it.lab.add_host("fallback.example", v6)?;
    it.lab.add_host("fallback.example", outside.address())?;
    let url = format!("http://fallback.example:{WEB}/");
    let seen = it
        .client_v4
        .ask(&["--url", &url, "-n", "5", "--no-keepalive"])?;
    assert_eq!(seen.from("outside v1"), 5, "{seen:?}");
    let seen = it
        .client_v4
        .dial(&["--to", &SocketAddr::new(v6, WEB).to_string()])?;
    assert!(seen[0].error.contains("unreachable"), "{:?}", seen[0]);
    // The control: with a way out it is captured, and a mesh address always is.
    must_be_proxied(
        &it.client,
        &["--to", &SocketAddr::new(v6, WEB).to_string(), "--send", GET],
    )?;
    let mesh = it.vip("web", WEB, true)?.to_string();
    must_be_proxied(&it.client_v4, &["--to", &mesh, "--send", GET])
}

fn a_chosen_source_port_whose_rewritten_pair_is_taken_passes(
    it: &mut Fixture,
) -> anyhow::Result<()> {
    let bind = format!("{}:43210", it.client_v4.address());
    let limited = it.vip4("limited", LIMITED)?;
    let other = it.vip4("other", OTHER)?;
    let first = Held::dial(&it.client_v4, &["--to", &limited, "--bind", &bind])?;
    assert_eq!(first.seen.error, "", "{first:?}");
    assert!(first.is_proxied(), "{first:?}");
    let second = Held::dial(&it.client_v4, &["--to", &other, "--bind", &bind])?;
    assert_eq!(second.seen.error, "", "{second:?}");
    assert!(second.seen.reply.starts_with("other-"), "{second:?}");
    Ok(())
}

fn multicast_is_left_to_the_kernel(it: &mut Fixture) -> anyhow::Result<()> {
    for address in ["224.0.0.1", "ff02::1"] {
        let address: IpAddr = address.parse()?;
        let to = SocketAddr::new(address, WEB).to_string();
        let captured = it.client.dial(&["--to", &to])?;
        let plain = it.stranger.dial(&["--to", &to])?;
        assert_eq!(captured[0].error, plain[0].error, "{to}");
    }
    Ok(())
}

fn main() -> ExitCode {
    run_checks(
        Needs::Daemon,
        set_up,
        checks![
            an_address_that_no_service_owns_is_captured_on_an_http_port,
            udp_and_icmp_pass,
            mptcp_passes_and_sees_its_true_peer,
            unspecified_and_loopback_and_own_addresses_pass,
            link_local_addresses_pass,
            a_socket_bound_to_a_device_passes_and_does_not_hang,
            pods_with_another_mesh_or_none_pass,
            excluded_and_not_included_ports_and_ranges_pass,
            a_client_without_a_way_out_in_ipv6_falls_back_to_ipv4,
            a_chosen_source_port_whose_rewritten_pair_is_taken_passes,
            multicast_is_left_to_the_kernel,
        ],
    )
}
