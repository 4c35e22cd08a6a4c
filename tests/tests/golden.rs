//! Golden files: YAML in, findings and the objects in force out, as text.
//!
//! Each `golden/**/*.yaml` has a neighbour `*.findings`. With `UPDATE_GOLDEN=1`
//! the neighbours are written instead of compared; read the difference before
//! it is committed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use proxy_user::api::{InSet, Kind, ObjectSet};
use proxy_user::source::state::{DirectoryState, Files, Loaded};

/// Prints findings, objects in force and what was skipped.
fn show(loaded: &Loaded) -> String {
    let mut text = String::new();
    for finding in &loaded.findings {
        writeln!(text, "{finding}").expect("memory");
    }
    text += "\nin force:\n";
    for object in in_force(&loaded.objects) {
        writeln!(text, "  {object}").expect("memory");
    }
    for (kind, count) in &loaded.skipped {
        writeln!(text, "skipped: {count} {kind}").expect("memory");
    }
    text
}

fn names<S: InSet>(set: &ObjectSet) -> Vec<String> {
    // The trait gives the objects to be changed only.
    S::objects_mut(&mut set.clone())
        .values()
        .map(|object| object.reference().to_string())
        .collect()
}

fn in_force(set: &ObjectSet) -> Vec<String> {
    use proxy_user::api::*;
    [
        names::<VirtualService>(set),
        names::<DestinationRule>(set),
        names::<ServiceEntry>(set),
        names::<WorkloadEntry>(set),
        names::<WorkloadGroup>(set),
        names::<Gateway>(set),
        names::<Sidecar>(set),
        names::<EnvoyFilter>(set),
        names::<AuthorizationPolicy>(set),
        names::<PeerAuthentication>(set),
        names::<RequestAuthentication>(set),
        names::<Service>(set),
        names::<EndpointSlice>(set),
        names::<Pod>(set),
        names::<Namespace>(set),
        names::<Node>(set),
        names::<Secret>(set),
        names::<ConfigMap>(set),
    ]
    .concat()
}

fn golden_files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/validation");
    let entries = std::fs::read_dir(&directory).expect("the directory is part of the repository");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    files.sort();
    assert!(
        !files.is_empty(),
        "no golden files in {}",
        directory.display()
    );
    files
}

fn load(path: &Path) -> Loaded {
    let text = std::fs::read_to_string(path).expect("readable");
    let name = path.file_name().expect("a file").to_string_lossy();
    let files = Files::from([(name.as_ref().into(), text.as_str().into())]);
    DirectoryState::new().apply(&files)
}

#[test]
fn findings_are_as_written_down() {
    let is_update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut differences = Vec::new();
    for path in golden_files() {
        let found = show(&load(&path));
        let expected_path = path.with_extension("findings");
        if is_update {
            std::fs::write(&expected_path, found).expect("written");
            continue;
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if let Some(line) = first_difference(&expected, &found) {
            differences.push(format!("{}: {line}", expected_path.display()));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn first_difference(expected: &str, found: &str) -> Option<String> {
    let (mut expected, mut found) = (expected.lines(), found.lines());
    for line in 1.. {
        match (expected.next(), found.next()) {
            (None, None) => return None,
            (a, b) if a == b => {}
            (a, b) => return Some(format!("line {line}:\n  expected {a:?}\n  found    {b:?}")),
        }
    }
    None
}

#[test]
fn every_object_that_breaks_a_rule_gets_a_finding_and_the_good_ones_none_that_refuses() {
    for path in golden_files() {
        let file = path
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        if matches!(file.as_str(), "form.yaml" | "honoured.yaml") {
            continue; // about other things than rules
        }
        let loaded = load(&path);
        let in_force = in_force(&loaded.objects);
        let with_findings: BTreeSet<String> = loaded
            .findings
            .iter()
            .filter_map(|f| f.object.as_ref().map(ToString::to_string))
            .collect();
        let text = std::fs::read_to_string(&path).expect("readable");
        for name in text.split("metadata: {name: ").skip(1) {
            let name = name.split([',', '}']).next().unwrap_or_default();
            let ends_with_name = |object: &String| object.ends_with(&format!("/{name}"));
            if name.starts_with("good") {
                assert!(
                    in_force.iter().any(ends_with_name),
                    "{file}: {name} is not in force"
                );
            } else if name != "skipped" {
                assert!(
                    with_findings.iter().any(ends_with_name),
                    "{file}: {name} has no finding"
                );
            }
        }
    }
}

#[test]
fn every_kind_has_a_golden_file() {
    let all: String = golden_files()
        .iter()
        .map(|path| std::fs::read_to_string(path).expect("readable"))
        .collect();
    for kind in Kind::ALL {
        assert!(all.contains(&format!("kind: {kind},")), "{kind}");
    }
}

fn loaded(files: &[(&str, &str)]) -> Loaded {
    let files = files
        .iter()
        .map(|(name, text)| ((*name).into(), (*text).into()));
    DirectoryState::new().apply(&files.collect::<Files>())
}

/// Checklist id A011.
#[test]
fn a011_one_object_in_two_versions_is_one_object() {
    let text = |version: &str| {
        format!(
            "apiVersion: networking.istio.io/{version}\nkind: VirtualService\n\
             metadata: {{name: v, namespace: shop}}\n\
             spec: {{hosts: [a], http: [{{route: [{{destination: {{host: b}}}}]}}]}}\n"
        )
    };
    let of = |loaded: &Loaded| {
        let mut objects = loaded.objects.virtual_services.values();
        let first = objects.next().map(|object| object.spec.clone());
        assert!(objects.next().is_none(), "one object");
        first.expect("an object")
    };
    let old = loaded(&[("a.yaml", &text("v1alpha3"))]);
    for version in ["v1beta1", "v1"] {
        let other = loaded(&[("a.yaml", &text(version))]);
        assert!(other.findings.is_empty(), "{:?}", other.findings);
        assert_eq!(of(&old), of(&other), "{version}");
    }
    let both = loaded(&[("a.yaml", &text("v1alpha3")), ("b.yaml", &text("v1"))]);
    assert_eq!(of(&both), of(&old));
    let codes: Vec<&str> = both.findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["defined-twice"]);
}

/// Checklist id A012.
#[test]
fn a012_an_envoy_filter_has_one_version() {
    for (version, is_known) in [("v1alpha3", true), ("v1", false), ("v1beta1", false)] {
        let text = format!(
            "apiVersion: networking.istio.io/{version}\nkind: EnvoyFilter\n\
             metadata: {{name: f, namespace: shop}}\nspec: {{configPatches: []}}\n"
        );
        let loaded = loaded(&[("a.yaml", &text)]);
        assert_eq!(
            loaded.objects.envoy_filters.len(),
            usize::from(is_known),
            "{version}"
        );
        let is_refused = loaded
            .findings
            .iter()
            .any(|finding| finding.is_error() && finding.message.contains("unknown version"));
        assert_eq!(is_refused, !is_known, "{version}: {:?}", loaded.findings);
    }
}
