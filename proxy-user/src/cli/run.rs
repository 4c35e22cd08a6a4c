//! `mizzen run`: the daemon. Settings are put together here, once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::Outcome;
use crate::daemon;
use crate::settings::{
    self, AdminAddress, CaptureMode, Layer, OnProxyDown, Settings, WORKERS_MAX, duration,
    parse_labels, source_of,
};

/// Flags of `mizzen run`. Where a flag has a default, it comes after the settings file.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// Directory of YAML files that is read and watched. Key: config.
    #[arg(long, env = "MIZZEN_CONFIG", value_name = "DIR")]
    config: Option<PathBuf>,
    /// Take the configuration from the cluster's API server instead. Key: kubernetes.
    #[arg(long, env = "MIZZEN_KUBERNETES", value_name = "BOOL",
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    kubernetes: Option<bool>,
    /// Name of this node; pods without nodeName count as its own. Default: the host name.
    /// Key: node.
    #[arg(long, env = "MIZZEN_NODE", value_name = "NAME")]
    node: Option<String>,
    /// Cgroup above all pods, to which the programs are attached. Default: kubepods, found
    /// below the cgroup v2 mount. Key: cgroup.
    #[arg(long, env = "MIZZEN_CGROUP", value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Where the admin API answers: unix:PATH (mode 0600, callers are checked) or IP:PORT (no
    /// check). Default: unix:/run/mizzen/admin.sock. Key: admin.
    #[arg(long, env = "MIZZEN_ADMIN", value_name = "ADDRESS")]
    admin: Option<AdminAddress>,
    /// Settings file, YAML: the keys named here, and `mesh` with the fields of Istio's
    /// MeshConfig. Default: none.
    #[arg(long, env = "MIZZEN_SETTINGS", value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Which pods are captured: all (unless they opt out) or labelled (those that opt in by
    /// istio-injection, istio.io/rev or mizzen.io/mesh). Default: all with --config, labelled
    /// with --kubernetes. Key: capture.
    #[arg(long, env = "MIZZEN_CAPTURE", value_name = "WHICH")]
    capture: Option<CaptureMode>,
    /// Directory below which file names in Istio objects are resolved, off Kubernetes.
    /// Default: none, such objects are refused. Key: files.
    #[arg(long, env = "MIZZEN_FILES", value_name = "DIR")]
    files: Option<PathBuf>,
    /// Labels under which this node serves as a gateway, such as istio=ingressgateway.
    /// Default: none. Key: gateway.
    #[arg(long, env = "MIZZEN_GATEWAY", value_name = "LABELS", value_parser = Labels::parse)]
    gateway: Option<Labels>,
    /// Directory below a bpffs for pinned programs and maps. Default: /sys/fs/bpf/mizzen.
    /// Key: pins.
    #[arg(long, env = "MIZZEN_PINS", value_name = "DIR")]
    pins: Option<PathBuf>,
    /// Nameservers and search list for the names of ServiceEntries, as resolv.conf(5). It is
    /// followed when it changes. Default: /etc/resolv.conf. Key: resolvConf.
    #[arg(long, env = "MIZZEN_RESOLV_CONF", value_name = "FILE")]
    resolv_conf: Option<PathBuf>,
    /// Where /metrics is served. Default: 0.0.0.0:15020. Key: metrics.
    #[arg(long, env = "MIZZEN_METRICS", value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,
    /// Where /healthz/ready is served. Default: 0.0.0.0:15021. Key: health.
    #[arg(long, env = "MIZZEN_HEALTH", value_name = "IP:PORT")]
    health: Option<SocketAddr>,
    /// What becomes of captured connections while the proxy is down: degrade (the part that the
    /// kernel can do), pass (plain Kubernetes) or deny. Pods may differ by the annotation
    /// mizzen.io/on-proxy-down. Default: degrade. Key: onProxyDown.
    #[arg(long, env = "MIZZEN_ON_PROXY_DOWN", value_name = "WHAT")]
    on_proxy_down: Option<OnProxyDown>,
    /// Age after which kernel maps that no daemon renews are no longer trusted, with its unit:
    /// 60s. Default: 60s. Key: kernelPathStaleAfter.
    #[arg(long, env = "MIZZEN_KERNEL_PATH_STALE_AFTER", value_name = "DURATION",
          value_parser = duration::parse)]
    kernel_path_stale_after: Option<Duration>,
    /// Refuse connections of pods that are known to be meshed and not captured yet.
    /// Default: false, they pass. Key: strict.
    #[arg(long, env = "MIZZEN_STRICT", value_name = "BOOL",
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    strict: Option<bool>,
    /// Capture host-network pods too, each told from the others by its cgroup. Default: false.
    /// Key: captureHostNetwork.
    #[arg(long, env = "MIZZEN_CAPTURE_HOST_NETWORK", value_name = "BOOL",
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    capture_host_network: Option<bool>,
    /// Capture pods although a security policy that Mizzen does not enforce concerns them.
    /// Default: false. Key: acceptUnenforcedPolicies.
    #[arg(long, env = "MIZZEN_ACCEPT_UNENFORCED_POLICIES", value_name = "BOOL",
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    accept_unenforced_policies: Option<bool>,
    /// Proxy threads, 1 to 256. Default: one per core. Key: workers.
    #[arg(long, env = "MIZZEN_WORKERS", value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=WORKERS_MAX as i64))]
    workers: Option<u16>,
    /// What the daemon logs on standard error: error, warn, info, debug or trace, or parts
    /// such as info,proxy_user::kernel=debug. Default: info. Key: log.
    #[arg(long, env = "MIZZEN_LOG", value_name = "FILTER")]
    log: Option<String>,
}

