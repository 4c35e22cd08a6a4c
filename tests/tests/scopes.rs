//! Pods of one node that differ in namespace, labels and Sidecar see different services and
//! rules, in the kernel and in the proxy.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use mizzen_tests::checks;
use mizzen_tests::fixture::{ECHO, Fixture, OTHER, RULES, WEB};
use mizzen_tests::harness::{Needs, main as run_checks};
use mizzen_tests::lab::{DaemonOptions, Driver, Pod, PodSpec, wait_until};

/// The shared mesh, and one client for each view.
struct Views {
    it: Fixture,
    /// Namespace team-a, which has a rule of its own for `web`.
    a: Arc<Pod>,
    /// Namespace team-b, whose Sidecar imports `web` alone.
    b: Arc<Pod>,
    /// Namespace team-b, selected by a Sidecar that imports everything.
    c: Arc<Pod>,
}

const SCOPES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: team-a}
spec:
  hosts: [web.default.svc.cluster.local]
  exportTo: ['.']
  http:
  - route:
    - destination: {host: web.default.svc.cluster.local, subset: v2}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: team-b}
spec:
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  egress:
  - hosts: [default/web.default.svc.cluster.local]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: all, namespace: team-b}
spec:
  workloadSelector: {labels: {app: c}}
  outboundTrafficPolicy: {mode: ALLOW_ANY}
  egress:
  - hosts: ['*/*']
";

/// The rules of the shared mesh, with clients labelled `app: a` sent to v2 of `echo`.
fn rules() -> String {
    RULES.replace(
        "  tcp:\n  - route:",
        "  tcp:\n  - match:\n    - sourceLabels: {app: a}\n    route:\n    \
         - destination: {host: echo, subset: v2}\n  - route:",
    )
}

fn set_up() -> anyhow::Result<Views> {
    let it = Fixture::start(Driver::Systemd, &DaemonOptions::default())?;
    let client = |namespace: &str, name: &str, app: &str| {
        it.lab
            .add_pod(PodSpec::new(namespace, name).label("app", app))
    };
    let (a, b, c) = (
        client("team-a", "client", "a")?,
        client("team-b", "client", "b")?,
        client("team-b", "selected", "c")?,
    );
    for pod in [&a, &b, &c] {
        it.wait_captured(pod, Duration::from_secs(10))?;
    }
    it.lab.write_config("scopes.yaml", SCOPES)?;
    it.lab.write_config("rules.yaml", &rules())?;
    let views = Views { it, a, b, c };
    wait_until("the rules to act", Duration::from_secs(10), || {
        let is_v2 = views.web(&views.a)? == "web v2";
        Ok((is_v2 && views.echo(&views.b)? == "refused").then_some(()))
    })?;
    Ok(views)
}

impl Views {
    /// Who answers ten requests to `web`: one name, or all counts.
    fn web(&self, pod: &Pod) -> anyhow::Result<String> {
        let url = format!("http://{}/", self.it.vip4("web", WEB)?);
        let seen = pod.ask(&["--url", &url, "-n", "10"])?;
        let mut names = seen.answered_by.iter();
        Ok(match (names.next(), names.next()) {
            (Some((name, 10)), None) => name.clone(),
            _ => format!("{seen:?}"),
        })
    }

    /// Which version of `echo` has ten connections, `refused`, or all counts.
    fn echo(&self, pod: &Pod) -> anyhow::Result<String> {
        self.tcp(pod, "echo", ECHO)
    }

    fn tcp(&self, pod: &Pod, service: &str, port: u16) -> anyhow::Result<String> {
        let to = self.it.vip4(service, port)?;
        let seen = pod.dial(&["--to", &to, "-n", "10"])?;
        let is_refused = seen.iter().all(|it| it.error.contains("refused"));
        let split = mizzen_tests::fixture::Split::of(&seen);
        Ok(match (split.one, split.two) {
            (10, 0) => "v1".to_owned(),
            (0, 10) => "v2".to_owned(),
            (0, 0) if is_refused => "refused".to_owned(),
            _ => format!("{split:?}"),
        })
    }
}

