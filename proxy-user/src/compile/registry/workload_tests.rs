use super::*;
use crate::api::OwnerReference;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().copied().collect()
}

#[test]
fn a_workload_is_called_after_who_made_its_pod() {
    for (kind, owner, hash, expected) in [
        ("ReplicaSet", "reviews-v1-5d8f", Some("5d8f"), "reviews-v1"),
        (
            "ReplicaSet",
            "reviews-v1-5d8f",
            Some("ffff"),
            "reviews-v1-5d8f",
        ), // made by hand
        ("ReplicaSet", "reviews-v1-5d8f", None, "reviews-v1-5d8f"),
        ("StatefulSet", "db", None, "db"),
        ("Job", "backup-28123456", None, "backup"),
        ("Job", "import-1", None, "import-1"),
        ("", "", None, "pod"), // nobody
    ] {
        let mut meta = ObjectMeta {
            name: "pod".into(),
            ..ObjectMeta::default()
        };
        if let Some(hash) = hash {
            meta.labels = labels(&[("pod-template-hash", hash)]);
        }
        if !kind.is_empty() {
            meta.owner_references = Box::new([OwnerReference {
                kind: kind.into(),
                name: owner.into(),
                controller: true,
            }]);
        }
        assert_eq!(owner_name(&meta), expected, "{kind} {owner} {hash:?}");
    }
}

#[test]
fn canonical_names_follow_istios_order_of_labels() {
    for (pairs, service, revision) in [
        (&[][..], "w", "latest"),
        (&[("app", "a"), ("version", "v1")], "a", "v1"),
        (
            &[
                ("app", "a"),
                ("app.kubernetes.io/name", "b"),
                ("version", "v1"),
                ("app.kubernetes.io/version", "v2"),
            ],
            "b",
            "v2",
        ),
        (
            &[
                ("app.kubernetes.io/name", "b"),
                ("service.istio.io/canonical-name", "c"),
                ("service.istio.io/canonical-revision", "r"),
                ("version", "v1"),
            ],
            "c",
            "r",
        ),
    ] {
        let workload = Workload {
            name: "w-1".into(),
            workload: "w".into(),
            labels: Arc::clone(labels(pairs).shared()),
            ..Workload::default()
        };
        assert_eq!(&**workload.canonical_service(), service, "{pairs:?}");
        let found = workload
            .canonical_revision()
            .map_or("latest", |found| found);
        assert_eq!(found, revision, "{pairs:?}");
    }
}

#[test]
fn subsets_select_by_labels_and_place() {
    let mut texts = Interner::default();
    let own = labels(&[("app", "a"), ("version", "v1")]);
    let locality = locality_of(Some("r1/z1"), &own, None, &mut texts);
    let workload = Workload {
        node: texts.get("n1"),
        labels: Arc::clone(own.shared()),
        locality,
        ..Workload::default()
    };
    for (selector, expected) in [
        (&[][..], true),              // no labels select all
        (&[("version", "v1")], true), // A036
        (&[("version", "v2")], false),
        (&[("version", "v1"), ("app", "a")], true),
        (&[("version", "v1"), ("tier", "x")], false),
        (&[("topology.kubernetes.io/zone", "z1")], true),
        (&[("kubernetes.io/hostname", "n1")], true),
        (&[("topology.istio.io/subzone", "")], false), // unknown is not empty
    ] {
        assert_eq!(
            is_selected(&labels(selector), &workload),
            expected,
            "{selector:?}"
        );
    }
}

#[test]
fn the_locality_label_writes_dots_for_slashes() {
    let mut texts = Interner::default();
    let own = labels(&[(LOCALITY_LABEL, "r.z.s")]);
    let found = locality_of(None, &own, None, &mut texts);
    assert_eq!(
        (&*found.region, &*found.zone, &*found.subzone),
        ("r", "z", "s")
    );
}
