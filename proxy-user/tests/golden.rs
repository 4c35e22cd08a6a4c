//! Golden files: YAML in, findings and snapshot out as text.
//!
//! Every `tests/golden/compile/*.yaml` has a `.txt` beside it. `MIZZEN_BLESS=1`
//! writes what comes out now; review the difference before committing it. A line
//! `# settings: key=value ...` at the top changes settings of the case.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proxy_user::compile::compile;
use proxy_user::settings::{CompileSettings, MeshSettings, OnProxyDown};
use proxy_user::snapshot::dump::dump;
use proxy_user::source::state::{DirectoryState, FileText, Files};

fn settings(text: &str) -> CompileSettings {
    let mut settings = CompileSettings {
        node: "node-1".to_owned(),
        mesh: MeshSettings::default(),
        on_proxy_down: OnProxyDown::Degrade,
        is_capture_labelled: false,
        capture_host_network: false,
        accept_unenforced_policies: false,
    };
    let words = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("# settings:"));
    for word in words.unwrap_or_default().split_whitespace() {
        match word {
            "registryOnly=true" => settings.mesh.is_registry_only = true,
            "capture=labelled" => settings.is_capture_labelled = true,
            "h2Upgrade=true" => settings.mesh.h2_upgrade = true,
            other => panic!("no such setting: {other}"),
        }
    }
    settings
}

/// Findings, then the snapshot.
fn output(name: &str, text: &str) -> (String, String) {
    let files = Files::from([(Arc::from(name), FileText::from(text))]);
    let loaded = DirectoryState::new().apply(&files);
    let compiled = compile(&loaded.objects, &settings(text));
    let findings = loaded.findings.iter().chain(&compiled.findings);
    let findings: String = findings.map(|finding| format!("{finding}\n")).collect();
    (findings, dump(&compiled.snapshot))
}

fn cases() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/compile");
    let entries = std::fs::read_dir(directory).expect("the golden directory is there");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the golden directory is readable").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    paths.sort();
    paths
}

#[test]
fn every_golden_case_gives_what_it_gave_before() {
    let is_blessing = std::env::var_os("MIZZEN_BLESS").is_some();
    let mut different = Vec::new();
    let paths = cases();
    assert!(!paths.is_empty(), "no golden case was found");
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a golden case is text");
        let name = path
            .file_name()
            .expect("a file has a name")
            .to_string_lossy();
        let (findings, snapshot) = output(&name, &text);
        let found = format!("{findings}---\n{snapshot}");
        let expected_path = path.with_extension("txt");
        if is_blessing {
            std::fs::write(&expected_path, &found).expect("the golden directory is writable");
            continue;
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if expected != found {
            different.push(format!("{name}:\n{}", first_difference(&expected, &found)));
        }
    }
    let count = different.len();
    let text = different.join("\n");
    assert!(
        count == 0,
        "{count} cases differ; MIZZEN_BLESS=1 accepts them\n{text}"
    );
}

fn first_difference(expected: &str, found: &str) -> String {
    let mut lines = expected.lines().zip(found.lines()).enumerate();
    match lines.find(|(_, (expected, found))| expected != found) {
        Some((at, (expected, found))) => {
            format!(
                "  line {}\n  expected {expected}\n  found    {found}",
                at + 1
            )
        }
        None => format!(
            "  expected {} lines, found {}",
            expected.lines().count(),
            found.lines().count()
        ),
    }
}

#[test]
fn the_order_of_documents_changes_nothing_and_compiling_twice_gives_the_same() {
    for path in cases() {
        let text = std::fs::read_to_string(&path).expect("a golden case is text");
        let (findings, snapshot) = output("case", &text);
        let (again, snapshot_again) = output("case", &text);
        assert_eq!(findings, again, "{}", path.display());
        assert_eq!(snapshot, snapshot_again, "{}", path.display());
        // Settings stand in the first line, so that it stays the first.
        let (first, rest) = text.split_once('\n').expect("a case has lines");
        let mut documents: Vec<&str> = rest.split("\n---\n").collect();
        documents.reverse();
        let reversed = format!("{first}\n{}", documents.join("\n---\n"));
        let (_, reversed) = output("case", &reversed);
        assert_eq!(snapshot, reversed, "{}", path.display());
    }
}