fn each_view_is_its_own_on_both_paths(it: &mut Views) -> anyhow::Result<()> {
    for (name, pod, web, echo) in [
        ("no namespace's rule", &it.it.client, "web v1", "v1"),
        ("own rule and label", &it.a, "web v2", "v2"),
        ("narrow Sidecar", &it.b, "web v1", "refused"),
        ("selected by the wide Sidecar", &it.c, "web v1", "v1"),
    ] {
        assert_eq!(it.web(pod)?, web, "{name}");
        assert_eq!(it.echo(pod)?, echo, "{name}");
    }
    // On the proxy path too, where the narrow Sidecar leaves a TCP service out.
    assert_eq!(it.tcp(&it.b, "other", OTHER)?, "refused");
    let to = it.it.vip4("other", OTHER)?;
    let seen = it.c.dial(&["--to", &to])?;
    assert!(seen[0].reply.starts_with("other-"), "{:?}", seen[0]);
    Ok(())
}

fn explain_answers_for_each_view(it: &mut Views) -> anyhow::Result<()> {
    let web = format!("http://web.default.svc.cluster.local:{WEB}/");
    let echo = format!("tcp://echo.default.svc.cluster.local:{ECHO}");
    for (from, url, expected) in [
        ("default/client", &web, "subset v1"),
        ("team-a/client", &web, "subset v2"),
        ("team-b/client", &web, "subset v1"),
        ("team-a/client", &echo, "subset v2"),
        ("team-b/selected", &echo, "subset v1"),
    ] {
        let shown = it.it.daemon.cli(&["explain", "--from", from, url])?.ok()?;
        let subset = expected.trim_start_matches("subset ");
        assert!(
            shown.contains(&format!("|{subset}|")),
            "{from} {url}:\n{shown}"
        );
    }
    let shown = it
        .it
        .daemon
        .cli(&["explain", "--from", "team-b/client", &echo])?;
    let shown = shown.stdout;
    assert!(shown.contains("path         refused"), "{shown}");
    assert!(shown.contains("REGISTRY_ONLY"), "{shown}");
    Ok(())
}

fn an_edit_of_one_view_leaves_the_others(it: &mut Views) -> anyhow::Result<()> {
    let wider = SCOPES.replace(
        "[default/web.default.svc.cluster.local]",
        "[default/web.default.svc.cluster.local, default/echo.default.svc.cluster.local]",
    );
    it.it.lab.write_config("scopes.yaml", &wider)?;
    wait_until("the wider Sidecar", Duration::from_secs(10), || {
        Ok((it.echo(&it.b)? == "v1").then_some(()))
    })?;
    assert_eq!(it.tcp(&it.b, "other", OTHER)?, "refused");
    assert_eq!(
        (it.web(&it.a)?, it.echo(&it.a)?),
        ("web v2".into(), "v2".into())
    );
    // A label moves a pod to another view only by another Pod object: remove the rule instead.
    it.it.lab.write_config("rules.yaml", RULES)?;
    wait_until(
        "the label to lose its rule",
        Duration::from_secs(10),
        || Ok((it.echo(&it.a)? == "v1").then_some(())),
    )?;
    assert_eq!(it.web(&it.a)?, "web v2");
    it.it.lab.write_config("rules.yaml", &rules())?;
    it.it.lab.write_config("scopes.yaml", SCOPES)?;
    wait_until("the first views", Duration::from_secs(10), || {
        Ok((it.echo(&it.a)? == "v2" && it.echo(&it.b)? == "refused").then_some(()))
    })
}

fn main() -> ExitCode {
    run_checks(
        Needs::Daemon,
        set_up,
        checks![
            each_view_is_its_own_on_both_paths,
            explain_answers_for_each_view,
            an_edit_of_one_view_leaves_the_others,
        ],
    )
}