/// The value of `--gateway`: one type, or clap would want one flag per label.
#[derive(Debug, Clone)]
struct Labels(Vec<(String, String)>);

impl Labels {
    fn parse(text: &str) -> Result<Self, String> {
        parse_labels(text).map(Self)
    }
}

/// Puts the settings together and runs the daemon until it is told to stop.
pub(super) fn run(args: RunArgs) -> anyhow::Result<Outcome> {
    let settings = merge(args, &host_name()?)?;
    daemon::run(settings)?;
    Ok(Outcome::Good)
}

fn merge(args: RunArgs, host_name: &str) -> anyhow::Result<Settings> {
    let file = match &args.settings {
        Some(path) => read_settings(path)?,
        None => Layer::default(),
    };
    let flags = Layer {
        source: source_of("command line and environment", args.config, args.kubernetes)?,
        node: args.node,
        cgroup: args.cgroup,
        admin: args.admin,
        capture: args.capture,
        files: args.files,
        gateway: args.gateway.map(|labels| labels.0),
        pins: args.pins,
        resolv_conf: args.resolv_conf,
        metrics: args.metrics,
        health: args.health,
        on_proxy_down: args.on_proxy_down,
        kernel_path_stale_after: args.kernel_path_stale_after,
        is_strict: args.strict,
        capture_host_network: args.capture_host_network,
        accept_unenforced_policies: args.accept_unenforced_policies,
        // Like the mesh's settings, of the settings file alone.
        namespace_budget: None,
        workers: args.workers,
        log: args.log,
        mesh: settings::MeshConfig::default(),
    };
    Ok(Settings::merge(flags, file, host_name)?)
}

/// Reads a settings file.
pub(super) fn read_settings(path: &Path) -> anyhow::Result<Layer> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read the settings file {} (give a readable file with --settings, or leave \
             the flag out)",
            path.display()
        )
    })?;
    Ok(Layer::parse_file(&path.to_string_lossy(), &text)?)
}

/// The kernel's name of this host.
pub(super) fn host_name() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("cannot read the host name from /proc; give --node NAME")?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::settings::ConfigSource;

    #[derive(Debug, Parser)]
    struct OnlyRun {
        #[command(flatten)]
        args: RunArgs,
    }

    fn settings(line: &[&str]) -> anyhow::Result<Settings> {
        let parsed = OnlyRun::try_parse_from(std::iter::once(&"run").chain(line))?;
        merge(parsed.args, "host")
    }

    #[test]
    fn every_flag_reaches_its_setting() {
        let line = "--config d --node n --cgroup /c --admin unix:/a --capture labelled --files f \
                    --gateway a=b --pins /p --resolv-conf /r --metrics 127.0.0.1:1 --health 127.0.0.1:2 \
                    --on-proxy-down deny --kernel-path-stale-after 5s --strict \
                    --capture-host-network --accept-unenforced-policies --workers 3 --log debug";
        let words: Vec<&str> = line.split_whitespace().collect();
        let settings = settings(&words).expect("a good command line");
        let document = settings.document();
        for (key, expected) in [
            ("config", "\"d\""),
            ("node", "\"n\""),
            ("cgroup", "\"/c\""),
            ("admin", "\"unix:/a\""),
            ("capture", "\"labelled\""),
            ("files", "\"f\""),
            ("gateway", "\"a=b\""),
            ("pins", "\"/p\""),
            ("resolvConf", "\"/r\""),
            ("metrics", "\"127.0.0.1:1\""),
            ("health", "\"127.0.0.1:2\""),
            ("onProxyDown", "\"deny\""),
            ("kernelPathStaleAfter", "\"5s\""),
            ("strict", "true"),
            ("captureHostNetwork", "true"),
            ("acceptUnenforcedPolicies", "true"),
            ("workers", "3"),
            ("log", "\"debug\""),
        ] {
            assert_eq!(document[key].to_string(), expected, "{key}");
        }
    }

    #[test]
    fn a_flag_beats_the_settings_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("settings.yaml");
        std::fs::write(&path, "kubernetes: true\nworkers: 4\nstrict: true\n").expect("a file");
        let path = path.to_str().expect("UTF-8");
        let settings =
            settings(&["--settings", path, "--config", "d", "--strict=false"]).expect("good");
        assert_eq!(settings.source, ConfigSource::Directory("d".into()));
        assert_eq!(settings.workers, Some(4));
        assert!(!settings.is_strict);
    }

    #[test]
    fn what_is_missing_is_named() {
        let none = settings(&[]).expect_err("no source").to_string();
        assert!(none.contains("--config DIR"), "{none}");
        let absent = settings(&["--settings", "/nowhere/s.yaml"]).expect_err("no file");
        assert!(absent.to_string().contains("/nowhere/s.yaml"), "{absent}");
    }
}
