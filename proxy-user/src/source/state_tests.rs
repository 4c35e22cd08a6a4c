use super::*;

fn virtual_service(name: &str, host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: {name}\n\
             spec:\n  hosts: [{host}]\n  http:\n  - route:\n    - destination: {{host: {host}}}\n"
    )
}

fn files(texts: &[(&str, &str)]) -> Files {
    texts
        .iter()
        .map(|(file, text)| ((*file).into(), (*text).into()))
        .collect()
}

/// `name=first host` of each VirtualService in force.
fn in_force(loaded: &Loaded) -> Vec<String> {
    let services = loaded.objects.virtual_services.values();
    services
        .map(|object| format!("{}={}", object.meta.name, object.spec.hosts[0]))
        .collect()
}

fn printed(loaded: &Loaded) -> Vec<String> {
    loaded.findings.iter().map(ToString::to_string).collect()
}

#[test]
fn a_bad_version_keeps_the_last_good_one_and_its_neighbours_apply() {
    let mut state = DirectoryState::new();
    let both = virtual_service("a", "one") + "---\n" + &virtual_service("b", "one");
    assert_eq!(
        in_force(&state.apply(&files(&[("x.yaml", &both)]))),
        ["a=one", "b=one"]
    );

    let bad = virtual_service("a", "two").replace("hosts", "hots");
    let mixed = bad + "---\n" + &virtual_service("b", "two");
    let loaded = state.apply(&files(&[("x.yaml", &mixed)]));
    assert_eq!(in_force(&loaded), ["a=one", "b=two"]);
    assert_eq!(
        printed(&loaded),
        [
            "x.yaml:1: VirtualService/default/a: info: the last good version of this object \
                 stays in force until the errors are mended",
            "x.yaml:6: VirtualService/default/a: error: hots: unknown field \"hots\"; did you \
                 mean \"hosts\"?",
        ]
    );

    // Still in force after looks at which nothing changed, and mended by a good version.
    let unchanged = Files::from([("x.yaml".into(), FileText::Unchanged)]);
    assert_eq!(in_force(&state.apply(&unchanged)), ["a=one", "b=two"]);
    assert_eq!(
        in_force(&state.apply(&files(&[("x.yaml", &mixed)]))),
        ["a=one", "b=two"]
    );
    let mended = virtual_service("a", "three");
    let loaded = state.apply(&files(&[("x.yaml", &mended)]));
    assert_eq!(
        (in_force(&loaded), printed(&loaded)),
        (vec!["a=three".to_owned()], vec![])
    );
}

#[test]
fn an_object_that_is_bad_from_the_start_is_left_out() {
    let bad = virtual_service("a", "one").replace("hosts", "hots");
    let loaded = DirectoryState::new().apply(&files(&[("x.yaml", &bad)]));
    assert!(in_force(&loaded).is_empty());
    assert_eq!(loaded.findings.len(), 1);
}

#[test]
fn a_file_that_does_not_parse_keeps_what_it_held_until_it_is_gone() {
    let mut state = DirectoryState::new();
    let good = virtual_service("a", "one");
    state.apply(&files(&[
        ("x.yaml", &good),
        ("y.yaml", &virtual_service("b", "one")),
    ]));
    for (text, finding) in [
        ("spec: [", "x.yaml:1: error: not YAML: "),
        (
            "a: &a [*a]",
            "x.yaml:1: error: an alias inside the value that it names; ",
        ),
    ] {
        let loaded = state.apply(&files(&[("x.yaml", text)]));
        assert_eq!(in_force(&loaded), ["a=one"], "{text}"); // b went with its file
        assert!(
            printed(&loaded)[0].starts_with(finding),
            "{:?}",
            printed(&loaded)
        );
    }
    let mut unreadable = Files::new();
    unreadable.insert(
        "x.yaml".into(),
        FileText::Unreadable("permission denied".into()),
    );
    let loaded = state.apply(&unreadable);
    assert_eq!(in_force(&loaded), ["a=one"]);
    assert!(in_force(&state.apply(&Files::new())).is_empty());
}

