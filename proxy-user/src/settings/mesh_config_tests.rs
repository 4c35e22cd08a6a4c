use super::*;

#[test]
fn an_istio_config_map_is_read_and_says_what_it_ignores() {
    let text = "accessLogFile: /dev/stdout\n\
                defaultConfig:\n  discoveryAddress: istiod.istio-system.svc:15012\n\
                enablePrometheusMerge: true\n\
                outboundTrafficPolicy:\n  mode: REGISTRY_ONLY\n\
                rootNamespace: istio-system\ntrustDomain: example.org\n\
                enableAutoMtls: false\nlocalityLbSetting: {enabled: false}\n\
                somethingNewer: 1\n";
    let config = MeshConfig::parse("ConfigMap/istio-system/istio", text).expect("Istio's own");
    let settings = config.settings();
    assert!(settings.is_registry_only);
    assert_eq!(settings.access_log_file, "/dev/stdout");
    assert_eq!(settings.trust_domain, "example.org");
    assert_eq!(settings.connect_timeout, Duration::from_secs(10));
    assert_eq!(
        config.ignored,
        [
            "trustDomain",
            "defaultConfig",
            "enablePrometheusMerge",
            "somethingNewer"
        ]
    );
}

#[test]
fn values_that_ask_for_what_happens_anyway_are_honoured() {
    for (text, ignored) in [
        ("enableAutoMtls: false", None),
        ("enableAutoMtls: true", Some("enableAutoMtls")),
        ("enableTracing: true", Some("enableTracing")),
        ("pathNormalization: {normalization: BASE}", None),
        (
            "pathNormalization: {normalization: MERGE_SLASHES}",
            Some("pathNormalization"),
        ),
        ("localityLbSetting: {enabled: false}", None),
        (
            "localityLbSetting: {enabled: true}",
            Some("localityLbSetting"),
        ),
        ("inboundTrafficPolicy: {mode: PASSTHROUGH}", None),
        (
            "inboundTrafficPolicy: {mode: LOCALHOST}",
            Some("inboundTrafficPolicy"),
        ),
        ("trustDomain: cluster.local", None),
        ("trustDomain: example.org", Some("trustDomain")),
        ("outboundTrafficPolicy: {mode: ALLOW_ANY}", None),
        (
            "outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}",
            Some("outboundTrafficPolicy.mode"),
        ),
        ("defaultHttpRetryPolicy: {attempts: 1}", None),
        ("defaultTrafficPolicy: {}", None),
        ("tcpKeepalive: {time: 1s}", None),
    ] {
        let config = MeshConfig::parse("mesh", text).expect(text);
        let ignored: Vec<&str> = ignored.into_iter().collect();
        assert_eq!(config.ignored, ignored, "{text}");
    }
}

#[test]
fn keep_alive_is_read_value_by_value() {
    let text = "tcpKeepalive: {probes: 3, time: 10s}";
    let config = MeshConfig::parse("mesh", text).expect("two values");
    let expected = MeshKeepalive {
        probes: Some(3),
        time: Some(Duration::from_secs(10)),
        interval: None,
    };
    assert_eq!(config.settings().tcp_keepalive, expected);
}

#[test]
fn zero_and_unset_detection_timeouts_both_mean_our_own() {
    for (text, expected) in [
        ("{}", None),
        ("protocolDetectionTimeout: 0s", None),
        (
            "protocolDetectionTimeout: 100ms",
            Some(Duration::from_millis(100)),
        ),
    ] {
        let config = MeshConfig::parse("mesh", text).expect(text);
        assert_eq!(
            config.settings().protocol_detection_timeout,
            expected,
            "{text}"
        );
    }
}

#[test]
fn the_settings_file_beats_the_config_map() {
    let file = MeshConfig::parse("file", "connectTimeout: 1s").expect("one field");
    let map = MeshConfig::parse("map", "connectTimeout: 2s\nh2UpgradePolicy: UPGRADE");
    let merged = file.over(map.expect("two fields")).settings();
    assert_eq!(merged.connect_timeout, Duration::from_secs(1));
    assert!(merged.h2_upgrade);
}

#[test]
fn the_refresh_rate_of_names_is_a_minute_unless_it_is_set() {
    for (text, expected) in [
        ("{}", 60),
        ("dnsRefreshRate: 0s", 60), // zero is no rate
        ("dnsRefreshRate: 5s", 5),
    ] {
        let config = MeshConfig::parse("mesh", text).expect(text);
        let found = config.settings().dns_refresh_rate;
        assert_eq!(found, Duration::from_secs(expected), "{text}");
    }
}
