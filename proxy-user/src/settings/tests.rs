use super::*;

fn directory(path: &str) -> Layer {
    Layer {
        source: Some(ConfigSource::Directory(path.into())),
        ..Layer::default()
    }
}

#[test]
fn a_flag_beats_the_file_and_the_file_beats_the_default() {
    let file = Layer::parse_file(
        "s.yaml",
        "config: /from-file\nworkers: 3\nonProxyDown: deny\nkernelPathStaleAfter: 90s\n",
    )
    .expect("a good file");
    let flags = Layer {
        workers: Some(2),
        ..directory("/from-flag")
    };
    let settings = Settings::merge(flags, file, "host").expect("a source is given");
    assert_eq!(
        settings.source,
        ConfigSource::Directory("/from-flag".into())
    );
    assert_eq!(settings.workers, Some(2));
    assert_eq!(settings.on_proxy_down, OnProxyDown::Deny);
    assert_eq!(settings.kernel_path_stale_after, Duration::from_secs(90));
    assert_eq!(settings.node, "host");
    assert_eq!(settings.metrics.port(), 15020);
    assert_eq!(settings.health.port(), 15021);
}

#[test]
fn capture_is_opt_in_on_kubernetes_only() {
    for (source, expected) in [
        (ConfigSource::Directory("/d".into()), CaptureMode::All),
        (ConfigSource::Kubernetes, CaptureMode::Labelled),
    ] {
        let flags = Layer {
            source: Some(source),
            ..Layer::default()
        };
        let settings = Settings::merge(flags, Layer::default(), "h").expect("a source");
        assert_eq!(settings.capture, expected);
    }
}

#[test]
fn without_a_source_the_error_says_what_to_give() {
    let error =
        Settings::merge(Layer::default(), Layer::default(), "h").expect_err("nothing was given");
    assert!(error.to_string().contains("--config DIR"), "{error}");
}

#[test]
fn effective_settings_can_be_read_again() {
    let flags = Layer {
        gateway: Some(vec![("istio".into(), "edge".into())]),
        mesh: MeshConfig {
            is_registry_only: Some(true),
            ..MeshConfig::default()
        },
        ..directory("/d")
    };
    let settings = Settings::merge(flags, Layer::default(), "h").expect("a source");
    let text = settings.document().to_string();
    let layer = Layer::parse_file("dump", &text).expect("JSON is YAML");
    let again = Settings::merge(Layer::default(), layer, "other").expect("a source");
    assert_eq!(again.document(), settings.document());
    assert!(again.mesh(None).is_registry_only);
}

#[test]
fn what_is_given_and_does_nothing_is_said() {
    let none = Settings::merge(directory("/d"), Layer::default(), "h").expect("a source");
    assert_eq!(none.not_honoured(), []);
    let text = "files: /etc/certs\ngateway: istio=edge\nmesh: {trustDomain: example.org}\n";
    let file = Layer::parse_file("s.yaml", text).expect("three settings");
    let all = Settings::merge(directory("/d"), file, "h").expect("a source");
    let keys: Vec<String> = all.not_honoured().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["files", "gateway", "mesh.trustDomain"]);
}

#[test]
fn policies_of_the_mesh_survive_a_dump() {
    let text = "mesh:\n  tcpKeepalive: {probes: 3, time: 10s}\n  defaultHttpRetryPolicy: {attempts: 1}\n  \
                defaultTrafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}\n";
    let file = Layer::parse_file("s.yaml", text).expect("three policies");
    let settings = Settings::merge(directory("/d"), file, "h").expect("a source");
    let dump = Layer::parse_file("dump", &settings.document().to_string()).expect("JSON is YAML");
    let again = Settings::merge(Layer::default(), dump, "h").expect("a source");
    assert_eq!(again.mesh(None), settings.mesh(None));
    assert!(again.mesh(None).default_traffic_policy.is_some());
}

#[test]
fn admin_addresses_are_sockets_or_ports() {
    for (text, expected) in [
        ("unix:/run/a", Some(AdminAddress::Unix("/run/a".into()))),
        ("/run/a", Some(AdminAddress::Unix("/run/a".into()))),
        (
            "127.0.0.1:15000",
            "127.0.0.1:15000".parse().ok().map(AdminAddress::Tcp),
        ),
        ("unix:", None),
        ("localhost", None),
    ] {
        assert_eq!(text.parse().ok(), expected, "{text}");
    }
}

#[test]
fn gateway_labels_are_pairs() {
    let labels = parse_labels("istio=edge, app=gw").expect("two pairs");
    assert_eq!(labels[1], ("app".to_owned(), "gw".to_owned()));
    assert!(parse_labels("edge").is_err());
}