#[test]
fn of_one_object_in_two_files_the_first_path_in_byte_order_wins() {
    let mut state = DirectoryState::new();
    let (one, two) = (virtual_service("a", "one"), virtual_service("a", "two"));
    let two = two.replace("/v1\n", "/v1alpha3\n"); // the version is no part of the name
    let loaded = state.apply(&files(&[("B.yaml", &one), ("a.yaml", &two)]));
    assert_eq!(in_force(&loaded), ["a=one"]);
    assert_eq!(
        printed(&loaded),
        [
            "a.yaml:1: VirtualService/default/a: error: also defined at B.yaml:1, which is used; \
              remove one of the two"
        ]
    );
    // The other one takes over when the first is gone.
    assert_eq!(
        in_force(&state.apply(&files(&[("a.yaml", &two)]))),
        ["a=two"]
    );
}

#[test]
fn whole_manifests_are_read_and_what_is_no_concern_is_counted() {
    let service = "kind: Service\napiVersion: v1\nmetadata: {name: s, namespace: shop}\n\
                       spec: {clusterIP: 10.0.0.1, ports: [{port: 80, name: http}]}\n";
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: apps/v1\n  kind: Deployment\n  \
                    metadata: {name: d}\n- apiVersion: v1\n  kind: Service\n  metadata:\n    name: t\n    \
                    managedFields: [{manager: kubectl}]\n    finalizers: [x]\n    annotations:\n      \
                    kubectl.kubernetes.io/last-applied-configuration: '{}'\n  spec: {}\n  status: {loadBalancer: {}}\n";
    let typed_list = "apiVersion: networking.istio.io/v1\nkind: VirtualServiceList\nmetadata: {resourceVersion: '1'}\n\
                    items:\n- metadata: {name: listed, creationTimestamp: '2026-01-01T00:00:00Z', uid: u, generation: 3}\n  \
                    spec: {hosts: [x], http: [{route: [{destination: {host: x}}]}]}\n  status: {anything: [1]}\n";
    let other = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\n---\n\
                     apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: k}\n";
    let texts = [
        ("a.yaml", service),
        ("b.yaml", list),
        ("c.yaml", typed_list),
        ("d.yaml", other),
    ];
    let loaded = DirectoryState::new().apply(&files(&texts));
    let services: Vec<String> = loaded
        .objects
        .services
        .keys()
        .map(ToString::to_string)
        .collect();
    assert_eq!(services, ["default/t", "shop/s"]);
    assert_eq!(in_force(&loaded), ["listed=x"]);
    let skipped: Vec<(&str, usize)> = loaded
        .skipped
        .iter()
        .map(|(kind, count)| (kind.as_str(), *count))
        .collect();
    assert_eq!(skipped, [("Deployment", 1), ("Gateway", 1), ("Service", 1)]);
    assert_eq!(
        printed(&loaded),
        [
            "d.yaml:1: Gateway/default/g: warning: kind Gateway of gateway.networking.k8s.io is \
              not read; it has no effect"
        ]
    );
}

#[test]
fn documents_that_are_no_objects_are_findings() {
    for (text, expected) in [
        (
            "a: b\n",
            "x.yaml:1: error: expected an object with apiVersion and kind",
        ),
        ("- a\n", "x.yaml:1: error: expected an object, found a list"),
        (
            "\n\njust text\n",
            "x.yaml:3: error: expected an object, found the text \"just text\"",
        ),
        (
            "kind: Sidecar\napiVersion: networking.istio.io/v1\n",
            "x.yaml:1: Sidecar/default/: error: metadata.name: expected a name, as text",
        ),
        (
            "kind: Sidecar\napiVersion: networking.istio.io/v2\nmetadata: {name: a}\n",
            "x.yaml:1: Sidecar/default/a: error: apiVersion: unknown version \"v2\"; expected \
                 one of v1, v1beta1, v1alpha3",
        ),
        (
            "kind: Sidecar\napiVersion: networking.istio.io/v1\nmetadata: {name: a}\nsepc: {}\n",
            "x.yaml:4: Sidecar/default/a: error: sepc: unknown field \"sepc\"; did you mean \
                 \"spec\"?",
        ),
        (
            "kind: Sidecar\napiVersion: networking.istio.io/v1\nmetadata: {name: a, name: b}\n",
            "x.yaml:3: Sidecar/default/: error: metadata.name: the key \"name\" is written twice in \
                 one mapping, on lines 3 and 3",
        ),
    ] {
        let loaded = DirectoryState::new().apply(&files(&[("x.yaml", text)]));
        assert_eq!(printed(&loaded), [expected], "{text:?}");
    }
}

#[test]
fn an_object_that_is_written_as_before_stays_the_same_one() {
    let mut state = DirectoryState::new();
    let (a, b) = (virtual_service("a", "one"), virtual_service("b", "one"));
    let first = state.apply(&files(&[("x.yaml", &(a.clone() + "---\n" + &b))]));
    let changed = a + "---\n" + &virtual_service("b", "two");
    let second = state.apply(&files(&[("x.yaml", &changed)]));
    assert_eq!(in_force(&second), ["a=one", "b=two"]);
    let of = |loaded: &Loaded, name: &str| {
        let key = crate::api::ObjectKey::new("default", name);
        Arc::clone(&loaded.objects.virtual_services[&key])
    };
    assert!(Arc::ptr_eq(&of(&first, "a"), &of(&second, "a")));
    assert!(!Arc::ptr_eq(&of(&first, "b"), &of(&second, "b")));
}

#[test]
fn looking_again_and_again_finds_what_looking_once_finds() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..40 {
        let mut texts: BTreeMap<String, String> = BTreeMap::new();
        let mut state = DirectoryState::new();
        for step in 0..12 {
            let file = format!("f{}.yaml", random.usize(0..4));
            if random.usize(0..5) == 0 {
                texts.remove(&file);
            } else {
                // Few names, so that the same one stands in several places.
                let objects = (0..random.usize(0..5)).map(|_| {
                    let (name, host) = (random.usize(0..6), random.usize(0..3));
                    virtual_service(&format!("n{name}"), &format!("h{host}"))
                });
                let objects: Vec<String> = objects.collect();
                texts.insert(file.clone(), objects.join("---\n"));
            }
            let as_files = |changed_only: bool| -> Files {
                let texts = texts.iter().map(|(name, text)| {
                    let is_same = changed_only && *name != file;
                    let text = if is_same {
                        FileText::Unchanged
                    } else {
                        FileText::from(text.as_str())
                    };
                    (Arc::from(name.as_str()), text)
                });
                texts.collect()
            };
            let again = state.apply(&as_files(true));
            let once = DirectoryState::new().apply(&as_files(false));
            assert_eq!(printed(&again), printed(&once), "step {step}: {texts:?}");
            assert_eq!(
                *again.objects.virtual_services, *once.objects.virtual_services,
                "step {step}: {texts:?}"
            );
        }
    }
}

#[test]
fn files_that_several_threads_read_keep_their_order() {
    let texts: Vec<(String, String)> = (0..60)
        .map(|file| {
            let objects = (0..60).map(|_| virtual_service("same", &format!("h{file}")));
            let objects: Vec<String> = objects.collect();
            (format!("f{file:02}.yaml"), objects.join("---\n"))
        })
        .collect();
    let texts: Vec<(&str, &str)> = texts.iter().map(|(f, t)| (&**f, &**t)).collect();
    let loaded = DirectoryState::new().apply(&files(&texts));
    assert_eq!(in_force(&loaded), ["same=h0"]);
    assert_eq!(loaded.findings.len(), 60 * 60 - 1);
    let is_first = |finding: &Finding| finding.message.contains("f00.yaml:1,");
    assert!(loaded.findings.iter().all(is_first));
}
